"""One run of one peer in one topology."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from types import FrameType

from benchmarks.consumer import Consumer, Tally
from benchmarks.peers.interface import Peer, Rig
from benchmarks.topologies import Topology, make_data

__all__ = ["Measurement", "measure"]

RUN_TIMEOUT_S = 120
WARM_UP_SHARE = 0.1
"""Of the paced events, so many come first and do not count."""

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Measurement:
    """What one run gave."""

    events: int
    deliveries: int
    elapsed_s: float
    cpu_s: dict[str, float]
    """CPU seconds of producer and servers while the clock ran, and of each consumer from ready to end."""
    latency_p50_us: float = 0.0
    latency_p99_us: float = 0.0

    @property
    def events_per_s(self) -> float:
        return self.events / self.elapsed_s

    @property
    def deliveries_per_s(self) -> float:
        return self.deliveries / self.elapsed_s


def measure(peer: Peer, topology: Topology, events: int, tell: Callable[[str], None]) -> Measurement:
    """Run it once.

    Args:
        tell: Called with the pids, once everybody is ready: something to point a profiler at.

    Raises:
        TimeoutError: It took longer than `RUN_TIMEOUT_S`, or a part of it longer than its own bound.
        RuntimeError: A consumer ended early, or an event did not arrive exactly once.
    """
    with ExitStack() as stack:
        stack.enter_context(_time_limit(RUN_TIMEOUT_S))
        rig = stack.enter_context(peer.open(topology.subscribers))
        consumers: list[Consumer] = []
        for subscriber in range(topology.subscribers):
            for _ in range(topology.processes_each):
                consumers.append(Consumer(rig.ticket(subscriber), timed=topology.is_latency))
                stack.callback(consumers[-1].close)
        for consumer in consumers:
            consumer.await_ready()
        tell(_pids(rig, consumers))
        elapsed_s, cpu_s = _clocked(rig, topology, events)
        tallies = [consumer.stop() for consumer in consumers]
    _check(topology, events, tallies)
    cpu_s.update({f"consumer {number}": tally.cpu_s for number, tally in enumerate(tallies, 1)})
    latencies_us = [elapsed_ns / 1000 for tally in tallies for elapsed_ns in _steady(tally.latencies_ns)]
    return Measurement(
        events,
        events * topology.subscribers,
        elapsed_s,
        cpu_s,
        _percentile(latencies_us, 0.50),
        _percentile(latencies_us, 0.99),
    )


def _clocked(rig: Rig, topology: Topology, events: int) -> tuple[float, dict[str, float]]:
    """Publish, and wait for the last acknowledgement: (seconds, CPU seconds of producer and servers)."""
    servers_before = {name: _cpu_s(pid) for name, pid in rig.servers().items()}
    cpu_before, began = time.process_time(), time.monotonic()
    if topology.is_latency:
        _publish_paced(rig, events, 1_000_000_000 // topology.events_per_s)
    else:
        rig.publish(make_data(n) for n in range(events))
    rig.finish(RUN_TIMEOUT_S)
    elapsed_s, producer_cpu_s = time.monotonic() - began, time.process_time() - cpu_before
    servers = {name: _cpu_s(pid) - servers_before[name] for name, pid in rig.servers().items()}
    return elapsed_s, {"producer": producer_cpu_s, **servers}


def _publish_paced(rig: Rig, events: int, interval_ns: int) -> None:
    """One event at each deadline. The deadlines are fixed beforehand, so lateness does not add up."""
    deadline_ns = time.monotonic_ns()
    for n in range(events):
        deadline_ns += interval_ns
        time.sleep(max(0, deadline_ns - time.monotonic_ns()) / 1e9)
        rig.publish([make_data(n, sent_ns=time.monotonic_ns())])


def _check(topology: Topology, events: int, tallies: list[Tally]) -> None:
    wanted = (events * topology.subscribers, events * (events - 1) // 2 * topology.subscribers)
    got = (sum(tally.events for tally in tallies), sum(tally.numbers for tally in tallies))
    if got != wanted:
        raise RuntimeError(f"the consumers counted (events, sum of n) = {got}, but {wanted} were sent")


def _steady(latencies_ns: list[int]) -> list[int]:
    return latencies_ns[int(len(latencies_ns) * WARM_UP_SHARE) :]


def _percentile(values: list[float], share: float) -> float:
    return sorted(values)[int(len(values) * share)] if values else 0.0


def _cpu_s(pid: int) -> float:
    """CPU seconds of another process so far, to the hundredth: the kernel counts them in ticks."""
    with open(f"/proc/{pid}/stat") as file:
        after_name = file.read().rpartition(")")[2].split()
    user, system = after_name[11:13]
    return (int(user) + int(system)) / _TICKS_PER_S


def _pids(rig: Rig, consumers: list[Consumer]) -> str:
    servers = [f"{name} {pid}" for name, pid in rig.servers().items()]
    served = [f"consumer {consumer.pid}" for consumer in consumers]
    return ", ".join([f"producer {os.getpid()}", *servers, *served])


@contextmanager
def _time_limit(seconds: int) -> Iterator[None]:
    """Raise TimeoutError in the main thread, also out of a call that has no timeout of its own."""

    def on_alarm(signum: int, frame: FrameType | None) -> None:
        raise TimeoutError(f"one run took more than {seconds} s")

    previous = signal.signal(signal.SIGALRM, on_alarm)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, previous)
