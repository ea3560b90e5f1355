"""The screen of `eventbus-mp top`, and the only module that imports textual, an optional library.

Every question to the bus is asked in a thread: the manager may take its time, and the keys have to work meanwhile.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

from eventbus_mp.cli._rates import TABLES, Numbers, Row, Table, chosen
from eventbus_mp.cli._text import on_one_line, shown_key, shown_seconds
from eventbus_mp.cli.status import headline
from eventbus_mp.client.bus import EventBus
from eventbus_mp.console import Text
from eventbus_mp.errors import EventBusError
from eventbus_mp.explanation import UnsettledDelivery
from eventbus_mp.extras import not_installed
from eventbus_mp.snapshot import Snapshot

try:
    from textual import work
    from textual.app import App, ComposeResult
    from textual.containers import VerticalScroll
    from textual.screen import Screen
    from textual.widgets import DataTable, Footer, Input, Static
except ImportError as cause:
    raise not_installed("top", "textual", "top", otherwise="print one screen: eventbus-mp top --once") from cause

__all__ = ["Deliveries", "Explained", "RowTable", "TopApp", "watch"]

NAME_WIDTH_MIN = 20
LISTED_MAX = 500
"""Deliveries of a topic or of a subscriber."""


def watch(bus: EventBus, interval_s: float, wanted: str) -> str:
    """Show the bus until the user leaves; why it ended otherwise, or ""."""
    return TopApp(bus, interval_s, wanted).run() or ""


class RowTable(DataTable[Text]):
    """A table that keeps its cursor on the same thing while numbers change."""

    def __init__(self, table: Table) -> None:
        super().__init__(id=table.name, cursor_type="row")
        self.table = table
        self.column = table.sorted_by
        self.largest_first = True
        self.rows_shown: list[Row] = []

    def on_mount(self) -> None:
        """Make the columns."""
        self.show([])

    def show(self, rows: list[Row]) -> None:
        """Show these rows."""
        under = self.rows_shown[self.cursor_row].key if self.cursor_row < len(self.rows_shown) else None
        top = self.scroll_y
        self.rows_shown = rows
        self.clear(columns=True)
        mark = " v" if self.largest_first else " ^"
        for at, head in enumerate(self.table.heads):
            self.add_column(Text(head + (mark if at == self.column else ""), justify=_side_of(head, at)))
        for name, *cells in _fitted(self.table.heads, [row.cells for row in rows], self.size.width):
            rest = zip(self.table.heads[1:], cells, strict=True)
            self.add_row(Text(name), *(Text(cell, justify=_side_of(head, 1)) for head, cell in rest))
        at = next((at for at, row in enumerate(rows) if row.key == under), 0)
        self.move_cursor(row=at, scroll=False)
        self.scroll_to(y=top, animate=False)


def _side_of(head: str, at: int) -> Any:
    return "left" if not at or head in ("role", "command") else "right"


def _fitted(heads: tuple[str, ...], rows: list[tuple[str, ...]], width: int) -> list[tuple[str, ...]]:
    """The rows with names that leave room for the numbers; the end of a name says as much as its beginning."""
    others = sum(max([len(head), *(len(row[at]) for row in rows)]) + 2 for at, head in enumerate(heads) if at)
    room = max(NAME_WIDTH_MIN, width - others - 6)  # of which two are for the mark of order, and two for the bar
    return [(_shortened(row[0], room), *row[1:]) for row in rows]


def _shortened(name: str, room: int) -> str:
    half = (room - 3) // 2
    return name if len(name) <= room else f"{name[:half]}...{name[-half:]}"


class TopApp(App[str]):
    """Three tables of a bus.

    Args:
        bus: A handle that looks at it.
        interval_s: How often it looks.
        wanted: The filter to begin with, a regular expression.
    """

    CSS = """
    #head { height: auto; }
    #wanted { display: none; }
    #wanted.asked { display: block; }
    DataTable { height: 1fr; }
    #topics { height: 2fr; }
    """
    TITLE = "eventbus-mp top"
    ENABLE_COMMAND_PALETTE = False
    BINDINGS: ClassVar[list[Any]] = [
        ("q", "quit", "Quit"),
        ("s", "sort", "Sort by next column"),
        ("r", "reverse", "Reverse"),
        ("slash", "filter", "Filter"),
        ("p", "pause", "Pause"),
    ]

    def __init__(self, bus: EventBus, interval_s: float, wanted: str) -> None:
        super().__init__()
        self.bus = bus
        self.numbers: Numbers | None = None
        self.wanted: re.Pattern[str] | None = re.compile(wanted, re.IGNORECASE) if wanted else None
        self.is_paused = False
        self._interval_s = interval_s
        self._looked_s = 0.0

    def compose(self) -> ComposeResult:
        """The parts of the screen."""
        yield Static(id="head", markup=False)
        yield Input(placeholder="a regular expression; Enter applies it", id="wanted")
        for table in TABLES:
            yield RowTable(table)
        yield Footer()

    def on_mount(self) -> None:
        """Begin to look."""
        self.query_one("#topics").focus()
        self.look()
        self.set_interval(self._interval_s, self.look)

    def look(self) -> None:
        """Ask for the numbers, unless the user has stopped that."""
        if not self.is_paused:
            self._look()

    @work(thread=True, exclusive=True, exit_on_error=False)
    def _look(self) -> None:
        try:
            now, looked_s = self.bus.snapshot(), time.monotonic()
        except EventBusError as error:
            self.call_from_thread(self.exit, str(error), 1)
            return
        self.call_from_thread(self._take, now, looked_s)

    def _take(self, now: Snapshot, looked_s: float) -> None:
        """Keep a new snapshot and show it, in the thread of the screen, the only one that changes the numbers."""
        before = self.numbers.now if self.numbers is not None else now
        self.numbers = Numbers(now, before, looked_s - self._looked_s)
        self._looked_s = looked_s
        self.show()

    def show(self) -> None:
        """Show the numbers as they were when they were asked for."""
        if self.numbers is None or not self.screen_stack:
            return
        main = self.screen_stack[0]
        state = "  (paused)" if self.is_paused else ""
        main.query_one("#head", Static).update("\n".join(headline(self.numbers.now)) + state)
        for table in main.query(RowTable):
            rows = table.table.rows(self.numbers)
            table.show(chosen(rows, self.wanted, table.column, largest_first=table.largest_first))

    def _focused(self) -> RowTable:
        return self.focused if isinstance(self.focused, RowTable) else self.query_one("#topics", RowTable)

    def action_sort(self) -> None:
        """Sort the table that has the focus by its next column."""
        table = self._focused()
        table.column = (table.column + 1) % len(table.table.heads)
        self.show()

    def action_reverse(self) -> None:
        """Turn its order round."""
        table = self._focused()
        table.largest_first = not table.largest_first
        self.show()

    def action_pause(self) -> None:
        """Stop looking, or go on."""
        self.is_paused = not self.is_paused
        self.show()

    def action_filter(self) -> None:
        """Ask for a filter."""
        asking = self.query_one("#wanted", Input)
        asking.add_class("asked")
        asking.focus()

    def on_input_submitted(self, submitted: Input.Submitted) -> None:
        """Take the filter; what is not a regular expression is refused."""
        try:
            self.wanted = re.compile(submitted.value, re.IGNORECASE) if submitted.value else None
        except re.error as error:
            self.notify(f"not a regular expression: {error}", severity="error", markup=False)
            return
        submitted.input.remove_class("asked")
        self.query_one("#topics").focus()
        self.show()

    def on_data_table_row_selected(self, selected: DataTable.RowSelected) -> None:
        """Show what is unsettled of a topic or of a subscriber."""
        table = selected.data_table
        if not isinstance(table, RowTable) or selected.cursor_row >= len(table.rows_shown):
            return
        key = table.rows_shown[selected.cursor_row].key
        if table.table.name == "topics":
            ask = partial(self.bus.stuck, 0.0, limit=LISTED_MAX, topic=key[0])
            self.push_screen(Deliveries(f"topic {key[0]}", ask))
        elif table.table.name == "subscribers":
            self.push_screen(Deliveries(f"subscriber {key[0]}", partial(_of_subscriber, self.bus, key)))


def _of_subscriber(bus: EventBus, key: tuple[Any, ...]) -> list[UnsettledDelivery]:
    found = bus.stuck(0.0, limit=1_000)
    return [item for item in found if (item.subscriber.text, repr(item.subscriber.config)) == key][:LISTED_MAX]


class Deliveries(Screen[None]):
    """Unsettled deliveries, the oldest first; Enter explains one.

    Args:
        title: Of what.
        ask: Asks the bus for them.
    """

    BINDINGS: ClassVar[list[Any]] = [("escape", "app.pop_screen", "Back")]

    def __init__(self, title: str, ask: Callable[[], list[UnsettledDelivery]]) -> None:
        super().__init__()
        self._title = title
        self._ask = ask
        self.found: list[UnsettledDelivery] = []

    def compose(self) -> ComposeResult:
        """The parts of the screen."""
        yield Static(f"unsettled of {on_one_line(self._title)}; Enter explains one", markup=False)
        yield DataTable(id="deliveries", cursor_type="row")
        yield Footer()

    def on_mount(self) -> None:
        """Make the columns, and ask."""
        table = self.query_one(DataTable)
        table.add_columns("topic", "id", "age", "subscriber", "state", "process", "attempt", "why")
        table.focus()
        self._fetch()

    @work(thread=True, exit_on_error=False)
    def _fetch(self) -> None:
        try:
            found = self._ask()
        except EventBusError as error:
            self.app.call_from_thread(self.app.exit, str(error), 1)
            return
        self.app.call_from_thread(self._show, found)

    def _show(self, found: list[UnsettledDelivery]) -> None:
        self.found = found
        for item in found:
            cells = (
                item.topic,
                repr(item.id),
                shown_seconds(item.age_s),
                shown_key(item.subscriber),
                item.state,
                item.pid or "-",
                item.attempt,
                item.last_error or item.why,
            )
            self.query_one(DataTable).add_row(*(Text(on_one_line(str(cell))) for cell in cells))

    def on_data_table_row_selected(self, selected: DataTable.RowSelected) -> None:
        """Explain the event of this row."""
        selected.stop()
        item = self.found[selected.cursor_row]
        if item.id is not None:
            self.app.push_screen(Explained((item.topic, item.id)))


class Explained(Screen[None]):
    """Why an event is still here.

    Args:
        event: Its (topic, id).
    """

    BINDINGS: ClassVar[list[Any]] = [("escape", "app.pop_screen", "Back")]

    def __init__(self, event: tuple[str, Any]) -> None:
        super().__init__()
        self._event = event

    def compose(self) -> ComposeResult:
        """The parts of the screen."""
        with VerticalScroll():
            yield Static("asking ...", id="explanation", markup=False)
        yield Footer()

    def on_mount(self) -> None:
        """Ask."""
        self._fetch()

    @work(thread=True, exit_on_error=False)
    def _fetch(self) -> None:
        app: Any = self.app
        try:
            found = app.bus.explain(self._event)
        except EventBusError as error:
            app.call_from_thread(app.exit, str(error), 1)
            return
        text = str(found) if found is not None else f"no event {self._event[1]!r} is remembered"
        app.call_from_thread(self.query_one("#explanation", Static).update, text)
