"""Handlers of batches: how large a batch is, when it comes, and how its events are settled. No process is started."""

import logging
import os
import signal
import threading
from collections.abc import Callable
from typing import Any

import pytest

from eventbus_mp import Event, EventBus, Inbox, Skip, UsageError, WorkerPool
from eventbus_mp.client.handler_spec import HandlerSpec
from eventbus_mp.ids import EventId
from eventbus_mp.testing.inprocess import InProcessBus
from tests.client.recorder import Recorder
from tests.client.test_handlers import counts, reasons

Handle = Callable[..., EventBus]
Make = Callable[..., EventBus]


def events(*names: str) -> list[Event]:
    return [Event(name, "a", int(name)) for name in names]


def ids(batches: list[list[Event]]) -> list[list[EventId]]:
    return [[event.id for event in batch] for batch in batches]


# --- how large, and when ---


def test_a_full_batch_comes_at_once_and_the_rest_in_time(handle: Handle, world: InProcessBus) -> None:
    bus, seen = handle(), []
    began_ns = world.clock.monotonic_ns()

    @bus.on("a", name="one", batch=3, within_s=2)
    def collect(batch: list[Event]) -> None:
        seen.append((batch, (world.clock.monotonic_ns() - began_ns) / 1e9))

    bus.notify_many(events("1", "2", "3", "4", "5", "6", "7"))
    bus.drain(timeout_s=5)
    assert ids([batch for batch, _ in seen]) == [["1", "2", "3"], ["4", "5", "6"], ["7"]]
    assert [round(at_s, 3) for _, at_s in seen] == [0, 0, 2]
    assert counts(bus, "one") == (7, 0)


def test_the_first_event_says_how_long_the_others_may_take(handle: Handle, world: InProcessBus) -> None:
    bus, seen = handle(), []
    began_ns = world.clock.monotonic_ns()

    @bus.on("a", name="one", batch=10, within_s=2)
    def collect(batch: list[Event]) -> None:
        seen.append((batch, (world.clock.monotonic_ns() - began_ns) / 1e9))

    def pass_s(seconds: float) -> None:
        bus._session.connection.wait(lambda: False, seconds)  # type: ignore[union-attr]

    for name in "123":
        bus.notify(events(name)[0])
        pass_s(0.9)
    assert [(name, round(at_s, 3)) for (name,), at_s in [(ids([batch]), at_s) for batch, at_s in seen]] == [
        (["1", "2", "3"], 2)
    ]
    pass_s(10)
    bus.notify(events("4")[0])
    bus.drain(timeout_s=5)
    assert round(seen[1][1], 3) == 14.7


def test_what_is_left_waits_from_its_own_arrival(handle: Handle, world: InProcessBus) -> None:
    bus, seen = handle(), []
    began_ns = world.clock.monotonic_ns()

    @bus.on("a", name="one", batch=2, within_s=2)
    def collect(batch: list[Event]) -> None:
        seen.append((ids([batch])[0], round((world.clock.monotonic_ns() - began_ns) / 1e9, 3)))

    bus.notify(events("1")[0])
    bus._session.connection.wait(lambda: False, 1.5)  # type: ignore[union-attr]
    bus.notify_many(events("2", "3"))
    bus.drain(timeout_s=5)
    assert seen == [(["1", "2"], 1.5), (["3"], 3.5)]


def test_other_handlers_run_while_a_batch_fills(handle: Handle) -> None:
    bus = handle()
    seen: list[Any] = []
    bus.on("a", name="batches", batch=5, within_s=60)(lambda batch: seen.append(len(batch)))
    bus.on("b", name="single")(lambda event: seen.append(event.id))
    bus.notify(events("1")[0])
    bus.notify(Event("x", "b", 1))
    bus.drain("b", timeout_s=1)
    assert seen == ["x"]
    bus.drain(timeout_s=100)
    assert seen == ["x", 1]


def test_the_credit_allows_a_batch(handle: Handle) -> None:
    bus, seen = handle(), []
    bus.on("a", name="one", batch=200, within_s=9)(lambda batch: seen.append(len(batch)))
    bus.notify_many([Event(str(number), "a", number) for number in range(500)])
    bus.drain(timeout_s=20)
    assert seen == [200, 200, 100]


def test_what_expires_on_the_way_is_not_in_the_batch(handle: Handle, world: InProcessBus) -> None:
    bus, seen = handle(time_unit="second"), []
    now_s = world.clock.time_ns() // 10**9

    @bus.on("a", name="one", batch=10, within_s=30)
    def collect(batch: list[Event]) -> None:
        seen.append(batch)

    bus.notify_many([Event("first", "a", 1), Event("second", "a", 1, occurred_at=now_s, ttl=20)])
    bus.drain(timeout_s=60)
    assert ids(seen) == [["first"]]
    assert reasons(bus, "one") == [("second", "expired")]


