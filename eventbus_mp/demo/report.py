"""What the user sees of the demo: its progress while it runs, and its result.

`progress` chooses one of three: a bar on a terminal, a few plain lines in a pipe or a log file, and nothing if the
output is for a machine (`--json`). `render` prints a `DemoResult`; ``DemoResult.as_json`` is its twin for machines.
"""

import time
from collections.abc import Callable, Iterable
from types import TracebackType

from eventbus_mp.console import (
    BarColumn,
    Console,
    ProgressColumn,
    RichProgress,
    Table,
    Task,
    Text,
    TextColumn,
    TimeRemainingColumn,
    box,
    printable,
)
from eventbus_mp.demo.totals import DemoResult, JournalCheck, Totals

SKIPPED_SHOWN_MAX = 20
LINE_INTERVAL_S = 1.0
BAR_INTERVAL_S = 0.1


class Progress:
    """Shows how much of the work is done; this one shows nothing. Use it as a context manager, from one thread."""

    def __enter__(self) -> "Progress":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(finished=kind is None)

    def update(self, done: int) -> None:
        """Say how many of the total are done. Cheap enough to be called for each result."""

    def note(self, text: str) -> None:
        """Say on a line of its own what happened in between, for example that a worker was killed."""

    def close(self, *, finished: bool) -> None:
        """Stop showing; `finished` is False if an exception ended the work."""


