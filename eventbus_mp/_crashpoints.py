"""Crash points: kill this process between two steps of the bus, to test what survives it.

    die_at("between commit and notify", nth=3)

When this process then comes to that step for the third time, it kills itself with SIGKILL: no `finally`, no exit hook
and no goodbye runs. The bus has no hooks for this. `die_at` wraps the function in question, in this process only, so a
process that does not call it pays nothing.
"""

from __future__ import annotations

import functools
import importlib
import os
import signal
from collections.abc import Callable
from typing import Any, NamedTuple

from eventbus_mp.errors import UsageError
from eventbus_mp.protocol import records

__all__ = ["CRASH_POINTS", "die_at"]


class _Point(NamedTuple):
    where: str
    """The function, as module:function or module:class.method."""
    after: bool
    """Whether the process dies after the function's call, and not before it."""
    counts: Callable[[tuple[Any, ...], Any], bool] = lambda arguments, result: True
    """Whether a call with these arguments and this result (None: before the call) counts as the step."""
    half_step: Callable[..., None] = lambda *arguments: None
    """What the process still does before it dies, with the call's arguments."""


def _sends(*kinds: int) -> Callable[[tuple[Any, ...], Any], bool]:
    """Whether a `PipeTransport.write` carries a record of one of these kinds."""
    wanted = set(kinds)
    return lambda arguments, result: not wanted.isdisjoint(arguments[1][records.KIND_BYTE :: records.RECORD_BYTES])


def _result_is_something(arguments: tuple[Any, ...], result: Any) -> bool:
    return bool(result)


def _write_half_a_payload(view: memoryview, offset: int, encoded: Any, *rest: Any) -> None:
    from eventbus_mp.memory.written import write_payload

    whole = memoryview(bytearray(encoded[4]))
    write_payload(whole, 0, encoded, *rest)
    half = len(whole) // 2
    view[offset : offset + half] = whole[:half]


