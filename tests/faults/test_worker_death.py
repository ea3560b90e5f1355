"""Workers that are killed in the middle: what they held goes to others, and nothing is lost."""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from eventbus_mp import Event, EventBus, Skip, WorkerPool
from eventbus_mp._crashpoints import die_at
from tests.faults.helpers import await_links, death_of
from tests.helpers import statistics_of

Make = Callable[..., EventBus]


def next_data(bus: EventBus, inbox: Any) -> Any:
    shadow = inbox.get(30)
    assert shadow is not None
    data = bus.fetch_event_data(shadow)
    inbox.complete(shadow)
    return data


def test_a_killed_worker_is_replaced_and_its_event_redelivered(
    bus: EventBus, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    out = bus.inbox("out", ["b"])
    marker = str(tmp_path / "was here")
    pool = WorkerPool(bus, 1)

    @pool.on("a", name="victim")
    def die_once(event: Event) -> None:
        was_here = os.path.exists(marker)
        open(marker, "w").close()
        bus.notify(Event("pid", "b", os.getpid()))
        if not was_here:
            signal.pause()

    with pool:
        shadow = bus.notify(Event("1", "a", 1))
        first = next_data(bus, out)
        os.kill(first, signal.SIGKILL)
        second = next_data(bus, out)
        bus.drain(timeout_s=20)
        assert any("attempt 2" in line for line in bus.story(shadow))
    assert second != first
    assert pool.restarts == 1
    assert f"worker {first} died with exit code -9" in caplog.text
    found = statistics_of(bus, "victim")
    assert (found.completed, found.skipped, found.redelivered) == (1, 0, 1)


@pytest.mark.parametrize("processes", [1, 2])
def test_a_poison_event_is_given_up_and_its_neighbours_are_handled(make_bus: Make, processes: int) -> None:
    bus = make_bus(topics=["a", "dead"], crashes_max=2, dead_letter_topic="dead")
    dead = bus.inbox("undertaker", ["dead"])
    pool = WorkerPool(bus, processes)

    @pool.on("a", name="taster")
    def taste(event: Event) -> None:
        if event.data == 3:
            os.kill(os.getpid(), signal.SIGKILL)

    with pool:
        bus.notify_many(Event(str(index), "a", index) for index in range(10))
        assert next_data(bus, dead) == 3
        bus.drain(timeout_s=30)
    found = statistics_of(bus, "taster")
    assert (found.completed, found.skipped) == (9, 1)
    assert found.recent_skips == (("3", "its process crashed 2 times with it"),)
    log = Path(bus.config.run_dir or "", bus.name, "manager.log").read_text()
    assert "taster: gave up event '3' of 'a': its process crashed 2 times with it" in log


def test_a_skip_that_is_explained_twice_is_listed_once(bus: EventBus, fork: Callable[..., Any]) -> None:
    """The process dies between telling why it will skip and skipping; the one that follows tells the same."""

    def skip(event: Event) -> None:
        raise Skip("not for us")

    def host(to_parent: Any) -> None:
        die_at("between settle and telling")
        bus.on("a", name="skipper")(skip)
        to_parent.send("ready")
        signal.pause()

    child = fork(host)
    assert child.hear() == "ready"
    bus.notify(Event("1", "a", 1))
    assert death_of(child) == []
    bus.on("a", name="skipper")(skip)
    bus.drain(timeout_s=20)
    assert statistics_of(bus, "skipper").recent_skips == (("1", "not for us"),)


def test_a_killed_consumer_gives_back_its_views(make_bus: Make, fork: Callable[..., Any]) -> None:
    bus = make_bus(topics=["a"])
    inbox = bus.inbox("one", ["a"])

    def hold_a_view(to_parent: Any) -> None:
        event = bus.fetch_event(("a", "1"))
        assert event is not None
        view = event.encoded.data
        assert view is not None
        to_parent.send(len(view))
        signal.pause()

    bus.notify(Event("1", "a", bytes(1 << 20)))
    child = fork(hold_a_view)
    assert child.hear() > 1 << 20
    shadow = inbox.get(10)
    assert shadow is not None
    inbox.complete(shadow)
    bus.drain(timeout_s=10)
    assert bus.statistics().memory_bytes_leased > 0
    child.kill()
    await_links(bus, 1)
    assert bus.statistics().memory_bytes_leased == 0


def test_a_killed_producer_loses_nothing_that_it_notified(make_bus: Make, fork: Callable[..., Any]) -> None:
    bus = make_bus(topics=["a"])
    inbox = bus.inbox("one", ["a"], credit=1000)

    def notify_and_die(to_parent: Any) -> None:
        bus.notify_many(Event(str(index), "a", index) for index in range(200))
        os.kill(os.getpid(), signal.SIGKILL)

    assert fork(notify_and_die).wait() == -signal.SIGKILL
    taken: list[Any] = []
    while len(taken) < 200:
        for shadow in inbox.get_many(200, 10):
            taken.append(bus.fetch_event_data(shadow))
            inbox.complete(shadow)
    assert taken == list(range(200))
    bus.drain(timeout_s=10)
    assert bus.statistics().memory_bytes_used == 0
