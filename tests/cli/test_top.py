"""`eventbus-mp top`: one screen as text, and the live one through textual's own driver."""

import asyncio
import itertools
import os
import pty
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from eventbus_mp import Event, EventBus
from tests.cli.shell import environment, json_output, on_terminal, output, run


def test_one_screen_as_text(bus: EventBus, run_dir: Path) -> None:
    bus.inbox("audit", ["a"])
    bus.notify_many(Event(number, "a", number) for number in range(5))
    screen = output(run_dir, "top", "test", "--once", "--interval", "0.1")
    first, *_ = screen.splitlines()
    assert first.startswith("bus test, incarnation ")
    rows = [line.split() for line in screen.splitlines()]
    assert ["topic", "events/s", "unsettled", "oldest", "bytes", "dropped"] in rows
    assert next(row for row in rows if row[:1] == ["a"])[:3] == ["a", "0", "5"]
    assert next(row for row in rows if row[:1] == ["audit"])[1] == "0"
    assert any(row[:2] == [str(os.getpid()), "client"] for row in rows)
    filtered = output(run_dir, "top", "test", "--once", "--interval", "0.1", "--filter", "^AUD")
    assert "audit" in filtered
    assert "events/s" not in filtered
    assert run(run_dir, "top", "test", "--once", "--filter", "(").returncode == 2


def test_one_screen_as_json(bus: EventBus, run_dir: Path) -> None:
    bus.inbox("audit", ["a"])
    whole = json_output(run_dir, "top", "test", "--interval", "0.1")
    assert whole["snapshot"]["bus"] == "test"
    assert whole["notified_per_s"] == {"a": 0.0, "b": 0.0}
    assert whole["completed_per_s"] == [{"name": "audit", "host": None, "rate": 0.0}]


def test_without_a_terminal_it_is_one_screen(bus: EventBus, run_dir: Path) -> None:
    bus.topics()
    assert output(run_dir, "top", "test", "--interval", "0.1").startswith("bus test, ")


@pytest.mark.parametrize("term", ["dumb", ""])
def test_a_terminal_that_only_prints_lines_gets_one_screen(bus: EventBus, run_dir: Path, term: str) -> None:
    bus.topics()
    shown, code = on_terminal(80, run_dir, "top", "test", "--interval", "0.1", TERM=term)
    assert (code, shown.startswith("bus test, ")) == (0, True)
    assert "\x1b[?" not in shown


