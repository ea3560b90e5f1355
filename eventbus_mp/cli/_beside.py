"""What runs beside the demo: a journal on a thread, and the page in a process of its own."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from eventbus_mp.errors import EventBusError, UsageError

if TYPE_CHECKING:
    from eventbus_mp import EventBus
    from eventbus_mp.addons.journal import Store
    from eventbus_mp.demo.totals import DemoResult, JournalCheck

__all__ = ["Beside"]

PATIENCE_S = 60.0


class Beside:
    """Args:
    url: Of the journal; empty: a file that is removed at the end; None: no journal.
    has_page: Whether there is a page.
    """

    def __init__(self, url: str | None, *, has_page: bool) -> None:
        self._url = url
        self._has_page = has_page
        self._duplicates = 0

    @contextmanager
    def files(self) -> Iterator[None]:
        """While the journal's file is there.

        Raises:
            UsageError: The journal has events already, or its URL is none.
        """
        if self._url is None:
            yield
        elif self._url:
            self._check_is_empty(self._url)
            yield
        else:
            with TemporaryDirectory(prefix="eventbus-mp-demo-") as folder:
                self._url = f"sqlite:///{folder}/demo.db"
                yield

    @contextmanager
    def running(self, say: Callable[[str], object], bus: EventBus) -> Iterator[None]:
        """While the journal and the page run, whose address is said; at the end the journal has every event."""
        with ExitStack() as stack:
            if self._url is not None:
                stack.enter_context(self._journal(bus, self._url))
            if self._has_page:
                say(f"page: {stack.enter_context(self._page(bus))}")
            yield
            if self._has_page and sys.stdin.isatty():
                input("The page shows the bus until you press Enter.")

    def check(self, result: DemoResult) -> JournalCheck | None:
        """Compare what is stored with the result of the run, when both have ended."""
        if self._url is None:
            return None
        from eventbus_mp.addons.journal import Selection, event_of, open_store
        from eventbus_mp.addons.journal.pages import entries_of
        from eventbus_mp.demo.pipeline import totals_of
        from eventbus_mp.demo.totals import JournalCheck

        with open_store(self._url) as store:
            stored = store.count(Selection())
            totals = totals_of(event_of(entry.row) for entry in entries_of(store, Selection()))
            url = store.url
        differences = result.totals.differences(totals)
        if stored + self._duplicates != result.events:
            missing = result.events - stored - self._duplicates
            differences.insert(0, f"{missing:,} events of {result.events:,} are missing in the journal")
        return JournalCheck(url, stored, self._duplicates, tuple(differences))

    @staticmethod
    def _check_is_empty(url: str) -> None:
        from eventbus_mp.addons.journal import StoreUnavailable, open_store

        try:
            store: Store = open_store(url)
        except StoreUnavailable:
            return  # It is made, or says then what is wrong.
        with store:
            if store.last_position():
                raise UsageError(f"--journal {store.url}: it has events already; name one that is new")

    @contextmanager
    def _journal(self, bus: EventBus, url: str) -> Iterator[None]:
        from eventbus_mp.addons.journal import Journal

        with Journal(bus, url) as journal:
            yield
            bus.drain(timeout_s=PATIENCE_S)
        self._duplicates = journal.status().duplicates

    @contextmanager
    def _page(self, bus: EventBus) -> Iterator[str]:
        command = [sys.executable, "-m", "eventbus_mp", "web", bus.name, "--port", "0", "--json"]
        if bus.config.run_dir is not None:
            command += ["--run-dir", bus.config.run_dir]
        if self._url is not None:
            command += ["--journal", self._url]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as page:
            try:
                yield _address(page)
            finally:
                page.send_signal(signal.SIGTERM)
                page.communicate(timeout=PATIENCE_S)


def _address(page: subprocess.Popen[str]) -> str:
    assert page.stdout is not None
    line = page.stdout.readline()
    if not line:
        _, said = page.communicate(timeout=PATIENCE_S)
        raise EventBusError(said.strip().removeprefix("eventbus-mp: ") or "the page has ended at once")
    return str(json.loads(line)["address"])
