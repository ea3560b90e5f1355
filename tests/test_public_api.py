"""The public names: what is there, what its arguments are called, what the errors descend from."""

import inspect

import pytest

import eventbus_mp
from eventbus_mp import BusConfig, EventBus, EventBusError, EventSource, Inbox, UsageError, WorkerPool

METHODS = {
    EventBus: {
        "register_topic": "name",
        "unregister_topic": "name",
        "topic_exists": "name",
        "topics": "",
        "subscribe": "listener patterns *broadcast *credit",
        "subscribed": "listener patterns",
        "unsubscribe": "listener",
        "subscribers": "topic",
        "notify": "event",
        "notify_many": "events",
        "notify_and_wait": "event *timeout_s",
        "loan": "topic nbytes *shape *dtype **fields",
        "fetch_event": "shadow",
        "fetch_event_data": "shadow",
        "mark_as_completed": "listener shadow",
        "mark_as_skipped": "listener shadow",
        "watcher": "shadow",
        "watchers": "topic",
        "statistics": "",
        "drain": "pattern *timeout_s",
        "on": "*patterns *retries *name *broadcast *credit",
        "inbox": "name patterns *broadcast *credit",
        "story": "shadow",
        "close": "",
        "shutdown": "",
    },
    Inbox: {
        "get": "timeout_s",
        "get_many": "limit timeout_s",
        "complete": "shadow",
        "skip": "shadow reason",
        "fileno": "",
        "close": "",
    },
    EventSource: {"build": "work **fields", "notify": "**fields", "emits": "function"},
    WorkerPool: {
        "on": "*patterns *retries *name *credit",
        "subscribe": "listener patterns *credit",
        "start": "",
        "stop": "",
    },
}


def arguments(function: object) -> str:
    parameters = list(inspect.signature(function).parameters.values())[1:]  # type: ignore[arg-type]
    marks = {inspect.Parameter.KEYWORD_ONLY: "*", inspect.Parameter.VAR_POSITIONAL: "*"}
    marks[inspect.Parameter.VAR_KEYWORD] = "**"
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
    assert outside == {"Skip"}
    assert issubclass(UsageError, ValueError)


def test_a_handle_costs_nothing_until_it_is_used() -> None:
    bus = EventBus("never-used", ["a"], config=BusConfig(run_dir="/nowhere"))
    assert repr(bus) == "<EventBus 'never-used', not connected>"
    bus.close()
    assert "closed" in repr(bus)