# --- how they are settled ---


def test_outcomes_one_by_one(handle: Handle, caplog: pytest.LogCaptureFixture) -> None:
    bus = handle()
    ends = {"1": None, "2": Skip("not today"), "3": ValueError("bad"), "4": None}
    bus.on("a", name="one", batch=4, retries=3)(lambda batch: [ends[event.id] for event in batch])
    with caplog.at_level(logging.ERROR, "eventbus_mp"):
        bus.notify_many(events("1", "2", "3", "4"))
        bus.drain(timeout_s=5)
    assert counts(bus, "one") == (2, 2)
    assert reasons(bus, "one") == [("2", "not today"), ("3", "ValueError: bad")]
    assert [record.getMessage() for record in caplog.records] == ["one failed EventShadow('a', '3'): skipped"]


def test_skip_skips_all(handle: Handle) -> None:
    bus = handle()

    @bus.on("a", name="one", batch=2, retries=5)
    def refuse(batch: list[Event]) -> None:
        raise Skip("not today")

    bus.notify_many(events("1", "2"))
    bus.drain(timeout_s=5)
    assert reasons(bus, "one") == [("1", "not today"), ("2", "not today")]


@pytest.mark.parametrize("error", [ValueError("no"), SystemExit(3)])
def test_raising_is_tried_again_then_all_fail(
    handle: Handle, caplog: pytest.LogCaptureFixture, error: BaseException
) -> None:
    bus, tries = handle(), []

    @bus.on("a", name="one", batch=2, retries=2)
    def fail(batch: list[Event]) -> None:
        tries.append([event.id for event in batch])
        batch.clear()  # the list is the function's
        raise error

    with caplog.at_level(logging.ERROR, "eventbus_mp"):
        bus.notify_many(events("1", "2"))
        bus.drain(timeout_s=5)
    assert tries == [["1", "2"]] * 3
    assert counts(bus, "one") == (0, 2)
    assert [record.getMessage() for record in caplog.records] == [
        "one raised 3 times on a batch of 2 events, the first of which is EventShadow('a', '1'): skipped"
    ]


@pytest.mark.parametrize("found", [True, [None], [None, 5], "ab", {None: 1, 2: 3}])
def test_a_result_that_says_nothing_is_a_failure(handle: Handle, found: Any) -> None:
    bus = handle()
    bus.on("a", name="one", batch=2)(lambda batch: found)
    bus.notify_many(events("1", "2"))
    bus.drain(timeout_s=5)
    assert counts(bus, "one") == (0, 2)
    assert "UsageError: the handler of a batch of 2 returned" in reasons(bus, "one")[0][1]


def test_an_event_that_cannot_be_read_fails_alone(handle: Handle, monkeypatch: pytest.MonkeyPatch) -> None:
    bus = handle()
    seen: list[list[Event]] = []
    fetcher = bus._session.fetcher  # type: ignore[union-attr]
    read = fetcher.delivered_event

    def broken(record: Any) -> Event | None:
        event = read(record)
        assert event is not None
        if event.id == "1":
            raise OSError("cannot map it")
        return event if event.id != "2" else None

    monkeypatch.setattr(fetcher, "delivered_event", broken)
    bus.on("a", name="one", batch=3)(seen.append)
    bus.notify_many(events("1", "2", "3"))
    bus.drain(timeout_s=5)
    assert ids(seen) == [["3"]]
    assert counts(bus, "one") == (1, 2)


# --- with the rest of the bus ---


def test_hooks_get_the_whole_batch(handle: Handle) -> None:
    recorder = Recorder()
    bus = handle(instruments=[recorder])
    bus.on("a", name="one", batch=3)(lambda batch: [None, Skip("no"), KeyError(1)])
    bus.on("b", name="two", batch=2)(lambda batch: None)
    recorder.take()
    bus.notify_many([*events("1", "2", "3"), Event("4", "b", 4), Event("5", "b", 5)])
    bus.drain(timeout_s=5)
    assert sorted(recorder.take()[2:], key=lambda seen: str(seen[1])) == [
        ("after_handle", ["1", "2", "3"], ["completed", "skipped", "failed"], type(None)),
        ("after_handle", ["4", "5"], ["completed", "completed"], type(None)),
        ("before_handle", "one", ["1", "2", "3"]),
        ("before_handle", "two", ["4", "5"]),
    ]


