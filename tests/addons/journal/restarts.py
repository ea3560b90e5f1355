"""`python -m tests.addons.journal.restarts`: restart the PostgreSQL server of a journal again and again, under load.

A producer publishes all the time, one journal writes and another one stands by; every second restart is "immediate",
which is as if the server had crashed. At the end the store must have each event, once.
"""

from __future__ import annotations

import argparse
import tempfile
import threading
import time
from pathlib import Path

from eventbus_mp.addons.journal import Journal
from tests.addons.journal.mortal import check_store, forked, joined, mortal_bus, publish
from tests.addons.postgresql import Server, programs, running_server

__all__ = ["main", "restart_under_load"]

EVENTS_AT_ONCE = 500


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--restarts", type=int, default=20, metavar="N")
    options = parser.parse_args()
    bin = programs()
    assert bin is not None, "there is no PostgreSQL here"
    began_s = time.monotonic()
    with tempfile.TemporaryDirectory() as folder, running_server(bin) as server:
        run_dir, url = Path(folder) / "run", server.url("postgres")
        try:
            published = restart_under_load(server, run_dir, url, options.restarts)
        finally:
            joined(forked(_shut_down, run_dir))
        check_store(url, published)
    print(
        f"{options.restarts} restarts, {published:,} events: 0 lost, 0 twice, {time.monotonic() - began_s:.0f} s",
        flush=True,
    )


def restart_under_load(server: Server, run_dir: Path, url: str, restarts: int) -> int:
    """Restart the server so often while events are stored: how many were published. All of them are stored then."""
    published = 0
    with mortal_bus(run_dir) as bus, mortal_bus(run_dir) as other, Journal(bus, url, batch_within_s=0.005) as first:
        second = Journal(other, url, batch_within_s=0.005).start()
        restarting = threading.Thread(target=_restart, args=(server, url, restarts))
        restarting.start()
        while restarting.is_alive() or not published:
            producer = forked(publish, run_dir, published, EVENTS_AT_ONCE)
            published += EVENTS_AT_ONCE
            assert joined(producer) == 0
        restarting.join()
        bus.drain(timeout_s=120)
        assert "failed" not in (first.status().state, second.status().state)
        second.stop()
    return published


def _restart(server: Server, url: str, restarts: int) -> None:
    for number in range(restarts):
        server.restart("immediate" if number % 2 else "fast")
        before = now = _commits(server, url)
        while now == before:  # The next restart comes amid the work.
            now = _commits(server, url)


def _commits(server: Server, url: str) -> str:
    """What changes with each batch of a journal."""
    database = url.partition("?")[0].rpartition("/")[2]
    there = server.sql("SELECT to_regclass('eventbus_journal.events')", database)
    return server.sql("SELECT max(position) FROM eventbus_journal.events", database) if there else ""


def _shut_down(run_dir: Path) -> None:
    mortal_bus(run_dir).shutdown()


if __name__ == "__main__":
    main()
