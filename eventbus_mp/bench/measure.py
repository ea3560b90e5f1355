"""One run of one peer in one topology."""

from __future__ import annotations

import faulthandler
import os
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from eventbus_mp.bench.consumer import Consumer, Tally
from eventbus_mp.bench.interface import Peer, PoolRig, Rig
from eventbus_mp.bench.producers import Here, Processes
from eventbus_mp.bench.topologies import Topology

__all__ = ["Measurement", "Stage", "cpu_s", "measure"]

RUN_TIMEOUT_S = 60
STUCK_S = 30
WARM_UP_S, WARM_UP_SHARE = 0.2, 0.2
"""Events go for this time, or this share of what is to be measured, before the clock starts."""
WARM_UP_FIRST = 4

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Measurement:
    """What one run gave."""

    events: int
    deliveries: int
    elapsed_s: float
    cpu_s: dict[str, float]
    """CPU seconds of each process while the clock ran."""
    latencies_us: tuple[float, ...] = ()
    """p50, p99 and p99.9."""

    @property
    def events_per_s(self) -> float:
        return self.events / self.elapsed_s

    @property
    def deliveries_per_s(self) -> float:
        return self.deliveries / self.elapsed_s


@dataclass
class Stage:
    """Everybody who takes part, ready."""

    rig: Rig
    topology: Topology
    producers: Here | Processes
    consumers: list[Consumer]

    def pids(self) -> dict[str, int]:
        names = {f"producer {number}": pid for number, pid in enumerate(self.producers.pids, 1)}
        workers = self.rig.workers() if isinstance(self.rig, PoolRig) else [consumer.pid for consumer in self.consumers]
        consumers = {f"consumer {number}": pid for number, pid in enumerate(workers, 1)}
        return {**names, **self.rig.servers(), **consumers}


def measure(
    peer: Peer, topology: Topology, events_max: int, seconds: float, tell: Callable[[str], None]
) -> Measurement:
    """Run it once.

    Args:
        seconds: About how long, unless `events_max` are over before.
        tell: Called with the pids, once everybody is warm: something to point a profiler at.

    Raises:
        TimeoutError: It took longer than `RUN_TIMEOUT_S`, or a part of it longer than its own bound.
        RuntimeError: A consumer ended early, or an event did not arrive exactly once.
    """
    with ExitStack() as stack:
        stack.enter_context(_time_limit(RUN_TIMEOUT_S))
        stage = _set_up(peer, topology, stack)
        warm_up, rate = _warm_up(stage, events_max)
        events = min(events_max, max(WARM_UP_FIRST, int(rate * seconds)))
        tell(", ".join(f"{name} {pid}" for name, pid in stage.pids().items()))
        measurement = _clocked(stage, range(warm_up, warm_up + events))
        stage.rig.end()
        tallies = _tallies(stage)
    _check(topology, warm_up + events, tallies)
    latencies_us = sorted(ns / 1000 for tally in tallies for ns in tally.latencies_ns[warm_up:])
    shares = (0.50, 0.99, 0.999) if latencies_us else ()
    percentiles = tuple(latencies_us[int(len(latencies_us) * share)] for share in shares)
    return Measurement(events, events * topology.deliveries_each, *measurement, percentiles)


def _set_up(peer: Peer, topology: Topology, stack: ExitStack) -> Stage:
    layout = topology.layout
    directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ebmp-bench-")))
    rig = stack.enter_context(peer.open(layout, directory))
    consumers: list[Consumer] = []
    if not isinstance(rig, PoolRig):
        for stage in range(layout.stages):
            for subscriber in range(layout.subscribers):
                for process in range(layout.processes_each):
                    ticket = rig.consumer(stage, subscriber, process)
                    consumers.append(Consumer(ticket, layout, timed=topology.is_latency))
                    stack.callback(consumers[-1].close)
        for consumer in consumers:
            consumer.await_ready()
    if layout.producers == 1:
        here = Here(stack.enter_context(rig.source()), topology.payload)
        return Stage(rig, topology, here, consumers)
    children = []
    for _ in range(layout.producers):
        children.append(Processes.start(rig.producer(), topology.payload))
        stack.callback(children[-1].close)
    for child in children:
        child.await_ready()
    return Stage(rig, topology, Processes(children), consumers)


def _warm_up(stage: Stage, events_max: int) -> tuple[int, float]:
    """Send more and more: (how many went, how many a second at the end)."""
    enough = max(1, int(events_max * WARM_UP_SHARE))
    _send(stage, range(WARM_UP_FIRST))  # Consumers import what they need, and look at a whole array.
    sent, count = WARM_UP_FIRST, enough if stage.topology.is_latency else WARM_UP_FIRST
    while True:
        elapsed_s = _send(stage, range(sent, sent + count))
        sent += count
        if elapsed_s >= WARM_UP_S or sent >= enough:
            return sent, count / elapsed_s
        count *= 2


def _send(stage: Stage, numbers: range) -> float:
    """Publish, and wait for the last acknowledgement: how many seconds it took."""
    began = time.monotonic()
    _publish(stage, numbers)
    stage.rig.finish(numbers.stop * stage.topology.deliveries_each, RUN_TIMEOUT_S)
    return time.monotonic() - began


def _publish(stage: Stage, numbers: range) -> None:
    if stage.topology.is_latency:
        assert isinstance(stage.producers, Here)
        stage.producers.publish_paced(numbers, 1_000_000_000 // stage.topology.events_per_s)
    else:
        stage.producers.publish(numbers)


def _clocked(stage: Stage, numbers: range) -> tuple[float, dict[str, float]]:
    """(seconds, CPU seconds of each process)."""
    pids = stage.pids()
    before = {name: cpu_s(pid) for name, pid in pids.items()}
    elapsed_s = _send(stage, numbers)
    return elapsed_s, {name: cpu_s(pid) - before[name] for name, pid in pids.items()}


def _tallies(stage: Stage) -> list[Tally]:
    if isinstance(stage.rig, PoolRig):
        return [Tally(*stage.rig.handled())]
    if isinstance(stage.producers, Processes):
        stage.producers.stop()
    return [consumer.stop() for consumer in stage.consumers]


def _check(topology: Topology, events: int, tallies: list[Tally]) -> None:
    wanted = (events * topology.deliveries_each, events * (events - 1) // 2 * topology.deliveries_each)
    got = (sum(tally.events for tally in tallies), sum(tally.numbers for tally in tallies))
    if got != wanted:
        raise RuntimeError(f"the consumers counted (events, sum of n) = {got}, but {wanted} were sent")


def cpu_s(pid: int) -> float:
    """CPU seconds of a process so far, to the hundredth: the kernel counts them in ticks."""
    with open(f"/proc/{pid}/stat") as file:
        after_name = file.read().rpartition(")")[2].split()
    user, system = after_name[11:13]
    return (int(user) + int(system)) / _TICKS_PER_S


@contextmanager
def _time_limit(seconds: int) -> Iterator[None]:
    """Raise TimeoutError in the main thread, also out of a call that has no timeout of its own.

    A call that does not come back to Python at all ends the benchmark, with a traceback that says where.
    """

    def on_alarm(signum: int, frame: FrameType | None) -> None:
        raise TimeoutError(f"one run took more than {seconds} s")

    previous = signal.signal(signal.SIGALRM, on_alarm)
    signal.alarm(seconds)
    faulthandler.dump_traceback_later(seconds + STUCK_S, exit=True)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()
        signal.alarm(0)
        signal.signal(signal.SIGALRM, previous)
