"""The thread that calls `logging`. A handler that raises or blocks costs lines, and nobody else's time."""

from __future__ import annotations

import atexit
import logging
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from queue import SimpleQueue

from eventbus_mp import UsageError
from eventbus_mp.addons.logger.lines import Fields, json_line

__all__ = ["LINES_MAX", "LineCounts", "LineWriter", "checked_logger", "checked_patience"]

LINES_MAX = 1_000
"""How many lines wait at most while a handler of `logging` blocks."""
WHOLE_BYTES_MAX = 2048
COMPLAINT_S = 60.0
"""How often to say at most that a handler raises."""

log = logging.getLogger("eventbus_mp.addons.logger")

_Item = tuple[int, str, Fields] | threading.Event | None


@dataclass(frozen=True)
class LineCounts:
    """What became of the lines so far."""

    written: int
    """`logging` took them."""
    failed: int
    """A handler, filter or formatter of `logging` raised."""
    missed: int
    """Not written, because a handler of `logging` blocked, and too many waited already."""


def checked_logger(logger: str | logging.Logger) -> logging.Logger:
    """The logger, given by its name or as itself.

    Raises:
        UsageError: It is something else.
    """
    if isinstance(logger, str):
        return logging.getLogger(logger)
    if isinstance(logger, (logging.Logger, logging.LoggerAdapter)):
        return logger
    raise UsageError(f"logger={logger!r:.80} is neither a logger nor the name of one")


def checked_patience(patience_s: float) -> float:
    """How long to wait for lines to be written.

    Raises:
        UsageError: It is not a time from 0 to a day.
    """
    if isinstance(patience_s, (int, float)) and 0 <= patience_s <= 86_400:
        return float(patience_s)
    raise UsageError(f"patience_s={patience_s!r} is not a time from 0 to 86,400 s")


class _Thread(threading.Thread):
    """The thread, with its lines. A forked child's is another one, as a fork may come in the middle of a `put`."""

    def __init__(self, run: Callable[[SimpleQueue[_Item]], None]) -> None:
        self.items: SimpleQueue[_Item] = SimpleQueue()
        self.late: threading.Event | None = None
        """Set when the lines have been written that `wait` waited for the last time."""
        super().__init__(target=run, args=(self.items,), name="eventbus_mp log writer", daemon=True)


class LineWriter:
    """Writes lines in a thread of its own, which it starts with the first line, in a forked child anew.

    Args:
        logger: Gets the lines.
        patience_s: How long `wait` and `close` wait at most.
        json: Whether lines are JSON, also one that it makes itself.
    """

    def __init__(self, logger: logging.Logger, patience_s: float, *, json: bool = False) -> None:
        self._json = json
        self._logger = logger
        self._patience_s = patience_s
        self._written = self._failed = self._missed = self._missed_told = 0
        self._complained_s = -COMPLAINT_S
        self._threads: dict[int, _Thread] = {}
        """By process: a forked child has its own. Two threads that write the first line at once agree on one."""

    @property
    def counts(self) -> LineCounts:
        return LineCounts(self._written, self._failed, self._missed)

    def is_wanted(self, level: int) -> bool:
        """Whether `logging`, as it is set up at this moment, wants lines of this level."""
        return self._logger.isEnabledFor(level)

    def write(self, level: int, line: str, fields: Fields) -> None:
        """Have a line written soon. It never blocks: if too many wait, this one is counted and dropped."""
        thread = self._threads.get(os.getpid()) or self._begin()
        if thread.items.qsize() >= LINES_MAX:
            self._missed += 1
            return
        thread.items.put((level, line, fields))

    def wait(self) -> bool:
        """Wait until the lines so far are written, `patience_s` at most. Returns whether they are.

        It does not wait while an earlier call's lines are not written yet.
        """
        thread = self._threads.get(os.getpid())
        if thread is None:
            return True
        if thread.late is not None and not thread.late.is_set():
            return False
        thread.late = written = threading.Event()
        thread.items.put(written)
        return written.wait(self._patience_s)

    def close(self) -> None:
        """End the thread after the lines that wait. A handler that blocks keeps it, and is not waited for for ever."""
        thread = self._threads.pop(os.getpid(), None)
        if thread is not None:
            atexit.unregister(self.close)
            thread.items.put(None)
            thread.join(self._patience_s)

    def _begin(self) -> _Thread:
        made = _Thread(self._run)
        thread = self._threads.setdefault(os.getpid(), made)
        if thread is made:
            thread.start()
            atexit.unregister(self.close)  # Of the process before a fork.
            atexit.register(self.close)
        return thread

    def _run(self, items: SimpleQueue[_Item]) -> None:
        while (item := items.get()) is not None:
            if isinstance(item, threading.Event):
                item.set()
                continue
            self._call(*item)
            missed = self._missed - self._missed_told
            if missed:
                self._missed_told += missed
                fields = {"missing": missed, "error": "a handler of logging blocked"}
                text = f"{missed:,} lines are missing here: a handler of logging blocked"
                line = json_line(logging.WARNING, fields, WHOLE_BYTES_MAX) if self._json else text
                self._call(logging.WARNING, line, fields)

    def _call(self, level: int, line: str, fields: Fields) -> None:
        try:
            self._logger.log(level, line, extra=fields)
            self._written += 1
        except BaseException as error:  # SystemExit as well: whatever a handler raises, the lines after it are written.
            self._failed += 1
            self._complain(error)

    def _complain(self, error: BaseException) -> None:
        """Say it where no handler of the program's is asked: on standard error."""
        now_s = time.monotonic()
        if now_s - self._complained_s < COMPLAINT_S or logging.lastResort is None:
            return
        self._complained_s = now_s
        text = "a handler of logging raised, and a line is lost (%d so far): %r"
        logging.lastResort.handle(log.makeRecord(log.name, logging.WARNING, "", 0, text, (self._failed, error), None))
