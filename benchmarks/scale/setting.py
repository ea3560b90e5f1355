"""A bus of its own for each case, with its manager's pid, and processes that subscribe."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

from benchmarks.scale.proc import cpu_ns
from eventbus_mp import Event, EventBus
from eventbus_mp.bench.bus import running_bus
from eventbus_mp.bench.child import READY, Child, enter
from eventbus_mp.bench.payloads import make_small

__all__ = ["Cost", "Setting", "setting"]

TIMEOUT_S = 300.0
MEMORY_BYTES_MIN = 256 << 20
EVENT_BYTES_MAX = 1024
"""More than a small event takes in shared memory."""


@dataclass(frozen=True)
class Cost:
    """Of one event, in microseconds."""

    elapsed_us: float
    manager_us: float
    """CPU time of the manager."""


@dataclass
class Setting:
    """One case's bus. The benchmark's own process is the producer."""

    bus: EventBus
    manager_pid: int
    directory: Path
    stack: ExitStack

    def subscribe(self, names: Sequence[str], pattern: str, processes: int = 1) -> None:
        """Processes with a handler under each name; processes that have the same names share the events."""
        children = [Child(_run, self.bus.name, str(self.directory), list(names), pattern) for _ in range(processes)]
        for child in children:
            self.stack.callback(child.close)
        for child in children:
            child.await_ready()
        self.stack.callback(_stop_all, children)

    def publish(self, topics: Sequence[str], events: int) -> None:
        """In turn to each of the topics."""
        notify, count = self.bus.notify, len(topics)
        for n in range(events):
            notify(Event(id=str(n), topic=topics[n % count], data=make_small(n, 0)))

    def flow(self, topics: Sequence[str], events: int) -> Cost:
        """Publish, and wait until all of these topics is settled. The topics are used once before."""
        pattern = f"{topics[0]}$" if len(topics) == 1 else ""
        self.publish(topics, max(len(topics), events // 10))
        self.bus.drain(pattern, timeout_s=TIMEOUT_S)

        def run() -> None:
            self.publish(topics, events)
            self.bus.drain(pattern, timeout_s=TIMEOUT_S)

        return self.cost(events, run)

    def cost(self, events: int, run: Callable[[], None]) -> Cost:
        """What each of the `events` that `run` publishes costs."""
        computed_ns, began = cpu_ns(self.manager_pid), time.monotonic()
        run()
        elapsed_s = time.monotonic() - began
        computed_ns = cpu_ns(self.manager_pid) - computed_ns
        return Cost(elapsed_s / events * 1e6, computed_ns / 1e3 / events)


@contextmanager
def setting(topics: Sequence[str], backlog: int = 0) -> Iterator[Setting]:
    """A bus that has room for a backlog of `backlog` events."""
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ebmp-bench-")))
        memory_bytes = max(MEMORY_BYTES_MIN, backlog * EVENT_BYTES_MAX)
        bus, pid = stack.enter_context(running_bus(directory, list(topics), memory_bytes_max=memory_bytes))
        yield Setting(bus, pid, directory, stack)


def _stop_all(children: list[Child]) -> None:
    for child in children:
        child.stop()


def _run(control: Connection, name: str, directory: str, names: list[str], pattern: str) -> None:
    """A subscriber process itself: it decodes each event and completes it."""
    stopping = enter(control)
    with EventBus(name, run_dir=directory) as bus:
        for subscriber in names:
            bus.on(pattern, name=subscriber)(_handle)
        control.send(READY)
        stopping.wait()
    control.send(READY)


def _handle(event: Event) -> None:
    assert event.data["paid"]
