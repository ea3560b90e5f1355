"""What hooks are told of inboxes, and what they can ask of deliveries; instruments that are added to a handle."""

import asyncio
from collections.abc import Callable, Sequence

import pytest

from eventbus_mp import BusClosed, Deliveries, Event, EventBus, EventShadow, Instrument, SubscriberKey, UsageError
from eventbus_mp.client.inbox import Inbox
from eventbus_mp.client.instrumented import InstrumentedInbox, SettlingInbox
from eventbus_mp.testing.inprocess import InProcessBus
from tests.client.recorder import Recorder

Handle = Callable[..., EventBus]
Make = Callable[..., EventBus]
NONE = type(None)


class Asks(Instrument):
    """Asks all that there is to ask of deliveries, in the hooks."""

    def __init__(self) -> None:
        self.told: list[tuple[tuple[object, ...], tuple[int, ...]]] = []

    def _ask(self, deliveries: Deliveries) -> None:
        events = tuple(event and (event.headers or {}).get("from") for event in deliveries.events)
        self.told.append((events, deliveries.attempts))
        self.last = deliveries

    def after_receive(self, subscriber: SubscriberKey, shadows: Deliveries, error: BaseException | None) -> None:
        self._ask(shadows)

    def before_handle(self, subscriber: SubscriberKey, items: Deliveries) -> None:
        self._ask(items)


@pytest.fixture
def asks() -> Asks:
    return Asks()


@pytest.fixture
def asked(handle: Handle, asks: Asks) -> EventBus:
    return handle(instruments=[asks])


def event(id: str) -> Event:
    return Event(id, "a", 1, headers={"from": id})


# --- inboxes ---


def test_taking_from_an_inbox(handle: Handle) -> None:
    recorder = Recorder()
    bus = handle(instruments=[recorder])
    inbox = bus.inbox("one", ["a"], credit=10)
    shadows = bus.notify_many([event(name) for name in "123"])
    recorder.take()
    assert inbox.get(1) == shadows[0]
    assert [shadow for shadow, _ in inbox.events(5, 1)] == shadows[1:]
    assert inbox.get_many(5, 0) == []
    inbox.close()
    with pytest.raises(Exception, match="closed"):
        inbox.get(0)
    assert recorder.take() == [
        ("before_receive", "one", 1),
        ("after_receive", shadows[:1], NONE),
        ("before_receive", "one", 5),
        ("after_receive", shadows[1:], NONE),
        ("before_receive", "one", 5),
        ("after_receive", [], NONE),
        ("before_receive", "one", 1),
        ("after_receive", [], BusClosed),
    ]


def test_an_inbox_has_only_the_hooks_that_there_are(handle: Handle, asks: Asks) -> None:
    class Settles(Instrument):
        def before_settle(self, subscriber: SubscriberKey, shadows: Sequence[EventShadow], outcome: str) -> None:
            """Nothing."""

    class Handles(Instrument):
        def before_handle(self, subscriber: SubscriberKey, items: Deliveries) -> None:
            """Nothing."""

    wanted = {Settles(): SettlingInbox, asks: InstrumentedInbox, Handles(): Inbox}
    assert {one: type(handle(instruments=[one]).inbox("one", ["a"])) for one in wanted} == wanted


def test_events_of_what_was_taken(asked: EventBus, asks: Asks) -> None:
    inbox = asked.inbox("one", ["a"], credit=10)
    asked.notify(event("1"))
    inbox.release(inbox.get(1))  # type: ignore[arg-type]
    inbox.complete(inbox.get(1))  # type: ignore[arg-type]
    asked.notify_many([event("2"), event("3")])
    assert len(inbox.events(5, 1)) == 2
    assert [found.id for found in asks.last.first(1)] == ["2"]
    assert asks.told == [(("1",), (1,)), (("1",), (2,)), (("2", "3"), (1, 1))]


def test_a_hook_does_not_claim_what_a_thread_of_an_executor_takes(make_bus: Make, asks: Asks) -> None:
    """Its caller may have given up; see unclaimed.py."""
    bus = make_bus(topics=["a"], instruments=[asks])
    inbox = bus.inbox("one", ["a"], credit=10)

    async def give_up() -> None:
        waiting = asyncio.ensure_future(asyncio.to_thread(inbox.get, 20))
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(waiting, 0.01)
        bus.notify(event("1"))

    asyncio.run(give_up())  # It waits for the thread.
    assert [told[0] for told in asks.told] == [("1",)]
    assert inbox.get(10) == ("a", "1")


# --- handlers ---


