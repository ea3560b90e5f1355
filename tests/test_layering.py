"""Imports go down only and in no circle; what decides or packs bytes touches no clock, file, process or pipe."""

import ast
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "eventbus_mp"

# A part is a module or a folder directly under `eventbus_mp`. It may import itself and the floors below it;
# parts of one floor are siblings and do not know each other. The imports of the lazy face `__init__` are those
# that it shows to type checkers.
FLOORS = (
    ("__main__",),
    ("cli",),
    ("addons",),
    ("demo", "bench", "_crashpoints"),
    ("console",),
    ("__init__",),
    ("testing",),
    ("worker", "aio"),
    ("client", "manager"),
    ("runtime",),
    ("core", "memory"),
    ("protocol",),
    ("config", "instrument"),
    ("explanation", "snapshot"),
    ("events", "history", "patterns"),
    ("statistics",),
    ("event_fields",),
    ("ids", "locking", "background", "geometry", "extras"),
    ("errors", "lifecycle", "arguments"),
)

# The modules of a folder that has floors of its own. A module may import those of its own row and of the rows below.
ROWS = {
    "manager": (
        ("__main__",),
        ("server",),
        ("takeover",),
        ("ingest",),
        ("executor",),
        ("links",),
        ("batching", "journal", "standby", "acceptor", "poller", "signals"),
    ),
}

# Only these modules, and what is in their folders, may import the name on the left.
IMPORTERS = {
    "eventbus_mp.console": ("cli", "demo"),
    "rich": ("console",),
    "opentelemetry": ("addons.otel",),
    "textual": ("cli._screen",),
    "argcomplete": ("cli._completion",),
    "multiprocessing.shared_memory": ("memory.shm",),
    "nats": ("addons.bridge.nats_link",),
    "numpy": ("memory.arrays", "bench.payloads"),
    "pyarrow": ("memory.tables",),
    "dill": ("worker", "lifecycle"),
    "multiprocess": ("worker", "lifecycle"),
    "filelock": ("runtime.filelocks",),
    "watchfiles": ("worker.source_changes",),
    "sqlite3": ("addons.journal.sqlite", "addons.outbox.sqlite"),
    "trio": ("aio.trio_loop",),
    "psycopg": ("addons.postgresql",),
    "prometheus_client": ("addons.metrics",),
    "starlette": ("addons.web.app",),
    "uvicorn": ("addons.web.server",),
}

# These are users of the package: they import its public names, and their own modules.
USERS = ("addons",)

# What is pure gets everything passed in: bytes, the time, and what others know.
PURE = ("core", "protocol", "client.protocol")
IMPURE_MODULES = (
    "logging",
    "multiprocess",
    "multiprocessing",
    "os",
    "select",
    "selectors",
    "signal",
    "socket",
    "subprocess",
    "threading",
    "time",
    "eventbus_mp.locking",
    "eventbus_mp.memory",
    "eventbus_mp.runtime",
    "eventbus_mp.client.connect",
    "eventbus_mp.client.connection",
    "eventbus_mp.client.transport",
)

# An import for types only hides a circle. In these folders there is none of the folder's own modules.
NO_IMPORTS_FOR_TYPES_ONLY = ("core",)


# --- what the rules see ---


def imported_names(tree: ast.AST) -> set[str]:
    """Names of all that is imported, at any depth and for types only as well; `from a import b` gives `a.b`."""
    names: set[str] = set()
    for node in ast.walk(tree):
        match node:
            case ast.Import():
                names.update(alias.name for alias in node.names)
            case ast.ImportFrom(module=str(base), level=0):
                names.update(f"{base}.{alias.name}" for alias in node.names)
            case ast.Call(
                func=ast.Attribute(attr="import_module") | ast.Name(id="import_module"),
                args=[ast.Constant(value=str(name)), *_],
            ):
                names.add(name)
    return names


