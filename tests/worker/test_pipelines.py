"""Pipelines larger than the bus's memory, with real workers: they go on, and lose nothing."""

import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from eventbus_mp import Event, EventBus, Inbox, WorkerPool
from eventbus_mp.memory.shm import SHARED_MEMORY
from tests.helpers import until
from tests.pipelines import Pipeline, Stage, draw

Make = Callable[..., EventBus]
MIB = 1 << 20


@pytest.fixture
def spill_dir(tmp_path: Path) -> Path:
    """Where a test's files lie."""
    directory = tmp_path / "spilled"
    directory.mkdir()
    return directory


def skipped(bus: EventBus) -> list[Any]:
    return [(item.name, item.recent_skips) for item in bus.statistics().subscribers if item.skipped]


def failed(bus: EventBus) -> list[Any]:
    """What is unsettled, and went wrong before."""
    return [item for item in bus.stuck(0.0) if item.last_error]


def stage_handler(bus: EventBus, stage: Stage) -> Callable[[Event], None]:
    def handle(event: Event) -> None:
        end_ns = time.monotonic_ns() + min(stage.cost_ns, 1_000_000)
        while time.monotonic_ns() < end_ns:
            sum(range(1_000))  # As long as the work takes.
        for topic, number in stage.outputs.items():
            for copy in range(number):
                bus.notify(Event(f"{event.id}.{copy}", topic, bytes(stage.nbytes)))

    return handle


def run(bus: EventBus, pipeline: Pipeline) -> None:
    """Have real workers run it; returns when everything is settled."""
    pools: dict[tuple[int, ...], WorkerPool] = {}
    counts = Counter(map(tuple, pipeline.workers))
    for stages, count in counts.items():
        pools[stages] = pool = WorkerPool(bus, count, start_method="fork")
        for index in stages:
            stage = pipeline.stages[index]
            pool.on(stage.topic, name=stage.topic)(stage_handler(bus, stage))
    with ExitStack() as stack:
        for pool in pools.values():
            stack.enter_context(pool)
        for number in range(pipeline.fed):
            bus.notify(Event(str(number), pipeline.stages[0].topic, bytes(pipeline.fed_bytes)))
        bus.drain(timeout_s=60)
        runs = {item.name: item.completed for item in bus.statistics().subscribers}
        assert runs == pipeline.runs(), pipeline
        assert not skipped(bus)


def check(make_bus: Make, spill_dir: Path, pipeline: Pipeline, name: str = "test", **settings: Any) -> None:
    topics = [stage.topic for stage in pipeline.stages]
    bus = make_bus(
        name, topics, memory_bytes_max=pipeline.memory_bytes, spill_dir=str(spill_dir), notify_timeout_s=60, **settings
    )
    run(bus, pipeline)
    bus.shutdown()
    assert not list(spill_dir.iterdir())


SLOW_END = [Stage("t0", {"t1": 1}, 4_000), Stage("t1", {"t2": 1}, 4_000), Stage("t2", cost_ns=300_000)]


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize("workers", [[[0, 1, 2]] * 2, [[0], [1], [2]]], ids=["one pool", "a pool each"])
def test_three_stages_the_last_of_which_is_the_slowest(
    make_bus: Make, spill_dir: Path, workers: list[list[int]]
) -> None:
    check(make_bus, spill_dir, Pipeline(SLOW_END, workers, 4 * MIB, fed=3_000, fed_bytes=4_000))


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_handler_that_makes_more_than_the_memory_holds(make_bus: Make, spill_dir: Path) -> None:
    """Both workers are in the first stage, and nobody else could free anything."""
    stages = [Stage("t0", {"t1": 2_000}, 4_000), Stage("t1")]
    check(make_bus, spill_dir, Pipeline(stages, [[0, 1]] * 2, 2 * MIB, fed=4, fed_bytes=0))


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize("part", range(3))
def test_pipelines_of_any_shape(make_bus: Make, spill_dir: Path, part: int) -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    check(make_bus, spill_dir, draw(seed, runs_max=800), f"test{part}")


