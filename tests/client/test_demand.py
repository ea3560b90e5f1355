"""Nobody starves: shadows that are taken and settled later, demand, and what is called back for other processes.

Buses in one thread show the rules; a few real processes show that they hold there as well.
"""

import threading
from collections.abc import Callable
from queue import Queue
from typing import Any

from eventbus_mp import EventBus, EventShadow, Inbox
from eventbus_mp.core.recalls import RECALL_NS
from eventbus_mp.testing.inprocess import InProcessBus
from tests.helpers import publish

Handle = Callable[..., EventBus]
Make = Callable[..., EventBus]


def held(bus: EventBus) -> tuple[int, int]:
    """(queued, sent) of the only subscriber."""
    (found,) = bus.statistics().subscribers
    return found.queued, found.sent


def test_a_batch_writer_that_settles_every_hundredth(handle: Handle) -> None:
    """It settles nothing until it has a hundred: with a credit that counts what is unsettled it would wait for ever."""
    bus = handle()
    batch: list[EventShadow] = []
    written: list[str | int] = []

    def write(shadow: EventShadow) -> None:
        batch.append(shadow)
        if len(batch) == 100:
            written.extend(shadow.id for shadow in batch)
            for kept in batch:
                bus.mark_as_completed(write, kept)
            batch.clear()

    bus.subscribe(write, ["a"])
    ids = [shadow.id for shadow in publish(bus, 1_000)]
    bus.drain(timeout_s=60)
    assert written == ids


def test_a_mailbox_gets_everything_and_settles_later(bus: EventBus) -> None:
    """The style of a GenServer: the listener only puts the shadow away, and another thread works it off."""
    mailbox: Queue[EventShadow | None] = Queue()
    key = bus.subscribe(mailbox.put, ["a"])
    ids = [shadow.id for shadow in publish(bus, 300)]
    arrived = [mailbox.get(timeout=20) for _ in ids]
    assert [shadow.id for shadow in arrived if shadow is not None] == ids

    def work() -> None:
        while (shadow := mailbox.get()) is not None:
            bus.mark_as_completed(key, shadow)

    worker = threading.Thread(target=work)
    worker.start()
    for shadow in [*arrived, None]:
        mailbox.put(shadow)
    worker.join(20)
    bus.drain(timeout_s=20)
    assert bus.statistics().subscribers[0].completed == 300


def test_what_is_kept_counts_towards_credit_max(handle: Handle) -> None:
    bus = handle(credit_max=1024)
    kept: list[EventShadow] = []
    key = bus.subscribe(kept.append, ["a"])
    publish(bus, 5)
    bus._session.connection.wait(lambda: len(kept) == 5, 5)  # type: ignore[union-attr]
    assert held(bus) == (0, 5)
    for shadow in kept:
        bus.mark_as_skipped(key, shadow)
    bus.drain(timeout_s=5)


def test_a_fixed_credit_bounds_what_is_unsettled(handle: Handle) -> None:
    bus = handle()
    kept: list[EventShadow] = []
    key = bus.subscribe(kept.append, ["a"], credit=3)
    ids = [shadow.id for shadow in publish(bus, 7)]
    while ids:
        bus._session.connection.wait(lambda: len(kept) == min(3, len(ids)), 5)  # type: ignore[union-attr]
        assert len(kept) == min(3, len(ids))
        for shadow in kept:
            assert shadow.id == ids.pop(0)
            bus.mark_as_completed(key, shadow)
        kept.clear()
    bus.drain(timeout_s=5)


def test_a_stage_that_asks_for_n_gets_n(handle: Handle) -> None:
    bus = handle()
    inbox = bus.inbox("stage", ["a"])
    ids = [shadow.id for shadow in publish(bus, 450)]
    got = [[shadow.id for shadow in inbox.get_many(100, timeout_s=0)] for _ in range(5)]
    assert [len(part) for part in got] == [100, 100, 100, 100, 50]
    assert [id for part in got for id in part] == ids
    assert inbox.get_many(100, timeout_s=0) == []
    assert held(bus) == (0, 450)


def test_what_was_asked_for_and_was_not_there_comes_later(handle: Handle) -> None:
    bus = handle()
    inbox = bus.inbox("stage", ["a"])
    assert inbox.get_many(50, timeout_s=0) == []
    publish(bus, 50)
    assert held(bus) == (0, 50)
    assert len(inbox.get_many(50, timeout_s=0)) == 50


def test_the_next_batch_comes_while_one_is_worked_on(handle: Handle, world: InProcessBus) -> None:
    """From what has been measured, without asking again."""
    bus = handle()
    inbox = bus.inbox("stage", ["a"])
    publish(bus, 1_000)
    for _ in range(3):
        for shadow in inbox.get_many(50):
            inbox.complete(shadow)
        world.run()
        world.clock.advance(0.0001)
    assert len(inbox._endpoint.pending) >= 50
    inbox.close()


