"""What one file holds: complexity by construct, counts, files that cannot be measured, the walk."""

import os
import pickle
import warnings
from pathlib import Path

import pytest

from eventbus_mp.demo.measure import REASON_CHARACTERS_MAX, Unmeasurable, count_tokens, measure, python_files

STRAIGHT = """\
def f():
    with open(x) as y:
        assert y
    try:
        pass
    finally:
        pass
    return [y for y in x]
"""

MATCH = """\
def f(x):
    match x:
        case 1 | 2:
            pass
        case [a, *_] if a:
            pass
        case _:
            pass
"""

ASYNC = """\
async def f(x):
    async for y in x:
        async with y:
            await y
    return [z async for z in x if z if z.ok]
"""

NESTED = """\
class Outer:
    if sys.platform:
        x = 1 if y else 2

    @decorate(1 if y else 2)
    def method(self, default=a or b) -> (c or d):
        class Inner:
            if a:
                b = 1
        def helper(x):
            if x:
                return lambda: x or y
        if self:
            return helper
"""

UNPARSABLE = [
    (b"def f(:\n", "SyntaxError: invalid syntax (line 1)"),
    (b"x = 1\n\nif x\n", "SyntaxError: expected ':' (line 3)"),
    (b"  x = 1\n", "IndentationError: unexpected indent (line 1)"),
    (b"# coding: nonesuch\n", "SyntaxError: unknown encoding: nonesuch"),
]


@pytest.fixture
def write(tmp_path: Path):
    def write(source: str | bytes, name: str = "file.py") -> str:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(source.encode() if isinstance(source, str) else source)
        return str(path)

    return write


@pytest.mark.parametrize(
    ("source", "complexity"),
    [
        ("def f(): pass", 1),
        (STRAIGHT, 1),
        ("def f(x):\n if x: pass\n elif y: pass\n else: pass", 3),
        ("def f(x):\n for y in x: pass\n else: pass", 2),
        ("def f(x):\n while x: pass", 2),
        ("def f():\n try: pass\n except A: pass\n except B: pass\n else: pass", 3),
        ("def f(a, b, c): return a and b and c", 3),
        ("def f(a, b, c): return a and b or c", 3),
        ("def f(x): return [y for y in x if y if y.ok]", 3),
        ("def f(x): return {y: z for y in x for z in y if z}", 2),
        ("def f(x): return 1 if x else 2 if y else 3", 3),
        ("def f(): return lambda x: 1 if x else 2", 2),
        (MATCH, 4),
        (ASYNC, 4),
    ],
)
def test_complexity_of_one_function(write, source: str, complexity: int) -> None:
    assert measure(write(source))["complexities"] == [["f", 1, complexity]]


def test_a_nested_scope_counts_on_its_own_and_what_stands_outside_its_body_does_not_count_in_it(
    write,
) -> None:
    result = measure(write(NESTED))
    assert result["complexities"] == [["Outer.method", 6, 2], ["Outer.method.helper", 10, 3]]
    assert (result["functions"], result["classes"]) == (2, 2)


def test_the_result_is_plain_and_in_the_order_of_the_file(write) -> None:
    path = write("def b(): pass\n\n\nclass C:\n    def a(self): pass\n\n\nasync def d(): pass\n")
    assert measure(path) == {
        "path": path,
        "lines": 8,
        "functions": 3,
        "classes": 1,
        "complexities": [["b", 1, 1], ["C.a", 5, 1], ["d", 8, 1]],
    }


@pytest.mark.parametrize(
    ("source", "lines"),
    [(b"", 0), (b"x=1", 1), (b"x=1\n", 1), (b"x=1\r\ny=2\r\n", 2), (b"x='''\n\f\n'''", 3)],
)
def test_lines(write, source: bytes, lines: int) -> None:
    assert measure(write(source))["lines"] == lines


def test_other_encodings_and_the_byte_order_mark_are_understood(write) -> None:
    for source in (b"# coding: latin-1\nx = '\xe4'\n", b"\xef\xbb\xbfx = 1\n"):
        path = write(source)
        assert measure(path)["functions"] == 0
        assert count_tokens(path) > 0


@pytest.mark.parametrize(("source", "reason"), UNPARSABLE)
def test_what_does_not_parse_is_unmeasurable(write, source: bytes, reason: str) -> None:
    with pytest.raises(Unmeasurable) as caught:
        measure(write(source))
    assert caught.value.reason == str(caught.value) == reason
    assert isinstance(caught.value.__cause__, SyntaxError)


