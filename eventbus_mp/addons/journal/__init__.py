"""The journal: every event of a bus in a database, to look at and to publish again.

    journal = Journal(bus, "sqlite:///shop.db").start()

`open_store` opens the same database for reading. It needs nothing but Python; PostgreSQL needs an extra.
"""

from eventbus_mp.addons.journal.journal import Journal, JournalStatus
from eventbus_mp.addons.journal.opening import default_url, open_store
from eventbus_mp.addons.journal.pace import AsRecorded, Steady
from eventbus_mp.addons.journal.replay import Plan, Replay, Replayed
from eventbus_mp.addons.journal.row import Entry, Row, event_of
from eventbus_mp.addons.journal.store import (
    Checkpoint,
    Heading,
    Rejected,
    Run,
    Selection,
    Store,
    Stored,
    StoreError,
    StoreLocked,
    StoreUnavailable,
    StoreUnusable,
)

__all__ = [
    "Checkpoint",
    "Entry",
    "Heading",
    "Journal",
    "JournalStatus",
    "Rejected",
    "Row",
    "Run",
    "Selection",
    "Store",
    "StoreError",
    "StoreLocked",
    "StoreUnavailable",
    "StoreUnusable",
    "Stored",
    "AsRecorded",
    "Plan",
    "Replay",
    "Replayed",
    "Steady",
    "default_url",
    "event_of",
    "open_store",
]
