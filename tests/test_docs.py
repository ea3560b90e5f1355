"""The documents: links resolve, code compiles, names exist, decisions are numbered, the tutorial does what it says."""

import contextlib
import fnmatch
import inspect
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

import eventbus_mp
import eventbus_mp.testing
from tests.test_examples import TIMEOUT_S, environment, wait_until_nothing_is_left

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
DECISIONS = DOCS / "decisions"
TUTORIAL = DOCS / "tutorial.md"
PAGES = sorted([*ROOT.glob("*.md"), *DOCS.rglob("*.md"), *(ROOT / "benchmarks").glob("*.md")])
WITH_CODE = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
REFERENCE = sorted((DOCS / "reference").glob("*.md"))

README_LINES_MAX = 150
DECISION_LINES = range(15, 41)
DECISION_PARTS = ("- Date: ", "- Status: ", "## Context", "## Decision", "## Measured", "## Refused", "## Consequences")
NOT_NATIVE = (
    r"\bSo (many|much)\b",
    r", too\b[.;,:)]",
    r"\b[Ww]hoever\b",
    r"\blast words\b",
    r"\bin hand\b",
    r"\blies? ready\b",
    r"\bas far as\b",
    r"\b(is|are|was|were) told\b",
    r"\balso (when|where|if)\b",
    r"\bsignal's handler\b",
    r"(?<![Tt]here\s)\bis no (?!longer\b|more\b|need\b|part\b)[a-z]",
)
"""Phrases that are translated rather than written, in pages and in the package. What a test finds here is
said in another way, not excepted."""


class Block(NamedTuple):
    """A fenced piece of a page: what follows the fence, and the text."""

    language: str
    title: str
    text: str


# --- pages ---


def test_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= README_LINES_MAX


