"""What the user sees: on a terminal, in a pipe, with --json, and without rich."""

import importlib
import io
import sys

import pytest

from eventbus_mp.console import Console, printable
from eventbus_mp.demo.report import BAR_INTERVAL_S, SKIPPED_SHOWN_MAX, progress, render
from eventbus_mp.demo.totals import MEASURE, DemoResult, SubscriberRow, Totals
from eventbus_mp.errors import UsageError


class Clock:
    """Stands still until it is moved."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


class Screen(Console):
    """A console of 80 columns whose output can be read."""

    def __init__(self, *, terminal: bool = False, encoding: str = "utf-8") -> None:
        self.raw = io.BytesIO()
        self.writer = io.TextIOWrapper(self.raw, encoding=encoding, write_through=True)
        super().__init__(file=self.writer, width=80, force_terminal=terminal, color_system=None, _environ={})

    @property
    def text(self) -> str:
        return self.raw.getvalue().decode()

    @property
    def lines(self) -> list[str]:
        return [line.rstrip() for line in self.text.splitlines()]


@pytest.fixture
def clock() -> Clock:
    return Clock()


def result(**changes) -> DemoResult:
    totals = Totals()
    complexities = [["Parser.parse", 10, 21], ["f", 200, 7]]
    totals.add_measured(
        {"path": "/src/pkg/a.py", "lines": 1200, "functions": 2, "classes": 1, "complexities": complexities}
    )
    totals.add_tokens("/src/pkg/a.py", 98765)
    totals.add_skipped(MEASURE, "/src/bad.py", "SyntaxError: invalid syntax (line 3)")
    defaults = {"path": "/src", "processes": 2, "seconds": 2.0, "events": 3000, "events_per_s": 1500.0}
    subscribers = (SubscriberRow("measure_file", 1200, 1, 3), SubscriberRow("collect", 2400, 0, 0))
    return DemoResult(**{**defaults, "totals": totals, "subscribers": subscribers, **changes})


def rendered(shown: DemoResult, **options) -> list[str]:
    screen = Screen(**options)
    render(shown, screen)
    return screen.lines


def test_the_whole_result_at_80_columns() -> None:
    assert rendered(result(killed_pid=4242, baseline_seconds=3.7)) == [
        "files                 1",
        "lines             1,200",
        "functions             2",
        "classes               1",
        "tokens           98,765",
        "complexity           28  (14.0 a function)",
        "",
        "Most complex functions",
        "complexity  function      file      line",
        "────────────────────────────────────────",
        "        21  Parser.parse  pkg/a.py    10",
        "         7  f             pkg/a.py   200",
        "",
        "Subscribers",
        "subscriber    completed  skipped  redelivered",
        "─────────────────────────────────────────────",
        "measure_file      1,200        1            3",
        "collect           2,400        0            0",
        "",
        "Skipped: 1",
        "bad.py (measure): SyntaxError: invalid syntax (line 3)",
        "",
        "1 file of /src in 2.00 s with 2 processes.",
        "3,000 events, 1,500 events/s.",
        "1.85 times as fast as a plain loop (3.70 s).",
        "Worker 4242 was killed in mid-run; its unsettled events went to another.",
    ]


def test_the_plain_loop_speaks_of_no_bus() -> None:
    lines = rendered(result(processes=0, events=0, events_per_s=0.0, subscribers=()))
    assert lines[-1] == "1 file of /src in 2.00 s, in a plain loop without the bus."
    assert not any("Subscribers" in line or "events" in line for line in lines)


def test_an_empty_run_has_no_empty_tables() -> None:
    lines = rendered(result(totals=Totals(), subscribers=(), processes=1, events=0, events_per_s=0.0))
    assert lines[-2:] == ["0 files of /src in 2.00 s with 1 process.", "0 events, 0 events/s."]
    assert not any("Most complex" in line or "Skipped" in line for line in lines)


def test_skipped_files_are_bounded() -> None:
    totals = Totals()
    for number in range(SKIPPED_SHOWN_MAX + 1500):
        totals.add_skipped(MEASURE, f"/src/{number:04}.py", "why")
    lines = rendered(result(totals=totals))
    assert sum("(measure): why" in line for line in lines) == SKIPPED_SHOWN_MAX
    assert "... and 1,500 more" in lines
    assert "Skipped: 1,520" in lines


def test_a_long_reason_stays_on_one_line_for_grep() -> None:
    totals = Totals()
    totals.add_skipped(MEASURE, "/src/x.py", "word " * 30 + "end")
    assert any(
        line.startswith("x.py (measure): word") and line.endswith("end") for line in rendered(result(totals=totals))
    )


def test_names_from_the_tree_are_shown_as_they_are_and_cannot_drive_the_terminal() -> None:
    totals = Totals()
    totals.add_skipped(MEASURE, "/src/[red]\x1b[2J\n:smile:\udcff.py", "why")
    text = "\n".join(rendered(result(path="/src", totals=totals), terminal=True))
    assert "[red]\\x1b[2J\\n:smile:\\udcff.py (measure): why" in text


def test_a_terminal_of_ascii_gets_ascii() -> None:
    totals = Totals()
    row = ["größe", 1, 2]
    totals.add_measured({"path": "/src/ü.py", "lines": 1, "functions": 1, "classes": 0, "complexities": [row]})
    text = "\n".join(rendered(result(totals=totals), encoding="ascii"))
    assert text.isascii()
    assert "gr\\xf6\\xdfe" in text


def test_long_names_fold_and_numbers_stay_whole() -> None:
    totals = Totals()
    path, name = "/src/" + "deep/" * 20 + "end.py", "Name" * 20
    totals.add_measured({"path": path, "lines": 1, "functions": 1, "classes": 0, "complexities": [[name, 123456, 987]]})
    lines = rendered(result(totals=totals))
    assert max(map(len, lines)) <= 80
    start = next(index for index, line in enumerate(lines) if line.startswith("       987  "))
    assert lines[start].endswith(" 123456")
    folded = " ".join(lines[start : start + 5]).split()
    assert "".join(part for part in folded if set(part) <= set("Name")) == name


def test_progress_in_a_pipe_is_a_line_for_each_tenth(clock: Clock) -> None:
    screen = Screen()
    with progress(2000, console=screen, clock=clock) as shown:
        for done in range(1, 2001):
            clock.now_s += 1 / 128
            shown.update(done)
    assert screen.lines[0] == "[ 10%] 200/2,000 files in 1.6 s"
    assert screen.lines[-1] == "[100%] 2,000/2,000 files in 15.6 s"
    assert len(screen.lines) == 10


def test_progress_in_a_pipe_is_at_most_a_line_a_second(clock: Clock) -> None:
    screen = Screen()
    with progress(2560, unit="results", console=screen, clock=clock) as shown:
        for done in range(1, 2561):
            clock.now_s += 1 / 1024  # exact in binary: no rounding moves a line
            shown.update(done)
    assert screen.lines == [
        "[ 40%] 1,024/2,560 results in 1.0 s",
        "[ 80%] 2,048/2,560 results in 2.0 s",
        "[100%] 2,560/2,560 results in 2.5 s",
    ]


def test_notes_come_at_once_and_an_error_leaves_no_last_line(clock: Clock) -> None:
    screen = Screen()

    def work() -> None:
        with progress(10, console=screen, clock=clock) as shown:
            shown.note("worker 7 was killed [sic]")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        work()
    assert screen.lines == ["worker 7 was killed [sic]"]


@pytest.mark.parametrize("terminal", [False, True])
def test_nothing_to_do_is_done(terminal: bool) -> None:
    screen = Screen(terminal=terminal)
    with progress(0, console=screen):
        pass
    assert "0/0 files" in screen.text


def test_progress_on_a_terminal_is_a_bar_that_update_redraws(clock: Clock) -> None:
    screen = Screen(terminal=True)
    with progress(1000, console=screen, clock=clock) as shown:
        for done in range(1, 101):
            shown.update(done)
        assert "/1,000 files" in screen.text
        assert "100/1,000 files" not in screen.text
        clock.now_s += BAR_INTERVAL_S + 0.01
        shown.update(101)
        assert "101/1,000 files" in screen.text
        shown.note("worker 7 was killed")
        assert "worker 7 was killed" in screen.text
        shown.update(1000)
    assert "━" in screen.text
    assert "100%" in screen.text
    assert "1,000/1,000 files" in screen.text


def test_quiet_progress_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with progress(10, quiet=True) as shown:
        shown.update(10)
        shown.note("unheard")
    assert capsys.readouterr() == ("", "")


def test_the_default_output_is_stdout_and_plain_when_captured(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, clock: Clock
) -> None:
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)
    with progress(1, clock=clock) as shown:
        shown.update(1)
    render(result())
    out, err = capsys.readouterr()
    assert out.startswith("[100%] 1/1 files in 0.0 s\nfiles                 1\n")
    assert "\x1b" not in out
    assert err == ""


def test_printable_keeps_letters_and_escapes_the_rest() -> None:
    assert printable("größe\t\x00\u2028", Screen()) == "größe\\t\\x00\\u2028"


def test_without_rich_one_sentence_says_what_to_type(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "eventbus_mp.console")
    monkeypatch.setitem(sys.modules, "rich", None)
    with pytest.raises(UsageError) as caught:
        importlib.import_module("eventbus_mp.console")
    assert str(caught.value) == (
        "this command needs the package rich, which is not installed; type: pip install 'eventbus-mp[cli]'"
    )