def test_an_outcome_does_not_wait_for_the_next_call(handle: Handle, world: InProcessBus) -> None:
    """The first is reported at once, and what follows within two milliseconds, whatever else is unsettled."""
    bus, other = handle(), handle()
    inbox = bus.inbox("stage", ["a"])
    publish(bus, 10)
    shadows = inbox.get_many(10)

    def completed() -> int:
        return other.statistics().subscribers[0].completed

    world.clock.advance(1)
    inbox.complete(shadows[0])
    assert completed() == 1
    inbox.complete(shadows[1])
    inbox.complete(shadows[2])
    assert completed() == 1
    world.clock.advance(0.002)
    world.run()
    assert completed() == 3
    for shadow in shadows[3:]:
        inbox.complete(shadow)
    assert completed() == 10, "nothing is left to wait for"


def test_an_outcome_does_not_wait_for_the_next_call_in_a_real_process(make_bus: Make) -> None:
    bus, other = make_bus(topics=["a"]), make_bus()
    inbox = bus.inbox("stage", ["a"])
    publish(bus, 10)
    shadows: list[EventShadow] = []
    while len(shadows) < 10:
        shadows += inbox.get_many(10, timeout_s=20)
    for shadow in shadows[:9]:
        inbox.complete(shadow)
    while other.statistics().subscribers[0].completed < 9:
        pass_on(other)
    inbox.complete(shadows[9])
    other.drain(timeout_s=20)


def pass_on(bus: EventBus) -> None:
    """One round trip."""
    bus.topics()


# --- several processes ---


def test_one_that_comes_late_gets_what_another_has_not_taken(handle: Handle, world: InProcessBus) -> None:
    slow, late = handle(), handle()
    first = slow.inbox("shared", ["a"])
    publish(slow, 100)
    assert len(first.get_many(10, timeout_s=0)) == 10
    slow._session.reporter.demand(first._endpoint, 90)  # type: ignore[union-attr]
    world.run()
    assert len(first._endpoint.pending) == 90

    second = late.inbox("shared", ["a"])
    taken: list[str] = []
    for _ in range(100):
        for shadow in second.get_many(50, timeout_s=0.1):
            taken.append(shadow.id)
            second.complete(shadow)
    assert len(taken) >= 88, "what was taken stays, and a last one"
    assert len(taken) + 10 + len(first._endpoint.pending) == 100
    # And the slow one is not forgotten.
    publish(slow, 100)
    assert [shadow.id for shadow in first.get_many(20, timeout_s=0)] == ["10"], "the other one was faster"
    assert first.get_many(20, timeout_s=2 * RECALL_NS / 1e9), "it does nothing with what it got"


def test_a_fast_process_gets_what_a_slow_one_does_not_come_to(make_bus: Make, fork: Callable[..., Any]) -> None:
    """The slow one asks for everything and takes one; a thread of its own reads what the manager says."""
    bus = make_bus(topics=["a"], dead_letter_topic=None)
    publisher = make_bus()

    def hoard(to_parent: Any) -> None:
        inbox = make_bus().inbox("shared", ["a"])
        inbox.fileno()
        to_parent.send("here")
        to_parent.recv()
        first = inbox.get_many(1)
        while len(inbox._endpoint.pending) < 150:
            inbox._session.connection.await_reply(inbox._session.reporter.demand(inbox._endpoint, 199), "Demand")
        to_parent.send(first[0].id)
        to_parent.recv()
        inbox.complete(first[0])
        to_parent.send([shadow.id for shadow in inbox.get_many(200, timeout_s=1)])
        to_parent.recv()

    bus.topics()
    child = fork(hoard)
    assert child.hear() == "here"
    publish(publisher, 200)
    child.tell()
    in_hand = child.hear()

    inbox = bus.inbox("shared", ["a"])
    got: list[str] = []
    while len(got) < 198:
        batch = inbox.get_many(50, timeout_s=20)
        assert batch, f"only {len(got)} of 200 came here"
        for shadow in batch:
            got.append(shadow.id)
            inbox.complete(shadow)
    assert in_hand not in got
    assert len(set(got)) == len(got)
    child.tell()
    kept = child.hear()
    assert len(kept) <= 1
    child.kill()
    take_all(inbox, 199 - len(got))
    bus.drain(timeout_s=20)


def take_all(inbox: Inbox, count: int) -> None:
    for _ in range(count):
        shadow = inbox.get(timeout_s=20)
        assert shadow is not None
        inbox.complete(shadow)


def test_the_manager_dies_beside_a_mailbox(handle: Handle, world: InProcessBus) -> None:
    """What was taken counts as taken for the next manager as well: the mailbox goes on to be filled, once."""
    bus = handle()
    kept: list[EventShadow] = []
    key = bus.subscribe(kept.append, ["a"])
    publish(bus, 60)
    for frames_kept in range(5):
        for _ in range(4):
            world.step()
        world.replace_manager(frames_kept)
    bus._session.connection.wait(lambda: len(kept) == 60, 5)  # type: ignore[union-attr]
    assert [int(shadow.id) for shadow in kept] == list(range(60))
    for shadow in kept:
        bus.mark_as_completed(key, shadow)
    bus.drain(timeout_s=5)
