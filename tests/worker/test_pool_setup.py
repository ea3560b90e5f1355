"""What runs in each worker before its first event and after its last one, and the instruments that it has."""

import logging
import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from eventbus_mp import Event, EventBus, EventBusError, Inbox, Instrument, SubscriberKey, UsageError, WorkerPool
from tests.worker.answers import START_METHODS, take

Make = Callable[..., EventBus]


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize("start_method", START_METHODS)
def test_before_the_first_event_and_after_the_last(bus: EventBus, out: Inbox, start_method: str) -> None:
    state: dict[str, int] = {}

    def initialize() -> None:
        assert state == {}
        state["pid"] = os.getpid()

    def finalize() -> None:
        bus.notify(Event("end", "b", ["end", state["pid"], os.getpid()]))

    pool = WorkerPool(bus, 2, start_method=start_method, initializer=initialize, finalizer=finalize)

    @pool.on("a", name="one")
    def tell(event: Event) -> None:
        bus.notify(Event(event.id, "b", ["event", state["pid"], os.getpid()]))

    with pool:
        pids = pool.pids
        bus.notify_many([Event(str(index), "a", index) for index in range(10)])
        bus.drain("a", timeout_s=30)
    answers = take(out, 12)
    assert all(initialized == handled for _, initialized, handled in answers)
    assert sorted(pid for what, pid, _ in answers if what == "end") == sorted(pids)
    assert {what for what, *_ in answers[:10]} == {"event"} or len(set(pids)) == 2
    assert not state


def test_an_initializer_may_use_the_bus_by_the_workers_own_link(bus: EventBus, out: Inbox) -> None:
    def initialize() -> None:
        bus.register_topic("c")
        bus.notify(Event("begin", "b", os.getpid()))

    pool = WorkerPool(bus, 1, initializer=initialize)
    pool.on("a", name="one")(print)
    with pool:
        assert take(out, 1) == pool.pids
        assert bus.topic_exists("c")
        assert bus.statistics().links == 2


def test_one_that_fails_stops_the_start(bus: EventBus) -> None:
    def initialize() -> None:
        raise KeyError("no model here")

    pool = WorkerPool(bus, 2, initializer=initialize)
    pool.on("a", name="one")(print)
    with pytest.raises(EventBusError, match=r"(?s)the pool's initializer raised in worker \d+:.*no model here"):
        pool.start()
    assert pool.pids == []
    assert pool.restarts == 0


def test_one_that_fails_later_does_not_respawn_for_ever(
    bus: EventBus, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eventbus_mp.worker.supervisor.RETRY_S", 0.01)
    began = tmp_path / "began"

    def initialize() -> None:
        if began.exists():
            raise SystemExit("only once")
        began.touch()

    pool = WorkerPool(bus, 1, initializer=initialize)
    pool.on("a", name="one")(print)
    with caplog.at_level(logging.ERROR, "eventbus_mp"), pool:
        os.kill(pool.pids[0], signal.SIGKILL)
        assert pool._supervisor.monitor is not None
        pool._supervisor.monitor.join(60)
    assert "5 workers in a row did not become ready; the pool gives up" in caplog.text
    assert caplog.text.count("only once") >= 5


def test_a_finalizer_that_fails_is_logged_and_the_worker_leaves(
    bus: EventBus, capfd: pytest.CaptureFixture[str]
) -> None:
    def finalize() -> None:
        raise ValueError("cannot say goodbye")

    pool = WorkerPool(bus, 1, start_method="spawn", finalizer=finalize)
    pool.on("a", name="one")(print)
    with pool:
        bus.notify(Event("1", "a", 1))
        bus.drain("a", timeout_s=30)
    assert "cannot say goodbye" in capfd.readouterr().err
    assert bus.statistics().links == 1


def test_a_finalizer_runs_when_the_bus_is_lost(bus: EventBus, tmp_path: Path) -> None:
    done = tmp_path / "done"
    pool = WorkerPool(bus, 1, finalizer=done.touch)
    pool.on("a", name="one")(print)
    with pool:
        bus.shutdown()
    assert done.exists()


@pytest.mark.parametrize("name", ["initializer", "finalizer"])
def test_what_is_no_function_is_refused(bus: EventBus, name: str) -> None:
    with pytest.raises(UsageError, match=f"{name}=5"):
        WorkerPool(bus, 1, **{name: 5})  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["initializer", "finalizer"])