def test_null_bytes_are_unmeasurable(write) -> None:
    with pytest.raises(Unmeasurable, match=r"Error: .* null bytes"):
        measure(write(b"x = 1\0\n"))


def test_nesting_beyond_the_parser_is_unmeasurable(write) -> None:
    with pytest.raises(Unmeasurable, match=r"^(RecursionError|MemoryError): nested too deeply$"):
        measure(write("x = " + "-" * 50_000 + "1"))


def test_a_tree_as_deep_as_the_parser_takes_is_measured(write) -> None:
    # 900 levels of `elif` are 900 levels of tree: a walk by recursion would run out of stack.
    source = "def f(x):\n  if x: pass\n" + "  elif x: pass\n" * 900
    assert measure(write(source))["complexities"] == [["f", 1, 902]]


def test_count_tokens(write) -> None:
    # ENCODING, NAME, OP, NUMBER, COMMENT, NEWLINE, ENDMARKER
    assert count_tokens(write("x = 1  # one\n")) == 7


@pytest.mark.parametrize(
    "source",
    [
        pytest.param(b"x = (1,\n", id="open bracket"),
        pytest.param(b"x = '''\n", id="open string"),
        pytest.param(b"if x:\n    y\n  z\n", id="dedent to nowhere"),
        pytest.param(b"x = '\xff'\n", id="not utf-8"),
        pytest.param(b"# coding: rot13\nx = 1\n", id="not an encoding of text"),
    ],
)
def test_what_does_not_tokenize_is_unmeasurable(write, source: bytes) -> None:
    with pytest.raises(Unmeasurable, match=r"^\w+Error: .+"):
        count_tokens(write(source))


@pytest.mark.parametrize("step", [measure, count_tokens])
def test_a_file_that_is_gone_is_unmeasurable(step, tmp_path: Path) -> None:
    with pytest.raises(Unmeasurable, match=r"^FileNotFoundError: No such file or directory$"):
        step(str(tmp_path / "gone.py"))


def test_a_reason_is_one_short_line(write) -> None:
    with pytest.raises(Unmeasurable) as caught:
        measure(write("x = " + "9" * 5_000 + "\n"))  # the parser's own text has 195 characters
    assert len(caught.value.reason) == REASON_CHARACTERS_MAX
    assert caught.value.reason.endswith("... (line 1)")


def test_the_exception_travels_between_processes() -> None:
    assert pickle.loads(pickle.dumps(Unmeasurable("why"))).reason == "why"


@pytest.mark.parametrize("step", [measure, count_tokens])
def test_the_parsers_warnings_stay_off_the_screen_even_as_errors(write, step) -> None:
    path = write("x = '\\d'\ny = 1if x else 2\n")
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        step(path)
    assert seen == []
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        step(path)


def test_python_files_come_in_one_order_without_caches_and_installed_packages(write, tmp_path: Path) -> None:
    wanted = ["a.py", "z.py", "b/a.py", "b/b/x.py", "c/__init__.py"]
    for name in (*reversed(wanted), "b/data.txt", "b/__pycache__/a.py", "site-packages/pkg/x.py"):
        write("", name)
    assert [str(path.relative_to(tmp_path)) for path in python_files(tmp_path)] == wanted


def test_a_root_called_site_packages_is_walked(write, tmp_path: Path) -> None:
    write("", "site-packages/x.py")
    assert [path.name for path in python_files(tmp_path / "site-packages")] == ["x.py"]


def test_links_cannot_make_a_loop(write, tmp_path: Path) -> None:
    write("", "pkg/x.py")
    (tmp_path / "pkg" / "loop").symlink_to(tmp_path)
    (tmp_path / "pkg" / "broken.py").symlink_to(tmp_path / "gone.py")
    (tmp_path / "pkg" / "link.py").symlink_to("x.py")
    os.mkfifo(tmp_path / "pkg" / "pipe.py")
    assert [path.name for path in python_files(tmp_path)] == ["link.py", "x.py"]


def test_a_root_that_is_no_directory_is_an_error(write, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="gone"):
        next(python_files(tmp_path / "gone"))
    with pytest.raises(NotADirectoryError, match=r"file\.py"):
        next(python_files(Path(write(""))))
