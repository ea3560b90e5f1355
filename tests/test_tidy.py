"""The limits that keep the code readable: short functions and files, docstrings, one kind of lock, no leftovers."""

import ast
import functools
import io
import re
import tokenize
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "eventbus_mp"
FOLDERS = (PACKAGE, "tests", "benchmarks", "examples")

CODE_LINES_MAX = 300
"""Docstrings, comments and blank lines are not counted, so nothing is saved by explaining less."""
FUNCTION_LINES_MAX = 60
LINE_CHARACTERS_MAX = 120

HOT_PATH = "# hot path:"  # the reason and the measurement follow
PRINTING_PARTS = {"cli", "console", "demo"}
LOCKS = {"Condition", "Lock", "RLock", "Semaphore", "BoundedSemaphore"}
LOCKING = Path(PACKAGE, "locking.py")
PAUSING = Path("tests", "helpers.py")
NO_CODE = {
    tokenize.COMMENT,
    tokenize.DEDENT,
    tokenize.ENDMARKER,
    tokenize.INDENT,
    tokenize.NEWLINE,
    tokenize.NL,
}

Rule = Callable[[Path, str], Iterator[str]]
parse = functools.cache(ast.parse)
"""Each file is looked at by a dozen rules."""


# --- the rules ---


def long_file(path: Path, source: str) -> Iterator[str]:
    lines = code_lines(source)
    if lines > CODE_LINES_MAX:
        yield f"{path}: {lines} lines of code"


def long_functions(path: Path, source: str) -> Iterator[str]:
    source_lines = source.splitlines()
    for node in ast.walk(parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            body = source_lines[node.lineno - 1 : node.end_lineno]
            if len(body) > FUNCTION_LINES_MAX and not any(HOT_PATH in line for line in body):
                yield f"{path}:{node.lineno}: {node.name} has {len(body)} lines and no `{HOT_PATH}`"


def other_markers(path: Path, source: str) -> Iterator[str]:
    """There is one marker of a hot path, so that all of them can be found."""
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        is_marker = token.type == tokenize.COMMENT and re.match("# ?hot[ -](path|loop)", token.string, re.IGNORECASE)
        if is_marker and not token.string.startswith(f"{HOT_PATH} "):
            yield f"{path}:{token.start[0]}: write `{HOT_PATH}`, and then the reason and the measurement"


def long_lines(path: Path, source: str) -> Iterator[str]:
    for number, line in enumerate(source.splitlines(), 1):
        if len(line) > LINE_CHARACTERS_MAX:
            yield f"{path}:{number}: {len(line)} characters"


def missing_docstring(path: Path, source: str) -> Iterator[str]:
    empty_package_marker = path.name == "__init__.py" and not source.strip()
    if not empty_package_marker and not ast.get_docstring(parse(source)):
        yield f"{path}: no docstring"


def bare_excepts(path: Path, source: str) -> Iterator[str]:
    for node in ast.walk(parse(source)):
        if isinstance(node, ast.ExceptHandler) and node.type is None:
            yield f"{path}:{node.lineno}: bare except"


def sleeps(path: Path, source: str) -> Iterator[str]:
    for node in ast.walk(parse(source)):
        match node:
            case ast.Attribute(value=ast.Name(id="time"), attr="sleep"):
                yield f"{path}:{node.lineno}: time.sleep"
            case ast.ImportFrom(module="time", names=names) if any(name.name == "sleep" for name in names):
                yield f"{path}:{node.lineno}: from time import sleep"
            # A turn for the loop is none.
            case ast.Call(func=ast.Attribute(value=ast.Name(id="asyncio"), attr="sleep"), args=[ast.Constant(value=v)]):
                if v:
                    yield f"{path}:{node.lineno}: asyncio.sleep({v!r})"


def pauses(path: Path, source: str) -> Iterator[str]:
    """A sleep in disguise: a wait for what never comes. `helpers.until` looks again, and `helpers.pause` is slow."""
    if path == PAUSING:
        return
    tree = parse(source)
    made = {name for node in ast.walk(tree) if isinstance(node, ast.Assign) for name in events_made_by(node)}
    used = Counter(node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load))
    waits: dict[str, list[int]] = {name: [] for name in made}
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=ast.Attribute(value=ast.Call() as event, attr="wait"), args=[_]) if makes_event(event):
                yield f"{path}:{node.lineno}: a wait for an event that nobody has"
            case ast.Call(func=ast.Attribute(value=ast.Name(id=name), attr="wait"), args=[_]) if name in made:
                waits[name].append(node.lineno)
            case ast.Call(func=ast.Attribute(value=ast.Name(id="select"), attr="select"), args=[a, b, c, _]):
                if all(isinstance(item, ast.List | ast.Tuple) and not item.elts for item in (a, b, c)):
                    yield f"{path}:{node.lineno}: a select of nothing"
    for name, lines in waits.items():
        if lines and len(lines) == used[name]:
            yield f"{path}:{lines[0]}: a wait for {name!r}, which nobody sets"


