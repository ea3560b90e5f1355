"""What a peer offers. A new peer is one module with these classes, and a line in `peers/__init__.py`.

The rules that make it the same work for everybody: an event is a small dict, or a dict with an array in it; it is
made while the clock runs; every subscriber decodes every event and acknowledges it; the clock stops when the
producer knows of the last acknowledgement.
"""

from __future__ import annotations

import importlib
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from eventbus_mp.bench.payloads import Data

__all__ = ["ConsumerTicket", "Data", "Layout", "Peer", "PoolRig", "ProducerTicket", "Rig", "Source", "Take"]

Take = Callable[[Data], None]


@dataclass(frozen=True)
class Layout:
    """The processes of a run, and what they pass on."""

    producers: int = 1
    """One is the benchmark itself; more are processes of their own."""
    subscribers: int = 1
    """Each gets every event of its stage."""
    processes_each: int = 1
    """Processes that share one subscriber's events."""
    stages: int = 1
    """A stage's consumer publishes what it took to the next one."""
    array_bytes: int = 0
    """The size of the array in an event; 0: there is none."""
    task_ns: int = 0
    """CPU time that a consumer spends on each event."""


class ConsumerTicket(ABC):
    """What one consumer process is given: it can be pickled, and has no connection yet."""

    @abstractmethod
    def consume(self, take: Take, ready: Callable[[], None], stopping: threading.Event) -> None:
        """Connect, say `ready()` when nothing can be missed any more, and `take` each event's decoded data.

        In a stage that is not the last one, publish the data to the next stage after `take` has returned; then
        acknowledge. Return when `stopping` is set, or when the rig's `end` says so.
        """


class Source(ABC):
    """What publishes, in whichever process."""

    @abstractmethod
    def publish(self, items: Iterable[Data]) -> None:
        """Send each item to every subscriber of the first stage. It may return before they have it."""

    def flush(self) -> None:
        """Called after `publish` in a process of its own: everything must be on its way when it returns."""
        return  # Most have nothing to wait for.


class ProducerTicket(ABC):
    """What one producer process is given: it can be pickled, and has no connection yet."""

    @abstractmethod
    def open(self) -> AbstractContextManager[Source]:
        """Connect."""


class Rig(ABC):
    """One run, seen from the benchmark's own process."""

    @abstractmethod
    def consumer(self, stage: int, subscriber: int, process: int) -> ConsumerTicket:
        """For one process of this subscriber; the processes of one subscriber share its events."""

    @abstractmethod
    def producer(self) -> ProducerTicket:
        """For one more producer."""

    def source(self) -> AbstractContextManager[Source]:
        """The producer that is this process."""
        return self.producer().open()

    @abstractmethod
    def finish(self, deliveries: int, timeout_s: float) -> None:
        """Wait until `deliveries` deliveries have been acknowledged since the beginning.

        Raises:
            TimeoutError: It did not happen within `timeout_s`.
        """

    def end(self) -> None:
        """Tell consumers that wait without looking at `stopping` that nothing more comes."""
        return  # Most look.

    def servers(self) -> dict[str, int]:
        """The processes between producer and consumers: what it is -> pid."""
        return {}


class PoolRig(Rig):
    """Brings its own worker processes; there are no consumers to start."""

    def consumer(self, stage: int, subscriber: int, process: int) -> ConsumerTicket:
        raise NotImplementedError("a pool starts its own processes")

    @abstractmethod
    def workers(self) -> list[int]:
        """The pids of its processes."""

    @abstractmethod
    def handled(self) -> tuple[int, int]:
        """(events, sum of all `n`) so far."""


class Peer(ABC):
    """One way to get events from a process to others."""

    name: str
    requires: tuple[str, ...] = ()
    """Modules that have to be installed."""

    def missing(self) -> str | None:
        """Why it cannot run here, such as a package that is not installed; None when it can."""
        for module in self.requires:
            try:
                importlib.import_module(module)
            except ModuleNotFoundError as error:
                return f"not installed: {error.name}"
            except Exception as error:  # Some are installed, but not made for this Python.
                return f"cannot be imported: {error!r}"
        return None

    def supports(self, layout: Layout, paced: bool) -> bool:
        """Whether it can do this at all; `paced`: events are sent one at a time, and latency is measured."""
        return not layout.task_ns

    @abstractmethod
    def open(self, layout: Layout, directory: Path) -> AbstractContextManager[Rig]:
        """Set up everything but the consumers; leaving takes all of it down, whatever happened.

        Args:
            directory: Empty, for sockets and files; it is removed after the run.
        """
