"""A consumer process, the same for every peer: it counts what it decodes, and tells when it is ready."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from dataclasses import dataclass, field
from multiprocessing.connection import Connection

from benchmarks.peers.interface import Data, Ticket

__all__ = ["Consumer", "Tally"]

READY = "ready"
STOP = "stop"
START_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 15.0
ORPHANED = 3


@dataclass
class Tally:
    """What one consumer process did."""

    events: int = 0
    numbers: int = 0
    """The sum of all `n`: shows that each event came, and once."""
    cpu_s: float = 0.0
    latencies_ns: list[int] = field(default_factory=list)

    def count(self, data: Data) -> None:
        self.events += 1
        self.numbers += data["n"]

    def time(self, data: Data) -> None:
        self.latencies_ns.append(time.monotonic_ns() - data["sent_ns"])
        self.count(data)


class Consumer:
    """The parent's handle of one consumer process: a spawned one, which inherits nothing.

    Raises:
        TimeoutError, RuntimeError: In every method: it was too slow, or it ended.
    """

    def __init__(self, ticket: Ticket, timed: bool) -> None:
        spawn = multiprocessing.get_context("spawn")
        self._control, theirs = spawn.Pipe()
        self._process = spawn.Process(target=run, args=(theirs, ticket, timed), daemon=True)
        self._process.start()
        theirs.close()
        assert self._process.pid is not None
        self.pid: int = self._process.pid

    def await_ready(self) -> None:
        self._receive(START_TIMEOUT_S)

    def stop(self) -> Tally:
        """End it: what it did."""
        try:
            self._control.send(STOP)
        except BrokenPipeError:
            raise self._ended() from None
        tally = self._receive(STOP_TIMEOUT_S)
        assert isinstance(tally, Tally)
        self._process.join(STOP_TIMEOUT_S)
        return tally

    def close(self) -> None:
        """See it gone, killed if it must be."""
        if self._process.is_alive():
            self._process.kill()
        self._process.join()
        self._process.close()
        self._control.close()

    def _receive(self, timeout_s: float) -> object:
        if not self._control.poll(timeout_s):
            raise TimeoutError(f"consumer {self.pid} said nothing for {timeout_s:g} s")
        try:
            return self._control.recv()
        except (EOFError, ConnectionResetError):
            raise self._ended() from None

    def _ended(self) -> RuntimeError:
        self._process.join(STOP_TIMEOUT_S)
        return RuntimeError(f"consumer {self.pid} ended early (exit code {self._process.exitcode})")


def run(control: Connection, ticket: Ticket, timed: bool) -> None:
    """The consumer process itself."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # The parent decides.
    stopping = threading.Event()
    threading.Thread(target=_watch, args=(control, stopping), daemon=True).start()
    tally = Tally()

    def ready() -> None:
        tally.cpu_s = -time.process_time()
        control.send(READY)

    ticket.consume(tally.time if timed else tally.count, ready, stopping)
    tally.cpu_s += time.process_time()
    control.send(tally)
    stopping.wait()  # Until then the parent may have something to say.


def _watch(control: Connection, stopping: threading.Event) -> None:
    """Wait, without ever waking up, for the parent's word or its death."""
    try:
        control.recv()
    except EOFError:
        os._exit(ORPHANED)
    stopping.set()
