"""Instruments: their thread, context and order, what a hook cannot break, and that nothing is there without one."""

import logging
import os
import pickle
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from typing import Any

import pytest

from eventbus_mp import Event, EventBus, Instrument, SubscriberKey, UsageError
from eventbus_mp.client.inbox import Inbox
from eventbus_mp.client.instrumented import HandlerCall, InstrumentedPublisher
from eventbus_mp.client.publisher import Publisher
from eventbus_mp.client.session import Session
from eventbus_mp.client.subscription import Subscription
from eventbus_mp.testing.inprocess import InProcessBus
from tests.client.recorder import Recorder

Handle = Callable[..., EventBus]
Make = Callable[..., EventBus]


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


class AsksAfterTakeover(Instrument):
    topics: list[str] = []  # noqa: RUF012

    def __init__(self, buses: list[EventBus]) -> None:
        self.buses = buses

    def after_takeover(self, bus: str, manager_pid: int, error: BaseException | None) -> None:
        self.topics.extend(self.buses[0].topics())


def test_after_a_takeover_a_hook_may_ask_the_manager(make_bus: Make) -> None:
    buses: list[EventBus] = []
    bus = make_bus(topics=["a"], instruments=[AsksAfterTakeover(buses)])
    buses.append(bus)
    inbox = bus.inbox("one", ["a"])
    os.kill(bus.statistics().manager_pid, signal.SIGKILL)
    bus.notify(Event("1", "a", 1))
    assert inbox.get(10) == ("a", "1")
    assert bus._session.connection.wait(lambda: AsksAfterTakeover.topics, 10)  # type: ignore[union-attr]
    assert AsksAfterTakeover.topics == ["a"]


def test_connecting(make_bus: Make, recorder: Recorder, run_dir: Any) -> None:
    bus = make_bus(instruments=[recorder])
    assert recorder.take() == []
    bus.topics()
    bus.topics()
    assert recorder.take() == [("before_connect", "test"), ("after_connect", "test", None)]
    bus.close()
    with pytest.raises(Exception, match="closed"):
        bus.topics()
    assert [name for name, *_ in recorder.take()] == ["before_connect", "after_connect"]


# --- thread, context and order ---

trace: ContextVar[str] = ContextVar("trace", default="none")


class Tracer(Instrument):
    """As OpenTelemetry does: what one process sets travels, and is set again round the handler."""

    def before_notify(self, events: Sequence[Event]) -> Sequence[Event]:
        return [Event(event.id, event.topic, event.data, source="from the tracer") for event in events]

    def before_handle(self, subscriber: SubscriberKey, items: Sequence[Any]) -> None:
        self.token = trace.set(items[0].source)

    def after_handle(self, *arguments: Any) -> None:
        trace.reset(self.token)


def test_a_trace_travels_in_the_envelope(handle: Handle) -> None:
    bus, seen = handle(instruments=[Tracer()]), []
    bus.on("a", name="one")(lambda event: seen.append((event.id, event.data, trace.get(), threading.get_ident())))
    bus.notify(Event("1", "a", 1))
    bus.notify_many([Event("2", "a", 2)])

    def generated() -> Iterator[Event]:
        data = [0]
        for number in (3, 4):
            data[0] = number  # used again for the next one
            yield Event(str(number), "a", data)

    bus.notify_many(generated())
    with bus.loan("a", 3, id="5") as loan:
        assert loan.buffer is not None
        loan.buffer[:] = b"abc"
    bus.drain(timeout_s=5)
    assert [(name, bytes(data) if name == "5" else data) for name, data, *_ in seen] == [
        ("1", 1),
        ("2", 2),
        ("3", [3]),
        ("4", [4]),
        ("5", b"abc"),
    ]
    assert {found for _, _, found, _ in seen} == {"from the tracer"}
    assert trace.get() == "none"


class Named(Instrument):
    def __init__(self, name: str, calls: list[str]) -> None:
        self.name, self.calls = name, calls

    def before_notify(self, events: Sequence[Event]) -> None:
        self.calls.append(f"before {self.name}")

    def after_notify(self, *arguments: Any) -> None:
        self.calls.append(f"after {self.name}")


def test_the_hooks_of_several_are_nested(handle: Handle) -> None:
    calls: list[str] = []
    bus = handle(instruments=[Named("outer", calls), Named("inner", calls)])
    bus.notify(Event("1", "a", 1))
    assert calls == ["before outer", "before inner", "after inner", "after outer"]


class LooksAtLocks(Instrument):
    def __init__(self, session: Callable[[], Session]) -> None:
        self.session = session
        self.held: list[bool] = []

    def after_notify(self, *arguments: Any) -> None:
        self.held.append(self.session().connection.transport.lock.is_mine)

    after_subscribe = after_handle = after_settle = after_takeover = after_notify  # type: ignore[assignment]


def test_no_lock_is_held_after_a_call(handle: Handle, world: InProcessBus) -> None:
    buses: list[EventBus] = []
    instrument = LooksAtLocks(lambda: buses[0]._session)  # type: ignore[arg-type, return-value]
    buses.append(bus := handle(instruments=[instrument]))
    bus.on("a", name="one")(lambda event: None)
    inbox = bus.inbox("two", ["b"])
    bus.notify_many([Event("1", "a", 1), Event("2", "b", 2)])
    inbox.complete(inbox.get(1))  # type: ignore[arg-type]
    world.replace_manager()
    bus.drain(timeout_s=5)
    world.run()
    assert len(instrument.held) == 6
    assert not any(instrument.held)


