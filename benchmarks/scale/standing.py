"""What the bus costs when nothing happens, to begin with, and after it has been running for long."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.scale.growth import Row
from benchmarks.scale.proc import cpu_ns, private_bytes, voluntary_switches
from benchmarks.scale.setting import TIMEOUT_S, setting
from eventbus_mp import EventBus
from eventbus_mp.bench.bus import running_bus

__all__ = ["connecting", "idle", "long_run"]

TOPIC = "flowing"
SETTLE_DOWN_S = 0.5
CHUNK = 10_000


def connecting(repeats: int) -> Iterator[Row]:
    """From a handle to its first answer: with the start of a manager, and with one that runs; medians."""
    cold_ms, warm_ms = [], []
    for _ in range(repeats):
        with tempfile.TemporaryDirectory(prefix="ebmp-bench-") as directory:
            began = time.monotonic()
            with running_bus(Path(directory), [TOPIC]) as (bus, _):
                cold_ms.append((time.monotonic() - began) * 1e3)
                began = time.monotonic()
                with EventBus(bus.name, run_dir=directory) as other:
                    other.topics()
                    warm_ms.append((time.monotonic() - began) * 1e3)
    yield {"repeats": repeats, "cold ms": statistics.median(cold_ms), "warm ms": statistics.median(warm_ms)}


def idle(processes: list[int], seconds: float) -> Iterator[Row]:
    """Processes are connected and subscribed, and nothing is published."""
    for count in processes:
        with setting([TOPIC]) as scene:
            scene.subscribe(["idle"], TOPIC, processes=count)
            scene.flow([TOPIC], CHUNK)
            time.sleep(SETTLE_DOWN_S)
            computed_ns, slept = cpu_ns(scene.manager_pid), voluntary_switches(scene.manager_pid)
            time.sleep(seconds)
            yield {
                "processes": count,
                "seconds": seconds,
                "manager CPU ms": (cpu_ns(scene.manager_pid) - computed_ns) / 1e6,
                "manager wake-ups": voluntary_switches(scene.manager_pid) - slept,
            }


def long_run(total: int) -> Iterator[Row]:
    """The manager's memory after a tenth of the events, after half of them, and after all: published and settled."""
    with setting([TOPIC]) as scene:
        scene.subscribe(["all"], TOPIC)
        done = 0
        for mark in (total // 10, total // 2, total):
            while done < mark:
                scene.publish([TOPIC], min(CHUNK, mark - done))
                done += min(CHUNK, mark - done)
            scene.bus.drain(timeout_s=TIMEOUT_S)
            yield {"events settled": done, "manager MiB": private_bytes(scene.manager_pid) / (1 << 20)}
