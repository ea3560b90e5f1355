"""A session: what a process has on one bus. No process is started."""

from collections.abc import Callable
from typing import Any

import pytest

from eventbus_mp import BusClosed, Event, EventBus, ManagerLost, NotSubscribed, SubscriberKey, UsageError, WaitTimeout
from eventbus_mp.client.subscription import Subscription
from eventbus_mp.core.state import WAITS_MAX
from eventbus_mp.geometry import CHUNK_BYTES
from eventbus_mp.protocol.client_events import SpanGranted, pack_client_event
from eventbus_mp.protocol.decoders import ManagerDecoder
from eventbus_mp.protocol.requests import Request
from eventbus_mp.testing.inprocess import InProcessBus

Handle = Callable[..., EventBus]


def test_a_connecting_handle_registers_its_topics_in_one_round_trip(world: InProcessBus) -> None:
    session = world.connect()
    written: list[bytes] = []
    write = session.connection.transport.write

    def record(data: bytes) -> None:
        written.append(data)
        write(data)

    session.connection.transport.write = record  # type: ignore[method-assign]
    session.register_topics(["c", "d", "e"])
    requests = [item for item in ManagerDecoder(1).feed(b"".join(written)) if isinstance(item, Request)]
    assert len(requests) == 1
    assert sorted(world.core.state.registry.topics) == ["c", "d", "e"]
    session.close()


def test_a_name_that_names_nobody(handle: Handle) -> None:
    session = handle()._session
    assert session is not None
    for name in ("", None, 7):
        with pytest.raises(UsageError, match="a subscriber's name is a text"):
            session.host(SubscriberKey(name), Subscription(("a",)))  # type: ignore[arg-type]


def test_hosting_twice_is_one_endpoint(handle: Handle) -> None:
    session = handle()._session
    assert session is not None
    first = session.host(SubscriberKey("one"), Subscription(("a",)))
    assert session.host(SubscriberKey("one"), Subscription(("b",))) is first
    assert session.find(SubscriberKey("one")) is first
    session.drop(first)
    assert session.find(SubscriberKey("one")) is None
    assert first.is_over


def test_a_mark_of_what_is_in_flight_elsewhere(handle: Handle) -> None:
    bus, other = handle(), handle()
    inbox = bus.inbox("one", ["a"])
    bus.notify(Event("1", "a", 1))
    shadow = inbox.get(timeout_s=1)
    assert shadow is not None
    other.mark_as_completed("one", shadow)
    assert bus.watcher(shadow) is None
    inbox.complete(shadow)
    with pytest.raises(NotSubscribed, match="nobody is not subscribed"):
        other.mark_as_completed("nobody", shadow)


def test_a_drain_that_takes_too_long_says_what_is_left(handle: Handle) -> None:
    bus = handle()
    inbox = bus.inbox("slow", ["a"])
    bus.notify(Event("1", "a", 1))
    shadow = inbox.get(timeout_s=1)
    with pytest.raises(WaitTimeout, match=r"not drained after 3600 s: .*slow has 1 events in flight and 0 queued"):
        bus.drain(timeout_s=3600)
    assert shadow is not None
    inbox.complete(shadow)
    bus.drain(timeout_s=0)


def test_a_manager_that_does_not_answer(world: InProcessBus, monkeypatch: pytest.MonkeyPatch) -> None:
    bus = world.handle(request_timeout_s=5)
    monkeypatch.setattr(world, "step", lambda: False)
    with pytest.raises(ManagerLost, match="did not answer ListTopics within 5 s"):
        bus.topics()
    monkeypatch.undo()
    assert bus.topics() == []
    bus.close()


def test_a_late_answer_is_not_taken_for_another(world: InProcessBus, monkeypatch: pytest.MonkeyPatch) -> None:
    bus = world.handle(("a",), request_timeout_s=5)
    monkeypatch.setattr(world, "step", lambda: False)
    with pytest.raises(ManagerLost):
        bus.topics()
    monkeypatch.undo()
    assert bus.register_topic("b")
    assert bus.topics() == ["a", "b"]
    bus.close()