# --- what a hook cannot break ---


class Broken(Instrument):
    def before_notify(self, events: Sequence[Event]) -> Sequence[Event] | None:
        raise KeyError("before")

    def after_notify(self, *arguments: Any) -> None:
        raise AssertionError("it was removed")


class BrokenAfter(Instrument):
    def after_handle(self, *arguments: Any) -> None:
        raise SystemExit


class Swaps(Instrument):
    def before_notify(self, events: Sequence[Event]) -> Sequence[Event]:
        return []


@pytest.mark.parametrize("kind", [Broken, BrokenAfter, Swaps])
def test_one_that_raises_is_removed_and_logged(
    handle: Handle, recorder: Recorder, caplog: pytest.LogCaptureFixture, kind: type[Instrument]
) -> None:
    bus, seen = handle(instruments=[kind(), recorder]), []
    bus.on("a", name="one")(lambda event: seen.append(event.id))
    recorder.take()
    with caplog.at_level(logging.ERROR, "eventbus_mp"):
        for name in "12":
            bus.notify(Event(name, "a", 1))
            bus.drain(timeout_s=5)
    assert seen == ["1", "2"]
    assert [record.getMessage() for record in caplog.records] == [
        f"instrument {kind.__name__} raised and is removed; what it was called for goes on"
    ]
    assert caplog.records[0].exc_info is not None
    assert [name for name, *_ in recorder.take()] == [
        "before_notify",
        "after_notify",
        "before_handle",
        "after_handle",
    ] * 2


class Interrupted(Instrument):
    def before_notify(self, events: Sequence[Event]) -> None:
        raise KeyboardInterrupt


def test_control_c_in_a_hook_is_the_users(handle: Handle) -> None:
    bus = handle(instruments=[Interrupted()])
    with pytest.raises(KeyboardInterrupt):
        bus.notify(Event("1", "a", 1))


class Publishes(Instrument):
    """Each hook publishes, which would call the hook again."""

    def __init__(self, buses: list[EventBus]) -> None:
        self.buses, self.calls = buses, 0

    def after_notify(self, *arguments: Any) -> None:
        self.calls += 1
        self.buses[0].notify(Event(f"log-{self.calls}", "b", 1))


def test_a_hook_may_use_the_bus_and_has_no_hooks_then(handle: Handle) -> None:
    buses: list[EventBus] = []
    instrument = Publishes(buses)
    buses.append(bus := handle(instruments=[instrument]))
    inbox = bus.inbox("logs", ["b"], credit=10)
    bus.notify_many([Event("1", "a", 1), Event("2", "a", 1)])
    bus.notify(Event("3", "a", 1))
    assert [shadow.id for shadow in inbox.get_many(10, 1)] == ["log-1", "log-2"]
    assert instrument.calls == 2


# --- nothing without hooks ---


class Nothing(Instrument):
    """Overrides no hook."""


@pytest.mark.parametrize("instruments", [(), (Nothing(),)])
def test_what_has_no_hook_is_the_plain_part(handle: Handle, instruments: tuple[Instrument, ...]) -> None:
    bus = handle(instruments=instruments)
    session = bus._session
    assert session is not None
    assert type(session.publisher) is Publisher
    assert type(bus.inbox("one", ["a"])) is Inbox
    assert session._bracketed(session.endpoints()[0], print) is print
    assert (type(session) is Session) == (not instruments)


def test_a_hook_changes_only_its_part(handle: Handle) -> None:
    bus = handle(instruments=[Named("one", [])])
    session = bus._session
    assert session is not None
    assert type(session.publisher) is InstrumentedPublisher
    assert type(bus.inbox("one", ["a"])) is Inbox


def test_calls_are_equal_if_their_functions_are(handle: Handle, recorder: Recorder) -> None:
    session = handle(instruments=[recorder])._session
    assert session is not None
    endpoint = session.host(SubscriberKey("one"), Subscription(("a",)))
    one = session._bracketed(endpoint, print)
    assert type(one) is HandlerCall
    assert one == session._bracketed(endpoint, print) != session._bracketed(endpoint, len)
    assert len({one, session._bracketed(endpoint, print)}) == 1


# --- which instruments there are ---


def test_an_instrument_may_be_made_in_each_process(make_bus: Make) -> None:
    made: list[Recorder] = []

    def make() -> Recorder:
        made.append(Recorder())
        return made[-1]

    bus = make_bus(instruments=[make])
    assert not made
    bus.topics()
    assert [len(one.take()) for one in made] == [2]


def test_what_is_no_instrument_is_refused(make_bus: Make) -> None:
    with pytest.raises(UsageError, match="5 is not an Instrument"):
        make_bus(instruments=[5])
    with pytest.raises(UsageError, match="made 0, which is not an Instrument"):
        make_bus(instruments=[int]).topics()


def test_a_pickled_handle_has_none(make_bus: Make, recorder: Recorder) -> None:
    bus = make_bus(topics=["a"], instruments=[recorder])
    with pickle.loads(pickle.dumps(bus)) as other:
        other.topics()
    assert recorder.take() == []
