"""Which loop runs which handler, and what several of them at once may do. No process and no thread is started: a
handler that waits lets the other loops of its client run meanwhile."""

import logging
from collections.abc import Callable
from typing import Any

import pytest

from eventbus_mp import BusFull, Event, EventBus, EventShadow, Retry, Skip, UsageError, WorkerPool
from eventbus_mp.client.handler_loop import current_loop, running_endpoint
from eventbus_mp.client.session import Session
from eventbus_mp.testing.inprocess import InProcessBus
from tests.helpers import statistics_of

Handle = Callable[..., EventBus]


def session_of(bus: EventBus) -> Session:
    assert bus._session is not None
    return bus._session


def wait(bus: EventBus, ready: Callable[[], Any]) -> None:
    """In a handler: until others have done something."""
    assert session_of(bus).connection.wait(ready, 3600), "the other handlers have done nothing"


class Together:
    """A handler that returns when `count` of its calls are under way."""

    def __init__(self, bus: EventBus, count: int) -> None:
        self.bus = bus
        self.count = count
        self.begun: list[str] = []
        self.now = self.most = 0

    def __call__(self, event: Event) -> None:
        self.begun.append(event.id)
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            wait(self.bus, lambda: len(self.begun) >= self.count)
        finally:
            self.now -= 1


# --- broadcasts ---


def test_a_broadcast_does_not_wait_for_a_job(handle: Handle) -> None:
    bus, steps = handle(), []

    @bus.on("a", name="job")
    def work(event: Event) -> None:
        steps.append(f"{event.id} begins")
        wait(bus, lambda: "stale" in steps)
        steps.append(f"{event.id} ends")

    bus.on("b", name="cache", broadcast=True)(lambda event: steps.append(event.id))
    bus.notify(Event("job", "a", 1))
    bus.notify(Event("stale", "b", 1))
    bus.drain(timeout_s=5)
    assert steps == ["job begins", "stale", "job ends"]


def test_broadcasts_share_a_thread_and_keep_their_order(handle: Handle) -> None:
    bus, steps, loops = handle(), [], set()

    def listen(name: str) -> None:
        @bus.on("a", name=name, broadcast=True)
        def note(event: Event) -> None:
            loops.add(current_loop())
            steps.append((name, event.id))

    listen("one")
    listen("two")
    bus.on("a", name="job")(lambda event: loops.add(current_loop()))
    bus.notify_many([Event(str(number), "a", number) for number in range(50)])
    bus.drain(timeout_s=5)
    for name in ("one", "two"):
        assert [event for who, event in steps if who == name] == [str(number) for number in range(50)]
    assert len(loops) == 2


def test_a_listener_that_broadcasts_has_that_thread_as_well(handle: Handle) -> None:
    bus, loops = handle(), []

    def listener(shadow: EventShadow) -> None:
        loops.append(current_loop())
        bus.mark_as_completed(listener, shadow)

    bus.subscribe(listener, ["a"], broadcast=True)
    bus.on("a", name="job")(lambda event: loops.append(current_loop()))
    bus.notify(Event("1", "a", 1))
    bus.drain(timeout_s=5)
    assert len(set(loops)) == 2


def test_what_another_loop_s_handler_settles_is_reported(handle: Handle, world: InProcessBus) -> None:
    """The loop that runs a listener reports what is settled there; nobody else comes by when that is idle."""
    bus = handle()
    kept: list[EventShadow] = []
    key = bus.subscribe(kept.append, ["a"])
    bus.on("b", name="settler", broadcast=True)(lambda event: bus.mark_as_completed(key, kept[0]))
    bus.notify(Event("1", "a", 1))
    world.run()
    assert len(kept) == 1
    bus.notify(Event("2", "b", 1))
    world.run()
    assert statistics_of(bus, key.name).completed == 1


# --- threads of its own ---


@pytest.mark.parametrize("credit", ["auto", 4])
def test_as_many_run_at_once_as_there_are_threads(handle: Handle, credit: Any) -> None:
    bus = handle()
    together = Together(bus, 4)
    bus.on("a", name="one", threads=4, credit=credit)(together)
    bus.notify_many([Event(str(number), "a", number) for number in range(20)])
    bus.drain(timeout_s=5)
    assert sorted(together.begun, key=int) == [str(number) for number in range(20)]
    assert together.most == 4
    assert statistics_of(bus, "one").completed == 20


def test_a_slow_handler_still_has_credit_for_each_of_its_threads(handle: Handle, world: InProcessBus) -> None:
    """One over 10 ms gets one event at a time, with one thread."""
    bus = handle()
    slow = Together(bus, 1)

    def work(event: Event) -> None:
        world.clock.advance(0.1)
        slow(event)

    bus.on("a", name="one", threads=3)(work)
    bus.notify_many([Event(str(number), "a", number) for number in range(10)])
    bus.drain(timeout_s=5)
    slow.begun, slow.count = [], 3
    bus.notify_many([Event(str(number), "a", number) for number in range(3)])
    bus.drain(timeout_s=5)
    assert slow.most == 3
    assert statistics_of(bus, "one").completed == 13


def test_a_listener_that_gets_shadows_may_have_threads(handle: Handle) -> None:
    bus, begun = handle(), []

    def listener(shadow: EventShadow) -> None:
        begun.append(shadow)
        wait(bus, lambda: len(begun) == 2)
        bus.mark_as_completed(listener, shadow)

    key = bus.subscribe(listener, ["a"], threads=2)
    bus.notify_many([Event("1", "a", 1), Event("2", "a", 2)])
    bus.drain(timeout_s=5)
    assert statistics_of(bus, key.name).completed == 2


