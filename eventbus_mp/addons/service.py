"""What an addon runs on a thread of its own: a journal, a relay. It begins, stands by, ends, or has failed."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any, ClassVar, TypeVar
from weakref import WeakMethod

from eventbus_mp import EventBus, EventBusError, LostBus, UsageError, WaitTimeout

__all__ = ["Service", "call_on_lost"]

S = TypeVar("S", bound="Service")


class Service:
    """Args:
    what: What errors call it, with the name of what it works on.
    """

    _kind: ClassVar[str]
    """What errors call it, without that name."""
    _thread_name: ClassVar[str]
    _log: ClassVar[logging.Logger]

    def __init__(self, what: str) -> None:
        self._what = what
        self._is_settled = threading.Event()
        """Set when it works, stands by, or has failed."""
        self._state = "stopped"
        self._error: BaseException | None = None
        self._thread: threading.Thread | None = None

    def start(self: S, *, timeout_s: float = 30.0) -> S:
        """Begin to work, or to stand by, on a thread. Blocks until either is the case.

        Raises:
            StoreError: The database cannot be opened. Once it is, one that fails is tried again for ever.
            UsageError: It is running; or as the class says.
            WaitTimeout: It took longer than `timeout_s`; then it was stopped again.
            EventBusError: The bus cannot be reached.
        """
        if self._is_running:
            raise UsageError(f"this {self._kind} is running")
        self._is_settled.clear()
        self._begin_anew()
        self._state, self._error = "starting", None
        self._thread = threading.Thread(target=self._run, name=self._thread_name, daemon=True)
        try:
            self._thread.start()
            is_settled = self._is_settled.wait(timeout_s)
        except BaseException:  # Ctrl-C: nobody would stop what nobody has seen to begin.
            self.ask_to_stop()
            raise
        if not is_settled:
            self.stop()
            raise WaitTimeout(f"{self._what} has not begun after {timeout_s:g} s")
        if self._error is not None:
            self.stop()
            raise self._error
        return self

    def stop(self, *, timeout_s: float | None = None) -> None:
        """Finish what is under way, as the class says, and end. Repeated, it does nothing. Blocks until that is done.

        Raises:
            WaitTimeout: It is not done after `timeout_s`; it still will be.
        """
        self.ask_to_stop()
        thread = self._thread
        if thread is None or thread is threading.current_thread():
            return
        thread.join(timeout_s)
        if thread.is_alive():
            raise WaitTimeout(f"{self._what} has not ended after {timeout_s:g} s")
        self._thread = None
        self._let_go()

    def ask_to_stop(self) -> None:
        """As `stop`, without waiting until it is done; a signal handler may call it."""
        raise NotImplementedError

    def wait(self, timeout_s: float | None = None) -> bool:
        """Block until it has ended by itself or was stopped, or for `timeout_s`: whether it has.

        Raises:
            EventBusError: Why it ended by itself.
        """
        if self._thread is not None:
            self._thread.join(timeout_s)
            if self._thread.is_alive():
                return False
        if self._error is not None:
            raise self._error
        return True

    def __enter__(self: S) -> S:
        return self if self._is_running else self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    # --- what a kind of service has of its own ---

    def _begin_anew(self) -> None:
        """Forget the run before, and that it was asked to stop."""
        raise NotImplementedError

    def _work(self) -> None:
        """Work until it is asked to stop, on the thread. Set `_is_settled` when it has begun, or stands by."""
        raise NotImplementedError

    def _let_go(self) -> None:
        """It has ended, and was stopped."""

    # --- on the thread ---

    @property
    def _is_running(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def _run(self) -> None:
        try:
            self._work()
            self._state = "stopped"
        except EventBusError as error:
            self._error, self._state = error, "failed"
            if self._is_settled.is_set():  # else `start` raises it
                self._log.error("%s has ended: %s", self._what, error)
        except BaseException as error:
            self._error, self._state = error, "failed"
            raise
        finally:
            self._is_settled.set()


def call_on_lost(bus: EventBus, method: Callable[[LostBus], Any]) -> None:
    """Have this method called when the bus was lost, as long as its object is there: a handle outlives many of them."""
    found = WeakMethod(method)

    def call(lost: LostBus) -> None:
        living = found()
        if living is not None:
            living(lost)

    bus.on_lost(call)