def not_native(text: str) -> list[str]:
    return [found[0] for pattern in NOT_NATIVE for found in re.finditer(pattern, text)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_relative_link_resolves(page: Path) -> None:
    assert [link for link in links(page.read_text()) if not resolves(page, link)] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_no_page_has_a_phrase_that_is_not_native(page: Path) -> None:
    assert not_native(page.read_text()) == []


def test_no_module_has_a_phrase_that_is_not_native() -> None:
    """In a docstring, a comment, or an error."""
    found = {path: not_native(path.read_text()) for path in (ROOT / "eventbus_mp").rglob("*.py")}
    assert {str(path.relative_to(ROOT)): phrases for path, phrases in found.items() if phrases} == {}


def test_each_page_of_docs_is_in_the_map() -> None:
    mapped = {(DOCS / link.partition("#")[0]).resolve() for link in links((DOCS / "README.md").read_text())}
    pages = {page for page in DOCS.rglob("*.md") if page.parent != DECISIONS and page != DOCS / "README.md"}
    assert pages - mapped == set()


def test_the_map_of_architecture_is_that_of_the_code() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text()
    package = ROOT / "eventbus_mp"
    mapped = next(block.text for block in blocks(text) if block.text.startswith("eventbus_mp/"))
    unlisted = {"cli", "demo", "requests", "testing"}  # named as a folder only
    modules = [path for path in package.rglob("*.py") if unlisted.isdisjoint(path.relative_to(package).parts)]
    unmapped = {path.name for path in modules} - set(re.findall(r"\w+\.py", mapped))
    assert unmapped == set(), "give it a line in the map of ARCHITECTURE.md"
    assert [name for name in set(re.findall(r"\w+\.py", mapped)) if not list(package.rglob(name))] == []
    pages = [ROOT / "ARCHITECTURE.md", ROOT / "CONTRIBUTING.md", *sorted(DECISIONS.glob("*.md"))]
    named = {path for page in pages for path in files(page.read_text())}
    assert [path for path in named if not any((root / path).exists() for root in (ROOT, package))] == []


@pytest.mark.parametrize("page", WITH_CODE, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_python_block_compiles(page: Path) -> None:
    for block in blocks(page.read_text()):
        if block.language == "python":
            compile(block.text, str(page), "exec")


def test_the_checks_see_their_offences(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# A `b` c\n\n[a](#a-b-c) [b](#none) [c](page.md#a-b-c) [d](gone.md) [e](https://x.y/z)\n")
    assert [link for link in links(page.read_text()) if not resolves(page, link)] == ["#none", "gone.md"]
    offences = "So many wait", "This, too.", "Whoever asks", "is told in the log", "its last words", "also when"
    for offence in (*offences, "it is no list"):
        assert any(re.search(pattern, offence) for pattern in NOT_NATIVE), offence


def test_what_is_not_released_has_one_heading() -> None:
    headings = re.findall(r"^## .*$", (ROOT / "CHANGELOG.md").read_text(), re.M)
    assert headings[0] == "## [Unreleased]"
    assert [heading for heading in headings[1:] if not re.search(r"\d{4}-\d\d-\d\d$", heading)] == []


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd-analyze here")
def test_systemd_accepts_the_units_of_the_pages(tmp_path: Path) -> None:
    units = []
    for page in ("leave", "worker-service"):
        for block in blocks((DOCS / "how-to" / f"{page}.md").read_text()):
            if block.language == "ini":
                [name] = re.findall(r"^# /etc/systemd/system/(\S+)$", block.text, re.M)
                units.append(tmp_path / name)
                units[-1].write_text(block.text.replace("/srv/shop/venv/bin/eventbus-mp", sys.executable))
    done = subprocess.run(["systemd-analyze", "verify", *map(str, units)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr, len(units)) == (0, "", 2)


# --- names ---


@pytest.mark.parametrize("page", REFERENCE, ids=lambda page: page.stem)
def test_every_name_of_the_reference_exists(page: Path) -> None:
    assert [name for name in names(page.read_text()) if not exists(name)] == []


def test_every_public_name_and_method_is_in_the_reference() -> None:
    text = "".join(page.read_text() for page in REFERENCE)
    assert [name for name in eventbus_mp.__all__ if f"`{name}" not in text] == [], "describe it in docs/reference"
    for owner in (eventbus_mp.EventBus, eventbus_mp.Inbox, eventbus_mp.EventSource, eventbus_mp.WorkerPool):
        public = [name for name, _ in inspect.getmembers(owner, callable) if not name.startswith("_")]
        missing = [name for name in public if not re.search(rf"\b{name}\b", text)]
        # These two are not for users.
        assert missing in ([], ["abandon", "become_worker"]), f"describe it in docs/reference/api.md, under {owner}"


def test_the_signatures_of_the_reference_are_those_of_the_code() -> None:
    compared = 0
    for block in blocks((DOCS / "reference" / "api.md").read_text()):
        scope: dict[str, object] = {}
        if "class " in block.text:
            exec(compile(block.text, "api.md", "exec"), scope)
        for name, written in list(scope.items()):
            if inspect.isclass(written) and written.__module__ == "builtins" and name in eventbus_mp.__all__:
                real = getattr(eventbus_mp, name)
                for method, function in inspect.getmembers(written, inspect.isfunction):
                    assert parameters(function) == parameters(getattr(real, method)), f"{name}.{method}"
                    compared += 1
    assert compared > 30


def test_every_page_has_its_place_in_the_menu_of_the_site() -> None:
    menu = re.findall(r"^ +- [^:]+: (\S+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.M)
    pages = [path for path in DOCS.rglob("*.md") if path.parent != DECISIONS]
    wanted = {str(path.relative_to(ROOT)) for path in pages} - {"docs/README.md"}  # which is a menu itself
    assert wanted - set(menu) == set()
    assert [page for page in menu if not (ROOT / page).exists()] == ["docs/reference/docstrings.md"]  # is generated


# --- decisions ---


def test_decisions_are_numbered_without_gaps_and_each_is_in_the_index() -> None:
    pages = sorted(path.name for path in DECISIONS.glob("[0-9]*.md"))
    assert [name[:4] for name in pages] == [f"{number:04d}" for number in range(1, len(pages) + 1)]
    indexed = re.findall(r"^\| \[(\d{4})\]\((\S+)\) \|", (DECISIONS / "README.md").read_text(), re.M)
    assert indexed == [(name[:4], name) for name in pages]


@pytest.mark.parametrize("page", sorted(DECISIONS.glob("[0-9]*.md")), ids=lambda page: page.name[:4])
def test_each_decision_is_short_and_has_its_parts(page: Path) -> None:
    lines = page.read_text().splitlines()
    assert len(lines) in DECISION_LINES
    assert lines[0].startswith(f"# {page.name[:4]}. ")
    assert [part for part in DECISION_PARTS if not any(line.startswith(part) for line in lines)] == []
    assert re.match(r"- Date: \d{4}-\d\d-\d\d\b", lines[2])


# --- the tutorial ---


@pytest.mark.usefixtures("cleans_alone")
def test_the_tutorial_does_what_it_says(tmp_path: Path) -> None:
    run_dir, folder = tmp_path / "run", tmp_path / "tutorial"
    folder.mkdir()
    tutorial = list(blocks(TUTORIAL.read_text()))
    buses = set(re.findall(r'EventBus\("([\w-]+)"', TUTORIAL.read_text()))
    with contextlib.ExitStack() as at_the_end, contextlib.ExitStack() as background:
        for bus in buses:
            at_the_end.callback(wait_until_nothing_is_left, bus, run_dir)
        programs = Programs(folder, environment(run_dir), background)
        for block in tutorial:
            if block.language == "python" and block.title:
                (folder / block.title).write_text(block.text)
            elif block.language == "console":
                programs.run(block)
    assert programs.started == [
        "first.py",
        "counter.py",
        "crawl.py",
        "pipeline.py",
        "crash.py",
        "inside.py",
        "status",
        "clean",
    ]


class Programs:
    """Runs the tutorial's console blocks: `$ command`, `$ command &`, or what a program in the background says later.

    A command that is shown without output may say anything, as `status` does, which depends on the machine.
    """

    def __init__(self, folder: Path, variables: dict[str, str], stack: contextlib.ExitStack) -> None:
        self.started: list[str] = []
        self._folder = folder
        self._variables = variables
        self._stack = stack
        self._in_background: dict[str, subprocess.Popen[str]] = {}

    def run(self, block: Block) -> None:
        first, *expected = block.text.splitlines()
        if block.title:
            process = self._in_background.pop(block.title)
            said, complaints = process.communicate(timeout=TIMEOUT_S)
            assert process.returncode == 0, complaints
            assert said.splitlines() == [first, *expected]
            return
        assert first.startswith("$ "), first
        name, *rest = shlex.split(first[2:])
        self.started.append(rest[0])
        if rest[-1] == "&":
            process = self._start([name, *rest[:-1]])
            self._in_background[rest[0]] = process
            assert process.stdout is not None
            for line in expected:
                assert process.stdout.readline().rstrip("\n") == line
            return
        process = self._start([name, *rest])
        said, complaints = process.communicate(timeout=TIMEOUT_S)
        assert (process.returncode, complaints) == (0, ""), complaints
        if expected:
            assert unmatched(said.splitlines(), expected) == []

    def _start(self, command: list[str]) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [*interpreter(command[0]), *command[1:]],
            cwd=self._folder,
            env=self._variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._stack.enter_context(process)
        self._stack.callback(process.kill)  # before its `__exit__`, which waits
        return process


def interpreter(name: str) -> list[str]:
    """The two programs that the tutorial knows, of this Python."""
    main = "import sys; from eventbus_mp.cli import main; sys.exit(main())"
    return {"python": [sys.executable], "eventbus-mp": [sys.executable, "-c", main]}[name]


def unmatched(said: list[str], expected: list[str]) -> list[str]:
    """The lines of either side without a partner; their order is open, and `...` stands for anything."""
    left, missing = list(said), []
    for wanted in expected:
        pattern = wanted.replace("[", "[[]").replace("...", "*")
        found = next((line for line in left if fnmatch.fnmatchcase(line, pattern)), None)
        if found is None:
            missing.append(wanted)
        else:
            left.remove(found)
    return [*missing, *left]


# --- reading pages ---


def blocks(text: str) -> Iterator[Block]:
    """The fenced blocks of a page, in order."""
    for found in re.finditer(r"^```(\w*)(?: (\S+))?\n(.*?)^```$", text, re.M | re.S):
        yield Block(found[1], found[2] or "", found[3])


def prose(text: str) -> str:
    """The page without its fenced blocks."""
    return re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S)


def links(text: str) -> list[str]:
    """The targets of a page's links that lead to files of ours."""
    found: list[str] = re.findall(r"\]\(([^)\s]+)\)", prose(text))
    return [link for link in found if not re.match(r"[a-z]+:", link)]


def files(text: str) -> list[str]:
    """`folder/file.py` of a page's prose."""
    return re.findall(r"`([\w/]+/\w+\.py)\b", prose(text))


def resolves(page: Path, link: str) -> bool:
    name, _, anchor = link.partition("#")
    target = (page.parent / name).resolve() if name else page
    if not target.exists():
        return False
    return not anchor or anchor in anchors(target.read_text())


def anchors(text: str) -> set[str]:
    """What a heading is called in a link, as GitHub makes it."""
    headings = re.findall(r"^#+ (.+)$", prose(text), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def names(text: str) -> list[str]:
    """`eventbus_mp.X` and `Class.member` of a page's prose, where the class is one of ours."""
    found = re.finditer(r"\beventbus_mp\.(\w+(?:\.\w+)?)|`([A-Z]\w+\.\w+)", prose(text))
    return [name[1] or name[2] for name in found if name[1] or name[2].partition(".")[0] in eventbus_mp.__all__]


def exists(name: str) -> bool:
    owner, _, member = name.partition(".")
    thing = getattr(eventbus_mp, owner, None)
    if not member or thing is None:
        return thing is not None
    fields = {*getattr(thing, "__dataclass_fields__", {}), *getattr(thing, "_fields", ())}
    return hasattr(thing, member) or member in fields


def parameters(function: object) -> list[tuple[str, object, object]]:
    """(name, kind, default) of each."""
    signature = inspect.signature(function)  # type: ignore[arg-type]
    return [(item.name, item.kind, item.default) for item in signature.parameters.values()]


def test_names_of_a_page_are_found() -> None:
    assert names("`EventBus.notify` and `eventbus_mp.nothing`, `Path.name`, `EventBus.gone`") == [
        "EventBus.notify",
        "nothing",
        "EventBus.gone",
    ]
    assert [exists(name) for name in ("EventBus.notify", "nothing", "EventBus.gone", "SubscriberKey.config")] == [
        True,
        False,
        False,
        True,
    ]