def test_attempts_of_a_handler_that_is_called_again_at_once(asked: EventBus, asks: Asks) -> None:
    @asked.on("a", name="one", retries=2)
    def fail(event: Event) -> None:
        raise ValueError

    @asked.on("a", name="many", retries=1, batch=2)
    def fail_all(events: list[Event]) -> None:
        raise ValueError

    asked.notify_many([event("1"), event("2")])
    asked.drain(timeout_s=5)
    single = [told for told in asks.told if len(told[1]) == 1]
    assert single == [((name,), (attempt,)) for name in "12" for attempt in (1, 2, 3)]
    assert [told for told in asks.told if told not in single] == [(("1", "2"), (1, 1)), (("1", "2"), (2, 2))]
    endpoints = asked._session.endpoints()  # type: ignore[union-attr]
    assert [endpoint.attempts for endpoint in endpoints] == [{}, {}]


def test_attempts_of_what_comes_again_later(asked: EventBus, asks: Asks, world: InProcessBus) -> None:
    calls: list[str] = []

    @asked.on("a", name="one", retries=1, retry_delay_s=1)
    def fail_once(event: Event) -> None:
        calls.append(event.id)
        if len(calls) == 1:
            raise ValueError

    asked.notify(event("1"))
    asked.drain(timeout_s=20)
    assert asks.told == [(("1",), (1,)), (("1",), (2,))]


def test_the_event_of_a_shadow_that_a_listener_gets(asked: EventBus, asks: Asks) -> None:
    def complete(shadow: EventShadow) -> None:
        asked.mark_as_completed(complete, shadow)

    asked.subscribe(complete, ["a"])
    asked.notify(event("1"))
    asked.drain(timeout_s=5)
    assert asks.told == [(("1",), (1,))]


def test_the_event_of_a_shadow_that_was_settled_before_its_listener_is_called(
    handle: Handle, asked: EventBus, asks: Asks
) -> None:
    asked.subscribe(listen, ["a"])
    other = handle()
    shadow = other.notify(event("1"))
    asked.mark_as_completed(listen, shadow)
    asked.drain(timeout_s=5)
    assert all(told == ((None,), (1,)) for told in asks.told)


def listen(shadow: EventShadow) -> None:
    """It is settled by others."""


# --- instruments of a handle ---


def test_an_instrument_is_added_before_the_first_use(handle: Handle, make_bus: Make) -> None:
    recorder = Recorder()
    bus = make_bus()
    bus.add_instrument(recorder)
    assert bus.instruments == (recorder,)
    bus.topics()
    assert [name for name, *_ in recorder.take()] == ["before_connect", "after_connect"]
    with pytest.raises(UsageError, match="bus 'test' is connected: add an instrument before the handle's first use"):
        bus.add_instrument(Recorder())
    with pytest.raises(UsageError, match="is not an Instrument"):
        bus.add_instrument(3)  # type: ignore[arg-type]
    assert bus.instruments == (recorder,)


def test_an_instrument_is_removed_for_the_next_connection(make_bus: Make, run_dir: object) -> None:
    recorder = Recorder()
    bus = make_bus(instruments=[recorder])
    bus.topics()
    bus.remove_instrument(recorder)
    bus.remove_instrument(recorder)
    assert bus.instruments == ()
    bus.inbox("one", ["b"])
    assert [name for name, *_ in recorder.take()][2:] == ["before_subscribe", "after_subscribe"]


def test_the_address_is_where_processes_connect(make_bus: Make, run_dir: object) -> None:
    bus = make_bus()
    assert bus.address == f"{run_dir}/test/socket"
    bus.topics()


def test_an_event_with_other_headers(handle: Handle) -> None:
    bus = handle()
    inbox = bus.inbox("one", ["a"], credit=10)
    made = Event("1", "a", {"x": 1}, source="me", headers={"a": "b"})
    assert made.with_headers({"c": "d"}) == Event("1", "a", {"x": 1}, source="me", headers={"c": "d"})
    assert made.with_headers(None) == Event("1", "a", {"x": 1}, source="me")
    assert Event("1", "a", 1).with_headers({}) == Event("1", "a", 1)
    assert made.headers == {"a": "b"}
    with pytest.raises(UsageError, match="names and values are str"):
        made.with_headers({"a": 1})  # type: ignore[dict-item]
    bus.notify_many([made, Event("2", "a", b"x" * 100_000)])
    for (_, fetched), expected in zip(inbox.events(2, 1), [made, Event("2", "a", b"x" * 100_000)], strict=True):
        again = fetched.with_headers({"e": "f"})
        assert again._data is fetched._data  # Neither is decoded.
        bus.notify(again)
        ((_, found),) = inbox.events(1, 1)
        assert found.headers == {"e": "f"}
        assert (found.id, bytes(found.data) if found.id == "2" else found.data, found.source) == (
            expected.id,
            expected.data,
            expected.source,
        )
        del fetched, again, found
