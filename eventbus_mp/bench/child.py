"""A process of a run, with a pipe to the benchmark.

It is forked from a fork server that has imported what is needed and has done nothing else. So it inherits nothing
from the benchmark, and begins in a hundredth of the time that a new interpreter takes.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

__all__ = ["READY", "STOP", "Child", "enter", "preload"]

READY = "ready"
STOP = "stop"
START_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 15.0
ORPHANED = 3
PRELOADED = ("eventbus_mp.bench.bus", "eventbus_mp.bench.consumer", "eventbus_mp.bench.producers")

_context = multiprocessing.get_context("forkserver")


def preload(*modules: str) -> None:
    """Have the fork server import these as well; before the first child."""
    _context.set_forkserver_preload([*PRELOADED, *modules])


preload()


class Child:
    """The benchmark's handle of one.

    Raises:
        TimeoutError, RuntimeError: In every method: it was too slow, or it ended.
    """

    def __init__(self, run: Callable[..., None], *arguments: Any) -> None:
        self._control, theirs = _context.Pipe()
        self._process = _context.Process(target=run, args=(theirs, *arguments), daemon=True)
        self._process.start()
        theirs.close()
        assert self._process.pid is not None
        self.pid: int = self._process.pid

    def await_ready(self) -> None:
        self.receive(START_TIMEOUT_S)

    def send(self, message: object) -> None:
        try:
            self._control.send(message)
        except BrokenPipeError:
            raise self._ended() from None

    def receive(self, timeout_s: float) -> Any:
        if not self._control.poll(timeout_s):
            raise TimeoutError(f"process {self.pid} said nothing for {timeout_s:g} s")
        try:
            return self._control.recv()
        except (EOFError, ConnectionResetError):
            raise self._ended() from None

    def stop(self) -> Any:
        """End it: its last word."""
        self.send(STOP)
        said = self.receive(STOP_TIMEOUT_S)
        self._process.join(STOP_TIMEOUT_S)
        return said

    def close(self) -> None:
        """See it gone, killed if it must be."""
        if self._process.is_alive():
            self._process.kill()
        self._process.join()
        self._process.close()
        self._control.close()

    def _ended(self) -> RuntimeError:
        self._process.join(STOP_TIMEOUT_S)
        return RuntimeError(f"process {self.pid} ended early (exit code {self._process.exitcode})")


def enter(control: Connection) -> threading.Event:
    """The first thing that a consumer process does: the event that is set when it shall stop."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # The benchmark decides.
    stopping = threading.Event()
    threading.Thread(target=_watch, args=(control, stopping), daemon=True).start()
    return stopping


def _watch(control: Connection, stopping: threading.Event) -> None:
    """Wait, without ever waking up, for the benchmark's word or its death."""
    try:
        control.recv()
    except EOFError:
        os._exit(ORPHANED)
    stopping.set()