def test_one_that_cannot_be_sent_is_named(bus: EventBus, name: str) -> None:
    generator = (number for number in range(3))
    pool = WorkerPool(bus, 1, **{name: lambda: next(generator)})  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=f"the {name} cannot be sent"):
        pool.start()


# --- instruments ---


class Tells(Instrument):
    """Writes each hook's name, with the process, to a file of its own."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def _tell(self, what: str) -> None:
        with (self.path / str(os.getpid())).open("a") as file:
            file.write(what + "\n")

    def after_connect(self, bus: str, error: BaseException | None) -> None:
        self._tell("connected")

    def before_handle(self, subscriber: SubscriberKey, items: Sequence[Any]) -> None:
        self._tell(f"handles {items[0].id}")


def told(path: Path) -> dict[int, list[str]]:
    return {int(file.name): file.read_text().splitlines() for file in path.iterdir()}


def test_workers_have_the_instruments_of_the_bus(make_bus: Make, tmp_path: Path) -> None:
    path = tmp_path / "told"
    path.mkdir()
    bus = make_bus(topics=["a"], instruments=[Tells(path)])
    pool = WorkerPool(bus, 1)
    pool.on("a", name="one")(print)
    with pool:
        (pid,) = pool.pids
        bus.notify(Event("1", "a", 1))
        bus.drain(timeout_s=30)
    assert told(path) == {os.getpid(): ["connected"], pid: ["connected", "handles 1"]}


def test_one_may_be_made_from_what_the_initializer_has_made(make_bus: Make, tmp_path: Path) -> None:
    path = tmp_path / "told"
    made: dict[str, Instrument] = {"tells": Instrument()}

    def initialize() -> None:
        path.mkdir()
        made["tells"] = Tells(path)

    bus = make_bus(topics=["a"], instruments=[lambda: made["tells"]])
    pool = WorkerPool(bus, 1, initializer=initialize)
    pool.on("a", name="one")(print)
    with pool:
        (pid,) = pool.pids
        bus.notify(Event("1", "a", 1))
        bus.drain(timeout_s=30)
    assert told(path) == {pid: ["connected", "handles 1"]}


@pytest.mark.parametrize("pools_has_some", [False, True])
def test_a_worker_has_those_of_its_pool_alone_and_says_so_where_they_are_missed(
    make_bus: Make, tmp_path: Path, run_dir: Path, pools_has_some: bool
) -> None:
    pools, others = tmp_path / "pools", tmp_path / "others"
    pools.mkdir()
    others.mkdir()
    log_file = tmp_path / "log"

    def initialize() -> None:
        logging.getLogger("eventbus_mp").addHandler(logging.FileHandler(log_file))
        other = EventBus("test", run_dir=str(run_dir), instruments=[Tells(others)])
        other.notify(Event("0", "a", 0))

    bus = make_bus(topics=["a"], instruments=[Tells(pools)] if pools_has_some else [])
    pool = WorkerPool(bus, 1, initializer=initialize)
    pool.on("a", name="one")(print)
    with pool:
        (pid,) = pool.pids
        bus.notify(Event("1", "a", 1))
        bus.drain(timeout_s=30)
    assert told(others) == {}
    assert (pid in told(pools)) == pools_has_some
    said = log_file.read_text()
    assert ("give them to the handle that the pool is made with" in said) == (not pools_has_some)


class Unshippable(Instrument):
    def __init__(self) -> None:
        self.generator = (number for number in range(3))


def test_an_instrument_that_cannot_be_sent_is_named(make_bus: Make) -> None:
    pool = WorkerPool(make_bus(instruments=[Unshippable()]), 1)
    with pytest.raises(UsageError, match="the bus's instruments cannot be sent"):
        pool.start()