def names_for_types_only(tree: ast.AST) -> set[str]:
    """Names that are imported under `if TYPE_CHECKING:`."""
    names: set[str] = set()
    for node in ast.walk(tree):
        match node:
            case ast.If(test=ast.Name(id="TYPE_CHECKING") | ast.Attribute(attr="TYPE_CHECKING")):
                names.update(*map(imported_names, node.body))
    return names


def is_in(name: str, folders: Collection[str]) -> bool:
    """Whether `name` is one of these, or inside one of them."""
    return any(name == folder or name.startswith(f"{folder}.") for folder in folders)


def part_of(name_in_package: str) -> str:
    """`core.bus` -> `core`; a name that is not part of ours comes from the package's own `__init__`."""
    part = name_in_package.partition(".")[0]
    return part if part in FLOOR_OF else "__init__"


def module_of(name: str, modules: Collection[str]) -> str | None:
    """The module of the package that an imported name is, or is in; None: it is from elsewhere."""
    top, _, rest = name.partition(".")
    if top != PACKAGE:
        return None
    while rest and rest not in modules:
        rest = rest.rpartition(".")[0]
    return rest or "__init__"


def import_graph(sources: Mapping[str, str]) -> dict[str, set[str]]:
    """Module -> the modules of the package that it imports, for whatever purpose and at whatever depth."""
    graph: dict[str, set[str]] = {}
    for module, source in sources.items():
        imported = {module_of(name, sources) for name in imported_names(ast.parse(source))}
        graph[module] = {other for other in imported if other is not None and other != module}
    return graph


def circles(graph: Mapping[str, set[str]]) -> list[tuple[str, ...]]:
    """The strongly connected components: groups of modules each of which reaches all others of its group."""
    reached = {module: reachable(graph, module) for module in graph}
    groups = (sorted(other for other in reached[module] if module in reached[other]) for module in graph)
    return sorted({tuple(group) for group in groups if group})


def reachable(graph: Mapping[str, set[str]], start: str) -> set[str]:
    """All modules that `start` imports, directly or through others; itself if they lead back to it."""
    found: set[str] = set()
    waiting = [start]
    while waiting:
        new = graph.get(waiting.pop(), set()) - found
        found |= new
        waiting += new
    return found


def package_sources() -> dict[str, str]:
    """Module -> its text. The module of a folder's `__init__` has the folder's name."""
    sources = {}
    for path in sorted((ROOT / PACKAGE).rglob("*.py")):
        name = ".".join(path.relative_to(ROOT / PACKAGE).with_suffix("").parts)
        sources[name.removesuffix(".__init__")] = path.read_text()
    return sources


FLOOR_OF = {part: floor for floor, parts in enumerate(FLOORS) for part in parts}
SOURCES = package_sources()


# --- the rules ---


def problems(module: str, source: str) -> Iterator[str]:
    """What is wrong with the imports of `module` (its name inside the package), a line each."""
    part = part_of(module)
    if part != module.partition(".")[0]:
        yield f"{module}: give {module.partition('.')[0]!r} a floor in FLOORS"
        return
    tree = ast.parse(source)
    for name in sorted(imported_names(tree)):
        found = next(wrongs(module, name), None)
        if found:
            yield found
    if part in NO_IMPORTS_FOR_TYPES_ONLY:
        for name in sorted(names_for_types_only(tree)):
            if is_in(name, [f"{PACKAGE}.{part}"]):
                yield f"{module} imports {name} for types only"
    if part in ROWS and module != part:
        yield from problems_of_rows(part, module, tree)