def test_what_is_delivered_to_a_subscription_whose_answer_came_late(
    world: InProcessBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The manager was stopped for a while. It has subscribed this process nevertheless, so events are sent to it."""
    bus, other = world.handle(("a",), request_timeout_s=5), world.handle()
    with monkeypatch.context() as patch:
        patch.setattr(world, "step", lambda: False)
        with pytest.raises(ManagerLost, match="did not answer Subscribe"):
            bus.inbox("one", ["a"])
    other.topics()
    other.notify(Event("1", "a", 1))
    bus.topics()
    inbox = bus.inbox("one", ["a"])
    shadow = inbox.get(timeout_s=1)
    assert shadow == ("a", "1")
    inbox.complete(shadow)
    bus.drain(timeout_s=1)
    bus.close()
    other.close()


def test_waits_that_are_interrupted_leave_nothing(handle: Handle, world: InProcessBus) -> None:
    """A signal handler raises, as one that limits the time of a call does. The manager lets nobody wait for ever."""
    bus = handle()
    inbox = bus.inbox("one", ["a"])
    bus.notify(Event("0", "a", 0))
    session = bus._session
    assert session is not None
    wait = session.connection.wait

    def interrupted(*_: Any) -> bool:
        raise KeyboardInterrupt

    session.connection.wait = interrupted  # type: ignore[method-assign, assignment]
    for _ in range(WAITS_MAX + 1):
        with pytest.raises(KeyboardInterrupt):
            bus.drain()
        with pytest.raises(KeyboardInterrupt):
            bus.topics()
    for number in range(1, 4):
        with pytest.raises(KeyboardInterrupt):
            bus.notify_and_wait(Event(str(number), "a", number))
    session.connection.wait = wait  # type: ignore[method-assign]
    assert bus.topics() == ["a", "b"]
    assert not world.core.state.drains
    assert not world.core.state.awaited
    assert not session.connection.protocol._expected
    assert not session.connection.protocol._replies
    for shadow in inbox:
        inbox.complete(shadow)
        if shadow.id == "3":
            break


class Unavailable:
    """A lock; a signal handler raises while it is waited for."""

    def __enter__(self) -> None:
        raise ZeroDivisionError

    def __exit__(self, *exc_info: object) -> None: ...


def test_a_grant_for_which_the_lock_cannot_be_had_is_taken_in_later(
    handle: Handle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A signal handler raises while the thread that reads waits for the lock. Nobody would send the grant again."""
    session = handle()._session
    assert session is not None
    connection = session.connection
    taken_in: list[object] = []
    connection.on_span_granted = taken_in.append
    with monkeypatch.context() as patch:
        patch.setattr(connection.transport.lock, "raw", Unavailable())
        with pytest.raises(ZeroDivisionError):
            connection._receive(pack_client_event(SpanGranted(0, 0, CHUNK_BYTES, backed=False)))
    assert connection._resume()
    assert taken_in == [SpanGranted(0, 0, CHUNK_BYTES, False)]


def test_a_wait_that_nothing_can_end_is_an_error_and_no_hang(handle: Handle) -> None:
    inbox = handle(manager_idle_s=1e6).inbox("one", ["a"])
    with pytest.raises(RuntimeError, match="this wait has no end"):
        inbox.get()


def test_after_the_end(handle: Handle) -> None:
    bus = handle()
    inbox = bus.inbox("one", ["a"])
    bus.close()
    bus.close()
    with pytest.raises(BusClosed):
        bus.topics()
    with pytest.raises(BusClosed):
        inbox.get(timeout_s=0)


def test_a_client_that_breaks_the_protocol_is_cut_off_and_the_others_go_on(
    handle: Handle, world: InProcessBus, caplog: pytest.LogCaptureFixture
) -> None:
    bus, rogue = handle(), handle()
    session: Any = rogue._session
    session.connection.call(session.connection.protocol.release, 12345)
    world.run()
    assert session.connection.lost
    assert "is cut off: it released event" in caplog.text
    assert bus.topics() == ["a", "b"]
