"""The work that the demo spreads over processes: measuring one Python file.

Three plain functions that know nothing of the bus: `python_files` finds the files, `measure` and `count_tokens` each
do one subscriber's work on one file. The demo calls the same two functions in a loop to prove that the bus changed
nothing, so both depend on nothing but the file's bytes.

Source trees have files that cannot be measured (templates, files for another Python, tests of the parser itself). For
these there is one exception, `Unmeasurable`, with a reason that fits on one line.

The cyclomatic complexity (McCabe) of a function is 1 plus its branches:

    if, elif, for, while, except, a ternary, a case     1 each
    a and b or c                                        1 for each operand after the first of one operator
    [x for x in y if x]                                 1 for each `if` of a comprehension

`with`, `assert`, `try`, `else` and `finally` add nothing. A nested function or class is a scope of its own:
its branches are not its parent's. A lambda belongs to the function it is written in.
"""

import ast
import io
import os
import tokenize
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

SKIPPED_DIRECTORIES = frozenset({"__pycache__", "site-packages"})
REASON_CHARACTERS_MAX = 120

# Everything that a file's bytes caused under a fuzzer, on 3.10 to 3.13. ValueError: null bytes, or bytes that do not
# fit the declared encoding. LookupError: that encoding is not one of text. MemoryError: the parser's own stack is full.
# SystemError: the tokenizer of 3.12 fails while it builds its own SyntaxError.
_REFUSALS = (
    SyntaxError,
    tokenize.TokenError,
    ValueError,
    LookupError,
    RecursionError,
    MemoryError,
    SystemError,
    OSError,
)

_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
_BRANCHES = (ast.If, ast.For, ast.AsyncFor, ast.While, ast.ExceptHandler, ast.IfExp, ast.match_case)


class Unmeasurable(Exception):
    """This file cannot be read, parsed or tokenized. It can be skipped; nothing else is wrong.

    `reason` is one short line for people: ``SyntaxError: invalid syntax (line 3)``.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Measurement(TypedDict):
    """What `measure` found in one file: only lists, numbers and texts, which travel as plain msgpack."""

    path: str
    lines: int
    functions: int
    classes: int
    complexities: list[list[Any]]
    """One ``[name, line, complexity]`` a function, in the file's order; a name is like `Class.method`."""


def python_files(root: Path) -> Iterator[Path]:
    """Yield every `.py` file below `root`, always in the same order: files first, then directories, by name.

    `__pycache__` and `site-packages` below the root are left out, as are directories that may not be listed, and links
    to directories (so there are no loops). Links to files are followed.

    Raises:
        OSError: From the first `next`: `root` does not exist, is not a directory, or may not be listed.
    """
    os.scandir(root).close()
    for folder, directories, files in os.walk(root):
        # In place: os.walk descends into the directories of this list, in its order.
        directories[:] = sorted(set(directories) - SKIPPED_DIRECTORIES)
        for name in sorted(files):
            path = Path(folder, name)
            if name.endswith(".py") and path.is_file():
                yield path


def measure(path: str) -> Measurement:
    """Parse one file and count its lines, functions and classes, with each function's complexity.

    Raises:
        Unmeasurable: The file cannot be read, or this Python cannot parse it.
    """
    with _refusals_as_unmeasurable():
        source = Path(path).read_bytes()
        tree = ast.parse(source)
    scopes = _scopes(tree)
    functions = [scope for scope in scopes if scope.is_function]
    functions.sort(key=lambda scope: scope.line)
    return {
        "path": path,
        "lines": len(source.splitlines()),
        "functions": len(functions),
        "classes": len(scopes) - len(functions),
        "complexities": [[scope.name, scope.line, scope.complexity] for scope in functions],
    }


def count_tokens(path: str) -> int:
    """Count a file's tokens as `tokenize` yields them, comments and the end marker included.

    Raises:
        Unmeasurable: The file cannot be read, or this Python cannot tokenize it.
    """
    with _refusals_as_unmeasurable():
        source = io.BytesIO(Path(path).read_bytes())
        return sum(1 for _ in tokenize.tokenize(source.readline))


@dataclass(slots=True)
class _Scope:
    """A module, class or function, and the branches seen in it so far."""

    name: str
    line: int
    is_function: bool
    complexity: int = 1

    def enter(self, node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) -> "_Scope":
        name = f"{self.name}.{node.name}" if self.name else node.name
        return _Scope(name, node.lineno, isinstance(node, _FUNCTIONS))


def _scopes(tree: ast.Module) -> list[_Scope]:
    """Every class and function of `tree`, in no order.

    It uses a list as its stack, because generated code can be nested deeper than Python's own stack allows.
    """
    found: list[_Scope] = []
    todo: list[tuple[ast.AST, _Scope]] = [(tree, _Scope("", 0, is_function=False))]
    while todo:
        node, scope = todo.pop()
        scope.complexity += _branches(node)
        children = ast.iter_child_nodes(node)
        if isinstance(node, (*_FUNCTIONS, ast.ClassDef)):
            inner = scope.enter(node)
            found.append(inner)
            # Only the body runs inside; decorators, defaults, bases and annotations belong to the outer scope.
            todo.extend((child, inner if isinstance(child, ast.stmt) else scope) for child in children)
        else:
            todo.extend((child, scope) for child in children)
    return found


def _branches(node: ast.AST) -> int:
    if isinstance(node, ast.BoolOp):
        return len(node.values) - 1
    if isinstance(node, ast.comprehension):
        return len(node.ifs)
    return int(isinstance(node, _BRANCHES))


@contextmanager
def _refusals_as_unmeasurable() -> Iterator[None]:
    """Turn what the input can cause into `Unmeasurable`, and keep the parser's warnings off the screen."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SyntaxWarning)
        warnings.simplefilter("ignore", DeprecationWarning)
        try:
            yield
        except _REFUSALS as error:
            raise Unmeasurable(_reason(error)) from error


def _reason(error: Exception) -> str:
    message, line = _message_and_line(error)
    text = " ".join(f"{type(error).__name__}: {message}".split())
    suffix = f" (line {line})" if line else ""
    if len(text) + len(suffix) > REASON_CHARACTERS_MAX:
        text = text[: REASON_CHARACTERS_MAX - len(suffix) - 3] + "..."
    return text + suffix


def _message_and_line(error: Exception) -> tuple[object, int | None]:
    if isinstance(error, (RecursionError, MemoryError)):
        # Python's text depends on the depth of the caller's stack; the reason must not.
        return "nested too deeply", None
    if isinstance(error, SyntaxError):
        return error.msg, error.lineno
    if isinstance(error, tokenize.TokenError):
        return error.args[0], error.args[1][0]
    if isinstance(error, OSError):
        return error.strerror, None
    if isinstance(error, SystemError):
        # Its text holds an address, so it differs from run to run.
        return "this Python's tokenizer fails on it", None
    return error, None
