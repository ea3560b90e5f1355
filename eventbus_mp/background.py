"""A thread in the background that runs once, whatever interrupts its start."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable

__all__ = ["BackgroundThread"]


class BackgroundThread:
    """A daemon thread that runs a function once; under gevent a greenlet (see locking.py).

    A signal handler that raises within `Thread.start` leaves open whether the thread runs: CPython notes that only when
    the new thread has said so. Then `start` can be called again, which starts another one; the first to arrive runs the
    function, and the others end at once. The same holds when several threads call `start`.

    Args:
        run: What it runs.
        name: The thread's name.
    """

    def __init__(self, run: Callable[[], object], name: str) -> None:
        self._run = run
        self._name = name
        self._is_started = False
        self._runner: dict[str, threading.Thread | None] = {}
        """Its one value is set once, by `dict.setdefault`, which is atomic: who runs; None: nobody ever will."""

    def start(self) -> None:
        """Start it, if it was not started before. Does not block.

        Raises:
            RuntimeError: The system has no thread for us, or the program is ending; it can be tried again.
        """
        if not self._is_started:
            thread = threading.Thread(target=self._run_if_first, name=self._name, daemon=True)
            if (interruption := _interrupted(thread.start)) is not None:
                raise interruption
            self._is_started = True

    def _run_if_first(self) -> None:
        me = threading.current_thread()
        if self._runner.setdefault("runner", me) is me:
            self._run()
            # A greenlet of gevent lives on in a forked child, where `threading` has forgotten it and would say so at
            # its end with a KeyError. This enters it again.
            threading.current_thread()

    def join(self, timeout_s: float | None = None) -> bool:
        """Block until the function has returned, or for `timeout_s`; if it does not run yet, it never will.

        Does not block in the thread itself.

        Returns:
            Whether the function does not run any more.
        """
        runner = self._runner.setdefault("runner", None)
        if runner is None:
            return True
        if runner is not threading.current_thread():
            runner.join(timeout_s)
        return not runner.is_alive()

    @property
    def is_mine(self) -> bool:
        """Whether the calling thread is the one that runs the function."""
        return self._runner.get("runner") is threading.current_thread()


def _interrupted(start: Callable[[], object]) -> BaseException | None:
    """Start a thread; returns what a signal handler has raised meanwhile, if CPython hides it.

    `Thread.start` waits with a `Condition` until the new thread runs. Interrupted just before it takes its lock again,
    the `Condition` gives up a lock that it does not have, and raises that as an error of its own.
    """
    outer = sys.exc_info()[1]
    try:
        start()
    except RuntimeError as error:
        if error.__context__ is None or error.__context__ is outer:
            raise  # The system has no thread for us.
        return error.__context__
    return None
