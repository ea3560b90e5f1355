"""The only module that imports watchfiles, the optional library that sees changes of files."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from eventbus_mp.background import BackgroundThread
from eventbus_mp.extras import not_installed

__all__ = ["SourceChanges"]

log = logging.getLogger("eventbus_mp.service")


class SourceChanges:
    """Watches the Python files below a directory.

    Args:
        directory: Where they are.
        on_change: Called by a thread of its own when some have changed.

    Raises:
        UsageError: The package watchfiles is not installed.
    """

    def __init__(self, directory: str, on_change: Callable[[], object]) -> None:
        try:
            import watchfiles
        except ImportError as cause:
            otherwise = "send the service SIGHUP when you have changed something"
            raise not_installed("--reload", "watchfiles", "reload", otherwise=otherwise) from cause
        self._watchfiles = watchfiles
        self._directory = directory
        self._on_change = on_change
        self._stopping = threading.Event()
        self._thread = BackgroundThread(self._watch, "eventbus_mp-reload")

    def start(self) -> None:
        """Watch from now on; does not block."""
        self._thread.start()

    def stop(self) -> None:
        """Watch no longer; blocks until the thread has ended."""
        self._stopping.set()
        self._thread.join()

    def _watch(self) -> None:
        for changes in self._watchfiles.watch(
            self._directory,
            watch_filter=self._watchfiles.PythonFilter(),
            stop_event=self._stopping,
            raise_interrupt=False,
        ):
            paths = sorted(path for _, path in changes)
            log.info("%s has changed%s", paths[0], f", and {len(paths) - 1} more" if paths[1:] else "")
            self._on_change()
