"""A view never shows other bytes, even when its process has left the bus."""

import hashlib
import resource
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from eventbus_mp import BusClosed, Event, EventBus, EventBusError
from tests.client.views import SHOWN, SIZE, Make, Others, Show, content_of, event_of, taken
from tests.faults.helpers import await_links


@pytest.mark.parametrize("settled", [True, False])
@pytest.mark.parametrize("show", SHOWN.values(), ids=SHOWN)
def test_after_close(others: Others, bus: EventBus, show: Show, settled: bool) -> None:
    view = show(taken(others, bus, settled=settled))
    wanted = content_of(show(event_of(1)))
    bus.close()
    others.bus.unsubscribe("viewer")
    others.overwrite()
    assert content_of(view) == wanted


def test_after_a_with_block(others: Others, make_bus: Make) -> None:
    with make_bus() as bus:
        event = taken(others, bus)
        array = event.data["array"][5:]
    others.bus.unsubscribe("viewer")
    others.overwrite()
    assert np.array_equal(array, event_of(1).data["array"][5:])
    assert content_of(event) == content_of(event_of(1))


def test_after_a_shutdown_and_another_bus(others: Others, bus: EventBus, make_bus: Make) -> None:
    event = taken(others, bus)
    bus.shutdown()
    Others(make_bus).overwrite()
    assert content_of(event) == content_of(event_of(1))


def test_after_the_bus_was_lost(others: Others, bus: EventBus, make_bus: Make, kill_bus: Callable[[], None]) -> None:
    event = taken(others, bus)
    kill_bus()
    others.overwrite()
    assert content_of(event) == content_of(event_of(1))
    bus.topics()  # It is back, and has let go of what was lost.
    assert content_of(event) == content_of(event_of(1))


def test_a_handler_that_closes_its_handle(others: Others, bus: EventBus) -> None:
    seen: list[bytes] = []
    over = threading.Event()

    @bus.on("a", name="viewer")
    def look(event: Event) -> None:
        bus.close()
        others.bus.unsubscribe("viewer")
        others.overwrite()
        seen.append(content_of(event))
        over.set()

    others.bus.notify(event_of(1))
    assert over.wait(60)
    assert seen == [content_of(event_of(1))]


def test_neighbours_on_one_page(others: Others, bus: EventBus) -> None:
    """Events of 17 KB lie in one span, each beginning on the page where the one before it ends."""
    inbox = bus.inbox("viewer", ["a"], credit=20)
    others.bus.notify_many([event_of(number, 8_500) for number in range(12)])
    shadows = inbox.get_many(12, 20)
    events = [bus.fetch_event(shadow) for shadow in shadows]
    inbox.complete_many(shadows)
    kept = [event for event in events[::2] if event is not None]
    del events
    bus.close()
    others.bus.unsubscribe("viewer")
    others.overwrite()
    assert [content_of(event) for event in kept] == [content_of(event_of(number, 8_500)) for number in range(0, 12, 2)]


def test_threads_that_read_while_another_closes(others: Others, bus: EventBus) -> None:
    view = taken(others, bus).data["array"]
    wanted = bytes(view)
    wrong: list[int] = []
    reading, over = threading.Event(), threading.Event()

    def read() -> None:
        while not over.is_set():
            if bytes(view) != wanted:
                wrong.append(1)
            reading.set()

    threads = [threading.Thread(target=read) for _ in range(2)]
    for thread in threads:
        thread.start()
    assert reading.wait(20)
    bus.close()
    others.bus.unsubscribe("viewer")
    others.overwrite()
    over.set()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.parametrize("size", [1_000, 100_000])
def test_threads_that_fetch_while_another_closes(others: Others, make_bus: Make, size: int) -> None:
    """Whatever they still get is right, and the rest is refused."""
    for _ in range(10):
        bus = make_bus()
        inbox = bus.inbox("viewer", ["a"], credit=5)
        others.bus.notify(event_of(1, size))
        shadow = inbox.get(20)
        assert shadow is not None
        got: list[Event | None] = []
        fetching = threading.Event()

        def fetch(bus: EventBus = bus, shadow: Any = shadow, got: Any = got, fetching: Any = fetching) -> None:
            try:
                while True:
                    got[:] = [*got[-20:], bus.fetch_event(shadow)]
                    fetching.set()
            except BusClosed:
                pass

        threads = [threading.Thread(target=fetch) for _ in range(2)]
        for thread in threads:
            thread.start()
        assert fetching.wait(20)
        bus.close()
        others.bus.unsubscribe("viewer")
        for thread in threads:
            thread.join()
        others.overwrite()
        assert {event and content_of(event) for event in got} == {content_of(event_of(1, size))}


