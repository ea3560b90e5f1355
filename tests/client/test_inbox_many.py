"""Inboxes: events with their shadows, and settling many at once. No process is started."""

from collections.abc import Callable

import pytest

from eventbus_mp import BusClosed, Event, EventBus, EventShadow, Inbox, NotSubscribed, UsageError
from eventbus_mp.protocol.decoders import ManagerDecoder
from eventbus_mp.protocol.messages import DeliveriesSettled
from eventbus_mp.testing.inprocess import InProcessBus
from tests.client.test_handlers import counts, reasons

Handle = Callable[..., EventBus]


@pytest.fixture
def bus(handle: Handle) -> EventBus:
    return handle()


@pytest.fixture
def inbox(bus: EventBus) -> Inbox:
    """An inbox with the events "1" to "5"."""
    inbox = bus.inbox("one", ["a"], credit=10)
    bus.notify_many([Event(name, "a", int(name)) for name in "12345"])
    return inbox


def written_by(bus: EventBus) -> list[bytes]:
    """What the process writes from now on, a write each."""
    transport = bus._session.connection.transport  # type: ignore[union-attr]
    written: list[bytes] = []
    write = transport.write

    def record(data: bytes) -> None:
        written.append(data)
        write(data)

    transport.write = record  # type: ignore[method-assign]
    return written


def test_events_come_with_their_shadows(inbox: Inbox, bus: EventBus) -> None:
    taken = inbox.events(3, 1)
    assert [(shadow.id, event.id, event.data) for shadow, event in taken] == [
        ("1", "1", 1),
        ("2", "2", 2),
        ("3", "3", 3),
    ]
    inbox.complete_many(shadow for shadow, _ in taken)
    assert [event.data for _, event in inbox.events(9, 1)] == [4, 5]
    assert inbox.events(9, 0) == []
    assert counts(bus, "one") == (3, 0)


def test_many_are_completed_with_one_report(inbox: Inbox, bus: EventBus) -> None:
    shadows = inbox.get_many(5, 1)
    written = written_by(bus)
    inbox.complete_many(shadows)
    inbox.complete_many([])
    assert len(written) == 1
    (settled,) = ManagerDecoder(1).feed(written[0])
    assert type(settled) is DeliveriesSettled
    bus.drain(timeout_s=1)
    assert counts(bus, "one") == (5, 0)
    inbox.complete_many(shadows)  # again: it changes nothing
    assert counts(bus, "one") == (5, 0)


def test_many_are_skipped_for_one_reason(inbox: Inbox, bus: EventBus) -> None:
    shadows = inbox.get_many(3, 1)
    inbox.skip_many(shadows, "too small")
    inbox.skip_many(inbox.get_many(2, 1))
    assert counts(bus, "one") == (0, 5)
    assert reasons(bus, "one") == [(name, "too small") for name in "123"]


def test_what_another_process_holds_is_settled_as_well(inbox: Inbox, bus: EventBus, handle: Handle) -> None:
    shadows = inbox.get_many(3, 1)
    other = handle().inbox("one", ["a"], credit=10)
    other.complete_many(shadows[:2])
    inbox.complete_many(shadows)
    assert counts(bus, "one") == (3, 0)


def test_a_stranger_is_refused_and_nothing_is_settled(inbox: Inbox, bus: EventBus) -> None:
    (shadow,) = inbox.get_many(1, 1)
    with pytest.raises(NotSubscribed, match="settle what get"):
        inbox.complete_many([shadow, EventShadow("a", "made up")])
    assert bus.watcher(shadow) is not None


def test_what_has_expired_is_not_among_the_events(bus: EventBus, world: InProcessBus) -> None:
    now_us = world.clock.time_ns() // 1000
    inbox = bus.inbox("one", ["a"], credit=10)
    bus.notify_many([Event("1", "a", 1, occurred_at=now_us, ttl=1000), Event("2", "a", 2)])
    world.run()
    world.clock.advance(1)
    ((shadow, event),) = inbox.events(5, 1)
    assert event.id == "2"
    inbox.complete(shadow)  # Nothing else is unsettled here, so all outcomes are reported.
    assert reasons(bus, "one") == [("1", "expired")]


@pytest.mark.parametrize("limit", [0, -1, 2.0, True, "3"])
def test_a_limit_is_a_whole_number(inbox: Inbox, limit: int) -> None:
    with pytest.raises(UsageError, match="give a whole number"):
        inbox.events(limit)


def test_a_closed_inbox_settles_nothing(inbox: Inbox) -> None:
    shadows = inbox.get_many(2, 1)
    inbox.close()
    with pytest.raises(BusClosed):
        inbox.complete_many(shadows)
    with pytest.raises(BusClosed):
        inbox.events(1)
