"""A store that is away for a while, and what a journal says of it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

__all__ = ["Away", "Said"]


class Said(logging.Handler):
    """Calls `hear` with each line that a journal logs."""

    def __init__(self, hear: Callable[[str], object]) -> None:
        super().__init__()
        self._hear = hear

    def emit(self, record: logging.LogRecord) -> None:
        self._hear(record.getMessage())


class Away:
    """Something else is in the place of a store's file, until `back`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._aside = path.with_name("aside")
        path.rename(self._aside)
        path.mkdir()

    def back(self) -> None:
        self._path.rmdir()
        self._aside.rename(self._path)
