"""Handles that only look: they start nothing, register nothing, and keep nothing alive."""

import os
import pickle
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from eventbus_mp import BusConfig, Event, EventBus, ManagerLost, NoSuchBus, UsageError

Make = Callable[..., EventBus]


def attach(run_dir: Path) -> EventBus:
    return EventBus.attach("test", run_dir=str(run_dir))


def test_it_asks_fetches_and_settles(bus: EventBus, run_dir: Path) -> None:
    inbox = bus.inbox("one", ["a"])
    shadow = bus.notify(Event("1", "a", [1, 2]))
    assert inbox.get(10) == shadow
    with attach(run_dir) as observer:
        assert observer.topics() == ["a", "b"]
        assert [item.name for item in observer.subscribers("a")] == ["one"]
        assert observer.statistics().links == 2
        assert list(observer.watchers("a")) == ["1"]
        assert observer.fetch_event_data(shadow) == [1, 2]
        observer.mark_as_skipped("one", shadow)
        assert observer.watcher(shadow) is None


REFUSED: list[Callable[[EventBus], Any]] = [
    lambda bus: bus.notify(Event("1", "a", 1)),
    lambda bus: bus.notify_many([Event("1", "a", 1)]),
    lambda bus: bus.notify_and_wait(Event("1", "a", 1)),
    lambda bus: bus.loan("a", 5).__enter__(),
    lambda bus: bus.subscribe(print, ["a"]),
    lambda bus: bus.on("a")(print),
    lambda bus: bus.inbox("two", ["a"]),
    lambda bus: bus.register_topic("c"),
]


def test_it_neither_publishes_nor_subscribes_nor_registers(bus: EventBus, run_dir: Path) -> None:
    bus.inbox("one", ["a"])
    with attach(run_dir) as observer:
        for call in REFUSED:
            with pytest.raises(UsageError, match="is attached to bus 'test' and only looks"):
                call(observer)
        assert observer.topics() == ["a", "b"]
        assert len(observer.subscribers()) == 1


def test_a_config_and_single_settings_are_refused(run_dir: Path) -> None:
    with pytest.raises(UsageError, match="give either config or single settings"):
        EventBus.attach("test", config=BusConfig(), run_dir=str(run_dir))


def test_it_registers_none_of_the_topics_of_its_settings(bus: EventBus, run_dir: Path) -> None:
    bus.topics()
    with EventBus.attach("test", run_dir=str(run_dir), topics=("other",)) as observer:
        assert observer.topics() == ["a", "b"]


def test_where_no_bus_runs(run_dir: Path) -> None:
    with pytest.raises(NoSuchBus, match=f"no bus 'test' is running below {run_dir}"):
        attach(run_dir)
    assert not run_dir.exists()


def test_where_one_was_killed(bus: EventBus, run_dir: Path, kill_bus: Callable[[], None]) -> None:
    """Its socket is still there."""
    bus.topics()
    kill_bus()
    with pytest.raises(ManagerLost):
        bus._session.connection.wait(lambda: False, 30)  # type: ignore[union-attr]
    assert (run_dir / "test" / "socket").exists()
    with pytest.raises(NoSuchBus):
        attach(run_dir)
    with EventBus("test", run_dir=str(run_dir)) as successor:
        successor.topics()


def test_the_bus_ends_although_somebody_looks(make_bus: Make, run_dir: Path) -> None:
    bus = make_bus(topics=["a"], manager_idle_s=0.1)
    bus.topics()
    with attach(run_dir) as observer:
        bus.close()
        with pytest.raises(ManagerLost):
            observer._session.connection.wait(lambda: False, 30)  # type: ignore[union-attr]
        with pytest.raises(ManagerLost):
            observer.topics()


def test_a_takeover_does_not_make_it_a_client(make_bus: Make, run_dir: Path) -> None:
    bus = make_bus(topics=["a"], manager_idle_s=0.1)
    with bus:
        before = bus.statistics().manager_pid
        with attach(run_dir) as observer:
            os.kill(before, signal.SIGKILL)
            assert observer.statistics().manager_pid != before
            bus.close()
            with pytest.raises(ManagerLost):
                observer._session.connection.wait(lambda: False, 30)  # type: ignore[union-attr]


def test_a_pickled_one_attaches_on_first_use(bus: EventBus, run_dir: Path) -> None:
    bus.topics()
    with attach(run_dir) as observer:
        data = pickle.dumps(observer)
    with pickle.loads(data) as other:
        assert repr(other) == "<EventBus 'test', not connected>"
        assert other.topics() == ["a", "b"]
        with pytest.raises(UsageError, match="only looks"):
            other.register_topic("c")
    bus.shutdown()
    with pickle.loads(data) as other, pytest.raises(NoSuchBus):
        other.topics()


def test_it_can_shut_the_bus_down(bus: EventBus, run_dir: Path) -> None:
    bus.topics()
    attach(run_dir).shutdown()
    with pytest.raises(ManagerLost):
        bus.topics()


def test_waiting_for_a_manager_that_does_not_answer(bus: EventBus, run_dir: Path) -> None:
    pid = bus.statistics().manager_pid
    os.kill(pid, signal.SIGSTOP)
    try:
        began = time.monotonic()
        with pytest.raises(ManagerLost, match="does not answer"):
            EventBus.attach("test", run_dir=str(run_dir), connect_timeout_s=0.1)
        assert time.monotonic() > began
    finally:
        os.kill(pid, signal.SIGCONT)
