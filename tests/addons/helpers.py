"""Handlers of `logging` for tests: one that keeps what it gets, one that blocks, one that raises."""

import logging
import threading
from queue import SimpleQueue
from typing import Any


class Kept(logging.Handler):
    """Keeps the records; `next` waits for one."""

    def __init__(self) -> None:
        super().__init__()
        self.records: SimpleQueue[logging.LogRecord] = SimpleQueue()

    def emit(self, record: logging.LogRecord) -> None:
        self.records.put(record)

    def next(self) -> Any:
        return self.records.get(timeout=20)

    def texts(self, count: int) -> list[str]:
        return [self.next().getMessage() for _ in range(count)]


class Blocking(Kept):
    """Blocks at a message with `STOP` in it until `go` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.entered, self.go = threading.Event(), threading.Event()

    def emit(self, record: logging.LogRecord) -> None:
        if "STOP" in record.getMessage():
            self.entered.set()
            assert self.go.wait(60)
        super().emit(record)


class Raising(Kept):
    """Raises at a message with `STOP` in it."""

    def emit(self, record: logging.LogRecord) -> None:
        if "STOP" in record.getMessage():
            raise SystemExit("no disk")
        super().emit(record)


def logger_with(handler: logging.Handler, level: int = logging.DEBUG) -> logging.Logger:
    """A logger with this handler only."""
    logger = logging.getLogger("of a test")
    logger.setLevel(level)
    logger.propagate = False
    logger.handlers[:] = [handler]
    return logger