def test_without_textual_it_says_what_to_install(bus: EventBus, run_dir: Path) -> None:
    bus.topics()
    code = "import sys; sys.modules['textual'] = None; from eventbus_mp.cli import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", code, "top", "test"]
    variables = environment(run_dir, TERM="xterm")
    ours, terminal = pty.openpty()
    done = subprocess.run(
        command,
        env=variables,
        stdin=terminal,
        stdout=terminal,
        stderr=subprocess.PIPE,
        text=True,
        timeout=60,
        check=False,
    )
    os.close(terminal)
    os.close(ours)
    assert done.returncode == 2
    assert done.stderr.startswith("eventbus-mp: top needs the package textual, which is not installed; type: pip ")
    done = subprocess.run(
        [*command, "--once", "--interval", "0.1"],
        env=variables,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


def drive(bus: EventBus, steps: Callable[[Any, Any], Awaitable[None]], wanted: str = "") -> Any:
    """Run the screen without a terminal, and `steps(app, pilot)` beside it; the app, when it has ended."""
    pytest.importorskip("textual")
    from eventbus_mp.cli._screen import TopApp

    app = TopApp(bus, 0.1, wanted)

    async def run_it() -> None:
        async with app.run_test(size=(100, 40)) as pilot:
            while app.numbers is None:
                await pilot.pause(0.02)
            await steps(app, pilot)

    asyncio.run(run_it())
    return app


def shown(app: Any, table: str) -> list[str]:
    """The first cells of a table."""
    found = app.screen_stack[0].query_one(f"#{table}")
    return [found.get_row_at(at)[0].plain for at in range(found.row_count)]


async def until(pilot: Any, holds: Callable[[], bool]) -> None:
    while not holds():
        await pilot.pause(0.02)


@pytest.fixture
def watched(bus: EventBus, run_dir: Path) -> EventBus:
    """A handle that looks at a bus on which `audit` holds one event of topic "a" and has another one queued."""
    inbox = bus.inbox("audit", ["a"], credit=1)
    bus.on("b", name="billing")(lambda event: None)
    bus.notify_many([Event("one", "a", 1), Event(2, "a", 2)])
    assert inbox.get(10) is not None
    return EventBus.attach("test", run_dir=str(run_dir))


def test_the_three_tables_follow_the_bus(watched: EventBus, bus: EventBus) -> None:
    async def steps(app: Any, pilot: Any) -> None:
        assert shown(app, "topics") == ["a", "b"]
        assert shown(app, "subscribers") == ["audit", "billing"]
        assert str(os.getpid()) in shown(app, "processes")
        bus.register_topic("c")
        await until(pilot, lambda: shown(app, "topics") == ["a", "b", "c"])
        table = app.query_one("#topics")
        numbers = itertools.count()

        def is_counted() -> bool:
            bus.notify(Event(next(numbers), "b", 1))  # Again: the screen shows a rate until it looks the next time.
            return bool(table.get_row_at(1)[1].plain != "0")

        await until(pilot, is_counted)

    with watched:
        assert drive(watched, steps).return_value is None


def test_sorting_and_filtering(watched: EventBus) -> None:
    async def steps(app: Any, pilot: Any) -> None:
        await pilot.press("r")
        assert shown(app, "topics") == ["b", "a"]
        await pilot.press("r", *"ssss")  # to the first column
        assert app.query_one("#topics").column == 0
        assert shown(app, "topics") == ["b", "a"]
        await pilot.press("slash", *"audit", "enter")
        await until(pilot, lambda: shown(app, "topics") == [])
        assert shown(app, "subscribers") == ["audit"]
        await pilot.press("slash", *["backspace"] * 5, "left_parenthesis", "enter")
        assert app.wanted.pattern == "audit"  # What is not a regular expression is refused.
        await pilot.press("backspace", "enter")
        await until(pilot, lambda: shown(app, "topics") == ["b", "a"])

    with watched:
        drive(watched, steps)


def test_down_to_why_an_event_is_here(watched: EventBus) -> None:
    async def steps(app: Any, pilot: Any) -> None:
        await pilot.press("enter")
        await until(pilot, lambda: len(app.screen_stack) == 2 and len(app.screen.found) == 2)
        row = [cell.plain for cell in app.screen.query_one("#deliveries").get_row_at(0)]
        assert (row[0], row[1], row[3], row[4]) == ("a", "'one'", "audit", "in_flight")
        await pilot.press("enter")
        await until(pilot, lambda: len(app.screen_stack) == 3)
        explanation = app.screen.query_one("#explanation")
        await until(pilot, lambda: "event 'one' of topic 'a': unsettled" in str(explanation.render()))
        await pilot.press("escape", "escape", "tab", "enter")
        await until(pilot, lambda: len(app.screen_stack) == 2 and len(app.screen.found) == 2)

    with watched:
        drive(watched, steps)


def test_a_pause_and_the_end(watched: EventBus, bus: EventBus) -> None:
    async def steps(app: Any, pilot: Any) -> None:
        await pilot.press("p")
        assert "(paused)" in str(app.query_one("#head").render())
        await pilot.press("p")
        bus.shutdown()
        await until(pilot, lambda: app.return_code == 1)

    with watched:
        app = drive(watched, steps)
    assert "bus 'test'" in app.return_value


def test_a_window_of_any_size(watched: EventBus) -> None:
    async def steps(app: Any, pilot: Any) -> None:
        for columns, lines in ((20, 5), (1, 1), (300, 100), (100, 40)):
            await pilot.resize_terminal(columns, lines)
            looked = app.numbers
            await until(pilot, lambda looked=looked: app.numbers is not looked)  # type: ignore[misc]
            assert shown(app, "topics") == ["a", "b"]
        await pilot.press("enter")
        await pilot.resize_terminal(20, 5)
        await until(pilot, lambda: len(app.screen_stack) == 2 and len(app.screen.found) == 2)

    with watched:
        drive(watched, steps)


def test_many_topics_and_names_longer_than_the_screen(make_bus: Callable[..., EventBus], run_dir: Path) -> None:
    bus = make_bus(topics=[f"{'long_' * 30}{number}" for number in range(500)])
    bus.topics()

    async def steps(app: Any, pilot: Any) -> None:
        names = shown(app, "topics")
        assert len(set(names)) == 500
        assert max(map(len, names)) < 100  # with room for the numbers beside them
        await pilot.press(*["down"] * 5)
        under = app.query_one("#topics").cursor_row
        looked = app.numbers
        await until(pilot, lambda: app.numbers is not looked)
        assert app.query_one("#topics").cursor_row == under == 5

    with EventBus.attach("test", run_dir=str(run_dir)) as watching:
        drive(watching, steps)
