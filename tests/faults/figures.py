"""The figures of docs/failures.md, one command each: `python -m tests.faults.figures worker|manager|leaks [--times N]`.

They take minutes. A short version of each is in the suite; these are for the numbers.
"""

from __future__ import annotations

import argparse
import os
import select
import signal
import statistics
import struct
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from eventbus_mp import Event, EventBus
from eventbus_mp.memory.shm import SHARED_MEMORY
from eventbus_mp.runtime.rundir import RunDir
from tests.faults.helpers import end_with_parent

__all__ = ["Worker", "kill_managers", "kill_workers", "look_for_leaks", "main"]

WINDOW = 2_000
"""Unsettled events that a producer keeps on the way: full load without a queue that only grows."""


NOTE = struct.Struct("=QQ")
READY = bytes([255]) * NOTE.size


class Worker:
    """A forked process that hosts subscriber "taker", and tells each event with the time it came."""

    def __init__(self, bus: EventBus) -> None:
        self.said, says = os.pipe()
        self.pid = os.fork()
        if not self.pid:
            end_with_parent()
            os.close(self.said)
            bus.on("a", name="taker", credit=64)(
                lambda event: os.write(says, NOTE.pack(int(event.id), time.monotonic_ns()))
            )
            os.write(says, READY)
            signal.pause()
        os.close(says)
        self.rest = b""
        self.highest = -1
        early = b""  # Events may come before it is ready.
        while not early.endswith(READY):
            early += os.read(self.said, len(READY))
        self.rest = early[: -len(READY)]

    def read(self) -> list[tuple[int, int]]:
        """(event, time) of what it has reported; whole notes only, because a pipe takes something that small whole."""
        found: list[tuple[int, int]] = []
        while select.select([self.said], [], [], 0)[0]:
            data = os.read(self.said, 1 << 16)
            if not data:
                break
            data, self.rest = self.rest + data, b""
            whole = len(data) // 16 * 16
            self.rest = data[whole:]
            found += NOTE.iter_unpack(data[:whole])
        return found

    def kill(self) -> int:
        """When it was killed, and is known to be dead."""
        os.kill(self.pid, signal.SIGKILL)
        killed_ns = time.monotonic_ns()
        os.waitpid(self.pid, 0)
        return killed_ns

    def close(self) -> None:
        os.close(self.said)


def kill_workers(run_dir: str, times: int) -> dict[str, Any]:
    """Two workers share the load; one after the other is killed and replaced."""
    bus = EventBus("figures", ["a"], run_dir=run_dir, crashes_max=1000, orphan_grace_s=60, memory_bytes_max=64 << 20)
    bus.topics()
    workers, sent, waits = [Worker(bus), Worker(bus)], 0, []
    got: dict[int, int] = {}
    for turn in range(times):
        while len(got) < sent - WINDOW:
            _take(workers, got)
        bus.notify_many(Event(str(number), "a", b"x" * 100) for number in range(sent, sent + 500))
        sent += 500
        _take(workers, got)
        victim, other = workers[turn % 2], workers[1 - turn % 2]
        killed_ns = victim.kill()
        _take([victim], got)
        waits.append(_redelivered_after(bus, killed_ns, other, got))
        victim.close()
        workers[turn % 2] = Worker(bus)
    while len(got) < sent:
        _take(workers, got)
    bus.drain(timeout_s=60)
    now = bus.statistics()
    for worker in workers:
        worker.kill()
        worker.close()
    bus.unsubscribe("taker")
    leaked = now.memory_bytes_used - now.span_holders.get(os.getpid(), 0)
    lost = sent - len(got)
    redelivered = now.subscribers[0].redelivered
    bus.shutdown()
    found = sorted(wait for wait in waits if wait is not None)
    return {
        "times": times,
        "events": sent,
        "lost": lost,
        "leaked_bytes": leaked,
        "redelivered": redelivered,
        "redelivery_ms_median": statistics.median(found) if found else None,
        "redelivery_ms_max": found[-1] if found else None,
    }


def _take(workers: list[Worker], got: dict[int, int]) -> None:
    for worker in workers:
        for number, when in worker.read():
            got[number] = when
            worker.highest = max(worker.highest, number)


def _redelivered_after(bus: EventBus, killed_ns: int, other: Worker, got: dict[int, int]) -> float | None:
    """Milliseconds from the kill until another worker got what the dead one held; None: it held nothing.

    Fresh events come to a worker in ascending order, so one that is lower than one before was sent again.
    """
    idle, again_ns = False, 0
    while True:
        for number, when in other.read():
            got[number] = when
            if number < other.highest and when > killed_ns:
                again_ns = again_ns or when
            other.highest = max(other.highest, number)
        if again_ns or idle:
            return (again_ns - killed_ns) / 1e6 if again_ns else None
        idle = not bus.statistics().events_unsettled