def progress(
    total: int,
    *,
    unit: str = "files",
    quiet: bool = False,
    console: Console | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Progress:
    """The progress that fits the output: a bar on a terminal, plain lines elsewhere, nothing if `quiet`."""
    if quiet:
        return Progress()
    console = console or Console()
    kind = _Bar if console.is_terminal else _Lines
    return kind(total, unit, console, clock)


class _Lines(Progress):
    """A line for each tenth of the work, at most one a second, and one at the end."""

    def __init__(self, total: int, unit: str, console: Console, clock: Callable[[], float]) -> None:
        self._total, self._unit, self._console, self._clock = total, unit, console, clock
        self._started_s = self._shown_s = clock()
        self._done = self._tenths_shown = 0

    def update(self, done: int) -> None:
        self._done = done
        tenths = 10 * done // max(self._total, 1)
        now_s = self._clock()
        if tenths > self._tenths_shown and done < self._total and now_s - self._shown_s >= LINE_INTERVAL_S:
            self._tenths_shown, self._shown_s = tenths, now_s
            self._show(now_s)

    def note(self, text: str) -> None:
        _line(self._console, text)

    def close(self, *, finished: bool) -> None:
        if finished:
            self._show(self._clock())

    def _show(self, now_s: float) -> None:
        percent = 100 * self._done // self._total if self._total else 100
        count = f"{self._done:,}/{self._total:,} {self._unit}"
        _line(self._console, f"[{percent:3}%] {count} in {now_s - self._started_s:.1f} s")


class _Bar(Progress):
    """A bar, redrawn by `update`. It has no thread of its own: the pool may fork while it is shown."""

    def __init__(self, total: int, unit: str, console: Console, clock: Callable[[], float]) -> None:
        self._clock = clock
        # Output is not redirected through the bar either: a forked worker would inherit that with its lock.
        self._bar = RichProgress(
            TextColumn("{task.percentage:>3.0f}%"),
            BarColumn(bar_width=None),
            _Count(unit),
            TimeRemainingColumn(),
            console=console,
            auto_refresh=False,
            redirect_stdout=False,
            redirect_stderr=False,
            expand=True,
        )
        self._task = self._bar.add_task("", total=total)
        self._shown_s = clock()

    def __enter__(self) -> Progress:
        self._bar.start()
        self._bar.refresh()
        return self

    def update(self, done: int) -> None:
        now_s = self._clock()
        due = now_s - self._shown_s >= BAR_INTERVAL_S
        self._bar.update(self._task, completed=done, refresh=due)
        if due:
            self._shown_s = now_s

    def note(self, text: str) -> None:
        _line(self._bar.console, text)

    def close(self, *, finished: bool) -> None:
        self._bar.refresh()
        self._bar.stop()


class _Count(ProgressColumn):
    """`1,234/1,790 files  96/s`."""

    def __init__(self, unit: str) -> None:
        super().__init__()
        self._unit = unit

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        rate = f"  {speed:,.0f}/s" if speed else ""
        return Text(f"{int(task.completed):,}/{int(task.total or 0):,} {self._unit}{rate}")


def render(result: DemoResult, console: Console | None = None) -> None:
    """Print the whole result: totals, most complex functions, subscribers, what was skipped, the speed."""
    console = console or Console()
    _print_totals(result.totals, console)
    if result.totals.functions:
        _title(console, "Most complex functions")
        console.print(_complex_functions(result, console))
    if result.subscribers:
        _title(console, "Subscribers")
        console.print(_subscribers(result, console))
    if result.totals.skipped:
        _title(console, f"Skipped: {len(result.totals.skipped):,}")
        _print_skipped(result, console)
    console.print()
    for sentence in _summary(result):
        _line(console, printable(sentence, console))


def _print_totals(totals: Totals, console: Console) -> None:
    for name in ("files", "lines", "functions", "classes", "tokens"):
        _line(console, f"{name:<10} {getattr(totals, name):>12,}")
    average = f"  ({totals.complexity / totals.functions:.1f} a function)" if totals.functions else ""
    _line(console, f"complexity {totals.complexity:>12,}{average}")


def _complex_functions(result: DemoResult, console: Console) -> Table:
    table = _table("complexity>", "function", "file", "line>")
    for row in result.totals.top():
        name, path = printable(row.name, console), printable(_below(row.path, result.path), console)
        table.add_row(str(row.complexity), Text(name), Text(path), str(row.line))
    return table


def _subscribers(result: DemoResult, console: Console) -> Table:
    table = _table("subscriber", "completed>", "skipped>", "redelivered>")
    for row in result.subscribers:
        counts = (row.completed, row.skipped, row.redelivered)
        table.add_row(Text(printable(row.name, console)), *(f"{count:,}" for count in counts))
    return table


def _print_skipped(result: DemoResult, console: Console) -> None:
    """Print a line for each, and no table: reasons are long, and people search for them with grep."""
    skipped = result.totals.skipped
    for row in skipped[:SKIPPED_SHOWN_MAX]:
        _line(console, printable(f"{_below(row.path, result.path)} ({row.step}): {row.reason}", console))
    if len(skipped) > SKIPPED_SHOWN_MAX:
        _line(console, f"... and {len(skipped) - SKIPPED_SHOWN_MAX:,} more")


def _summary(result: DemoResult) -> Iterable[str]:
    """The last lines, which stay in view: what was done, how fast, and which worker was killed."""
    files = f"{result.totals.files:,} file{'s' * (result.totals.files != 1)} of {result.path}"
    if result.processes == 0:
        yield f"{files} in {result.seconds:.2f} s, in a plain loop without the bus."
        return
    workers = "1 process" if result.processes == 1 else f"{result.processes} processes"
    yield f"{files} in {result.seconds:.2f} s with {workers}."
    yield f"{result.events:,} events, {result.events_per_s:,.0f} events/s."
    if result.speed_up is not None:
        yield f"{result.speed_up:.2f} times as fast as a plain loop ({result.baseline_seconds:.2f} s)."
    if result.killed_pid is not None:
        yield f"Worker {result.killed_pid} was killed in mid-run; its unsettled events went to another."
    if result.journal is not None:
        yield from _journal(result.journal, result.events)


def _journal(check: JournalCheck, notified: int) -> Iterable[str]:
    yield f"The journal {check.url} holds {check.events:,} events of {notified:,}."
    if check.duplicates:
        yield f"{check.duplicates:,} came again after the kill, and are stored once."
    if check.differences:
        yield f"They do not match: {check.differences[0]}"
    else:
        yield "They match: none is missing, and the totals from the journal are exactly the same."


def _table(*headings: str) -> Table:
    """A table with these columns; a heading that ends in `>` is for numbers, which are not wrapped. Long texts fold.

    Give it texts as `Text`, because rich takes square brackets in a plain string for its markup.
    """
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    for heading in headings:
        if heading.endswith(">"):
            table.add_column(heading[:-1], justify="right", no_wrap=True)
        else:
            table.add_column(heading, overflow="fold")
    return table


def _title(console: Console, text: str) -> None:
    console.print(Text(f"\n{text}", style="bold"))


def _below(path: str, root: str) -> str:
    return path.removeprefix(root.rstrip("/") + "/")


def _line(console: Console, text: str) -> None:
    """Print exactly this text on one line, without markup, colours or wrapping."""
    console.print(text, markup=False, highlight=False, emoji=False, soft_wrap=True)
