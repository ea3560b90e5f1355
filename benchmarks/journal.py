"""What a journal and a replay cost, beside the same bus without them and SQLite without a bus.

    python -m benchmarks.journal [--events 100000] [--repeat 5] [--directory .] [--postgresql URL] [--json FILE]

Storing: one producer publishes small events one by one, as fast as it can. A process takes them from an inbox and
completes them ("inbox"), or is a journal on a SQLite file with `synchronous=FULL` ("journal"). "sqlite3" stores the
same rows into such a file, 1,000 in a transaction, with `executemany` and nothing else around it. With `--postgresql`
there is a journal in that database as well ("postgresql"); its server's time does not count.

Publishing again: the events of that file go to a bus with one process that has a handler, by a `Replay` ("replay"). For
"notify_many" this process makes as many events, and publishes 1,000 at a time.

The clock stops when the last event is settled. Cases take turns, and the best of each column counts, for what else the
machine does can only be added. CPU time is that of all threads of a process. "with a core" is the rate without the time
in which the process that is measured was ready and others had the cores: that of the inbox or journal, or the one that
publishes again.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from benchmarks.scale.proc import cpu_ns, waited_ns
from benchmarks.tables import markdown_table, text_table
from eventbus_mp import Event, EventBus
from eventbus_mp.addons.journal import Journal, Replay, open_store
from eventbus_mp.bench.bus import running_bus
from eventbus_mp.bench.child import READY, Child, enter
from eventbus_mp.bench.payloads import make_small

TOPIC = "measured"
NAME = "journal"
SCHEMA = "eventbus_benchmark"
BATCH = 1_000
TIMEOUT_S = 300.0
LOOK_S = 0.2
WARM_UP = 5
"""A part of this many of the events goes before the clock starts."""
HEADS = ("events/s", "with a core", "publishing us", "manager us", "receiving us")
RATES = HEADS[:2]

Row = dict[str, float]


class Case:
    """One bus in a directory, where the journal's file is as well."""

    def __init__(self, directory: Path, events: int, postgresql: str | None) -> None:
        self._directory = directory
        self._events = events
        self._postgresql = postgresql
        self.url = f"sqlite:///{directory}/journal.db"

    def inbox(self) -> Row:
        """Events that are taken and completed."""
        return self._measured(_take, self._notify)

    def journal(self) -> Row:
        """Events that are stored."""
        return self._measured(_store, self._notify, self.url)

    def postgresql(self) -> Row:
        """Events that are stored in a schema that is made and dropped."""
        assert self._postgresql is not None
        url = f"{self._postgresql}{'&' if '?' in self._postgresql else '?'}schema={SCHEMA}"
        try:
            return self._measured(_store, self._notify, url)
        finally:
            postgresql = importlib.import_module("eventbus_mp.addons.postgresql")
            with postgresql.connected(self._postgresql, "benchmarks.journal") as database:
                database.execute(f"DROP SCHEMA IF EXISTS {SCHEMA} CASCADE")

    def sqlite3(self) -> Row:
        """The rows of the journal, copied into a file with its tables."""
        with open_store(f"{self.url}-bare", writes=True) as store:
            store.take_lock()
        path = self._directory / "journal.db"
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as there:
            names = [column for _, column, *_ in there.execute("PRAGMA table_info(events)") if column != "position"]
            rows = there.execute(f"SELECT {','.join(names)} FROM events LIMIT ?", (self._events,)).fetchall()
            topics = there.execute("SELECT * FROM topics").fetchall()
        with closing(sqlite3.connect(f"{path}-bare", isolation_level=None)) as db:
            db.execute("PRAGMA synchronous = FULL")
            db.executemany("INSERT INTO topics VALUES (?, ?)", topics)
            statement = f"INSERT INTO events ({','.join(names)}) VALUES ({','.join('?' * len(names))})"
            began_s, computed_s, waited = time.monotonic(), time.process_time(), waited_ns(os.getpid())
            for first in range(0, len(rows), BATCH):
                db.execute("BEGIN IMMEDIATE")
                db.executemany(f"{statement} ON CONFLICT DO NOTHING", rows[first : first + BATCH])
                db.execute("COMMIT")
            elapsed_s, computed_s = time.monotonic() - began_s, time.process_time() - computed_s
            waited = waited_ns(os.getpid()) - waited
        return _row(len(rows), elapsed_s, waited, (0.0, 0.0, computed_s / len(rows) * 1e6))

    def notify_many(self) -> Row:
        """Events that are made and published."""
        return self._measured(_handle, self._notify_many)

    def replay(self) -> Row:
        """Events of the file that are published again; it has as many as are measured."""
        return self._measured(_handle, self._replay)

    def _measured(self, run: Callable[..., None], publish: Callable[[EventBus, int], None], *arguments: Any) -> Row:
        with running_bus(self._directory, [TOPIC]) as (bus, manager), self._child(run, bus, *arguments) as child:
            publish(bus, self._events // WARM_UP)
            bus.drain(timeout_s=TIMEOUT_S)
            pids = (os.getpid(), manager, child.pid)
            busiest = os.getpid() if run is _handle else child.pid
            before, waited, began_s = [cpu_ns(pid) for pid in pids], waited_ns(busiest), time.monotonic()
            publish(bus, self._events)
            bus.drain(timeout_s=TIMEOUT_S)
            elapsed_s, waited = time.monotonic() - began_s, waited_ns(busiest) - waited
            costs = [(cpu_ns(pid) - first) / 1e3 / self._events for pid, first in zip(pids, before, strict=True)]
        return _row(self._events, elapsed_s, waited, costs)

    @contextmanager
    def _child(self, run: Callable[..., None], bus: EventBus, *arguments: Any) -> Iterator[Child]:
        child = Child(run, bus.name, str(self._directory), *arguments)
        with closing(child):
            child.await_ready()
            yield child
            child.stop()

    def _notify(self, bus: EventBus, events: int) -> None:
        for n in range(events):
            bus.notify(Event(f"{events}-{n}", TOPIC, make_small(n, 0)))

    def _notify_many(self, bus: EventBus, events: int) -> None:
        for first in range(0, events, BATCH):
            bus.notify_many([Event(f"{events}-{n}", TOPIC, make_small(n, 0)) for n in range(first, first + BATCH)])

    def _replay(self, bus: EventBus, events: int) -> None:
        with open_store(self.url) as store:
            done = Replay(store, bus, limit=events, into_live=True).run()
        assert done.published == events, done


def _row(events: int, elapsed_s: float, waited: int, costs: Sequence[float]) -> Row:
    rates = events / elapsed_s, events / (elapsed_s - waited / 1e9)
    return dict(zip(HEADS, (*rates, *costs), strict=True))


def _take(control: Connection, name: str, directory: str) -> None:
    """A process that takes events and completes them."""
    stopping = enter(control)
    with EventBus(name, run_dir=directory) as bus, bus.inbox(NAME, [TOPIC], credit=2 * BATCH) as inbox:
        control.send(READY)
        while not stopping.is_set():
            taken = inbox.events(BATCH, LOOK_S)
            inbox.complete_many(shadow for shadow, _ in taken)
    control.send(READY)


def _store(control: Connection, name: str, directory: str, url: str) -> None:
    """A journal's process."""
    stopping = enter(control)
    with EventBus(name, run_dir=directory) as bus, Journal(bus, url, name=NAME, batch_events=BATCH) as journal:
        control.send(READY)
        stopping.wait()
        journal.stop()
        assert journal.status().rejected == 0
    control.send(READY)


def _handle(control: Connection, name: str, directory: str) -> None:
    """A process with a handler."""
    stopping = enter(control)
    with EventBus(name, run_dir=directory) as bus:
        bus.on(TOPIC, name="handler")(_decode)
        control.send(READY)
        stopping.wait()
    control.send(READY)


def _decode(event: Event) -> None:
    assert event.data["paid"]


def main() -> int:
    arguments = _parse()
    best: dict[str, Row] = {}
    for turn in range(1, arguments.repeat + 1):
        with tempfile.TemporaryDirectory(prefix="ebmp-journal-", dir=arguments.directory) as directory:
            case = Case(Path(directory), arguments.events, arguments.postgresql)
            in_postgresql = [case.postgresql] if arguments.postgresql else []
            for measure in (case.inbox, case.journal, *in_postgresql, case.sqlite3, case.notify_many, case.replay):
                row = measure()
                name = measure.__name__
                sys.stderr.write(f"{name}, {turn} of {arguments.repeat}: {row['events/s']:,.0f} events/s\n")
                best[name] = _better(best.get(name, row), row)
    rows = [
        [name, *(f"{row[head]:,.0f}" if head in RATES else f"{row[head]:.1f}" if row[head] else "" for head in HEADS)]
        for name, row in best.items()
    ]
    table = markdown_table if arguments.markdown else text_table
    print("\n".join(table(("work", *HEADS), rows, names=1)))
    if arguments.json:
        everything = {"python": platform.python_version(), "sqlite": sqlite3.sqlite_version, "cores": os.cpu_count()}
        Path(arguments.json).write_text(json.dumps({**everything, "rows": best}, indent=2) + "\n")
    return 0


def _better(one: Row, other: Row) -> Row:
    """The best of each column."""
    return {head: (max if head in RATES else min)(one[head], other[head]) for head in HEADS}


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.journal", description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("--events", type=_batches, metavar="N", default=100_000, help="events a run (100,000)")
    add("--repeat", type=int, metavar="R", default=5, help="runs of each; the best counts (5)")
    add("--directory", metavar="DIR", default=".", help="where the file is made: on a disk, not in memory (here)")
    add("--postgresql", metavar="URL", help="also a journal in this database, in a schema of its own")
    add("--markdown", action="store_true", help="print the table as README.md has it")
    add("--json", metavar="FILE", help="also write the figures to this file")
    return parser.parse_args()


def _batches(text: str) -> int:
    number = int(text)
    if number < WARM_UP * BATCH or number % (WARM_UP * BATCH):
        raise argparse.ArgumentTypeError(f"{text} is not a multiple of {WARM_UP * BATCH}")
    return number


if __name__ == "__main__":
    sys.exit(main())
