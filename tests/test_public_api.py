"""The public names: what is there, what its arguments are called, what the errors descend from."""

import ast
import inspect
import json
import subprocess
import sys
from pathlib import Path

import pytest

import eventbus_mp
from eventbus_mp import (
    BusConfig,
    Changes,
    EventBus,
    EventBusError,
    EventSource,
    Forwarder,
    Inbox,
    Receipts,
    UsageError,
    WorkerPool,
)

METHODS = {
    EventBus: {
        "register_topic": "name",
        "unregister_topic": "name",
        "topic_exists": "name",
        "topics": "",
        "subscribe": "listener patterns *broadcast *credit *threads *scope *backlog_max *backlog_bytes_max *when_full",
        "subscribed": "listener patterns",
        "unsubscribe": "listener",
        "subscribers": "topic",
        "changes": "",
        "on_lost": "callback",
        "add_instrument": "instrument",
        "remove_instrument": "instrument",
        "notify": "event *timeout_s",
        "notify_many": "events *only *timeout_s",
        "notify_and_wait": "event *timeout_s",
        "loan": "topic nbytes *shape *dtype **fields",
        "fetch_event": "shadow",
        "fetch_event_data": "shadow",
        "mark_as_completed": "listener shadow",
        "mark_as_skipped": "listener shadow",
        "mark_many": "listener shadows outcome *reason",
        "dead_letters": "*limit",
        "redeliver": "letter",
        "watcher": "shadow",
        "watchers": "topic *limit *after",
        "attach": "name *config **settings",
        "explain": "shadow",
        "stuck": "older_than_s *limit *topic",
        "snapshot": "*topics_max",
        "statistics": "",
        "drain": "pattern *timeout_s",
        "on": "*patterns *retries *retry_delay_s *retry_delay_max_s *name *broadcast *credit *batch *within_s *threads "
        "*scope *backlog_max *backlog_bytes_max *when_full",
        "inbox": "name patterns *broadcast *credit *scope *backlog_max *backlog_bytes_max *when_full",
        "forwarder": "key patterns *credit *backlog_max *backlog_bytes_max *when_full",
        "story": "shadow",
        "history": "*topic *subscriber *kind *shadow *since_s *limit *before",
        "receipts": "name",
        "close": "",
        "shutdown": "",
    },
    Inbox: {
        "get": "timeout_s",
        "get_many": "limit timeout_s",
        "complete": "shadow",
        "skip": "shadow reason",
        "events": "limit timeout_s",
        "complete_many": "shadows",
        "skip_many": "shadows reason",
        "release": "shadow delay_s",
        "attempt": "shadow",
        "fileno": "",
        "close": "*keep",
    },
    Forwarder: {
        "take": "limit timeout_s",
        "unsettled": "",
        "settle": "ranges outcome reason",
        "fileno": "",
        "close": "*keep",
    },
    Changes: {"get": "timeout_s", "fileno": "", "close": ""},
    Receipts: {
        "notify_many": "events *tags *only *timeout_s",
        "notify_raw": "raws *tags *only *timeout_s",
        "get": "limit timeout_s",
        "confirm": "tags",
        "fileno": "",
        "close": "",
    },
    EventSource: {"build": "work **fields", "notify": "**fields", "emits": "function"},
    WorkerPool: {
        "on": "*patterns *retries *retry_delay_s *retry_delay_max_s *name *credit *batch *within_s *threads "
        "*time_limit_s *scope *backlog_max *backlog_bytes_max *when_full",
        "subscribe": "listener patterns *credit *threads *scope *backlog_max *backlog_bytes_max *when_full",
        "start": "",
        "restart": "",
        "stop": "",
    },
}


def arguments(function: object) -> str:
    parameters = list(inspect.signature(function).parameters.values())  # type: ignore[arg-type]
    parameters = parameters if inspect.ismethod(function) else parameters[1:]  # without `self`
    marks: dict[object, str] = {
        inspect.Parameter.KEYWORD_ONLY: "*",
        inspect.Parameter.VAR_POSITIONAL: "*",
        inspect.Parameter.VAR_KEYWORD: "**",
    }
    return " ".join(marks.get(item.kind, "") + item.name for item in parameters)


@pytest.mark.parametrize("owner", METHODS, ids=lambda owner: owner.__name__)
def test_methods_and_their_arguments(owner: type) -> None:
    assert {name: arguments(getattr(owner, name)) for name in METHODS[owner]} == METHODS[owner]