def test_one_event_at_a_time_after_batches(handle: Handle, caplog: pytest.LogCaptureFixture) -> None:
    bus, seen = handle(), []
    bus.on("a", name="one", batch=2)(lambda batch: seen.append(len(batch)))
    bus.on("a", name="one")(lambda event: seen.append(event.id))
    endpoint = bus._session.endpoints()[0]  # type: ignore[union-attr]
    assert "is subscribed again, with another function" in caplog.text
    assert endpoint.on_arrival is None
    bus.notify_many(events("1", "2"))
    bus.drain(timeout_s=5)
    bus.on("a", name="one", batch=2)(lambda batch: seen.append(len(batch)))
    bus.notify_many(events("3", "4"))
    bus.drain(timeout_s=5)
    assert seen == ["1", "2", 2]


def test_a_takeover_in_the_middle_sends_nothing_twice(handle: Handle, world: InProcessBus) -> None:
    bus, seen = handle(), []

    @bus.on("a", name="one", batch=3, within_s=1)
    def collect(batch: list[Event]) -> None:
        seen.append(batch)
        if len(seen) == 1:
            world.replace_manager()
            bus.topics()

    bus.notify_many(events("1", "2", "3", "4"))
    bus.drain(timeout_s=5)
    assert ids(seen) == [["1", "2", "3"], ["4"]]


def test_unsubscribing_returns_what_waits_for_a_batch(handle: Handle) -> None:
    bus, other = handle(), handle()
    seen: list[Any] = []
    bus.on("a", name="one", batch=3, within_s=60)(lambda batch: seen.append("bus"))
    bus.notify_many(events("1", "2"))
    bus._session.connection.wait(lambda: False, 0.1)  # type: ignore[union-attr]
    bus.close()
    other.on("a", name="one", batch=2)(lambda batch: seen.append([event.id for event in batch]))
    other.drain(timeout_s=5)
    assert seen == [["1", "2"]]


# --- what is asked for ---


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"batch": 0}, "batch=0: give a number"),
        ({"batch": True}, "batch=True"),
        ({"batch": 2.0}, "batch=2.0"),
        ({"batch": 2, "within_s": -1}, "within_s=-1"),
        ({"batch": 2, "within_s": "1"}, "within_s='1'"),
        ({"batch": 2, "within_s": float("nan")}, "within_s=nan"),
        ({"within_s": 1}, "give batch= as well"),
        ({"batch": 5, "credit": 4}, "credit=4, batch=5"),
    ],
)
def test_what_is_refused(arguments: dict[str, Any], text: str) -> None:
    with pytest.raises(UsageError, match=text):
        HandlerSpec.from_function(print, ["a"], **arguments)


def test_what_is_taken() -> None:
    spec = HandlerSpec.from_function(print, ["a"], batch=5, credit=5)
    assert (spec.batch, spec.within_s, spec.credit) == (5, 0.05, 5)
    assert HandlerSpec.from_function(print, ["a"], batch=5, within_s=0).within_s == 0


# --- with processes ---


def test_batches_on_the_listener_thread(bus: EventBus) -> None:
    seen: list[list[EventId]] = []
    done = threading.Event()

    @bus.on("a", batch=4, within_s=0.01)
    def collect(batch: list[Event]) -> None:
        seen.append([event.id for event in batch])
        if sum(map(len, seen)) == 10:
            done.set()

    bus.notify_many(Event(str(number), "a", number) for number in range(10))
    assert done.wait(30)
    bus.drain(timeout_s=10)
    assert [name for batch in seen for name in batch] == [str(number) for number in range(10)]
    assert max(map(len, seen)) <= 4


def test_batches_in_a_pool_whose_worker_dies(bus: EventBus) -> None:
    out: Inbox = bus.inbox("out", ["b"], credit=100)
    pool = WorkerPool(bus, 1, max_events=20)

    @pool.on("a", name="batches", batch=10, within_s=0.05)
    def collect(batch: list[Event]) -> None:
        if any(event.data == 3 and not event.source for event in batch):
            bus.notify(Event("die", "b", os.getpid()))
            os.kill(os.getpid(), signal.SIGKILL)
        bus.notify(Event(str(os.getpid()), "b", [event.data for event in batch]))

    with pool:
        bus.notify_many([Event(str(number), "a", number) for number in range(30)])
        bus.drain("a", timeout_s=60)
    found = [event.data for _, event in out.events(100, 0) if event.id != "die"]
    assert sorted(number for batch in found for number in batch) == [number for number in range(30) if number != 3]
