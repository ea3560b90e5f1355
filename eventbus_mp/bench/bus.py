"""eventbus_mp: the producer notifies; each consumer process has a handler (`on`).

Processes of one subscriber use one name for their handler, so they share its events. The acknowledgement is
the bus's own: the handler returned, so the event is completed, and the manager knows. `drain` returns when it has the
last one. A consumer that dies is noticed, and its events go to another.

Variants: `bus` notifies one by one, `bus-notify-many` in batches. `bus-loan` fills shared memory in place and
publishes it without a copy: while the clock runs it writes only the ends of each array, since it is the passing on
that is measured, not the making.
"""

from __future__ import annotations

import os
import select
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import islice
from pathlib import Path
from typing import Any

from eventbus_mp import Event, EventBus
from eventbus_mp.bench.inplace import fill, read
from eventbus_mp.bench.interface import ConsumerTicket, Data, Layout, Peer, ProducerTicket, Rig, Source, Take
from eventbus_mp.memory.shm import SHARED_MEMORY
from eventbus_mp.runtime.rundir import RunDir

__all__ = [
    "BusConsumer",
    "BusPeer",
    "BusProducer",
    "BusRig",
    "BusSource",
    "LoanPeer",
    "LoanSource",
    "running_bus",
    "topic",
]

MANAGER_EXIT_TIMEOUT_S = 15.0
FLUSH_TIMEOUT_S = 60.0


def topic(stage: int) -> str:
    return f"stage-{stage}"


class BusPeer(Peer):
    """Args:
    name: In the tables.
    batch: How many events go into one `notify_many`; 0: `notify`, one by one.
    """

    loans = False

    def __init__(self, name: str, batch: int = 0) -> None:
        self.name = name
        self._batch = batch

    def supports(self, layout: Layout, paced: bool) -> bool:
        return super().supports(layout, paced) and not (self._batch and (paced or layout.array_bytes))

    @contextmanager
    def open(self, layout: Layout, directory: Path) -> Iterator[Rig]:
        topics = [topic(stage) for stage in range(layout.stages)]
        with running_bus(directory, topics) as (bus, manager_pid):
            yield BusRig(bus, directory, manager_pid, layout, self._batch, self.loans)


class LoanPeer(BusPeer):
    loans = True

    def supports(self, layout: Layout, paced: bool) -> bool:
        return layout.array_bytes > 0 and hasattr(EventBus, "loan")


@contextmanager
def running_bus(directory: Path, topics: list[str], **settings: Any) -> Iterator[tuple[EventBus, int]]:
    """A bus of its own and its manager's pid; the manager is gone afterwards."""
    bus = EventBus(f"bench-{os.getpid()}", topics=topics, run_dir=str(directory), **settings)
    try:
        manager_pid = bus.statistics().manager_pid
        manager = os.pidfd_open(manager_pid)
    except BaseException:
        bus.close()
        raise
    try:
        yield bus, manager_pid
    finally:
        _stop(bus, manager)
    left = SHARED_MEMORY.leftovers(RunDir(directory, bus.name).segment_prefix)
    if left:
        raise RuntimeError(f"the manager of {bus!r} left {', '.join(left)} in /dev/shm")


class BusRig(Rig):
    def __init__(
        self, bus: EventBus, directory: Path, manager_pid: int, layout: Layout, batch: int, loans: bool
    ) -> None:
        self._bus = bus
        self._directory = directory
        self._manager_pid = manager_pid
        self._layout = layout
        self._batch = batch
        self._loans = loans

    def consumer(self, stage: int, subscriber: int, process: int) -> ConsumerTicket:
        forward = stage + 1 if stage + 1 < self._layout.stages else None
        return BusConsumer(
            self._bus.name, self._directory, stage, f"stage-{stage}-subscriber-{subscriber}", forward, self._loans
        )

    def producer(self) -> ProducerTicket:
        return BusProducer(self._bus.name, self._directory, self._batch)

    def source(self) -> AbstractContextManager[Source]:
        if self._loans:
            return nullcontext(LoanSource(self._bus))
        return nullcontext(BusSource(self._bus, self._batch))

    def finish(self, deliveries: int, timeout_s: float) -> None:
        self._bus.drain(timeout_s=timeout_s)

    def servers(self) -> dict[str, int]:
        return {"manager": self._manager_pid}


class BusSource(Source):
    def __init__(self, bus: EventBus, batch: int) -> None:
        self._bus = bus
        self._batch = batch

    def publish(self, items: Iterable[Data]) -> None:
        name = topic(0)
        events = (Event(id=str(data["n"]), topic=name, data=data) for data in items)
        if not self._batch:
            notify = self._bus.notify
            for event in events:
                notify(event)
            return
        while batch := list(islice(events, self._batch)):
            self._bus.notify_many(batch)

    def flush(self) -> None:
        self._bus.drain(timeout_s=FLUSH_TIMEOUT_S)


class LoanSource(Source):
    def __init__(self, bus: EventBus) -> None:
        self._bus = bus
        self._filled = 0

    def publish(self, items: Iterable[Data]) -> None:
        name = topic(0)
        for data in items:
            array = data["array"]
            with self._bus.loan(name, shape=array.shape, dtype=array.dtype) as loan:
                self._filled = fill(loan.array, data, self._filled)


class BusProducer(ProducerTicket):
    def __init__(self, bus: str, directory: Path, batch: int) -> None:
        self._bus = bus
        self._directory = directory
        self._batch = batch

    @contextmanager
    def open(self) -> Iterator[Source]:
        with EventBus(self._bus, run_dir=str(self._directory)) as bus:
            yield BusSource(bus, self._batch)


class BusConsumer(ConsumerTicket):
    def __init__(
        self, bus: str, directory: Path, stage: int, subscriber: str, forward: int | None, loaned: bool
    ) -> None:
        self._bus = bus
        self._directory = directory
        self._stage = stage
        self._subscriber = subscriber
        self._forward = forward
        self._loaned = loaned

    def consume(self, take: Take, ready: Callable[[], None], stopping: threading.Event) -> None:
        with EventBus(self._bus, run_dir=str(self._directory)) as bus:
            handle = self._handler(bus, take)
            bus.on(topic(self._stage), name=self._subscriber)(handle)
            ready()
            stopping.wait()

    def _handler(self, bus: EventBus, take: Take) -> Callable[[Event], None]:
        if self._loaned:
            return lambda event: take(read(_array_of(event.data)))
        if self._forward is None:
            return lambda event: take(event.data)
        following = topic(self._forward)

        def hand_over(event: Event) -> None:
            take(event.data)
            bus.notify(Event(id=event.id, topic=following, data=event.data))

        return hand_over


def _array_of(data: Any) -> Any:
    return data["array"] if isinstance(data, dict) else data


def _stop(bus: EventBus, manager: int) -> None:
    """Stop the manager and see it gone, so that nothing is left when the run directory goes."""
    try:
        try:
            bus.shutdown()
        finally:
            bus.close()
            if not select.select([manager], [], [], MANAGER_EXIT_TIMEOUT_S)[0]:
                signal.pidfd_send_signal(manager, signal.SIGKILL)
                raise TimeoutError(f"the manager of {bus!r} outlived shutdown by {MANAGER_EXIT_TIMEOUT_S:g} s")
    finally:
        os.close(manager)
