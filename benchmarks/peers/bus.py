"""eventbus_mp: the producer notifies, one by one or in batches; each consumer process has a handler (`on`).

Processes of one subscriber use one name for their handler, so they share its events. The acknowledgement is
the bus's own: the handler returned, so the event is completed. `drain` returns when the manager
has the last one.
"""

from __future__ import annotations

import os
import select
import signal
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import islice

from benchmarks.peers.interface import Data, Peer, Rig, Take, Ticket
from eventbus_mp import Event, EventBus

__all__ = ["BusPeer"]

TOPIC = "order_paid"
MANAGER_EXIT_TIMEOUT_S = 15.0


class BusPeer(Peer):
    """Args:
    name: In the tables.
    batch: How many events go into one `notify_many`; 0: `notify`, one by one.
    """

    def __init__(self, name: str, batch: int = 0) -> None:
        self.name = name
        self.paced = batch == 0
        self._batch = batch

    @contextmanager
    def open(self, subscribers: int) -> Iterator[Rig]:
        with tempfile.TemporaryDirectory(prefix="ebmp-bench-") as run_dir:
            bus = EventBus(f"bench-{os.getpid()}", topics=[TOPIC], run_dir=run_dir)
            try:
                manager_pid = bus.statistics().manager_pid
                manager = os.pidfd_open(manager_pid)
            except BaseException:
                bus.close()
                raise
            try:
                yield BusRig(bus, run_dir, manager_pid, self._batch)
            finally:
                _stop(bus, manager)


class BusRig(Rig):
    def __init__(self, bus: EventBus, run_dir: str, manager_pid: int, batch: int) -> None:
        self._bus = bus
        self._run_dir = run_dir
        self._manager_pid = manager_pid
        self._batch = batch

    def ticket(self, subscriber: int) -> Ticket:
        return BusTicket(self._bus.name, self._run_dir, f"subscriber-{subscriber}")

    def publish(self, items: Iterable[Data]) -> None:
        events = (Event(id=str(data["n"]), topic=TOPIC, data=data) for data in items)
        if not self._batch:
            notify = self._bus.notify
            for event in events:
                notify(event)
            return
        while batch := list(islice(events, self._batch)):
            self._bus.notify_many(batch)

    def finish(self, timeout_s: float) -> None:
        self._bus.drain(timeout_s=timeout_s)

    def servers(self) -> dict[str, int]:
        return {"manager": self._manager_pid}


class BusTicket(Ticket):
    def __init__(self, bus: str, run_dir: str, subscriber: str) -> None:
        self._bus = bus
        self._run_dir = run_dir
        self._subscriber = subscriber

    def consume(self, take: Take, ready: Callable[[], None], stopping: threading.Event) -> None:
        with EventBus(self._bus, run_dir=self._run_dir) as bus:

            @bus.on(TOPIC, name=self._subscriber)
            def handle(event: Event) -> None:
                take(event.data)

            ready()
            stopping.wait()


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
