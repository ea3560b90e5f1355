"""Inboxes: taking, settling, waiting from several threads and from select."""

import asyncio
import errno
import os
import select
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from eventbus_mp import BusClosed, Event, EventBus, EventShadow, Inbox, ManagerLost, NotSubscribed, UsageError
from eventbus_mp.client.fetcher import EventFetcher
from eventbus_mp.protocol.messages import Record

Make = Callable[..., EventBus]

HOUR_US = 3_600_000_000


@pytest.fixture
def an_hour_later(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Set the clock by which an inbox sees what has expired; nothing expires in the manager."""
    later_ns = time.monotonic_ns() + 2 * 1_000 * HOUR_US
    clock = staticmethod(lambda: later_ns)
    return lambda: monkeypatch.setattr("eventbus_mp.client.transport.PipeTransport.monotonic_ns", clock)


def test_many_are_taken_in_order(bus: EventBus) -> None:
    inbox = bus.inbox("one", ["a"], credit=100)
    bus.notify_many(Event(str(index), "a", index) for index in range(50))
    taken: list[str] = []
    while len(taken) < 50:
        for shadow in inbox.get_many(20, 10):
            taken.append(shadow.id)
            inbox.complete(shadow)
            inbox.complete(shadow)  # again: it changes nothing
    assert taken == [str(index) for index in range(50)]
    bus.drain(timeout_s=10)
    assert bus.statistics().subscribers[0].completed == 50


def test_a_look_and_a_short_wait_give_nothing(bus: EventBus) -> None:
    inbox = bus.inbox("one", ["a"])
    assert inbox.get(0) is None
    assert inbox.get(0.01) is None
    assert inbox.get_many(5, 0) == []


def test_a_skip_tells_its_reason(bus: EventBus) -> None:
    inbox = bus.inbox("one", ["a"])
    bus.notify(Event("1", "a", 1))
    shadow = inbox.get(10)
    assert shadow is not None
    inbox.skip(shadow, "too small")
    bus.drain(timeout_s=10)
    assert bus.statistics().subscribers[0].recent_skips == (("1", "too small"),)


def test_a_shadow_from_elsewhere_is_refused(bus: EventBus) -> None:
    with pytest.raises(NotSubscribed, match="settle what get"):
        bus.inbox("one", ["a"]).complete(EventShadow("a", "made up"))


def test_iteration_ends_when_another_thread_closes(bus: EventBus) -> None:
    inbox = bus.inbox("one", ["a"])
    bus.notify(Event("1", "a", 1))
    seen: list[EventShadow] = []
    got_one = threading.Event()

    def consume() -> None:
        for shadow in inbox:
            seen.append(shadow)
            inbox.complete(shadow)
            got_one.set()

    thread = threading.Thread(target=consume)
    thread.start()
    assert got_one.wait(30)
    inbox.close()
    thread.join(30)
    assert not thread.is_alive()
    assert seen == [("a", "1")]
    with pytest.raises(BusClosed):
        inbox.get(0)


def test_what_is_in_hand_goes_to_another_inbox_at_close(make_bus: Make) -> None:
    bus, other = make_bus(topics=["a"]), make_bus()
    first = bus.inbox("shared", ["a"])
    bus.notify_many(Event(str(index), "a", index) for index in range(4))
    taken = first.get(10)
    assert taken == ("a", "0")
    second = other.inbox("shared", ["a"])
    first.close()
    ids: list[str] = []
    while len(ids) < 4:
        for shadow in second.get_many(10, 10):
            ids.append(shadow.id)
            second.complete(shadow)
    assert sorted(ids) == ["0", "1", "2", "3"]
    assert bus.statistics().subscribers[0].completed == 4


def test_closing_the_last_one_ends_the_subscription(make_bus: Make) -> None:
    """Nothing piles up for nobody, and `drain` does not wait for it."""
    bus, other = make_bus(topics=["a"]), make_bus()
    first, second = bus.inbox("one", ["a"]), other.inbox("one", ["a"])
    bus.notify_many([Event("1", "a", 1), Event("2", "a", 2)])
    first.close()
    assert [subscriber.name for subscriber in bus.subscribers("a")] == ["one"]
    assert len(second.get_many(2, 10)) == 2  # what the first one had is there as well
    second.close()
    assert bus.subscribers() == []
    bus.drain(timeout_s=10)
    with bus.inbox("one", ["a"]) as third:
        assert third.get(0) is None
    assert bus.subscribers() == []


def test_one_that_is_kept_goes_on_within_the_grace(bus: EventBus) -> None:
    bus.inbox("one", ["a"]).close(keep=True)
    bus.notify(Event("1", "a", 1))
    with pytest.raises(ZeroDivisionError), bus.inbox("one", ["a"]) as inbox:
        print(1 / len(inbox.get_many(1, 10)[1:]))
    again = bus.inbox("one", ["a"])  # whoever starts anew after a mishap finds what is not settled
    shadow = again.get(10)
    assert shadow == ("a", "1")
    again.close()
    assert bus.subscribers() == []


def test_the_end_of_a_handle_is_no_close_of_its_inboxes(make_bus: Make) -> None:
    bus, other = make_bus(topics=["a"]), make_bus()
    bus.inbox("one", ["a"])
    bus.close()
    assert [subscriber.name for subscriber in other.subscribers()] == ["one"]


def test_what_an_abandoned_get_takes_comes_again(bus: EventBus) -> None:
    """A wait that is cancelled leaves its thread, which takes an event that nobody could settle."""
    inbox = bus.inbox("one", ["a"], credit=10)

    async def work() -> list[str]:
        for _ in range(2):
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(asyncio.to_thread(inbox.get, 20), 0.05)
        bus.notify_many([Event("1", "a", 1), Event("2", "a", 2)])
        taken: list[str] = []
        while len(taken) < 2:
            shadow = await asyncio.to_thread(inbox.get, 20)
            assert shadow is not None
            taken.append(shadow.id)
            inbox.complete(shadow)
        return sorted(taken)

    assert asyncio.run(work()) == ["1", "2"]
    bus.drain(timeout_s=20)


def test_what_was_looked_at_stays_taken(bus: EventBus) -> None:
    """Even if the shadow itself goes: it can be settled by its topic and id."""
    inbox = bus.inbox("one", ["a"])
    with ThreadPoolExecutor(1) as executor:
        for number, look in enumerate((lambda shadow: shadow.id, tuple, hash, repr, bus.fetch_event_data)):
            bus.notify(Event(str(number), "a", number))
            shadow = executor.submit(inbox.get, 20).result()
            look(shadow)
            del shadow
            assert inbox.get(0) is None
            bus.mark_as_completed(inbox, ("a", str(number)))
    bus.drain(timeout_s=20)


def test_fileno_is_readable_while_something_waits(bus: EventBus) -> None:
    inbox = bus.inbox("one", ["a"])
    fd = inbox.fileno()
    assert select.select([fd], [], [], 0)[0] == []
    for index in range(3):
        bus.notify(Event(str(index), "a", index))
        assert select.select([fd], [], [], 10)[0] == [fd]
        shadow = inbox.get(0)
        assert shadow is not None
        inbox.complete(shadow)
        assert select.select([fd], [], [], 0)[0] == []
    inbox.close()


def test_fileno_is_not_readable_when_all_that_waited_has_expired(
    bus: EventBus, an_hour_later: Callable[[], None]
) -> None:
    """Otherwise an event loop would wake up again and again, and find nothing each time."""
    inbox = bus.inbox("one", ["a"])
    fd = inbox.fileno()
    bus.notify(Event("1", "a", 1, occurred_at=time.time_ns() // 1_000, ttl=HOUR_US))
    assert select.select([fd], [], [], 10)[0] == [fd]
    an_hour_later()
    assert inbox.get(0) is None
    assert select.select([fd], [], [], 0)[0] == []


@pytest.mark.parametrize("end", ["close", "shutdown", "unsubscribe"])
def test_fileno_is_readable_from_the_end_on(make_bus: Make, end: str) -> None:
    bus, other = make_bus(topics=["a"]), make_bus()
    inbox = bus.inbox("one", ["a"])
    fd = inbox.fileno()
    assert select.select([fd], [], [], 0)[0] == []
    ends = {"close": bus.close, "shutdown": other.shutdown, "unsubscribe": lambda: bus.unsubscribe("one")}
    ends[end]()
    for _ in range(2):
        assert select.select([fd], [], [], 10)[0] == [fd]
        with pytest.raises(ManagerLost if end == "shutdown" else BusClosed):
            inbox.get(0)
    inbox.close()


def test_events_that_expired_on_the_way_make_room_for_others(bus: EventBus, an_hour_later: Callable[[], None]) -> None:
    """Their outcomes are reported before the wait for the next event: until then they take the inbox's credit."""
    inbox = bus.inbox("one", ["a"], credit=2)
    now = time.time_ns() // 1_000
    bus.notify_many(Event(str(index), "a", index, occurred_at=now, ttl=HOUR_US) for index in range(2))
    bus.notify(Event("2", "a", 2))
    while bus.statistics().subscribers[0].sent < 2:
        bus.topics()
    an_hour_later()
    assert inbox.get(20) == ("a", "2")


def test_a_shadow_from_elsewhere(make_bus: Make) -> None:
    """It is marked as by `mark_as_completed`, for the process that holds it, if the inbox gets its topic."""
    bus, other = make_bus(topics=["a", "b"]), make_bus()
    inbox = bus.inbox("one", ["a"], credit=1)
    shared = other.inbox("one", ["a"], credit=1)
    strangers = bus.inbox("stranger", ["b"])
    bus.notify(Event("1", "b", 1))
    stranger = strangers.get(20)
    assert stranger is not None
    with pytest.raises(NotSubscribed, match="one is not subscribed to 'b'"):
        inbox.complete(stranger)
    with pytest.raises(NotSubscribed, match="one is not subscribed to 'b'"):
        inbox.skip(stranger, "no reason")
    strangers.complete(stranger)
    bus.notify_many([Event("1", "a", 1), Event("2", "a", 2)])
    ours, theirs = inbox.get(20), shared.get(20)
    assert ours is not None
    assert theirs is not None
    inbox.complete(theirs)
    assert bus.watcher(theirs) is None
    inbox.skip(ours, "a reason")
    inbox.skip(ours, "and another one")
    shared.complete(theirs)
    bus.drain(timeout_s=20)
    found = next(item for item in bus.statistics().subscribers if item.name == "one")
    assert (found.completed, found.skipped, found.recent_skips) == (1, 1, ((ours.id, "a reason"),))


@pytest.mark.parametrize("limit", [0, -1, 2.5, True])
def test_none_at_all_cannot_be_waited_for(bus: EventBus, limit: Any) -> None:
    inbox = bus.inbox("one", ["a"])
    bus.notify(Event("1", "a", 1))
    with pytest.raises(UsageError, match=f"get_many\\({limit!r}\\)"):
        inbox.get_many(limit, 10)


def test_an_inbox_that_is_taken_away_ends(bus: EventBus) -> None:
    """By `unsubscribe`, or by the end of another Inbox of the same name and handle: they are one subscriber."""
    for end in (lambda: bus.unsubscribe("one"), lambda: bus.inbox("one", ["a"]).close()):
        inbox = bus.inbox("one", ["a"])
        bus.notify(Event("1", "a", 1))
        seen: list[EventShadow] = []
        got_one = threading.Event()

        def consume(inbox: Inbox = inbox, seen: list[EventShadow] = seen, got_one: Any = got_one) -> None:
            for shadow in inbox:
                inbox.complete(shadow)
                seen.append(shadow)
                got_one.set()

        thread = threading.Thread(target=consume, daemon=True)
        thread.start()
        assert got_one.wait(20)
        end()
        thread.join(20)
        assert not thread.is_alive()
        assert seen == [("a", "1")]
        with pytest.raises(BusClosed, match="was unsubscribed, or closed"):
            inbox.get(0)


def test_a_handler_closes_an_inbox_in_the_middle_of_ringing(bus: EventBus, monkeypatch: pytest.MonkeyPatch) -> None:
    """A signal handler between the look at the descriptor and the write to it: no hang, and no write to a stranger."""
    inbox = bus.inbox("one", ["a"])
    fd = inbox.fileno()
    bus.notify(Event("1", "a", 1))
    assert select.select([fd], [], [], 10)[0] == [fd]
    write = os.eventfd_write
    closed: list[bool] = []

    def interrupted(number: int, value: int) -> None:
        if number == fd and not closed:
            closed.append(True)
            inbox.close()
            inbox._ring()  # As a handler that publishes to itself would cause.
        write(number, value)

    monkeypatch.setattr("eventbus_mp.client.pulled_mailbox.os.eventfd_write", interrupted)
    inbox._ring()
    assert closed
    assert inbox._event_fd == -1
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)