def test_a_loan_that_is_open_when_its_bus_is_closed(others: Others, bus: EventBus) -> None:
    """What is written to it afterwards is nobody else's memory."""
    viewer = others.bus.inbox("viewer", ["a"], credit=20)
    loan = bus.loan("a", shape=SIZE, dtype="u1")
    array = loan.__enter__().array
    array[:] = 1
    bus.close()
    others.bus.notify_many([event_of(number) for number in range(8)])
    array[:] = 2
    assert array.sum() == 2 * SIZE
    with pytest.raises(BusClosed):
        loan.__exit__(None, None, None)
    shadows = viewer.get_many(8, 20)
    for number, shadow in enumerate(shadows):
        event = others.bus.fetch_event(shadow)
        assert event is not None
        assert content_of(event) == content_of(event_of(number))
    viewer.complete_many(shadows)


def test_no_memory_to_copy_what_is_shown(others: Others, run_dir: Path, fork: Callable[..., Any]) -> None:
    """The process stays connected, so nobody else gets the memory."""

    def work(to_parent: Any) -> None:
        bus = EventBus("test", run_dir=str(run_dir))
        inbox = bus.inbox("viewer", ["a"])
        to_parent.send("ready")
        shadow = inbox.get(20)
        assert shadow is not None
        event = bus.fetch_event(shadow)
        assert event is not None
        inbox.complete(shadow)
        with open("/proc/self/statm") as file:
            used = int(file.read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + (1 << 20), resource.RLIM_INFINITY))
        with pytest.raises(EventBusError, match=r"cannot be left: .* Cannot allocate memory"):
            bus.close()
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        to_parent.send("kept")
        to_parent.recv()
        to_parent.send(content_of(event))
        to_parent.recv()
        bus.close()
        to_parent.send(content_of(event))
        to_parent.recv()

    child = fork(work)
    assert child.hear() == "ready"
    large = event_of(1, 1 << 20)
    others.bus.notify(large)
    assert child.hear() == "kept"
    assert others.bus.statistics().memory_bytes_leased > 0
    for number in range(40):
        others.bus.notify(Event(f"other {number}", "b", np.full(SIZE, 255, "u1")))
        shadow = others.sink.get(20)
        assert shadow is not None
        others.sink.complete(shadow)
    child.tell()
    assert child.hear() == content_of(large)
    child.tell()
    assert child.hear() == content_of(large)
    assert others.bus.statistics().memory_bytes_leased == 0
    assert [item.pids for item in others.bus.subscribers("a")] == [()]
    child.kill()


@pytest.fixture
def program(tmp_path: Path, run_dir: Path) -> Callable[[str], str]:
    """Runs a program to its end, and gives what it has printed."""

    def run(text: str) -> str:
        path = tmp_path / "program.py"
        path.write_text(textwrap.dedent(text))
        done = subprocess.run(
            [sys.executable, str(path), str(run_dir)], capture_output=True, text=True, timeout=100, check=False
        )
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout

    return run


def test_at_the_end_of_a_program(others: Others, program: Callable[[str], str]) -> None:
    """The bus is left by an exit hook, and hooks of the program run after it."""
    inbox = others.bus.inbox("viewer", ["a"])
    others.bus.notify(event_of(1))
    said = program("""
        import atexit, hashlib, sys

        kept = []
        atexit.register(lambda: print(hashlib.sha256(kept[0].data["array"]).hexdigest()))
        from eventbus_mp import EventBus

        bus = EventBus("test", run_dir=sys.argv[1])
        kept.append(bus.fetch_event(("a", "event 1")))
        """)
    assert said.strip() == hashlib.sha256(event_of(1).data["array"].tobytes()).hexdigest()
    await_links(others.bus, 1)
    shadow = inbox.get(20)
    assert shadow is not None
    inbox.complete(shadow)
