"""What the page asks of a journal's store: in a thread, one question after the other, each within a bounded time."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from eventbus_mp.addons.journal import Store, StoreUnavailable, open_store
from eventbus_mp.addons.journal.figures import Figures, read_figures

__all__ = ["JournalView"]

Answer = TypeVar("Answer")

ANSWER_S = 6.0
"""SQLite itself waits for five if another process has locked the file."""


class JournalView:
    """Asks the store of one journal.

    The store is opened for each question, which takes a millisecond: so one that was replaced or restarted is seen as
    it is now, and nothing of it is held while nobody looks.

    Args:
        url: As of `open_store`.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self._executors: dict[int, ThreadPoolExecutor] = {}
        """By the process, as a fork leaves the threads behind."""

    async def ask(self, question: Callable[[Store], Answer]) -> Answer:
        """The answer of the store.

        Raises:
            StoreUnavailable: It cannot be opened now, or has not answered in time.
            StoreUnusable, UsageError: As `open_store`.
        """

        def work() -> Answer:
            with open_store(self.url) as store:
                return question(store)

        asked = asyncio.get_running_loop().run_in_executor(self._executor(), work)
        try:
            # What has not begun by then is taken back, so nothing piles up behind a store that hangs.
            return await asyncio.wait_for(asked, ANSWER_S)
        except (TimeoutError, asyncio.TimeoutError) as cause:  # Two classes before 3.11.
            raise StoreUnavailable(f"the journal has not answered within {ANSWER_S:g} s") from cause

    async def figures(self) -> Figures | None:
        """What its process notes of itself; None: there is none on this machine."""
        return await asyncio.to_thread(read_figures, self.url)

    def close(self) -> None:
        """End the thread. Does not block."""
        executor = self._executors.pop(os.getpid(), None)
        if executor is not None:
            executor.shutdown(wait=False, cancel_futures=True)

    def _executor(self) -> ThreadPoolExecutor:
        executor = self._executors.get(os.getpid())
        if executor is None:
            executor = self._executors[os.getpid()] = ThreadPoolExecutor(1, "eventbus_mp-web-journal")
        return executor
