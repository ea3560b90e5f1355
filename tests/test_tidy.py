"""The limits that keep the code readable: short functions and files, docstrings, no leftovers."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "eventbus_mp"
FOLDERS = (PACKAGE, "tests", "benchmarks", "examples")

FILE_LINES_MAX = 400
FUNCTION_LINES_MAX = 60
LINE_CHARACTERS_MAX = 120

HOT_LOOP = "# hot loop:"  # the reason and the measurement follow
PRINTING_PARTS = {"cli", "console", "demo"}


def test_files_are_short() -> None:
    assert complaints(long_file) == []


def test_functions_are_short_or_measured_hot_loops() -> None:
    assert complaints(long_functions) == []


def test_lines_are_short() -> None:
    assert complaints(long_lines) == []


def test_every_module_has_a_docstring() -> None:
    assert complaints(missing_docstring) == []


def test_no_bare_except() -> None:
    assert complaints(bare_excepts) == []


def test_the_package_and_its_tests_do_not_sleep() -> None:
    assert complaints(sleeps, folders=(PACKAGE, "tests")) == []


def test_only_the_command_line_prints() -> None:
    assert complaints(prints, folders=(PACKAGE,)) == []


def long_file(path: Path, source: str) -> Iterator[str]:
    lines = len(source.splitlines())
    if lines > FILE_LINES_MAX:
        yield f"{path}: {lines} lines"


def long_functions(path: Path, source: str) -> Iterator[str]:
    source_lines = source.splitlines()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            body = source_lines[node.lineno - 1 : node.end_lineno]
            if len(body) > FUNCTION_LINES_MAX and not any(HOT_LOOP in line for line in body):
                yield f"{path}:{node.lineno}: {node.name} has {len(body)} lines and no `{HOT_LOOP}`"


def long_lines(path: Path, source: str) -> Iterator[str]:
    for number, line in enumerate(source.splitlines(), 1):
        if len(line) > LINE_CHARACTERS_MAX:
            yield f"{path}:{number}: {len(line)} characters"


def missing_docstring(path: Path, source: str) -> Iterator[str]:
    empty_package_marker = path.name == "__init__.py" and not source.strip()
    if not empty_package_marker and not ast.get_docstring(ast.parse(source)):
        yield f"{path}: no docstring"


def bare_excepts(path: Path, source: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ExceptHandler) and node.type is None:
            yield f"{path}:{node.lineno}: bare except"


def sleeps(path: Path, source: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Attribute(value=ast.Name(id="time"), attr="sleep"):
                yield f"{path}:{node.lineno}: time.sleep"
            case ast.ImportFrom(module="time", names=names) if any(name.name == "sleep" for name in names):
                yield f"{path}:{node.lineno}: from time import sleep"


def prints(path: Path, source: str) -> Iterator[str]:
    part = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Call(func=ast.Name(id="print")) if part not in PRINTING_PARTS:
                yield f"{path}:{node.lineno}: print"


@pytest.mark.parametrize(
    ("rule", "source"),
    [
        (long_file, "\n" * (FILE_LINES_MAX + 1)),
        (long_functions, "def f():\n" + "    x = 1\n" * FUNCTION_LINES_MAX),
        (long_lines, "#" * (LINE_CHARACTERS_MAX + 1)),
        (missing_docstring, "x = 1"),
        (bare_excepts, "try:\n    f()\nexcept:\n    pass"),
        (sleeps, "import time\ntime.sleep(1)"),
        (sleeps, "from time import monotonic, sleep"),
        (prints, "print('here')"),
    ],
)
def test_each_rule_sees_its_offence(rule, source: str) -> None:
    assert len(list(rule(Path(PACKAGE, "core", "bus.py"), source))) == 1


@pytest.mark.parametrize(
    ("rule", "path", "source"),
    [
        (long_functions, "core/bus.py", "def f():\n    # hot loop: 1.1 us\n" + "    x = 1\n" * 60),
        (missing_docstring, "core/__init__.py", ""),
        (sleeps, "core/bus.py", "from time import monotonic"),
        (prints, "cli.py", "print('here')"),
        (prints, "demo/report.py", "print('here')"),
    ],
)
def test_each_rule_knows_its_exception(rule, path: str, source: str) -> None:
    assert list(rule(Path(PACKAGE, path), source)) == []


def complaints(rule, folders: tuple[str, ...] = FOLDERS) -> list[str]:
    """What `rule` says of each Python file in `folders`."""
    paths = [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]
    return [text for path in paths for text in rule(path.relative_to(ROOT), path.read_text())]