@pytest.mark.soak
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize("seed", range(200))
def test_two_hundred_pipelines(make_bus: Make, spill_dir: Path, seed: int) -> None:
    check(make_bus, spill_dir, draw(seed))


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_the_manager_is_killed_while_events_are_in_files(make_bus: Make, spill_dir: Path) -> None:
    bus = make_bus(topics=["file", "row"], memory_bytes_max=MIB, spill_dir=str(spill_dir), notify_timeout_s=60)
    out = bus.inbox("out", ["row"], credit=10_000)
    kill_at = [0, 60, 120]
    pool = WorkerPool(bus, 1, start_method="fork")

    @pool.on("file", name="files")
    def rows(event: Event) -> None:
        for number in range(200):
            bus.notify(Event(number, "row", bytes([number]) * 60_000))

    with pool:
        bus.notify(Event("f", "file", 0))
        until(lambda: bus.snapshot().memory.bytes_spilled)
        got: list[int] = []
        while len(got) < 200:
            for shadow in out.get_many(20, 30):
                if len(got) in kill_at:
                    os.kill(bus.statistics().manager_pid, signal.SIGKILL)
                data = bus.fetch_event_data(shadow)
                assert data == bytes([int(shadow.id)]) * 60_000
                del data
                got.append(int(shadow.id))
                out.complete(shadow)
        bus.drain(timeout_s=30)
    assert got == list(range(200))
    assert not skipped(bus)
    bus.shutdown()
    assert not list(spill_dir.iterdir())


def publish_until_done(bus: EventBus, count: int) -> Callable[[Event], None]:
    def handle(event: Event) -> None:
        for number in range(count):
            bus.notify(Event(number, "row", bytes(300_000)))

    return handle


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_handler_that_finds_the_bus_full_gets_its_event_again(make_bus: Make, spill_dir: Path) -> None:
    """Without files. No attempt is counted, nothing is skipped, and who asks hears why it waits."""
    bus = make_bus(topics=["file", "row"], memory_bytes_max=MIB, spill_bytes_max=0, notify_timeout_s=0.1)
    hoarder: Inbox = bus.inbox("hoarder", ["row"], credit=100)
    pool = WorkerPool(bus, 1, start_method="fork")
    pool.on("file", name="files", retries=0)(publish_until_done(bus, 8))
    with pool:
        bus.notify(Event("f", "file", 0))
        found = until(lambda: failed(bus))
        assert (found[0].subscriber.name, found[0].attempt) == ("files", 1)
        assert "BusFull" in str(found[0].last_error)
        while bus.statistics().events_unsettled:
            for shadow in hoarder.get_many(100, 0.2):
                hoarder.complete(shadow)
    files = next(item for item in bus.statistics().subscribers if item.name == "files")
    assert (files.completed, files.skipped) == (1, 0)


def test_a_directory_that_is_not_there_is_said(make_bus: Make, tmp_path: Path, run_dir: Path) -> None:
    """The bus goes on as it would without files."""
    bus = make_bus(topics=["file", "row"], memory_bytes_max=MIB, spill_dir=str(tmp_path / "none"), notify_timeout_s=0.1)
    bus.inbox("hoarder", ["row"], credit=100)
    bus.on("file", name="files")(publish_until_done(bus, 8))
    bus.notify(Event("f", "file", 0))
    found = until(lambda: failed(bus))  # It is looked at once: it may be tried again at any moment.
    assert "BusFull" in str(found[0].last_error)


@pytest.mark.usefixtures("cleans_alone")
def test_files_of_a_bus_that_was_killed_are_removed(
    make_bus: Make, spill_dir: Path, fork: Callable[..., Any], kill_bus: Callable[[], None]
) -> None:
    def work(to_parent: Any) -> None:
        bus = make_bus(topics=["file", "row"], memory_bytes_max=MIB, spill_dir=str(spill_dir))
        bus.inbox("hoarder", ["row"], credit=100)
        bus.on("file", name="files")(publish_until_done(bus, 20))
        bus.notify(Event("f", "file", 0))
        until(lambda: bus.statistics().events_unsettled >= 10)
        to_parent.send("in the middle")
        to_parent.recv()

    child = fork(work)
    assert child.hear() == "in the middle"
    child.kill()
    kill_bus()
    [left] = spill_dir.iterdir()
    assert left.name in SHARED_MEMORY.leftovers("ebmp-")
    assert left.stat().st_mode & 0o777 == 0o600
    make_bus(topics=["a"]).topics()  # The next start cleans.
    assert not list(spill_dir.iterdir())
