"""Many transactions at one time, committed in any order: nothing is missing, and what is promised of order holds."""

from __future__ import annotations

import random
import threading
import time
from dataclasses import dataclass, field

from eventbus_mp import Event, EventBus
from eventbus_mp.addons.outbox import Outbox, Relay
from tests.addons.outbox.databases import Database
from tests.addons.outbox.test_relay import taken

WRITERS, TRANSACTIONS = 6, 25


@dataclass
class Noted:
    """When each event was added, and when its transaction had committed."""

    added_ns: dict[int, int] = field(default_factory=dict)
    committed_ns: dict[int, int] = field(default_factory=dict)


def test_of_concurrent_transactions_none_is_missing_and_the_order_is_kept(database: Database, bus: EventBus) -> None:
    seed = time.time_ns()
    print(f"seed {seed}")
    noted = Noted()
    writers = [
        threading.Thread(target=write, args=(database, number, random.Random(seed + number), noted))
        for number in range(WRITERS)
    ]
    with bus.inbox("s", ["a"]) as inbox, Relay(bus, database.url, batch=10):
        for writer in writers:
            writer.start()
        for writer in writers:
            writer.join()
        found = taken(inbox, len(noted.committed_ns))
        assert sorted(found) == sorted(noted.committed_ns)
    assert {id for id in found if not own_order(found, id)} == set()
    earliest_ns = 1 << 63
    for id in reversed(found):  # None behind it had committed before it was added.
        assert noted.added_ns[id] <= earliest_ns, f"{id} came in front of what had committed before"
        earliest_ns = min(earliest_ns, noted.committed_ns[id])


def own_order(found: list[int], id: int) -> bool:
    """Whether the event before it, of the same writer, came before it."""
    before = id - 1
    return before not in found or found.index(before) < found.index(id)


def write(database: Database, number: int, chance: random.Random, noted: Noted) -> None:
    """Transactions of one writer, whose ids rise; some are rolled back, and in PostgreSQL many are open at a time."""
    connection = database.connect()
    next_id = number * 1_000_000
    for _ in range(TRANSACTIONS):
        if database.dialect == "sqlite":
            connection.execute("BEGIN IMMEDIATE")  # The next writer waits here, so no two are open at a time.
        ids = range(next_id, next_id + chance.randint(1, 5))
        next_id = ids.stop
        for id in ids:
            noted.added_ns[id] = time.monotonic_ns()
            Outbox(connection).add(Event(id, "a", None))
        if chance.random() < 0.25:
            connection.rollback()
            continue
        connection.commit()
        committed_ns = time.monotonic_ns()
        for id in ids:
            noted.committed_ns[id] = committed_ns
    connection.close()
