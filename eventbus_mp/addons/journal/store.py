"""What a journal asks of a store, and what a store answers: all that who writes, reads, replays or prunes knows of it.

Exactly one process writes, the one that holds the store's lock: so positions rise in the order of the bus, and a reader
that has seen a position never misses a lower one. Readers are as many as like. Each call is one transaction.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import NamedTuple, Protocol

from eventbus_mp import EventBusError
from eventbus_mp.addons.checks import checked_count, checked_text
from eventbus_mp.addons.journal.row import Entry, Row

__all__ = [
    "Checkpoint",
    "Heading",
    "Rejected",
    "Run",
    "Selection",
    "Store",
    "StoreError",
    "StoreLocked",
    "StoreUnavailable",
    "StoreUnusable",
    "Stored",
    "quarantined_row",
]


class StoreError(EventBusError):
    """A store did not do what it was asked for; nothing of the call was stored."""


class StoreUnavailable(StoreError):
    """Not now: the disk is full, the server is away, another process has locked it. The same call may succeed later."""


class StoreLocked(StoreUnavailable):
    """Another process has become the one writer meanwhile, because this one lost its lock."""


class StoreUnusable(StoreError):
    """Not at all, as things are: the file is damaged, of a newer version, not a journal, or where it cannot be safe."""


class Stored(NamedTuple):
    """What became of the rows of one `Store.append`."""

    stored: int
    duplicates: int
    """Rows whose (topic, id) the store had already; that one stays as it is."""
    refused: tuple[tuple[int, str], ...] = ()
    """(index in `rows`, reason) of those that the store cannot hold. They are among the rejected now."""


class Heading(NamedTuple):
    """What a list shows of an entry: all but its data, which may be large."""

    position: int
    topic: str
    id: str | int
    transaction_id: str | int | None
    source: str | None
    recorded_ns: int
    nbytes: int
    """Of its data and buffers."""


class Rejected(NamedTuple):
    """An event that could not be stored as a row, and why. The store has one for each (topic, id)."""

    topic: str
    id: str | int
    reason: str
    data: bytes | memoryview | None
    """None: even this is too much for the store, or there is none."""
    buffers: bytes | memoryview | None
    format: int
    recorded_ns: int
    position: int = 0
    """Of the list of rejected ones; set by the store."""


def quarantined_row(row: Row, reason: str) -> Rejected:
    """A row that a store cannot hold, as a rejected event."""
    return Rejected(row.topic, row.id, reason, row.data, row.buffers, row.format, row.recorded_ns)


@dataclass(frozen=True, slots=True)
class Selection:
    """Which entries. All that is given has to hold."""

    topic: str | None = None
    """A regular expression that matches from the beginning of a topic's name, as those of a subscriber."""
    transaction_id: str | int | None = None
    after: int = 0
    """Only positions behind this one."""
    before: int | None = None
    """Only positions in front of this one."""
    since_ns: int | None = None
    """Only what was recorded then or later, in nanoseconds since the epoch."""
    until_ns: int | None = None
    """Only what was recorded before."""

    def __post_init__(self) -> None:
        """Raises:
        UsageError: A field is not of its kind.
        """
        if self.topic is not None:
            checked_text("topic", self.topic, least=0)
        if isinstance(self.transaction_id, str):
            checked_text("transaction_id", self.transaction_id, least=0)
        elif self.transaction_id is not None:
            checked_count("transaction_id", self.transaction_id)
        checked_count("after", self.after, 0)
        for name in ("before", "since_ns", "until_ns"):
            if getattr(self, name) is not None:
                checked_count(name, getattr(self, name))


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """How far a replay has come."""

    name: str
    target: str
    """The bus to which it publishes."""
    next_position: int
    """Everything in front of it was published."""
    until_position: int | None = None
    """Where it ends; None: it has no end."""
    updated_ns: int = 0
    ended: bool = False
    """Then nothing is kept for it any more."""


@dataclass(frozen=True, slots=True)
class Run:
    """A time in which a journal was subscribed to a bus, with the counters of its topics. `verify` finds gaps by them.

    The counters are those of `EventBus.snapshot`: they count from the registration of a topic, in one incarnation.
    """

    bus: str
    incarnation: str
    time_unit: str
    subscriber: str
    patterns: tuple[str, ...]
    continues: bool
    """The subscriber was there before: between the run before and this one, nothing has passed it by."""
    started_ns: int
    notified_first: Mapping[str, int]
    """Topic -> `notified` when the run began to be subscribed."""
    noted_ns: int
    """When the four that follow were noted last."""
    notified_last: Mapping[str, int] = field(default_factory=dict)
    waiting: int = 0
    """Deliveries that the subscriber had and that were not stored."""
    ended_ns: int | None = None
    """None: it runs, or was killed."""
    stored: int = 0
    duplicates: int = 0
    rejected: int = 0
    number: int = 0
    """Set by the store."""


