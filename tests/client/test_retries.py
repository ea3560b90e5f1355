"""Trying again: released shadows, `Retry`, and retries that wait."""

from collections.abc import Callable
from typing import Any

import pytest

from eventbus_mp import Event, EventBus, Retry, UsageError
from eventbus_mp.client.retries import Retries, failure_of
from eventbus_mp.geometry import TRACEBACK_LENGTH_MAX
from eventbus_mp.testing.inprocess import InProcessBus

Handle = Callable[..., EventBus]
Make = Callable[..., EventBus]


def seconds(world: InProcessBus) -> float:
    return world.clock.monotonic_ns() / 1e9


# --- the inbox ---


def test_a_released_shadow_comes_again_before_the_others(handle: Handle) -> None:
    bus = handle()
    inbox = bus.inbox("one", ["a"], credit=1)
    bus.notify_many([Event(id, "a", 1) for id in "123"])
    first = inbox.get(1)
    assert first is not None
    assert inbox.attempt(first) == 1
    inbox.release(first)
    inbox.release(first)  # again: it changes nothing
    again = inbox.get(1)
    assert again == first
    assert again is not None
    assert inbox.attempt(again) == 2
    inbox.complete(again)
    second = inbox.get(1)
    assert second == ("a", "2")
    assert second is not None
    assert inbox.attempt(second) == 1
    inbox.close()


def test_a_released_shadow_waits_outside_of_every_process(handle: Handle, world: InProcessBus) -> None:
    bus = handle()
    inbox = bus.inbox("one", ["a"], credit=1)
    bus.notify_many([Event(id, "a", 1) for id in "12"])
    first = inbox.get(1)
    assert first is not None
    inbox.release(first, delay_s=30)
    second = inbox.get(1)
    assert second == ("a", "2")
    assert second is not None
    inbox.complete(second)
    (found,) = bus.statistics().subscribers
    assert (found.queued, found.sent, found.completed) == (1, 0, 1)
    began_s = seconds(world)
    again = inbox.get()
    assert again == first
    assert again is not None
    assert seconds(world) - began_s == pytest.approx(30, abs=0.1)
    inbox.complete(again)
    bus.drain(timeout_s=1)


@pytest.mark.parametrize("delay_s", [-1, float("nan"), float("inf"), "1", None, True, 1e12])
def test_a_delay_that_is_none(handle: Handle, delay_s: Any) -> None:
    bus = handle()
    inbox = bus.inbox("one", ["a"])
    bus.notify(Event("1", "a", 1))
    shadow = inbox.get(1)
    assert shadow is not None
    with pytest.raises(UsageError, match="delay_s"):
        inbox.release(shadow, delay_s)
    with pytest.raises(UsageError, match="retry_delay_s"):
        bus.on("a", retry_delay_s=delay_s)
    inbox.complete(shadow)


# --- handlers ---


def test_a_handler_asks_to_be_called_again_later(handle: Handle, world: InProcessBus) -> None:
    bus = handle()
    calls: list[tuple[str, float]] = []

    @bus.on("a", name="one")
    def poll(event: Event) -> None:
        calls.append((event.id, seconds(world)))
        if event.id == "slow" and len(calls) < 4:
            raise Retry("not there yet", delay_s=5)

    began_s = seconds(world)
    bus.notify_many([Event("slow", "a", 1), Event("quick", "a", 1)])
    bus.drain(timeout_s=60)
    assert [id for id, _ in calls] == ["slow", "quick", "slow", "slow"]
    assert calls[-1][1] - began_s == pytest.approx(10, abs=0.1)
    (found,) = bus.statistics().subscribers
    assert (found.completed, found.skipped, found.redelivered) == (2, 0, 2)


def test_a_listener_may_ask_for_it_as_well(handle: Handle) -> None:
    bus = handle()
    calls: list[str] = []

    def listener(shadow: Any) -> None:
        calls.append(shadow.id)
        if len(calls) == 1:
            raise Retry
        bus.mark_as_completed(listener, shadow)

    bus.subscribe(listener, ["a"])
    bus.notify(Event("1", "a", 1))
    bus.drain(timeout_s=5)
    assert calls == ["1", "1"]


def test_retries_that_wait_hold_no_worker(handle: Handle, world: InProcessBus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("random.uniform", lambda low, high: high)
    bus = handle()
    calls: list[tuple[str, float]] = []
    began_s = seconds(world)

    @bus.on("a", name="one", retries=3, retry_delay_s=1, retry_delay_max_s=3)
    def fail(event: Event) -> None:
        calls.append((event.id, round(seconds(world) - began_s)))
        if event.id == "bad":
            raise ValueError("no")

    bus.notify_many([Event("bad", "a", 1), Event("good", "a", 1)])
    bus.drain(timeout_s=60)
    assert calls == [("bad", 0), ("good", 0), ("bad", 1), ("bad", 3), ("bad", 6)]
    (found,) = bus.statistics().subscribers
    assert (found.completed, found.skipped) == (1, 1)
    assert found.recent_skips == (("bad", "ValueError: no"),)


def test_a_retry_survives_the_process_that_asked_and_the_manager(handle: Handle, world: InProcessBus) -> None:
    one, two = handle(), handle()
    calls: list[str] = []

    @one.on("a", name="shared", retries=1, retry_delay_s=10)
    def fail(event: Event) -> None:
        calls.append("one")
        raise ValueError

    two.notify(Event("1", "a", 1))
    world.run()
    assert calls == ["one"]
    world.replace_manager()
    world.kill(one._session)  # type: ignore[arg-type]
    two.on("a", name="shared", retries=1, retry_delay_s=10)(lambda event: calls.append("two"))
    world.replace_manager()
    two.drain(timeout_s=60)
    assert calls == ["one", "two"]


def test_a_delay_that_a_handler_makes_up_wrongly_fails(handle: Handle) -> None:
    bus = handle()

    @bus.on("a", name="one")
    def fail(event: Event) -> None:
        raise Retry(delay_s=-3)

    bus.notify(Event("1", "a", 1))
    bus.drain(timeout_s=5)
    ((_, reason),) = bus.statistics().subscribers[0].recent_skips
    assert "Retry(delay_s)=-3" in reason


def test_back_off_doubles_up_to_its_bound_with_jitter() -> None:
    retries = Retries(9, 1.0, 10.0)
    for attempt, back_off_s in enumerate([1, 2, 4, 8, 10, 10], 1):
        delays_s = {retries.delay_ns(attempt) / 1e9 for _ in range(50)}
        assert min(delays_s) >= back_off_s / 2
        assert max(delays_s) <= back_off_s
        assert len(delays_s) > 10
    assert retries.delay_ns(10_000) <= 10e9


def test_what_is_reported_of_an_error_is_bounded_and_can_travel() -> None:
    try:
        raise ValueError("\udcff" + "x" * 10_000)
    except ValueError as error:
        tries, name, text, tail = failure_of(error, 2)
    assert (tries, name) == (2, "ValueError")
    assert text.startswith("\\udcff")
    assert len(text) <= TRACEBACK_LENGTH_MAX + 5
    assert len(tail) <= TRACEBACK_LENGTH_MAX + 5
    assert f"{text}{tail}".encode()
