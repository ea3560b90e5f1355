"""A journal that is killed at one of its steps, and producers beside it; for the test and the long command."""

from __future__ import annotations

import os
import signal
import traceback
from pathlib import Path

from eventbus_mp import Event, EventBus
from eventbus_mp._crashpoints import CRASH_POINTS, die_at
from eventbus_mp.addons.journal import Journal, Selection, open_store

__all__ = [
    "KILLED",
    "POINTS",
    "TOPICS",
    "happens_once",
    "check_store",
    "exit_code",
    "forked",
    "id_of",
    "joined",
    "mortal_bus",
    "publish",
    "write_until_killed",
]

POINTS = {
    store: [point for point in CRASH_POINTS if point.startswith(("journal: ", f"journal on {name}: "))]
    for store, name in (("sqlite", "SQLite"), ("postgresql", "PostgreSQL"))
}
"""Store -> the steps of its writer."""
TOPICS = ("a", "b")
KILLED = -signal.SIGKILL


def mortal_bus(run_dir: Path) -> EventBus:
    """A bus that gives no event up, however often the process dies that holds it."""
    return EventBus("test", TOPICS, run_dir=str(run_dir), crashes_max=1_000, memory_bytes_max=64 << 20)


def forked(work: object, *arguments: object) -> int:
    """The pid of a child that runs `work(*arguments)` and ends."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        work(*arguments)  # type: ignore[operator]
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def joined(pid: int) -> int:
    """The exit code of a child, when it has ended; negative: the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def exit_code(pid: int) -> int | None:
    """The exit code of a child, as of `joined`; None: it runs."""
    ended, status = os.waitpid(pid, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if ended else None


def publish(run_dir: Path, first: int, count: int, at_once: int = 50) -> None:
    """Publish events with the ids `first` and so on, half of them integers and half of them texts."""
    with mortal_bus(run_dir) as bus:
        for begin in range(first, first + count, at_once):
            numbers = range(begin, min(begin + at_once, first + count))
            bus.notify_many(Event(id_of(number), TOPICS[number % 2], {"n": number}) for number in numbers)


def id_of(number: int) -> str | int:
    return number if number % 3 else str(number)


def write_until_killed(run_dir: Path, url: str, point: str, nth: int) -> None:
    """Be the journal until this process comes to `point` for the `nth` time."""
    with mortal_bus(run_dir) as bus:
        die_at(point, nth=nth)
        Journal(bus, url, batch_events=100, batch_within_s=0.005).start().wait()


def check_store(url: str, count: int) -> None:
    """Assert that the store has each event once, as it was published, and in the order of its producer."""
    with open_store(url) as store:
        entries = store.page(Selection(), 2 * count + 1)
    found = [entry.row.id for entry in entries]
    wanted = {id_of(number) for number in range(count)}
    assert len(found) == len(set(found)), f"{len(found) - len(set(found))} are there twice"
    assert wanted - set(found) == set(), f"{len(wanted - set(found))} are lost"
    assert set(found) - wanted == set()


def happens_once(point: str) -> bool:
    """Whether a writer comes to this step only when it begins."""
    return "note of a run" in point