def spins(path: Path, source: str) -> Iterator[str]:
    """A loop that does nothing but look again takes the core that others need to get on."""
    for node in ast.walk(parse(source)):
        match node:
            case ast.While(body=[ast.Pass() | ast.Continue() | ast.Expr(value=ast.Constant())]):
                yield f"{path}:{node.lineno}: a loop without a body"


def plain_locks(path: Path, source: str) -> Iterator[str]:
    """A plain lock hangs, and a reentrant one shows what is half done, when a signal handler takes it again."""
    if path == LOCKING:
        return
    for node in ast.walk(parse(source)):
        match node:
            case ast.Attribute(value=ast.Name(id="threading"), attr=name) if name in LOCKS:
                yield f"{path}:{node.lineno}: threading.{name}; take a lock of locking.py"
            case ast.ImportFrom(module="threading", names=names):
                for alias in names:
                    if alias.name in LOCKS:
                        yield f"{path}:{node.lineno}: threading.{alias.name}; take a lock of locking.py"


def prints(path: Path, source: str) -> Iterator[str]:
    part = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    for node in ast.walk(parse(source)):
        match node:
            case ast.Call(func=ast.Name(id="print")) if part not in PRINTING_PARTS:
                yield f"{path}:{node.lineno}: print"


def relative_imports(path: Path, source: str) -> Iterator[str]:
    for node in ast.walk(parse(source)):
        if isinstance(node, ast.ImportFrom) and node.level:
            yield f"{path}:{node.lineno}: a relative import"


def renamed_modules(path: Path, source: str) -> Iterator[str]:
    """Our own modules have one name each. (A class may be renamed where two would have the same.)"""
    for node in ast.walk(parse(source)):
        match node:
            case ast.Import(names=names):
                modules = [alias.name for alias in names if alias.asname]
            case ast.ImportFrom(module=str(base), level=0, names=names):
                modules = [f"{base}.{alias.name}" for alias in names if alias.asname]
            case _:
                continue
        for module in modules:
            if is_our_module(module):
                yield f"{path}:{node.lineno}: {module} gets another name"


def wrong_all(path: Path, source: str) -> Iterator[str]:
    """What `__all__` names is there, and every public function and class of the file is in it."""
    tree = parse(source)
    listed = next((names for node in tree.body if (names := names_of_all(node)) is not None), None)
    if listed is None:
        return
    bound = set(names_bound_in(tree.body))
    if "__getattr__" not in bound:
        yield from (f"{path}: {name!r} of __all__ is not there" for name in sorted(set(listed) - bound))
    yield from (f"{path}: {name!r} is twice in __all__" for name in sorted(set(listed)) if listed.count(name) > 1)
    public = {name for node in tree.body if (name := getattr(node, "name", "_"))[0] != "_"}
    yield from (f"{path}: {name!r} is not in __all__" for name in sorted(public - set(listed)))


# --- what the rules see ---


def makes_event(node: ast.expr) -> bool:
    match node:
        case ast.Call(func=ast.Attribute(value=ast.Name(id="threading"), attr="Event") | ast.Name(id="Event"), args=[]):
            return True
    return False