def wrongs(module: str, name: str) -> Iterator[str]:
    """What is wrong with this import of `module`."""
    part = part_of(module)
    if is_in(name, [PACKAGE]):
        imported = part_of(name.partition(".")[2])
        if imported != part and FLOOR_OF[imported] <= FLOOR_OF[part]:
            yield f"{module} imports {name}, which is not below it"
    if part in USERS and is_in(name, [PACKAGE]) and not is_in(name, [f"{PACKAGE}.{part}"]) and name.count(".") > 1:
        yield f"{module} imports {name}, which is not a public name of {PACKAGE}"
    if is_in(module, PURE) and is_in(name, IMPURE_MODULES):
        yield f"{module} imports {name}, but it is pure"
    for guarded, importers in IMPORTERS.items():
        if is_in(name, [guarded]) and not is_in(f"{PACKAGE}.{module}", [guarded]) and not is_in(module, importers):
            yield f"{module} imports {name}, which is for {', '.join(importers)} only"


def problems_of_rows(part: str, module: str, tree: ast.AST) -> Iterator[str]:
    row_of = {f"{part}.{name}": row for row, names in enumerate(ROWS[part]) for name in names}
    if module not in row_of:
        yield f"{module}: give it a row in ROWS"
        return
    for imported in sorted({module_of(name, row_of) or "" for name in imported_names(tree)} & set(row_of)):
        if row_of[imported] < row_of[module]:
            yield f"{module} imports {imported}, which is above it"


# --- the package keeps them ---


def test_imports_go_down_only_and_the_pure_is_pure() -> None:
    assert [text for module, source in SOURCES.items() for text in problems(module, source)] == []


def test_no_circle_of_any_kind() -> None:
    assert [" <-> ".join(group) for group in circles(import_graph(SOURCES))] == []


def test_the_tables_speak_of_what_exists() -> None:
    rows = {f"{folder}.{name}" for folder, named in ROWS.items() for names in named for name in names}
    ours = {name.removeprefix(f"{PACKAGE}.") for name in IMPURE_MODULES if is_in(name, [PACKAGE])}
    importers = {name for names in IMPORTERS.values() for name in names}
    named = {*FLOOR_OF, *rows, *ours, *importers, *PURE, *USERS, *NO_IMPORTS_FOR_TYPES_ONLY}
    assert named - set(SOURCES) == set()


# --- the rules see what they should ---