def test_a_get_that_fails_has_taken_nothing(make_bus: Make, bus: EventBus, monkeypatch: pytest.MonkeyPatch) -> None:
    """Shadows that nobody has been given could not be settled by anybody."""
    inbox = bus.inbox("one", ["a"], credit=10)
    make_bus().notify_many(Event(str(index), "a", bytes(100_000)) for index in range(5))
    shadow_of, calls = EventFetcher.delivered_shadow, []

    def fail_at_the_third(fetcher: EventFetcher, record: Record) -> EventShadow | None:
        calls.append(record)
        if len(calls) == 3:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return shadow_of(fetcher, record)

    monkeypatch.setattr(EventFetcher, "delivered_shadow", fail_at_the_third)
    taken: list[EventShadow] = []
    while len(taken) < 5:
        try:
            taken += inbox.get_many(5 - len(taken), 10)
        except OSError:
            assert len(calls) == 3
    assert [shadow.id for shadow in taken] == ["0", "1", "2", "3", "4"]
    for shadow in taken:
        inbox.complete(shadow)
    bus.drain(timeout_s=10)


def test_the_descriptor_is_not_read_while_another_thread_may_close_it(
    bus: EventBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its number may be that of another file a moment later."""
    inbox = bus.inbox("one", ["a"])
    descriptor = inbox.fileno()
    read: list[tuple[int, bool]] = []
    monkeypatch.setattr(
        "eventbus_mp.client.pulled_mailbox._drain_event_fd", lambda fd: read.append((fd, inbox._event_lock.is_mine))
    )
    assert inbox.get(0) is None
    assert read == [(descriptor, True)]
