"""The worker pool of the trials: a program of its own, beside the web server. It ends with its standard input."""

from __future__ import annotations

import sys

from eventbus_mp import Event, WorkerPool
from tests.servers.app import bus, note

__all__ = ["pool", "write_report"]

pool = WorkerPool(bus, processes=2)


@pool.on("report_wanted", name="reports")
def write_report(event: Event) -> None:
    """Only the pool writes reports."""
    note("report", event)


if __name__ == "__main__":
    with pool:
        print("ready", flush=True)
        sys.stdin.read()