def _write_half_a_record(transport: Any, data: bytes) -> None:
    os.write(transport._outgoing, data[: records.RECORD_BYTES // 2])


def _copy_half(store: Any, db: Any, values: Any) -> None:
    store._copy(db, values[: len(values) // 2])


def _send_commit(store: Any, db: Any, *rest: Any) -> None:
    db.pgconn.send_query(b"COMMIT")
    db.pgconn.flush()


_NOTIFIED = _sends(*records.NOTIFIED_KINDS)
_SETTLED = _sends(records.SETTLED)
_SEND = "eventbus_mp.client.transport:PipeTransport.write"
_FETCHER = "eventbus_mp.client.fetcher:EventFetcher"
_HANDSHAKE = "eventbus_mp.runtime.handshake"
_PUBLISHER = "eventbus_mp.client.publisher"
_LAUNCH = "eventbus_mp.runtime.launch"
_WRITER = "eventbus_mp.addons.journal.writer:Writer"
_OUTBOX = "eventbus_mp.addons.outbox"
_SQLITE = "eventbus_mp.addons.journal.sqlite.store:SqliteStore"
_POSTGRESQL = "eventbus_mp.addons.journal.postgresql.store:PostgresqlStore"

_POINTS = {
    # A producer.
    "between allocate and commit": _Point(f"{_PUBLISHER}:write_payload", False),
    "inside a payload": _Point(f"{_PUBLISHER}:write_payload", False, half_step=_write_half_a_payload),
    "between commit and notify": _Point(_SEND, False, _NOTIFIED),
    "inside a record": _Point(_SEND, False, _NOTIFIED, _write_half_a_record),
    "after notify": _Point(_SEND, True, _NOTIFIED),
    "before a span is asked for": _Point(_SEND, False, _sends(records.SPAN_WANTED)),
    "after a span was asked for": _Point(_SEND, True, _sends(records.SPAN_WANTED)),
    "inside a loan": _Point(f"{_PUBLISHER}:Publisher._reserve_loan", True, _result_is_something),
    "between loan and notify": _Point("eventbus_mp.client.loan_publisher:write_loaned", True),
    # A consumer.
    "between arrival and fetch": _Point(f"{_FETCHER}.delivered_event", False),
    "between fetch and settle": _Point(f"{_FETCHER}.delivered_event", True, _result_is_something),
    "between settle and telling": _Point(_SEND, False, _SETTLED),
    "inside a settle": _Point(_SEND, False, _SETTLED, _write_half_a_record),
    "after settle": _Point(_SEND, True, _SETTLED),
    "inside a lease": _Point("eventbus_mp.memory.leases:LeaseBook.view", True),
    "between settle and release": _Point(_SEND, False, _sends(records.SPAN_RELEASED)),
    "after release": _Point(_SEND, True, _sends(records.SPAN_RELEASED)),
    # A process that connects.
    "before hello": _Point(f"{_HANDSHAKE}:hello", False),
    "between hello and welcome": _Point(f"{_HANDSHAKE}:receive_welcome", False),
    "after welcome": _Point(f"{_HANDSHAKE}:receive_welcome", True),
    "before the manager is started": _Point(f"{_LAUNCH}:start_manager", False),
    "while the manager starts": _Point(f"{_LAUNCH}:_await_ready", False),
    "after the manager is started": _Point(f"{_LAUNCH}:start_manager", True),
    # The writer of a journal.
    "journal: before taking": _Point(f"{_WRITER}._take", False),
    "journal: between take and store": _Point(f"{_WRITER}._take", True, _result_is_something),
    "journal: after settle": _Point(f"{_WRITER}._settle", True),
    "journal on SQLite: inside a transaction": _Point(f"{_SQLITE}._insert", True, _result_is_something),
    "journal on SQLite: before COMMIT": _Point(f"{_SQLITE}._finish", True),
    "journal on SQLite: between COMMIT and settle": _Point(f"{_SQLITE}.append", True),
    "journal on SQLite: before the note of a run": _Point(f"{_SQLITE}.begin_run", False),
    "journal on SQLite: after the note of a run": _Point(f"{_SQLITE}.begin_run", True),
    "journal on PostgreSQL: inside a COPY": _Point(f"{_POSTGRESQL}._copy", False, half_step=_copy_half),
    "journal on PostgreSQL: inside a transaction": _Point(f"{_POSTGRESQL}._insert", True, _result_is_something),
    "journal on PostgreSQL: before COMMIT": _Point(f"{_POSTGRESQL}._finish", True),
    "journal on PostgreSQL: inside COMMIT": _Point(f"{_POSTGRESQL}._finish", True, half_step=_send_commit),
    "journal on PostgreSQL: between COMMIT and settle": _Point(f"{_POSTGRESQL}.append", True),
    "journal on PostgreSQL: before the note of a run": _Point(f"{_POSTGRESQL}.begin_run", False),
    "journal on PostgreSQL: after the note of a run": _Point(f"{_POSTGRESQL}.begin_run", True),
    # The relay of an outbox.
    "outbox: between read and publish": _Point(f"{_OUTBOX}.publishing:Publishing.publish", False),
    "outbox: between two batches of a look": _Point(f"{_OUTBOX}.publishing:Publishing._accept", False),
    "outbox: between publish and finish": _Point(f"{_OUTBOX}.publishing:Publishing.publish", True),
    "outbox: before COMMIT": _Point(f"{_OUTBOX}.relay:Relay._finish", False),
    "outbox: after COMMIT": _Point(f"{_OUTBOX}.relay:Relay._finish", True),
    # The manager; `die_at` is to be called in its process.
    "manager: between read and decide": _Point("eventbus_mp.manager.journal:Journal.read", True, _result_is_something),
    "manager: between decide and perform": _Point("eventbus_mp.core.bus:BusCore.handle", True),
    "manager: before a write": _Point("eventbus_mp.runtime.pipe:PipeEnds.flush", False),
    "manager: after a write": _Point("eventbus_mp.runtime.pipe:PipeEnds.flush", True),
    "manager: before a segment is made": _Point("eventbus_mp.memory.shm:SharedMemoryStore.create", False),
    "manager: before a standby is made": _Point("eventbus_mp.manager.standby:Standby.fork", False),
    "manager: between standby and journal": _Point("eventbus_mp.manager.journal:Journal.restart", False),
    "manager: before a greeting": _Point("eventbus_mp.manager.acceptor:PendingLink.greet", False),
    "manager: after a greeting": _Point("eventbus_mp.manager.acceptor:PendingLink.greet", True),
}

CRASH_POINTS = tuple(_POINTS)
"""The names that `die_at` takes."""


def die_at(point: str, *, nth: int = 1) -> None:
    """Kill this process with SIGKILL when it comes to `point` for the `nth` time from now on.

    A process that is forked from this one lives on.

    Args:
        point: One of `CRASH_POINTS`.
        nth: 1: the next time.

    Raises:
        UsageError: There is no such point.
    """
    if point not in _POINTS:
        raise UsageError(f"there is no crash point {point!r}; take one of {', '.join(_POINTS)}")
    found = _POINTS[point]
    module, _, path = found.where.partition(":")
    owner = importlib.import_module(module)
    *names, name = path.split(".")
    for part in names:
        owner = getattr(owner, part)
    setattr(owner, name, _mortal(getattr(owner, name), found, nth))


def _mortal(function: Callable[..., Any], point: _Point, nth: int) -> Callable[..., Any]:
    left, pid = nth, os.getpid()

    def step(arguments: tuple[Any, ...], result: Any) -> None:
        nonlocal left
        if pid != os.getpid() or not point.counts(arguments, result):
            return
        left -= 1
        if not left:
            point.half_step(*arguments)
            os.kill(pid, signal.SIGKILL)

    @functools.wraps(function)
    def mortal(*arguments: Any, **named: Any) -> Any:
        if not point.after:
            step(arguments, None)
        result = function(*arguments, **named)
        if point.after:
            step(arguments, result)
        return result

    return mortal
