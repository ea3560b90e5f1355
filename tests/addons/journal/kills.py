"""`python -m tests.addons.journal.kills`: kill the writer of a journal again and again, at each step of its loop.

A producer publishes all the time. Each writer is killed at a step of its loop, chosen at random, and the next one goes
on. At the end the store must have each event, once.
"""

from __future__ import annotations

import argparse
import importlib
import random
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from eventbus_mp.addons.journal import Journal
from tests.addons.journal.mortal import (
    KILLED,
    POINTS,
    check_store,
    exit_code,
    forked,
    happens_once,
    joined,
    mortal_bus,
    publish,
    write_until_killed,
)
from tests.addons.postgresql import programs, running_server

EVENTS_AT_ONCE = 300
ROUND = 5
"""After so many kills a writer lives until everything is stored, or the bus would be full in the end."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--store", choices=POINTS, default="sqlite")
    parser.add_argument("--kills", type=int, default=200, metavar="N")
    parser.add_argument("--seed", type=int, default=time.time_ns(), metavar="N")
    options = parser.parse_args()
    chance = random.Random(options.seed)
    print(f"seed {options.seed}", flush=True)
    with tempfile.TemporaryDirectory() as folder, new_store(options.store, Path(folder)) as url:
        try:
            published = _kill(Path(folder) / "run", url, POINTS[options.store], options.kills, chance)
        finally:
            joined(forked(_shut_down, Path(folder) / "run"))
        check_store(url, published)
    print(f"{options.kills} kills, {published:,} events: 0 lost, 0 twice")


@contextmanager
def new_store(kind: str, folder: Path) -> Iterator[str]:
    """The URL of a store that does not exist yet."""
    if kind == "sqlite":
        yield f"sqlite:///{folder / 'test.db'}"
        return
    bin = programs()
    assert bin is not None, "there is no PostgreSQL here"
    importlib.import_module("eventbus_mp.addons.postgresql")  # Here, or each writer would do it, and producers go on.
    with running_server(bin) as server:
        yield server.url("postgres")


def _kill(run_dir: Path, url: str, points: Sequence[str], kills: int, chance: random.Random) -> int:
    """Kill so many writers: how many events were published."""
    published, began_s = 0, time.monotonic()
    joined(forked(_begin, run_dir, url))
    for kill in range(kills):
        point, nth = points[kill % len(points)], chance.randint(1, 5)
        writer = forked(write_until_killed, run_dir, url, point, 1 if happens_once(point) else nth)
        ended = None
        while ended is None:
            producer = forked(publish, run_dir, published, EVENTS_AT_ONCE, chance.choice((1, 50, 500)))
            published += EVENTS_AT_ONCE
            assert joined(producer) == 0
            ended = exit_code(writer)
        assert ended == KILLED, f"the writer ended with {ended} at {point!r}, {nth}"
        if kill % ROUND == ROUND - 1:
            assert joined(forked(_catch_up, run_dir, url)) == 0
        if kill % 20 == 19:
            print(f"{kill + 1} kills after {time.monotonic() - began_s:.0f} s", flush=True)
    assert joined(forked(_catch_up, run_dir, url)) == 0
    return published


def _begin(run_dir: Path, url: str) -> None:
    """Be subscribed once, so that no event comes before the first journal."""
    with mortal_bus(run_dir) as bus:
        Journal(bus, url).start().stop()


def _catch_up(run_dir: Path, url: str) -> None:
    """Store what waits."""
    with mortal_bus(run_dir) as bus, Journal(bus, url, batch_within_s=0.005):
        bus.drain(timeout_s=600)


def _shut_down(run_dir: Path) -> None:
    mortal_bus(run_dir).shutdown()


if __name__ == "__main__":
    main()
