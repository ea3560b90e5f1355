"""Handlers and their loop: how an event is settled by what a handler does. No process and no thread is started."""

import errno
import logging
import os
from collections.abc import Callable

import pytest

from eventbus_mp import BusFull, Event, EventBus, EventShadow, Skip, SubscriberKey
from eventbus_mp.client.handler_loop import current_loop
from eventbus_mp.memory.heap import HeapStore
from eventbus_mp.testing.inprocess import InProcessBus

Handle = Callable[..., EventBus]


def counts(bus: EventBus, name: str) -> tuple[int, int]:
    """(completed, skipped) of a subscriber."""
    found = next(item for item in bus.statistics().subscribers if item.name == name)
    return found.completed, found.skipped


def reasons(bus: EventBus, name: str) -> list[tuple[str, str]]:
    return list(next(item for item in bus.statistics().subscribers if item.name == name).recent_skips)


def test_returning_completes(handle: Handle) -> None:
    bus, seen = handle(), []
    bus.on("a", name="one")(lambda event: seen.append((event.id, event.data)))
    bus.notify_many([Event(str(number), "a", number) for number in range(500)])
    bus.drain(timeout_s=5)
    assert seen == [(str(number), number) for number in range(500)]
    assert counts(bus, "one") == (500, 0)


def test_skip_skips_with_its_reason(handle: Handle) -> None:
    bus = handle()

    @bus.on("a", name="one")
    def refuse(event: Event) -> None:
        raise Skip("not today")

    bus.notify(Event("1", "a", 1))
    bus.drain(timeout_s=5)
    assert counts(bus, "one") == (0, 1)
    assert reasons(bus, "one") == [("1", "not today")]


@pytest.mark.parametrize("error", [ValueError("no"), KeyError("k"), SystemExit(3), KeyboardInterrupt()])
def test_raising_is_tried_again_then_skipped_and_logged(
    handle: Handle, caplog: pytest.LogCaptureFixture, error: BaseException
) -> None:
    bus, tries = handle(), []

    @bus.on("a", name="one", retries=2)
    def fail(event: Event) -> None:
        tries.append(event.id)
        raise error

    with caplog.at_level(logging.ERROR, "eventbus_mp"):
        bus.notify(Event("1", "a", 1))
        bus.notify(Event("2", "a", 1))
        bus.drain(timeout_s=5)
    assert tries == ["1"] * 3 + ["2"] * 3
    assert counts(bus, "one") == (0, 2)
    assert reasons(bus, "one")[0][1].startswith(type(error).__name__)
    assert len(caplog.records) == 2


def test_a_handler_that_recovers_completes(handle: Handle) -> None:
    bus, tries = handle(), []

    @bus.on("a", name="one", retries=1)
    def sometimes(event: Event) -> None:
        tries.append(event.id)
        if len(tries) == 1:
            raise ValueError

    bus.notify(Event("1", "a", 1))
    bus.drain(timeout_s=5)
    assert counts(bus, "one") == (1, 0)


class Unprintable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


def test_an_error_without_a_text(handle: Handle) -> None:
    bus = handle()

    @bus.on("a", name="one")
    def fail(event: Event) -> None:
        raise Unprintable

    bus.notify(Event("1", "a", 1))
    bus.drain(timeout_s=5)
    assert reasons(bus, "one") == [("1", "Unprintable: (its text cannot be had: RuntimeError)")]


def test_a_listener_settles_itself_now_or_later(handle: Handle) -> None:
    bus = handle()
    kept: list[EventShadow] = []

    def listener(shadow: EventShadow) -> None:
        if shadow.id == "now":
            bus.mark_as_completed(listener, shadow)
        else:
            kept.append(shadow)

    key = bus.subscribe(listener, ["a"])
    bus.notify(Event("now", "a", 1))
    bus.notify(Event("later", "a", 1))
    bus._session.connection.wait(lambda: kept, 5)  # type: ignore[union-attr]
    assert counts(bus, key.name) == (1, 0)
    bus.mark_as_skipped(listener, kept[0])
    bus.drain(timeout_s=5)
    assert counts(bus, key.name) == (1, 1)


def test_a_listener_that_raises_has_skipped_what_it_did_not_settle(
    handle: Handle, caplog: pytest.LogCaptureFixture
) -> None:
    bus = handle()

    def listener(shadow: EventShadow) -> None:
        if shadow.id == "settled":
            bus.mark_as_completed(listener, shadow)
        raise ValueError(shadow.id)

    key = bus.subscribe(listener, ["a"])
    with caplog.at_level(logging.ERROR, "eventbus_mp"):
        bus.notify(Event("settled", "a", 1))
        bus.notify(Event("open", "a", 1))
        bus.drain(timeout_s=5)
    assert counts(bus, key.name) == (1, 1)
    assert "which it had settled" in caplog.records[0].getMessage()


