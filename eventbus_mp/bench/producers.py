"""What publishes: this process, or several processes that begin together."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection

from eventbus_mp.bench.child import READY, STOP, Child
from eventbus_mp.bench.interface import ProducerTicket, Source
from eventbus_mp.bench.payloads import Maker, Payload

__all__ = ["Here", "Processes", "run"]

PUBLISH_TIMEOUT_S = 120.0

Numbers = range


class Here:
    """The benchmark's own process."""

    def __init__(self, source: Source, payload: Payload) -> None:
        self._source = source
        self._make: Maker = payload.maker()
        self.pids = (os.getpid(),)

    def publish(self, numbers: Numbers) -> None:
        """As fast as it goes."""
        make = self._make
        self._source.publish(make(n, 0) for n in numbers)

    def publish_paced(self, numbers: Numbers, interval_ns: int) -> None:
        """One event at each deadline. The deadlines are fixed beforehand, so lateness does not add up."""
        publish, make, nothing = self._source.publish, self._make, threading.Event()
        deadline_ns = time.monotonic_ns()
        for n in numbers:
            deadline_ns += interval_ns
            ahead_ns = deadline_ns - time.monotonic_ns()
            if ahead_ns > 0:
                nothing.wait(ahead_ns / 1e9)
            publish([make(n, time.monotonic_ns())])


class Processes:
    """Several producers; each publishes its share of the numbers."""

    def __init__(self, children: Sequence[Child]) -> None:
        self._children = children
        self.pids = tuple(child.pid for child in children)

    @staticmethod
    def start(ticket: ProducerTicket, payload: Payload) -> Child:
        return Child(run, ticket, payload)

    def publish(self, numbers: Numbers) -> None:
        for place, child in enumerate(self._children):
            child.send(numbers[place :: len(self._children)])
        for child in self._children:
            child.receive(PUBLISH_TIMEOUT_S)

    def stop(self) -> None:
        for child in self._children:
            child.stop()


def run(control: Connection, ticket: ProducerTicket, payload: Payload) -> None:
    """A producer process itself."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # The benchmark decides.
    make = payload.maker()
    with ticket.open() as source:
        control.send(READY)
        while (numbers := control.recv()) != STOP:
            source.publish(make(n, 0) for n in numbers)
            source.flush()
            control.send(READY)
    control.send(READY)