def events_made_by(node: ast.Assign) -> Iterator[str]:
    """The names that get a new `threading.Event`."""
    for target in node.targets:
        match target, node.value:
            case ast.Tuple(elts=targets), ast.Tuple(elts=values):
                pairs = list(zip(targets, values, strict=False))
            case _:
                pairs = [(target, node.value)]
        yield from (name.id for name, value in pairs if isinstance(name, ast.Name) and makes_event(value))


def code_lines(source: str) -> int:
    """How many lines there are without those of docstrings, comments and nothing."""
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in NO_CODE:
            lines.update(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(parse(source)):
        body = getattr(node, "body", None)
        for child in body if isinstance(body, list) else []:
            match child:
                case ast.Expr(value=ast.Constant(value=str()), lineno=first, end_lineno=int(last)):
                    lines.difference_update(range(first, last + 1))
    return len(lines)


def is_our_module(name: str) -> bool:
    path = ROOT.joinpath(*name.split("."))
    return name.partition(".")[0] in FOLDERS and (path.with_suffix(".py").exists() or path.is_dir())


def names_of_all(node: ast.stmt) -> list[str] | None:
    match node:
        case (
            ast.Assign(targets=[ast.Name(id="__all__")], value=value)
            | ast.AnnAssign(target=ast.Name(id="__all__"), value=ast.expr() as value)
        ):
            return list(ast.literal_eval(value))
    return None


def names_bound_in(body: list[ast.stmt]) -> Iterator[str]:
    """What these statements of a module define or import, those under `if` and `try` as well."""
    for node in body:
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                yield name
            case ast.Import(names=names) | ast.ImportFrom(names=names):
                yield from ((alias.asname or alias.name).partition(".")[0] for alias in names)
            case ast.Assign() | ast.AnnAssign():
                yield from (name.id for name in ast.walk(node) if isinstance(name, ast.Name))
            case ast.If(body=inner, orelse=other):
                yield from names_bound_in([*inner, *other])
            case ast.Try(body=inner, handlers=handlers, orelse=other, finalbody=last):
                yield from names_bound_in([*inner, *other, *last, *(stmt for each in handlers for stmt in each.body)])


def complaints(rule: Rule, folders: tuple[str, ...] = FOLDERS) -> list[str]:
    """What `rule` says of each Python file in `folders`."""
    paths = (path for folder in folders for path in sorted((ROOT / folder).rglob("*.py")))
    return [text for path in paths for text in rule(path.relative_to(ROOT), path.read_text())]


# --- the repository keeps them ---


@pytest.mark.parametrize(
    "rule",
    [
        long_file,
        long_functions,
        other_markers,
        long_lines,
        missing_docstring,
        bare_excepts,
        spins,
        relative_imports,
        renamed_modules,
        wrong_all,
    ],
)
def test_every_file_keeps_it(rule: Rule) -> None:
    assert complaints(rule) == []


def test_the_package_and_its_tests_do_not_sleep() -> None:
    assert complaints(sleeps, folders=(PACKAGE, "tests")) == []


def test_the_tests_do_not_sleep_in_disguise() -> None:
    assert complaints(pauses, folders=("tests",)) == []


@pytest.mark.parametrize("rule", [prints, plain_locks])
def test_the_package_keeps_it(rule: Rule) -> None:
    assert complaints(rule, folders=(PACKAGE,)) == []


# --- the rules see what they should ---


@pytest.mark.parametrize(
    ("rule", "source"),
    [
        (long_file, "x = 1\n" * (CODE_LINES_MAX + 1)),
        (long_functions, "def f():\n" + "    x = 1\n" * FUNCTION_LINES_MAX),
        (other_markers, "# hot loop: 2 us"),
        (other_markers, "# hot path, 2 us"),
        (long_lines, "#" * (LINE_CHARACTERS_MAX + 1)),
        (missing_docstring, "x = 1"),
        (bare_excepts, "try:\n    f()\nexcept:\n    pass"),
        (sleeps, "import time\ntime.sleep(1)"),
        (sleeps, "import asyncio\nasync def f():\n    await asyncio.sleep(0.1)"),
        (sleeps, "from time import monotonic, sleep"),
        (pauses, "import threading\nthreading.Event().wait(0.1)"),
        (pauses, "import threading\npause, a = threading.Event(), 1\nwhile is_alive():\n    pause.wait(0.1)"),
        (pauses, "import select\nselect.select([], (), [], 0.1)"),
        (spins, "while is_alive():\n    pass"),
        (spins, "while is_alive():\n    ..."),
        (plain_locks, "import threading\nlock = threading.Lock()"),
        (plain_locks, "import threading\nclass A:\n    lock: threading.RLock"),
        (plain_locks, "from threading import Condition, Thread"),
        (prints, "print('here')"),
        (relative_imports, "from . import spans"),
        (relative_imports, "def f():\n    from ..errors import EventBusError"),
        (renamed_modules, "from eventbus_mp.core import bus as b"),
        (renamed_modules, "import eventbus_mp.protocol as wire"),
        (renamed_modules, "def f():\n    from tests.faults import helpers as h"),
        (wrong_all, "__all__ = ['f']"),
        (wrong_all, "__all__ = ['f', 'f']\ndef f(): pass"),
        (wrong_all, "__all__ = []\nclass A: pass"),
        (wrong_all, "__all__: list[str] = []\nasync def f(): pass"),
    ],
)
def test_each_rule_sees_its_offence(rule: Rule, source: str) -> None:
    assert len(list(rule(Path(PACKAGE, "core", "bus.py"), source))) == 1


@pytest.mark.parametrize(
    ("rule", "path", "source"),
    [
        (long_file, "core/bus.py", "x = 1\n" * CODE_LINES_MAX + "\n# why\n" * 100),
        (long_file, "core/bus.py", '"""Many\n\nwords.\n"""\n' * 2 + "x = 1\n" * CODE_LINES_MAX),
        (long_file, "core/bus.py", "class A:\n" + '    x = 1\n    """What x is."""\n' * (CODE_LINES_MAX - 1)),
        (long_functions, "core/bus.py", "def f():\n    # hot path: 1.1 us\n" + "    x = 1\n" * 60),
        (other_markers, "core/bus.py", "# hot path: without a call, 1.1 us instead of 1.9"),
        (missing_docstring, "core/__init__.py", ""),
        (sleeps, "core/bus.py", "from time import monotonic"),
        (pauses, "core/bus.py", "import threading\nthreading.Event().wait()"),
        (pauses, "core/bus.py", "import threading\nready = threading.Event()\nstart(ready)\nready.wait(20)"),
        (pauses, "core/bus.py", "import threading\nready = threading.Event()\nstart(ready.set)\nready.wait(20)"),
        (pauses, "core/bus.py", "import select\nselect.select([fd], [], [], 0.1)"),
        (spins, "core/bus.py", "while waits():\n    ask()"),
        (plain_locks, "locking.py", "import threading\nlock = threading.Lock()"),
        (plain_locks, "client/bus.py", "from threading import Event, Thread, get_ident"),
        (prints, "cli.py", "print('here')"),
        (prints, "demo/report.py", "print('here')"),
        (relative_imports, "core/bus.py", "from eventbus_mp.core import spans"),
        (renamed_modules, "core/bus.py", "import numpy as np"),
        (renamed_modules, "core/bus.py", "from eventbus_mp.errors import Skip as SkipEvent"),
        (wrong_all, "core/bus.py", "def f(): pass"),
        (wrong_all, "core/bus.py", "__all__ = ['A', 'f']\nfrom a import A\ndef f(): pass\ndef _g(): pass"),
        (wrong_all, "core/bus.py", "__all__ = ['f']\ntry:\n    from a import f\nexcept ImportError:\n    f = None"),
        (wrong_all, "__init__.py", "__all__ = ['EventBus']\ndef __getattr__(name): pass"),
    ],
)
def test_each_rule_knows_its_exception(rule: Rule, path: str, source: str) -> None:
    assert list(rule(Path(PACKAGE, path), source)) == []