def test_every_public_name_is_there_and_documented() -> None:
    for name in eventbus_mp.__all__:
        assert inspect.getdoc(getattr(eventbus_mp, name)), name


def test_every_public_method_is_documented() -> None:
    for owner, methods in METHODS.items():
        assert [name for name in methods if not getattr(owner, name).__doc__] == [], owner


# --- the lazy face ---


def modules_after(code: str) -> set[str]:
    """The modules that a fresh interpreter has imported when it has run `code`."""
    code += "\nimport json, sys\nprint(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    return set(json.loads(done.stdout))


def test_type_checkers_see_what_is_imported_lazily() -> None:
    tree = ast.parse(Path(eventbus_mp.__file__).read_text())
    (block,) = [node for node in tree.body if isinstance(node, ast.If)]
    seen = {
        alias.name: statement.module
        for statement in block.body
        if isinstance(statement, ast.ImportFrom)
        for alias in statement.names
    }
    homes = {name: f"eventbus_mp.{eventbus_mp._MODULES.get(name, 'errors')}" for name in eventbus_mp.__all__}
    assert seen == homes
    assert set(eventbus_mp._MODULES) <= set(eventbus_mp.__all__)


def test_every_public_name_is_listed_and_no_other_one_is_found() -> None:
    assert set(eventbus_mp.__all__) <= set(dir(eventbus_mp))
    with pytest.raises(AttributeError, match="has no attribute 'Bus'"):
        _ = eventbus_mp.Bus


def test_a_star_brings_every_public_name() -> None:
    names: dict[str, object] = {}
    exec("from eventbus_mp import *", names)
    assert set(eventbus_mp.__all__) == set(names) - {"__builtins__"}


def test_the_package_alone_imports_nothing_of_itself() -> None:
    modules = modules_after("import eventbus_mp; eventbus_mp.__version__; dir(eventbus_mp)")
    assert {name for name in modules if name.startswith("eventbus_mp")} == {"eventbus_mp"}


def test_a_handle_needs_no_pool() -> None:
    modules = modules_after("from eventbus_mp import EventBus, Event; EventBus('never-used')")
    assert "eventbus_mp.client.bus" in modules
    assert not {name for name in modules if name.partition(".")[0] in {"dill", "multiprocess"}}


def test_the_manager_imports_no_client() -> None:
    """Every module that it has is memory of the manager and of its standby, and time until it listens."""
    modules = modules_after("import eventbus_mp.manager.__main__, eventbus_mp.manager.server")
    parts = {name.split(".")[1] for name in modules if name.startswith("eventbus_mp.")}
    assert "manager" in parts
    assert not parts & {"client", "worker", "cli", "demo", "console"}
    assert not {name.partition(".")[0] for name in modules} & {"dill", "multiprocess", "numpy", "rich", "argparse"}
    ours = {name for name in modules if name.startswith("eventbus_mp")}
    assert len(ours) <= 104, "raise it if a new module is worth its memory"
    assert len(modules - ours - modules_after("pass")) <= 140


def test_the_version_is_in_one_place() -> None:
    project = (Path(__file__).parent.parent / "pyproject.toml").read_text()
    assert 'dynamic = ["version"]' in project
    assert '[tool.hatch.version]\npath = "eventbus_mp/__init__.py"' in project
    assert [int(part) >= 0 for part in eventbus_mp.__version__.split(".")] == [True] * 3


# --- errors and handles ---


def test_errors_have_one_root() -> None:
    errors = [getattr(eventbus_mp, name) for name in eventbus_mp.__all__]
    errors = [item for item in errors if inspect.isclass(item) and issubclass(item, Exception)]
    usage = {item.__name__ for item in errors if issubclass(item, UsageError)}
    assert usage == {
        "UsageError",
        "UnknownTopic",
        "InvalidTopic",
        "InvalidPattern",
        "NotSubscribed",
        "EventTooLarge",
        "EncodeError",
    }
    outside = {item.__name__ for item in errors if not issubclass(item, EventBusError)}
    assert outside == {"Retry", "Skip"}
    assert issubclass(UsageError, ValueError)


def test_a_handle_costs_nothing_until_it_is_used() -> None:
    bus = EventBus("never-used", ["a"], config=BusConfig(run_dir="/nowhere"))
    assert repr(bus) == "<EventBus 'never-used', not connected>"
    bus.close()
    assert "closed" in repr(bus)
