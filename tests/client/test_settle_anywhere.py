"""Settling from any process: one event or many, held here or elsewhere, by shadow or by (topic, id)."""

from collections.abc import Callable
from typing import Any

import pytest

from eventbus_mp import Event, EventBus, EventShadow, NotSubscribed, UsageError
from eventbus_mp.protocol.requests import MarkEvents
from eventbus_mp.testing.inprocess import InProcessBus

Handle = Callable[..., EventBus]
Make = Callable[..., EventBus]


def counts(bus: EventBus, name: str = "one") -> tuple[int, int]:
    found = next(item for item in bus.statistics().subscribers if item.name == name)
    return found.completed, found.skipped


def requests_of(bus: EventBus, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The kinds of the requests that this handle makes from now on."""
    connection = bus._session.connection  # type: ignore[union-attr]
    asked: list[Any] = []
    request = connection.request

    def noted(kind: Any, *fields: Any) -> Any:
        asked.append(kind)
        return request(kind, *fields)

    monkeypatch.setattr(connection, "request", noted)
    return asked


def test_many_that_are_held_here_need_no_request(handle: Handle, monkeypatch: pytest.MonkeyPatch) -> None:
    bus = handle()
    inbox = bus.inbox("one", ["a"])
    bus.notify_many([Event(str(number), "a", 1) for number in range(100)])
    shadows = inbox.get_many(100)
    asked = requests_of(bus, monkeypatch)
    bus.mark_many(inbox, shadows[:60])
    bus.mark_many("one", shadows[60:], "skipped", reason="too late")
    assert asked == []
    bus.drain(timeout_s=1)
    assert counts(bus) == (60, 40)
    (found,) = bus.statistics().subscribers
    assert found.reasons == {"too late": 40}


def test_many_that_another_process_holds_need_one_request(handle: Handle, monkeypatch: pytest.MonkeyPatch) -> None:
    bus, other = handle(), handle()
    mine, theirs = bus.inbox("one", ["a"], credit=5), other.inbox("one", ["a"], credit=5)
    published = bus.notify_many([Event(str(number), "a", 1) for number in range(30)])
    here, there = mine.get_many(5), theirs.get_many(5)
    assert len(here) == len(there) == 5
    asked = requests_of(bus, monkeypatch)
    bus.mark_many(mine, [*here[:2], *there[:3], *published[20:25]])
    assert asked == [MarkEvents]
    bus.mark_many(mine, published, "skipped", reason="over")
    assert asked == [MarkEvents] * 2
    assert counts(other) == (10, 20)
    assert set(dict(other.statistics().subscribers[0].recent_skips).values()) == {"over"}
    # What the other process holds is settled for everybody, and changes nothing when it comes to it.
    theirs.complete(there[0])
    assert counts(other) == (10, 20)
    assert bus.statistics().events_unsettled == 0


def test_a_pair_is_looked_for(handle: Handle) -> None:
    bus, other = handle(), handle()
    inbox = bus.inbox("one", ["a"])
    bus.notify_many([Event(id, "a", 1) for id in "123"])
    assert len(inbox.get_many(3)) == 3
    other.mark_many("one", [("a", "1"), ("a", "3")])
    assert counts(other) == (2, 0)
    bus.mark_as_skipped("one", ("a", "2"))
    bus.drain(timeout_s=1)
    assert counts(other) == (2, 1)


def test_what_has_arrived_and_was_not_taken_is_given_out_and_need_not_be_settled(
    handle: Handle, world: InProcessBus
) -> None:
    bus = handle()
    inbox = bus.inbox("one", ["a"], credit=10)
    published = bus.notify_many([Event(id, "a", 1) for id in "123"])
    world.run()
    bus.mark_as_completed(inbox, published[1])
    assert counts(bus) == (1, 0)
    shadows = inbox.get_many(10)
    assert [shadow.id for shadow in shadows] == ["1", "2", "3"]
    assert bus.fetch_event(shadows[1]) is None
    for shadow in shadows[::2]:
        inbox.skip(shadow)
    assert counts(bus) == (1, 2)
    assert bus.statistics().memory_bytes_leased == 0
    assert not inbox._endpoint.marked


def test_events_leave_out_what_was_settled_before_they_were_taken(handle: Handle, world: InProcessBus) -> None:
    """Its memory may be in other hands by now."""
    bus = handle()
    inbox = bus.inbox("one", ["a"], credit=10)
    published = bus.notify_many([Event(id, "a", bytes(20_000)) for id in "123"])
    world.run()
    bus.mark_as_completed(inbox, published[1])
    taken = inbox.events(10)
    assert [event.id for _, event in taken] == ["1", "3"]
    inbox.complete_many([shadow for shadow, _ in taken])
    del taken
    inbox.get(0)
    now = bus.statistics()
    assert counts(bus) == (3, 0)
    assert (now.events_unsettled, now.memory_bytes_leased) == (0, 0)


def test_a_listener_gets_what_was_settled_before_it_came(handle: Handle, world: InProcessBus) -> None:
    bus = handle()
    seen: list[str] = []

    def listener(shadow: EventShadow) -> None:
        seen.append(shadow.id)

    bus.subscribe(listener, ["a"])
    shadow = bus.notify(Event("1", "a", 1))
    for transport in world._transports.values():
        world._read(*world.outgoing.popleft())
        transport.read()
    bus.mark_as_skipped(listener, shadow)
    bus.drain(timeout_s=5)
    world.run()
    assert seen == ["1"]
    assert counts(bus, bus.subscribers()[0].name) == (0, 1)


def test_the_first_outcome_counts(handle: Handle) -> None:
    """Also if it has not been reported when the second one comes."""
    bus = handle()
    inbox = bus.inbox("one", ["a"])
    bus.notify_many([Event(id, "a", 1) for id in "123"])
    first, second, _ = inbox.get_many(3)
    bus.mark_as_completed(inbox, first)
    bus.mark_as_completed(inbox, second)
    bus.mark_many(inbox, [first, second], "skipped")
    assert counts(bus) == (2, 0)
    inbox.close()


def test_one_mistake_does_not_keep_the_others_from_being_settled(handle: Handle) -> None:
    bus, other = handle(), handle()
    bus.inbox("one", ["a"])
    keeper = bus.inbox("keeper", ["b"])
    good = bus.notify_many([Event(id, "a", 1) for id in "12"])
    wrong = bus.notify(Event("3", "b", 1))
    with pytest.raises(NotSubscribed, match="one is not subscribed to 'b'"):
        other.mark_many("one", [good[0], wrong, good[1]])
    assert counts(other) == (2, 0)
    bus.mark_as_completed(keeper, wrong)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"outcome": "done"}, "outcome='done'"),
        ({"reason": "why"}, "only a skip has a reason"),
        ({"shadows": [5]}, "5 is not a shadow"),
        ({"listener": 5}, "listener 5"),
    ],
)
def test_mistakes(handle: Handle, arguments: dict[str, Any], text: str) -> None:
    bus = handle()
    inbox = bus.inbox("one", ["a"])
    with pytest.raises(UsageError, match=text):
        bus.mark_many(**{"listener": inbox, "shadows": [], **arguments})


def test_what_cannot_be_settled_does_not_keep_those_of_the_next_request(
    handle: Handle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eventbus_mp.client.session.MARKED_MAX", 2)
    bus, other = handle(), handle()
    bus.inbox("one", ["a"], credit=1)
    bus.inbox("two", ["b"], credit=1)
    published = bus.notify_many([Event(str(number), "ab"[number == 1], 1) for number in range(6)])
    with pytest.raises(NotSubscribed, match="one is not subscribed to 'b'"):
        other.mark_many("one", published)
    assert counts(bus) == (5, 0)


@pytest.mark.parametrize("wrong", [5, ("a",), None])
def test_nothing_is_settled_if_one_is_no_shadow(handle: Handle, wrong: Any) -> None:
    bus = handle()
    inbox = bus.inbox("one", ["a"])
    bus.notify_many([Event(id, "a", 1) for id in "12"])
    shadows = inbox.get_many(2)
    with pytest.raises(UsageError, match="is not a shadow"):
        bus.mark_many(inbox, [*shadows, wrong])
    assert len(inbox._endpoint.in_flight) == 2
    bus.mark_many(inbox, (shadow for shadow in shadows))
    bus.drain(timeout_s=1)
    assert counts(bus) == (2, 0)


@pytest.mark.parametrize("batch", [None, 2])
def test_a_handler_settles_as_well_what_was_settled_before_it_came(
    handle: Handle, world: InProcessBus, batch: int | None
) -> None:
    """It gets it all the same; and nothing is remembered of that."""
    bus = handle()
    seen: list[Any] = []
    on = bus.on("a", name="one", batch=batch, within_s=0 if batch else None)
    on(lambda events: seen.extend(event.id for event in (events if batch else [events])))
    shadow = bus.notify(Event("1", "a", 1))
    for transport in world._transports.values():
        world._read(*world.outgoing.popleft())
        transport.read()
    bus.mark_as_skipped("one", shadow)
    world.run()
    bus.drain(timeout_s=5)
    assert seen == ["1"]
    assert counts(bus) == (0, 1)
    endpoint = bus._session.endpoint_of("one")[0]  # type: ignore[union-attr]
    assert endpoint is not None
    assert not endpoint.marked


def test_a_listener_that_was_unsubscribed_is_not_remembered(handle: Handle) -> None:
    bus = handle()
    kept: list[EventShadow] = []

    def listener(shadow: EventShadow) -> None:
        kept.append(shadow)

    for _ in range(2):
        bus.subscribe(listener, ["a"])
        bus.notify(Event("1", "a", 1))
        bus._session.connection.wait(lambda: kept, 5)  # type: ignore[union-attr]
        bus.mark_as_completed(listener, kept.pop())
        bus.drain(timeout_s=5)
        assert bus.unsubscribe(listener)


def test_a_process_that_hosts_nothing_settles_what_a_real_one_holds(make_bus: Make, fork: Callable[..., Any]) -> None:
    bus = make_bus(topics=["a"])
    inbox = bus.inbox("one", ["a"])
    bus.notify_many([Event(str(number), "a", 1) for number in range(50)])
    shadows: list[EventShadow] = []
    while len(shadows) < 50:
        shadows += inbox.get_many(50, timeout_s=20)
    ids = [shadow.id for shadow in shadows]

    def work(to_parent: Any) -> None:
        make_bus().mark_many("one", [("a", id) for id in ids[:25]])
        to_parent.send("marked")

    assert fork(work).hear() == "marked"
    assert counts(bus) == (25, 0)
    bus.mark_many(inbox, shadows)
    bus.drain(timeout_s=20)
    assert counts(bus) == (50, 0)
