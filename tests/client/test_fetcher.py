"""Fetching events: in place, under a lease, by id, after they are gone. No process is started."""

from collections.abc import Callable

import pytest

from eventbus_mp import Event, EventBus, EventShadow, UsageError
from eventbus_mp.memory.mappings import COPIED_BYTES_MAX
from eventbus_mp.testing.inprocess import InProcessBus

Handle = Callable[..., EventBus]
LARGE = 4 * COPIED_BYTES_MAX


def leased_bytes(world: InProcessBus) -> int:
    world.run()
    return sum(span.length for span in world.core.state.spans.in_use() if span.leases)


def test_a_delivery_in_flight_is_fetched_without_a_question(handle: Handle, world: InProcessBus) -> None:
    bus = handle()
    inbox = bus.inbox("one", ["a"])
    bus.notify(Event("1", "a", {"x": [1, 2]}, source="test"))
    shadow = inbox.get(timeout_s=1)
    assert shadow is not None
    world.run()
    event = bus.fetch_event(shadow)
    assert not world.outgoing, "nothing was asked"
    assert event is not None
    assert (event.id, event.topic, event.data, event.source) == ("1", "a", {"x": [1, 2]}, "test")
    inbox.complete(shadow)


@pytest.mark.parametrize("nbytes", [10, LARGE])
def test_another_clients_event_is_fetched_under_a_lease(handle: Handle, world: InProcessBus, nbytes: int) -> None:
    bus, other = handle(), handle()
    inbox = bus.inbox("one", ["a"])
    shadow = bus.notify(Event("1", "a", memoryview(b"x" * nbytes)))
    event = other.fetch_event(shadow)
    assert event is not None
    assert bytes(event.data) == b"x" * nbytes
    assert bool(leased_bytes(world)) == (nbytes == LARGE), "a small one is copied out, and its lease given back"
    taken = inbox.get(timeout_s=1)
    assert taken is not None
    inbox.complete(taken)
    assert bytes(event.data) == b"x" * nbytes, "also after it was settled"
    assert other.fetch_event(shadow) is None, "and nobody fetches it any more"
    del event
    assert other.watcher(shadow) is None  # A call, with which the end of the view is reported.
    assert not leased_bytes(world)


def test_a_view_outlives_its_delivery_and_its_copies_need_no_memory(handle: Handle, world: InProcessBus) -> None:
    bus = handle()
    inbox = bus.inbox("one", ["a"])
    bus.notify(Event("1", "a", memoryview(b"y" * LARGE)))
    shadow = inbox.get(timeout_s=1)
    assert shadow is not None
    event = bus.fetch_event(shadow)
    assert event is not None
    inbox.complete(shadow)
    assert leased_bytes(world)
    part, copy = event.data[5:10], event.copy()
    del event
    bus.statistics()
    assert leased_bytes(world), "a slice of the view is left"
    assert bytes(part) == b"y" * 5
    del part
    bus._session.reporter.flush_all()  # type: ignore[union-attr]
    assert not leased_bytes(world)
    assert bytes(copy.data) == b"y" * LARGE


def test_a_bare_id_finds_the_newest_unsettled_event(handle: Handle) -> None:
    bus = handle()
    inbox = bus.inbox("one", ["a"], credit=10)
    bus.notify(Event("same", "a", "old"))
    bus.notify(Event("same", "a", "new"))
    assert bus.fetch_event_data(("a", "same")) == "new"
    old, new = inbox.get_many(2, 1)
    inbox.complete(new)
    assert bus.fetch_event_data(("a", "same")) == "old"
    inbox.complete(old)
    assert bus.fetch_event(("a", "same")) is None


def test_what_was_never_stored(handle: Handle) -> None:
    bus = handle()
    assert bus.fetch_event(("a", "nothing")) is None
    assert bus.fetch_event(("nowhere", "nothing")) is None
    assert bus.fetch_event(EventShadow("a", "nothing")) is None


def test_what_is_no_shadow(handle: Handle) -> None:
    with pytest.raises(UsageError, match="is not a shadow"):
        handle().fetch_event(7)  # type: ignore[arg-type]


def test_a_topic_that_is_gone_is_called_by_its_number(handle: Handle) -> None:
    bus, other = handle(), handle()
    inbox = bus.inbox("one", ["a"])
    bus.notify(Event("1", "a", 1))
    shadow = inbox.get(timeout_s=1)
    assert shadow is not None
    other.unregister_topic("a")
    assert other._session is not None
    assert other._session.fetcher.topic_name(99) == "(unregistered topic 99)"
    event = bus.fetch_event(shadow)
    assert event is not None
    assert event.topic == "a", "a client that has it in flight knows its name"
    inbox.complete(shadow)


def test_watchers_of_a_topic(handle: Handle) -> None:
    bus = handle()
    one, two = bus.inbox("one", ["a"], credit=10), bus.inbox("two", ["a"], credit=10)
    bus.notify_many([Event("1", "a", 1), Event("2", "a", 1)])
    first = one.get(timeout_s=1)
    assert first is not None
    one.complete(first)
    found = bus.watchers("a")
    assert sorted(found) == ["1", "2"]
    assert [key.name for key in found["1"].completers] == ["one"]
    assert [key.name for key in found["2"].waiting] == ["one", "two"]
    for inbox in (one, two):
        for shadow in inbox.get_many(5, 0):
            inbox.complete(shadow)
    assert bus.watchers("a") == {}


@pytest.mark.parametrize(("error", "expected"), [(FileNotFoundError, None), (PermissionError, PermissionError)])
def test_a_segment_that_cannot_be_mapped_leaves_no_lease(
    handle: Handle,
    world: InProcessBus,
    monkeypatch: pytest.MonkeyPatch,
    error: type[OSError],
    expected: type[OSError] | None,
) -> None:
    """The manager has granted the lease by then."""
    bus, other = handle(), handle()
    inbox = bus.inbox("one", ["a"])
    shadow = bus.notify(Event("1", "a", memoryview(b"x" * LARGE)))

    def refuse(name: str) -> memoryview:
        raise error(name)

    with monkeypatch.context() as patch:
        patch.setattr(world.store, "attach", refuse)
        if expected is None:
            assert other.fetch_event(shadow) is None
        else:
            with pytest.raises(expected):
                other.fetch_event(shadow)
    assert not leased_bytes(world)
    for taken in inbox.get_many(5, 0):
        inbox.complete(taken)