def test_each_outcome_is_its_own_events(handle: Handle) -> None:
    bus, tries = handle(), []

    @bus.on("a", name="one", threads=4, retries=1)
    def work(event: Event) -> None:
        tries.append(event.id)
        wait(bus, lambda: len(set(tries)) == 4)
        first = tries.count(event.id) == 1
        if event.id == "skipped":
            raise Skip("not this one")
        if event.id == "retried" and first:
            raise Retry("later", delay_s=5)
        if event.id == "full" and first:
            raise BusFull("no room")
        if event.id == "failed":
            raise ValueError("never")

    bus.notify_many([Event(name, "a", 1) for name in ("skipped", "retried", "full", "failed")])
    bus.drain(timeout_s=60)
    assert sorted(tries) == ["failed", "failed", "full", "full", "retried", "retried", "skipped"]
    seen = statistics_of(bus, "one")
    assert (seen.completed, seen.skipped) == (2, 2)
    assert sorted(seen.recent_skips) == [("failed", "ValueError: never"), ("skipped", "not this one")]


@pytest.mark.parametrize("frames_kept", [0, 1, 2])
def test_what_several_threads_run_survives_a_takeover(handle: Handle, world: InProcessBus, frames_kept: int) -> None:
    bus, begun = handle(), []

    @bus.on("a", name="one", threads=4)
    def work(event: Event) -> None:
        begun.append(event.id)
        if len(begun) == 4:
            world.replace_manager(frames_kept)
            bus.topics()
        wait(bus, lambda: len(begun) >= 4)

    bus.notify_many([Event(str(number), "a", number) for number in range(30)])
    bus.drain(timeout_s=5)
    assert sorted(begun, key=int) == [str(number) for number in range(30)]
    assert statistics_of(bus, "one").completed == 30


def test_a_retried_event_whose_second_delivery_is_lost_with_the_manager_comes_again(
    handle: Handle, world: InProcessBus
) -> None:
    """What a loop has run last is not what it has: it may have been handed back, and sent again."""
    bus, tries = handle(), []

    @bus.on("a", name="one")
    def work(event: Event) -> None:
        tries.append(event.id)
        if len(tries) == 1:
            raise Retry("once more")

    transport: Any = session_of(bus).connection.transport
    bus.notify(Event("1", "a", 1))
    while not tries:
        assert world.step()
    while not transport.incoming:
        assert world.step()
    world.replace_manager()
    bus.drain(timeout_s=5)
    assert tries == ["1", "1"]


def test_what_is_subscribed_again_moves_to_its_new_threads(handle: Handle, caplog: pytest.LogCaptureFixture) -> None:
    bus, loops = handle(), []

    def work(event: Event) -> None:
        loops.append(current_loop())

    for threads in (1, 3, 2, 1):
        bus.on("a", name="one", threads=threads)(work)
        bus.notify(Event("1", "a", 1))
        bus.drain(timeout_s=5)
        assert len(session_of(bus).crews.loops) == (2 if threads == 1 else 2 + threads)
    assert loops[0] is loops[-1]
    assert len(set(loops)) == 3
    assert not caplog.records
    with caplog.at_level(logging.WARNING, "eventbus_mp"):
        bus.on("a", name="one", threads=2)(print)
    assert "is subscribed again, with another function" in caplog.text


def test_unsubscribing_ends_the_threads_of_its_own(handle: Handle, world: InProcessBus) -> None:
    bus, begun = handle(), []

    @bus.on("a", name="one", threads=2)
    def work(event: Event) -> None:
        begun.append(event.id)
        if len(begun) == 2:
            assert bus.unsubscribe("one")

    bus.notify_many([Event(str(number), "a", number) for number in range(10)])
    world.run()
    assert begun == ["0", "1"]
    assert len(session_of(bus).crews.loops) == 2
    assert bus.subscribers() == []


def test_who_runs_is_known_while_it_runs(handle: Handle) -> None:
    bus, seen = handle(), []

    @bus.on("a", name="one", threads=2)
    def work(event: Event) -> None:
        endpoint = running_endpoint()
        assert endpoint is not None
        seen.append(endpoint.key.name)
        wait(bus, lambda: len(seen) == 2)
        seen.append(",".join(session_of(bus).crews.running))

    bus.on("b", name="failing")(lambda event: 1 // 0)
    bus.notify_many([Event("1", "a", 1), Event("2", "a", 2), Event("3", "b", 3)])
    bus.drain(timeout_s=5)
    assert seen[:3] == ["one", "one", "one,one"]
    assert session_of(bus).crews.running == []
    assert running_endpoint() is None


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"threads": 0}, "threads=0: give a whole number from 1 to 1000"),
        ({"threads": 1001}, "threads=1001"),
        ({"threads": 1.5}, r"threads=1\.5"),
        ({"threads": "2"}, "threads='2'"),
        ({"threads": 4, "credit": 3}, "credit=3, threads=4: threads need a credit"),
        ({"threads": 2, "batch": 10}, "batch=10, threads=2: a handler of batches has no threads of its own"),
    ],
)
def test_what_is_refused(handle: Handle, arguments: Any, text: str) -> None:
    bus = handle()
    for owner in (bus, WorkerPool(bus, 1)):
        with pytest.raises(UsageError, match=text):
            owner.on("a", **arguments)
        if "batch" not in arguments:
            with pytest.raises(UsageError, match=text):
                owner.subscribe(print, ["a"], **arguments)
    assert bus.subscribers() == []
