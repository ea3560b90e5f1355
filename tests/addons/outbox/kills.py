"""`python -m tests.addons.outbox.kills`: kill the relay of an outbox again and again, while transactions go on.

Several processes write at the same time, and a third of their transactions is rolled back. Each relay is killed at a
step of its loop, or of publishing, chosen in turn. At the end the subscriber must have had each event whose transaction
has committed, and no other one.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from eventbus_mp import Event
from eventbus_mp._crashpoints import CRASH_POINTS, die_at
from eventbus_mp.addons.outbox import Outbox, Relay
from tests.addons.journal.mortal import KILLED, TOPICS, exit_code, forked, joined, mortal_bus
from tests.addons.outbox.databases import DATABASES, Database
from tests.addons.postgresql import programs, running_server
from tests.helpers import until

POINTS = [point for point in CRASH_POINTS if point.startswith("outbox: ")]
POINTS += ["inside a payload", "between commit and notify", "after notify"]
WRITERS = 3
TRANSACTIONS = 10
"""Of a writer, between two looks whether the relay lives."""
BATCH = 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=100, metavar="N")
    parser.add_argument("--seed", type=int, default=time.time_ns(), metavar="N")
    parser.add_argument("--database", choices=DATABASES, default="sqlite")
    parser.add_argument("--db", metavar="URL", help="a PostgreSQL that runs; if not, one is started")
    options = parser.parse_args()
    print(f"seed {options.seed}", flush=True)
    with tempfile.TemporaryDirectory() as folder, url_of(options, Path(folder)) as url:
        try:
            kill_relays(Path(folder), options.database, url, options.kills, random.Random(options.seed))
        finally:
            assert joined(forked(shut_down, Path(folder) / "run")) == 0


@contextmanager
def url_of(options: argparse.Namespace, folder: Path) -> Iterator[str]:
    if options.database == "sqlite":
        yield f"sqlite:///{folder}/shop.db"
    elif options.db:
        yield options.db
    else:
        bin = programs()
        assert bin is not None, "there is no PostgreSQL"
        with running_server(bin) as server:
            yield server.url("postgres")


def kill_relays(folder: Path, dialect: str, url: str, kills: int, chance: random.Random) -> None:
    run_dir, had = folder / "run", folder / "had"
    # A connection does not survive a fork, so this process has none.
    assert joined(forked(Database, dialect, url)) == 0
    subscriber = forked(subscribe, run_dir, had)
    until(had.exists)
    began_s, next_id = time.monotonic(), 0
    for kill in range(kills):
        point, nth = POINTS[kill % len(POINTS)], chance.randint(1, 5)
        relay, ended = forked(relay_until_killed, run_dir, url, point, nth), None
        while ended is None:
            writers = []
            for _ in range(WRITERS):
                writers.append(forked(write, dialect, url, next_id, chance.randrange(1 << 30)))
                next_id += 1_000_000
            assert [joined(writer) for writer in writers] == [0] * WRITERS
            ended = exit_code(relay)
        assert ended == KILLED, f"the relay ended with {ended} at {point!r}, {nth}"
        if kill % 20 == 19:
            print(f"{kill + 1} kills after {time.monotonic() - began_s:.0f} s", flush=True)
    assert joined(forked(publish_the_rest, run_dir, url)) == 0
    os.kill(subscriber, signal.SIGKILL)
    joined(subscriber)
    check(dialect, url, had)
    print(f"{kills} kills", flush=True)


def check(dialect: str, url: str, had: Path) -> None:
    """The events that the subscriber had are those of the orders that were committed."""
    database = Database(dialect, url, is_new=False)
    committed, found = set(database.orders()), Counter(map(int, had.read_text().split()))
    left = database.query("SELECT count(*) FROM eventbus_outbox")
    database.close()
    assert committed - set(found) == set(), f"{len(committed - set(found))} events are lost"
    assert set(found) - committed == set(), "events of transactions that were rolled back were published"
    assert left == [(0,)]
    again = sum(count - 1 for count in found.values())
    print(f"{len(committed):,} events: 0 lost, {again:,} published again", flush=True)


def subscribe(run_dir: Path, had: Path) -> None:
    """Write the ids of all events into a file, until it is killed."""
    with mortal_bus(run_dir) as bus, bus.inbox("all", [""]) as inbox, open(had, "a") as file:
        while True:
            shadows = inbox.get_many(1_000)
            file.write("".join(f"{shadow.id}\n" for shadow in shadows))
            file.flush()
            inbox.complete_many(shadows)


def write(dialect: str, url: str, first: int, seed: int) -> None:
    """Orders and their events, each transaction committed or rolled back."""
    chance, database = random.Random(seed), Database(dialect, url, is_new=False)
    connection = database.connect()
    for _ in range(TRANSACTIONS):
        ids = range(first, first + chance.randint(1, 20))
        first = ids.stop
        if dialect == "sqlite":
            connection.execute("BEGIN IMMEDIATE")  # A deferred one fails if another one writes before it does.
        for id in ids:
            database.place_order(connection, id)
            Outbox(connection).add(Event(id, TOPICS[id % 2], {"order": id}))
        if chance.random() < 1 / 3:
            connection.rollback()
        else:
            connection.commit()
    database.close()


def relay_until_killed(run_dir: Path, url: str, point: str, nth: int) -> None:
    with mortal_bus(run_dir) as bus:
        bus.topics()
        die_at(point, nth=nth)
        Relay(bus, url, batch=BATCH).start().wait()


def publish_the_rest(run_dir: Path, url: str) -> None:
    with mortal_bus(run_dir) as bus:
        with Relay(bus, url, once=True) as relay:
            relay.wait()
        bus.drain(timeout_s=120)


def shut_down(run_dir: Path) -> None:
    mortal_bus(run_dir).shutdown()


if __name__ == "__main__":
    main()