ALLOWED = [
    ("core.bus", "from eventbus_mp.protocol.messages import EventsNotified"),
    ("core.bus", "from eventbus_mp.core import spans"),
    ("core.bus", "from eventbus_mp.core.spans import SpanTable"),
    ("protocol.requests", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from eventbus_mp import events"),
    ("memory.shm", "from multiprocessing.shared_memory import SharedMemory"),
    ("memory.arrays", "import importlib\nimportlib.import_module('numpy')"),
    ("worker.pool", "import dill"),
    ("runtime.filelocks", "def f():\n    from filelock import FileLock"),
    ("manager.server", "from eventbus_mp.manager.executor import EffectExecutor"),
    ("manager.standby", "from eventbus_mp.manager.journal import Journal"),
    ("client.bus", "from eventbus_mp import errors"),
    ("client.bus", "import os, time"),
    ("demo.pipeline", "from eventbus_mp.console import Progress"),
    ("console", "from rich.progress import Progress"),
    ("__init__", "if TYPE_CHECKING:\n    from eventbus_mp.worker.pool import WorkerPool"),
    ("cli", "from eventbus_mp import EventBus"),
    ("addons.journal.row", "from eventbus_mp import EventBus"),
    ("addons.journal.row", "from eventbus_mp.addons.journal.store import Store"),
    ("addons.journal.sqlite.store", "import sqlite3"),
    ("addons.otel.names", "from eventbus_mp import EventBus"),
    ("addons.otel.propagate", "from opentelemetry import trace"),
]
FORBIDDEN = [
    ("errors", "from eventbus_mp.events import Event"),
    ("events", "if TYPE_CHECKING:\n    from eventbus_mp.config import BusConfig"),
    ("protocol.records", "from eventbus_mp.core import bus"),
    ("protocol.records", "import multiprocessing.connection"),
    ("core.bus", "from eventbus_mp.runtime.pipe import PipeEnds"),
    ("core.bus", "from eventbus_mp.memory import codec"),
    ("core.bus", "def f():\n    import time"),
    ("core.bus", "from os import path"),
    ("core.batches", "if typing.TYPE_CHECKING:\n    from eventbus_mp.core.spans import Span"),
    ("client.bus", "from eventbus_mp.manager import server"),
    ("client.bus", "from eventbus_mp import EventBus"),
    ("client.bus", "from eventbus_mp import console"),
    ("client.loan", "import numpy as np"),
    ("client.handlers", "import dill"),
    ("worker.pool", "import importlib\nimportlib.import_module('numpy')"),
    ("manager.journal", "from eventbus_mp.manager.executor import EffectExecutor"),
    ("manager.executor", "def f():\n    from eventbus_mp.manager import server"),
    ("runtime.rundir", "from filelock import FileLock"),
    ("runtime.launch", "from multiprocessing import shared_memory"),
    ("memory.arena", "from multiprocessing.shared_memory import SharedMemory"),
    ("_crashpoints", "from eventbus_mp.console import Progress"),
    ("cli", "import rich.table"),
    ("cli", "import sqlite3"),
    ("addons.journal.row", "import sqlite3"),
    ("addons.journal.row", "from eventbus_mp.events import Event"),
    ("worker.pool", "from eventbus_mp.addons.journal.store import Store"),
    ("cli", "from opentelemetry import trace"),
    ("client.bus", "from eventbus_mp.addons import otel"),
]
OF_NO_PART = [("plugins", "import re")]
OF_A_PART_TO_COME = [("client.protocol", f"import {name}") for name in ("threading", "time", "os", "select", "socket")]


@pytest.mark.parametrize(("module", "statement"), ALLOWED)
def test_what_is_allowed(module: str, statement: str) -> None:
    assert list(problems(module, statement)) == []


@pytest.mark.parametrize(("module", "statement"), [*FORBIDDEN, *OF_NO_PART, *OF_A_PART_TO_COME])
def test_what_is_not(module: str, statement: str) -> None:
    assert len(list(problems(module, statement))) == 1


@pytest.mark.parametrize(("module", "statement"), [*ALLOWED, *FORBIDDEN])
def test_the_examples_are_of_modules_that_exist(module: str, statement: str) -> None:
    assert module in SOURCES
    for name in imported_names(ast.parse(statement)):
        assert module_of(name, SOURCES) != "__init__" or name == "eventbus_mp.EventBus"


def test_a_module_that_has_no_row() -> None:
    assert list(problems("manager.helpers", "import re")) == ["manager.helpers: give it a row in ROWS"]


@pytest.mark.parametrize(
    ("graph", "found"),
    [
        ({}, []),
        ({"a": {"b"}, "b": {"c"}, "c": set()}, []),
        ({"a": {"b", "c"}, "b": {"d"}, "c": {"d"}, "d": set()}, []),
        ({"a": {"b"}, "b": {"a"}}, [("a", "b")]),
        ({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}, "e": set()}, [("a", "b", "c")]),
        ({"a": {"b"}, "b": {"a", "c"}, "c": {"d"}, "d": {"c"}}, [("a", "b"), ("c", "d")]),
    ],
    ids=["empty", "a chain", "a diamond", "two", "three, and two outside", "two circles in a chain"],
)
def test_circles_are_found(graph: dict[str, set[str]], found: list[tuple[str, ...]]) -> None:
    assert circles(graph) == found


def test_imports_for_types_and_in_functions_close_a_circle() -> None:
    sources = {
        "__init__": "if TYPE_CHECKING:\n    from eventbus_mp.low import f",
        "low": "def f():\n    from eventbus_mp import Face",
        "folder": "",
        "folder.a": "if TYPE_CHECKING:\n    from eventbus_mp.folder import b",
        "folder.b": "def f():\n    from eventbus_mp.folder.a import A",
        "folder.c": "from eventbus_mp.folder.a import A\nimport os",
    }
    assert circles(import_graph(sources)) == [("__init__", "low"), ("folder.a", "folder.b")]