class Store(Protocol):
    """A journal's store. Made by `open_store`; one thread uses it at a time, and never in a forked child.

    Raises:
        StoreUnavailable: From every method: not now. When the same method is called again, the store has looked anew:
            it opens its file or connects again by itself.
        StoreLocked: From a method that writes: the lock was lost, and another process has it.
        StoreUnusable: From every method: not as things are.
        UsageError: From a method that writes: the store was opened for reading, or its lock is not held here. From one
            with a `Selection`: its pattern is none (`InvalidPattern`).
    """

    url: str

    # --- for the one writer ---

    def take_lock(self) -> bool:
        """Become the one writer, and make or migrate what is missing; False: another process is. Does not wait.

        It is given up by `close`, or by the end of the process however that comes. Repeated, it changes nothing.
        """

    def append(self, rows: Sequence[Row], rejected: Sequence[Rejected] = (), *, run: int | None = None) -> Stored:
        """Store rows, in their order, and rejected events; all of it durable when it returns, and nothing if it raises.

        A row whose (topic, id) is there changes nothing. One that the store cannot hold becomes a rejected event, and
        the others are stored all the same. A `recorded_ns` below that of the row before is raised to it.

        Args:
            rows: The rows.
            rejected: What could not become a row.
            run: The number of the run whose counts go up by what is stored here; None: of none.
        """

    def begin_run(self, run: Run) -> int:
        """Note the beginning of a run; its number."""

    def note_run(
        self, number: int, *, noted_ns: int, notified: Mapping[str, int], waiting: int, ended: bool = False
    ) -> None:
        """Note the counters of a run, and whether it ends here."""

    def drop_rejected(self, keys: Sequence[tuple[str, str | int]]) -> int:
        """Forget the rejected events of these topics and ids: how many there were."""

    def drop_rejected_before(self, recorded_ns: int, limit: int) -> int:
        """Forget up to `limit` rejected events that were recorded before: how many."""

    def delete(self, topic: str, id: str | int) -> bool:
        """Delete one entry; False: there is none."""

    def delete_below(self, position: int, topics: Sequence[str], limit: int) -> int:
        """Delete up to `limit` entries of these topics in front of a position, the oldest of each first: how many."""

    def delete_expired(self, now_ns: int, below: int | None, limit: int) -> int:
        """Delete up to `limit` entries whose `expires_ns` is not after `now_ns`: how many.

        Args:
            now_ns: Nanoseconds since the epoch.
            below: Only in front of this position; None: anywhere.
            limit: How many at most.
        """

    def reclaim(self) -> None:
        """Give a bounded amount of room that was deleted back to the system, if the store can."""

    # --- for readers ---

    def page(self, selection: Selection, limit: int, *, newest_first: bool = False) -> list[Entry]:
        """Up to `limit` of the selected entries, by position.

        The next page begins behind the last position of this one: as `Selection.after`, or, newest first, as `before`.
        """

    def headings(self, selection: Selection, limit: int, *, newest_first: bool = False) -> list[Heading]:
        """As `page`, at a cost that does not grow with the size of the entries."""

    def count(self, selection: Selection) -> int:
        """How many entries are selected."""

    def count_per_topic(self, selection: Selection) -> dict[str, int]:
        """How many of each topic, by name; only topics that have any."""

    def find(self, topic: str, id: str | int) -> Entry | None:
        """The entry of this topic and id."""

    def topics(self) -> list[str]:
        """The names of all topics that have or had entries, sorted."""

    def last_position(self) -> int:
        """The highest position that is there; 0: there is no entry."""

    def size_bytes(self) -> int:
        """How much room the store takes where it is, with its indexes and logs; its cost is constant."""

    def position_at(self, recorded_ns: int) -> int:
        """The first position recorded at this time or later; if there is none, the one behind the last."""

    def rejected(self, limit: int, *, after: int = 0) -> list[Rejected]:
        """Up to `limit` rejected events behind a position of their list."""

    def runs(self) -> list[Run]:
        """All runs, the oldest first."""

    # --- for replays, in any process ---

    def checkpoints(self) -> list[Checkpoint]:
        """All of them, by name."""

    def save_checkpoint(self, checkpoint: Checkpoint) -> None:
        """Write a checkpoint, in the place of the one of its name. It needs no lock; the last one wins."""

    def drop_checkpoint(self, name: str) -> bool:
        """Forget a checkpoint; False: there is none."""

    # --- the end ---

    def close(self) -> None:
        """Give up the lock, and let go of everything. Repeated, it does nothing."""

    def __enter__(self) -> Store: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None: ...