def kill_managers(run_dir: str, times: int) -> dict[str, Any]:
    """The manager is killed again and again with 10,000 events unsettled, under load from a second topic."""
    bus = EventBus("figures", ["a", "hoard"], run_dir=run_dir, memory_bytes_max=64 << 20)
    hoard = bus.inbox("hoarder", ["hoard"], credit=100)
    bus.notify_many(Event(str(number), "hoard", number) for number in range(10_000))
    worker, sent, pauses = Worker(bus), 0, []
    got: list[int] = []
    for _ in range(times):
        bus.notify_many(Event(str(number), "a", b"x" * 100) for number in range(sent, sent + 500))
        sent += 500
        pid = bus.statistics().manager_pid
        os.kill(pid, signal.SIGKILL)
        began_ns = time.monotonic_ns()
        bus.topics()
        pauses.append((time.monotonic_ns() - began_ns) / 1e6)
        got += [number for number, _ in worker.read()]
    while len(got) < sent:
        select.select([worker.said], [], [], 10)
        got += [number for number, _ in worker.read()]
    hoarded: set[int] = set()
    while len(hoarded) < 10_000:
        for shadow in hoard.get_many(100, 10):
            hoarded.add(int(shadow.id))
            hoard.complete(shadow)
    bus.drain(timeout_s=60)
    worker.kill()
    worker.close()
    bus.unsubscribe("taker")
    bus.shutdown()
    pauses.sort()
    return {
        "times": times,
        "events": sent + 10_000,
        "lost": sent - len(set(got)),
        "twice": len(got) - len(set(got)),
        "pause_ms_median": statistics.median(pauses),
        "pause_ms_max": pauses[-1],
    }


def look_for_leaks(run_dir: str, times: int) -> dict[str, Any]:
    """`times` small events and a thousandth of it large ones: memory, descriptors and spans before and after."""
    bus = EventBus("figures", ["a"], run_dir=run_dir, memory_bytes_max=64 << 20)
    worker = _counting_worker(bus)
    small = [Event(str(number), "a", number) for number in range(1_000)]
    large = Event("large", "a", b"x" * 1_000_000)
    samples = []
    for turn in range(0, times, 1_000):
        bus.notify_many(small)
        if turn % 1_000_000 == 0:
            for _ in range(1_000):
                bus.notify(large)
        if turn % (times // 10) == 0:
            bus.drain(timeout_s=120)
            samples.append(_sample(bus, worker))
    bus.drain(timeout_s=120)
    samples.append(_sample(bus, worker))
    os.kill(worker, signal.SIGKILL)
    os.waitpid(worker, 0)
    bus.unsubscribe("taker")
    bus.shutdown()
    return {"events": times, "first": samples[2], "last": samples[-1]}


def _counting_worker(bus: EventBus) -> int:
    ready, says = os.pipe()
    pid = os.fork()
    if not pid:
        end_with_parent()
        bus.on("a", name="taker")(lambda event: None)
        os.write(says, b"r")
        signal.pause()
    os.read(ready, 1)
    os.close(ready)
    os.close(says)
    return pid


def _sample(bus: EventBus, worker: int) -> dict[str, int]:
    now = bus.statistics()
    found = {"used": now.memory_bytes_used, "segments": now.segments}
    for name, pid in (("manager", now.manager_pid), ("producer", os.getpid()), ("worker", worker)):
        status = Path(f"/proc/{pid}/status").read_text()
        found[f"{name}_anon_kb"] = int(status.partition("RssAnon:")[2].split()[0])
        found[f"{name}_fds"] = len(os.listdir(f"/proc/{pid}/fd"))
    return found


COMMANDS: dict[str, tuple[Callable[[str, int], dict[str, Any]], int]] = {
    "worker": (kill_workers, 1_000),
    "manager": (kill_managers, 200),
    "leaks": (look_for_leaks, 10_000_000),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("what", choices=COMMANDS)
    parser.add_argument("--times", type=int)
    options = parser.parse_args()
    measure, usual = COMMANDS[options.what]
    with tempfile.TemporaryDirectory(prefix="ebmp-figures-") as run_dir:
        for name, value in measure(run_dir, options.times or usual).items():
            print(f"{name}: {value}")
        print("left in /dev/shm:", SHARED_MEMORY.leftovers(RunDir(run_dir, "figures").segment_prefix))
    return 0


if __name__ == "__main__":
    sys.exit(main())
