"""Imports go down only; what decides or packs bytes touches no clock, file, process or pipe."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "eventbus_mp"

# A part is a module or a folder directly under `eventbus_mp`. It may import itself and the floors below it;
# parts of one floor are siblings and do not know each other.
FLOORS = (
    ("__main__",),
    ("cli",),
    ("demo", "_crashpoints"),
    ("console",),
    ("__init__",),
    ("worker",),
    ("client", "manager"),
    ("runtime",),
    ("core", "memory"),
    ("protocol",),
    ("config",),
    ("events", "statistics", "patterns"),
    ("ids", "locking", "geometry"),
    ("errors", "lifecycle"),
)
FLOOR_OF = {part: floor for floor, parts in enumerate(FLOORS) for part in parts}

# Only these parts may import the one on the left.
IMPORTERS = {
    "console": {"cli", "demo"},
    "rich": {"console"},
    "multiprocessing.shared_memory": {"memory"},
}

PURE_PARTS = {"core", "protocol"}
IMPURE_MODULES = {
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
}


def test_imports_go_down_only() -> None:
    assert [problem for path in modules() for problem in problems(module_name(path), path.read_text())] == []


def test_one_file_imports_shared_memory() -> None:
    importers = [path.name for path in modules() if imports_shared_memory(path)]
    assert len(importers) <= 1, importers


@pytest.mark.parametrize(
    ("module", "statement"),
    [
        ("core.bus", "from ..protocol.messages import EventsNotified"),
        ("core.bus", "from . import spans"),
        ("core.bus", "from eventbus_mp.core.spans import SpanTable"),
        ("memory.shm", "from multiprocessing.shared_memory import SharedMemory"),
        ("manager.__init__", "from .server import Server"),
        ("client.bus", "from eventbus_mp import errors"),
        ("client.bus", "import os, time"),
        ("demo.pipeline", "from ..console import progress"),
        ("console", "from rich.progress import Progress"),
        ("__init__", "from .client import EventBus"),
        ("cli", "from . import EventBus"),
    ],
)
def test_what_is_allowed(module: str, statement: str) -> None:
    assert list(problems(module, statement)) == []


@pytest.mark.parametrize(
    ("module", "statement"),
    [
        ("errors", "from .events import Event"),
        ("protocol", "from .core import bus"),
        ("core.bus", "from ..runtime.loop import Loop"),
        ("core.bus", "from eventbus_mp.memory import codec"),
        ("core.bus", "def f():\n    import time"),
        ("core.bus", "from os import path"),
        ("protocol.records", "import multiprocessing.connection"),
        ("client.bus", "from ..manager import server"),
        ("client.bus", "from .. import EventBus"),
        ("client.bus", "from .. import console"),
        ("_crashpoints", "from .console import progress"),
        ("cli", "import rich.table"),
        ("runtime.start", "from multiprocessing import shared_memory"),
        ("plugins", "import re"),
    ],
)
def test_what_is_not(module: str, statement: str) -> None:
    assert len(list(problems(module, statement))) == 1


def problems(module: str, source: str) -> Iterator[str]:
    """What is wrong with the imports of `module` (its name inside the package), a line each."""
    part = module.partition(".")[0]
    if part not in FLOOR_OF:
        yield f"{module}: give {part!r} a floor in FLOORS"
        return
    for name in sorted(imported_names(module, source)):
        top, _, rest = name.partition(".")
        imported = part_of(rest) if top == "eventbus_mp" else name
        if imported in FLOOR_OF and imported != part and FLOOR_OF[imported] <= FLOOR_OF[part]:
            yield f"{module} imports {name}, which is not below it"
        elif part in PURE_PARTS and top in IMPURE_MODULES:
            yield f"{module} imports {name}, but {part} is pure"
        else:
            for guarded, importers in IMPORTERS.items():
                if f"{imported}.".startswith(f"{guarded}.") and part not in importers | {guarded}:
                    yield f"{module} imports {name}, which is for {', '.join(sorted(importers))} only"


def imports_shared_memory(path: Path) -> bool:
    names = imported_names(module_name(path), path.read_text())
    return any(name.startswith("multiprocessing.shared_memory") for name in names)


def part_of(name_in_package: str) -> str:
    """`core.bus` -> `core`; a name that is no part comes from the package's own `__init__`."""
    part = name_in_package.partition(".")[0]
    return part if part in FLOOR_OF else "__init__"


def imported_names(module: str, source: str) -> set[str]:
    """Absolute names of all that `module` imports, at any depth; `from a import b` gives `a.b`."""
    package = ["eventbus_mp", *module.split(".")[:-1]]
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) + 1 - node.level] if node.level else []
            base = [*base, node.module] if node.module else base
            names.update(".".join([*base, alias.name]) for alias in node.names)
    return names


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
