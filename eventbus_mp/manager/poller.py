"""The manager's one wait: descriptors, what to call when one is ready, and signals."""

from __future__ import annotations

import select
import signal
import socket
import time
from collections.abc import Callable

from eventbus_mp.geometry import WAIT_S_MAX

__all__ = ["Poller"]


class Poller:
    """Waits for descriptors and calls what is watched. It is open from the start.

    Nothing of it can be shared by two managers. An epoll object that was inherited by `fork` is the parent's: to
    unregister a descriptor there would end the parent's watch. So a standby only closes it, and opens one of its own
    when it takes over.
    """

    def __init__(self) -> None:
        self.open()

    def open(self) -> None:
        """Begin anew, with no descriptor watched."""
        self._epoll = select.epoll()
        self._callbacks: dict[int, Callable[[], object]] = {}
        # A signal handler runs between two steps of the interpreter. If the signal comes just before the wait, the
        # handler runs after it. Hence each signal is also written to a descriptor that ends the wait.
        self._wake, self._wakes = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        signal.set_wakeup_fd(self._wakes.fileno())
        self.watch(self._wake.fileno(), lambda: self._wake.recv(64))

    def watch(self, fd: int, on_ready: Callable[[], object], events: int = select.EPOLLIN) -> None:
        """Call `on_ready` whenever `fd` is ready, until `unwatch`."""
        self._epoll.register(fd, events)
        self._callbacks[fd] = on_ready

    def unwatch(self, fd: int) -> None:
        """Stop watching; call it before `fd` is closed."""
        self._epoll.unregister(fd)
        del self._callbacks[fd]

    def wait(self, due_ns: int | None) -> None:
        """Wait until something is ready, a signal came or it is `due_ns` (None: never), and call what is watched."""
        timeout_s = None if due_ns is None else min(max(0.0, (due_ns - time.monotonic_ns()) / 1e9), WAIT_S_MAX)
        callbacks = self._callbacks
        found = self._epoll.poll(timeout_s)
        if len(found) == 1:
            # hot path: a lone event wakes the manager twice, and each time for one descriptor.
            callbacks[found[0][0]]()
            return
        ready = [(fd, callbacks.get(fd)) for fd, _ in found]
        for fd, on_ready in ready:
            # An earlier callback of this round may have closed the descriptor, and a new one may have its number.
            if on_ready is not None and callbacks.get(fd) is on_ready:
                on_ready()

    def close(self) -> None:
        """Let go of everything here; the watched descriptors stay open."""
        self._epoll.close()
        signal.set_wakeup_fd(-1)
        self._wake.close()
        self._wakes.close()
