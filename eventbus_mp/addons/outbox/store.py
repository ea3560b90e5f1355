"""What a relay asks of the database that has the outbox, and who only looks.

Each call is one short transaction on a connection of its own, so users wait for it as little as possible. No lock on
rows is held while events are published: exactly one relay publishes, the one that holds the outbox's lock.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import NamedTuple, Protocol

from eventbus_mp.addons.journal.row import Entry, Row
from eventbus_mp.addons.journal.store import StoreUnusable
from eventbus_mp.addons.outbox.stop import StopFlag

__all__ = ["LOOK_BYTES", "Item", "OutboxStore", "Refused", "TopicCounts", "missing_table"]


LOOK_BYTES = 4 << 20
"""How many bytes of data and buffers one look reads: the events of one transaction may be many, and large."""


class Refused(NamedTuple):
    """A row that cannot be published, and why."""

    position: int
    reason: str


@dataclass(frozen=True, slots=True)
class Item:
    """An event of the outbox, as who looks sees it."""

    position: int
    row: Row
    done_ns: int | None = None
    """When it was published or refused, in nanoseconds since the epoch; None: it waits."""
    reason: str | None = None
    """Why it was refused; None: it was not."""

    @property
    def state(self) -> str:
        """ "waiting", "published" or "refused"."""
        if self.done_ns is None:
            return "waiting"
        return "published" if self.reason is None else "refused"


@dataclass(frozen=True, slots=True)
class TopicCounts:
    """What the outbox has of one topic."""

    waiting: int
    refused: int
    published: int
    """Those that are kept; by default none is."""
    oldest_ns: int | None
    """When the oldest one that waits was added, in nanoseconds since the epoch."""


class OutboxStore(Protocol):
    """Made by `open_outbox`; one thread uses it at a time, and never in a forked child.

    Raises:
        StoreUnavailable: From every method: not now. When it is called again, the store has connected again by itself.
        StoreLocked: From `waiting`: the lock was lost, and another relay has it.
        StoreUnusable: From every method: not as things are; there is no such table, for example.
    """

    url: str

    # --- for the one relay ---

    def take_lock(self) -> bool:
        """Become the one relay of this outbox; False: another one is. Does not wait. Repeated, it changes nothing."""

    def waiting(self, limit: int, held: Collection[str]) -> list[Entry]:
        """The first of all committed rows that wait, by position, without those of the topics `held`.

        No more of them than have `LOOK_BYTES` together, but one at least.
        """

    def finish(self, positions: Sequence[int], refused: Sequence[Refused], done_ns: int, *, keep: bool) -> None:
        """The bus has accepted the events at these positions, and the refused ones can never be published.

        Args:
            positions: Deleted; or marked, if they are kept.
            refused: Marked with the reason.
            done_ns: When that was, in nanoseconds since the epoch.
            keep: Whether published ones stay.
        """

    def wait(self, timeout_s: float, stop: StopFlag) -> bool:
        """Block until something may have been committed since `waiting` last looked: whether it may.

        It ends without that when `stop` is set, and after so many seconds.
        """

    def prune(self, below_ns: int, limit: int) -> int:
        """Delete up to `limit` events that were published before this time: how many."""

    # --- for who looks ---

    def items(self, state: str, *, after: int, limit: int) -> list[Item]:
        """Up to `limit` items behind a position that are "waiting", "refused" or "published"."""

    def find(self, position: int) -> Item | None:
        """The item at a position."""

    def counts(self) -> dict[str, TopicCounts]:
        """By topic, sorted; only topics that have any."""

    def retry(self, positions: Sequence[int] | None) -> int:
        """Have refused items wait again, at these positions or all: how many."""

    def discard(self, positions: Sequence[int]) -> int:
        """Delete refused items at these positions: how many."""

    # --- the end ---

    def close(self) -> None:
        """Give up the lock, and let go of everything. Repeated, it does nothing."""

    def __enter__(self) -> OutboxStore: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None: ...


def missing_table(url: str, table: str) -> StoreUnusable:
    """The error for a database without an outbox."""
    return StoreUnusable(
        f"{url} has no table {table}; make it with Outbox.create_table(connection), or by a migration with what "
        "`eventbus-mp outbox schema` prints"
    )