def test_what_expires_on_the_way_is_not_handled(handle: Handle, world: InProcessBus) -> None:
    bus = handle(time_unit="second")
    seen: list[str] = []
    now_s = world.clock.time_ns() // 10**9

    @bus.on("a", name="one", credit=10)
    def slow(event: Event) -> None:
        seen.append(event.id)
        world.clock.advance(60)

    bus.notify_many([Event("first", "a", 1), Event("second", "a", 1, occurred_at=now_s, ttl=30)])
    bus.drain(timeout_s=5)
    assert seen == ["first"]
    assert counts(bus, "one") == (1, 1)
    assert reasons(bus, "one") == [("second", "expired")]


def test_a_handler_publishes_and_asks(handle: Handle) -> None:
    bus, seen = handle(), []

    @bus.on("a", name="first")
    def first(event: Event) -> None:
        assert current_loop() is not None
        bus.notify(Event(event.id, "b", bus.topics()))

    bus.on("b", name="second")(lambda event: seen.append(event.data))
    bus.notify(Event("1", "a", 1))
    bus.drain(timeout_s=5)
    assert seen == [["a", "b"]]
    assert current_loop() is None


def test_the_last_handler_of_a_name_counts(handle: Handle, caplog: pytest.LogCaptureFixture) -> None:
    bus, seen = handle(), []
    bus.on("a", name="one")(lambda event: seen.append("old"))
    with caplog.at_level(logging.WARNING, "eventbus_mp"):
        bus.on("a", name="one")(lambda event: seen.append("new"))
    assert "is subscribed again, with another function" in caplog.text
    bus.notify(Event("1", "a", 1))
    bus.drain(timeout_s=5)
    assert seen == ["new"]


def test_clients_share_a_subscriber(handle: Handle) -> None:
    one, two = handle(), handle()
    seen: list[str] = []
    one.on("a", name="shared", credit=1)(lambda event: seen.append("one"))
    two.on("a", name="shared", credit=1)(lambda event: seen.append("two"))
    one.notify_many([Event(str(number), "a", number) for number in range(100)])
    one.drain(timeout_s=5)
    assert sorted(set(seen)) == ["one", "two"]
    assert len(seen) == 100


def test_what_is_not_begun_goes_back_when_a_client_leaves(handle: Handle, world: InProcessBus) -> None:
    one, two = handle(), handle()
    seen: list[str] = []
    inbox = one.inbox("shared", ["a"], credit=10)
    two.notify_many([Event(str(number), "a", number) for number in range(10)])
    first = inbox.get(timeout_s=1)
    assert first is not None
    inbox.close(keep=True)
    two.on("a", name="shared")(lambda event: seen.append(event.id))
    two.drain(timeout_s=5)
    assert seen == [str(number) for number in range(10)]
    found = two.statistics().subscribers[0]
    assert found.redelivered >= 10


@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize("shadows", [False, True], ids=["on", "subscribe"])
def test_an_event_whose_memory_cannot_be_mapped_comes_again(
    handle: Handle, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, large: bool, shadows: bool
) -> None:
    """No descriptor was left for it, for a moment. It is neither lost nor the end of the process's listeners."""
    bus, other = handle(), handle()
    data, seen = bytes(100_000 if large else 10), []

    def take(shadow: EventShadow) -> None:
        event = bus.fetch_event(shadow)
        assert event is not None
        seen.append((event.id, event.data))
        bus.mark_as_completed(key, shadow)

    if shadows:
        key = bus.subscribe(take, ["a"])
    else:
        key = SubscriberKey("one")
        bus.on("a", name="one")(lambda event: seen.append((event.id, event.data)))
    refusals = iter(["/ebmp-1", "/ebmp-1"])
    attach = HeapStore.attach

    def refuse(store: HeapStore, name: str) -> memoryview:
        if (refused := next(refusals, None)) is not None:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE), refused)
        return attach(store, name)

    other.notify(Event("1", "a", data))
    monkeypatch.setattr(HeapStore, "attach", refuse)
    bus.drain(timeout_s=5)
    assert seen == [("1", data)]
    assert counts(bus, key.name) == (1, 0)
    assert "cannot read an event, which goes back to the bus: [Errno 24]" in caplog.text


class RefusingHandler(logging.Handler):
    """A log's handler that publishes what is logged may find the memory full, for example."""

    def emit(self, record: logging.LogRecord) -> None:
        raise BusFull("no room for a log")


class Leaving(Exception):
    def __str__(self) -> str:
        raise SystemExit


@pytest.mark.parametrize("error", [ValueError("no"), Leaving()], ids=["plain", "unprintable"])
def test_a_failure_that_cannot_be_logged_does_not_end_the_listeners(
    handle: Handle, capsys: pytest.CaptureFixture[str], error: Exception
) -> None:
    bus, seen, refusing = handle(), [], RefusingHandler()

    @bus.on("a", name="one")
    def fail_once(event: Event) -> None:
        seen.append(event.id)
        if event.id == "1":
            raise error

    log = logging.getLogger("eventbus_mp")
    log.addHandler(refusing)
    try:
        bus.notify_many([Event("1", "a", 1), Event("2", "a", 2)])
        bus.drain(timeout_s=5)
    finally:
        log.removeHandler(refusing)
    assert seen == ["1", "2"]
    assert counts(bus, "one") == (1, 1)
    assert "no room for a log" in capsys.readouterr().err
