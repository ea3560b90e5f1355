"""The tables of a SQLite store."""

from __future__ import annotations

__all__ = [
    "APPLICATION_ID",
    "CHECKPOINTS_ID",
    "CHECKPOINTS_TABLE",
    "COLUMNS",
    "REJECTED_COLUMNS",
    "TABLES",
    "VERSION",
    "VERSION_MIN",
]

APPLICATION_ID = 0x65624A31
"""In the file's header, for `file` and for us: "ebJ1"."""
CHECKPOINTS_ID = 0x65624331
"""Of the file of checkpoints."""
VERSION = 1
VERSION_MIN = (3, 37, 0)
"""The SQLite that has strict tables."""

COLUMNS = (
    "topic, event_id, transaction_id, initialized_at, occurred_at, source, ttl, headers, data, buffers, format, "
    "recorded_ns, expires_ns"
)
"""Of a row, in the order of its fields."""
REJECTED_COLUMNS = "topic, event_id, reason, data, buffers, format, recorded_ns"

TABLES = """
CREATE TABLE topics (number INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE) STRICT;
CREATE TABLE events (
    position INTEGER PRIMARY KEY AUTOINCREMENT,
    topic INTEGER NOT NULL REFERENCES topics,
    event_id ANY NOT NULL,
    transaction_id ANY,
    initialized_at INTEGER,
    occurred_at INTEGER,
    source TEXT,
    ttl INTEGER,
    headers TEXT,
    data BLOB NOT NULL,
    buffers BLOB,
    format INTEGER NOT NULL,
    recorded_ns INTEGER NOT NULL,
    expires_ns INTEGER,
    UNIQUE (topic, event_id)
) STRICT;
CREATE INDEX events_by_topic ON events (topic, position);
CREATE INDEX events_by_transaction ON events (transaction_id) WHERE transaction_id IS NOT NULL;
CREATE INDEX events_by_expiry ON events (expires_ns) WHERE expires_ns IS NOT NULL;
CREATE TABLE rejected (
    position INTEGER PRIMARY KEY AUTOINCREMENT,
    topic TEXT NOT NULL,
    event_id ANY NOT NULL,
    reason TEXT NOT NULL,
    data BLOB,
    buffers BLOB,
    format INTEGER NOT NULL,
    recorded_ns INTEGER NOT NULL,
    UNIQUE (topic, event_id)
) STRICT;
CREATE TABLE runs (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    bus TEXT NOT NULL,
    incarnation TEXT NOT NULL,
    time_unit TEXT NOT NULL,
    subscriber TEXT NOT NULL,
    patterns TEXT NOT NULL,
    continues INTEGER NOT NULL,
    started_ns INTEGER NOT NULL,
    notified_first TEXT NOT NULL,
    noted_ns INTEGER NOT NULL,
    notified_last TEXT NOT NULL,
    waiting INTEGER NOT NULL,
    ended_ns INTEGER,
    stored INTEGER NOT NULL,
    duplicates INTEGER NOT NULL,
    rejected INTEGER NOT NULL
) STRICT;
"""
"""AUTOINCREMENT: or a position would come again after the newest entries were deleted."""

CHECKPOINTS_TABLE = """
CREATE TABLE checkpoints (
    name TEXT PRIMARY KEY,
    target TEXT NOT NULL,
    next_position INTEGER NOT NULL,
    until_position INTEGER,
    updated_ns INTEGER NOT NULL,
    ended INTEGER NOT NULL
) STRICT;
"""
