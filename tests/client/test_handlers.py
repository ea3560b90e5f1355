"""Handlers and their loop: how an event is settled by what a handler does. No process and no thread is started."""

import logging
from collections.abc import Callable

import pytest

from eventbus_mp import Event, EventBus, EventShadow, Skip
from eventbus_mp.client.handlers import current_loop
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
    inbox.close()
    two.on("a", name="shared")(lambda event: seen.append(event.id))
    two.drain(timeout_s=5)
    assert seen == [str(number) for number in range(10)]
    found = two.statistics().subscribers[0]
    assert found.redelivered >= 10
