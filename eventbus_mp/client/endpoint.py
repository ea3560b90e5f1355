"""A process's side of one subscriber: what has arrived, what is in hand, what is settled and not yet told."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, TypeVar

from eventbus_mp.client.connection import Connection
from eventbus_mp.geometry import REASON_LENGTH_MAX
from eventbus_mp.memory.leases import LeaseBook
from eventbus_mp.protocol import records
from eventbus_mp.protocol.client_events import Delivered
from eventbus_mp.protocol.messages import Outcome, Record
from eventbus_mp.protocol.records import RECORD
from eventbus_mp.protocol.requests import ExplainSkip
from eventbus_mp.statistics import SubscriberKey

__all__ = ["ClientEndpoint"]

T = TypeVar("T")


class ClientEndpoint:
    """One endpoint.

    `pending` is what arrived and nobody has taken; `in_hand` is what was taken and is not settled, by sequence.
    Settled deliveries are collected and told in one write by `flush`.
    """

    def __init__(
        self, connection: Connection, leases: LeaseBook, number: int, key: SubscriberKey, config_bytes: bytes
    ) -> None:
        self.number = number
        self.key = key
        self.config_bytes = config_bytes
        self.pending: deque[Record] = deque()
        self.in_flight: dict[int, Record] = {}
        self.cost_ns = 0
        """What a delivery took lately, as the listener loop measures it; 0: nobody measures."""
        self.current: Record | None = None
        """What the listener loop runs now, or ran last."""
        self.is_over = False
        """This process hosts the subscriber no more: nothing will arrive, and what is taken in hand now goes back."""
        self.on_arrival: Callable[[], None] | None = None
        """Called by `announce`."""
        self._connection = connection
        self._leases = leases
        self._noted: dict[int, deque[int]] = {int(outcome): deque() for outcome in Outcome}
        """Outcome -> sequences that are settled and not told yet. Any thread appends, any thread takes out."""
        self.note_completed = self._noted[Outcome.COMPLETED].append
        """Like `note` with COMPLETED, in a single call."""

    def arrive(self, message: Delivered) -> None:
        """Take in a batch; called by whoever reads the pipe."""
        self.pending.extend(RECORD.iter_unpack(message.packed))
        self.announce()

    def announce(self) -> None:
        """Something has arrived, or nothing will any more."""
        if self.on_arrival is not None:
            self.on_arrival()

    def take(self) -> Record | None:
        """The next delivery, now in hand; None when nothing is pending."""
        try:
            record = self.pending.popleft()
        except IndexError:
            return None
        self.in_flight[record[7]] = record
        return record

    def settle(self, sequence: int, outcome: int) -> bool:
        """Note how a delivery in hand ended; False when it is not in hand (settled before). `flush` tells it."""
        if self.in_flight.pop(sequence, None) is None:
            return False
        self.note(sequence, outcome)
        return True

    def note(self, sequence: int, outcome: int) -> None:
        """Note how a delivery that was never in hand ended. `flush` tells it."""
        self._noted[outcome].append(sequence)

    def explain(self, event_id: str, reason: str) -> None:
        """Tell the manager why a delivery is skipped; not answered."""
        # Lone surrogates, as in the names of files that are not UTF-8, cannot travel.
        text = reason[:REASON_LENGTH_MAX].encode(errors="backslashreplace").decode()
        self._connection.send_oneway(ExplainSkip, self.number, event_id, text)

    @property
    def lost(self) -> bool:
        """Whether there is nobody to tell any more."""
        return self._connection.lost

    def return_unstarted(self) -> None:
        """Return what was not begun: another process gets it, and no attempt is counted."""
        self.is_over = True
        for record in _taken(self.pending):
            self.note(record[7], Outcome.RETURNED)
        for sequence in list(self.in_flight):
            self.settle(sequence, Outcome.RETURNED)
        self.flush()

    def outstanding(self) -> list[int]:
        """What has arrived and is not told to be settled, as flat ranges. It may name a delivery that is, just now."""
        sequences = [record[7] for record in (*self.pending, *self.in_flight.values())]
        for noted in self._noted.values():
            sequences += noted
        if self.current is not None:
            sequences.append(self.current[7])
        return flat_ranges(sequences)

    def flush(self) -> None:
        """Tell the manager what was settled. Views that outlive their delivery are leased first, in the same write.

        Raises:
            ManagerLost, BusClosed: There is nobody to tell.
        """
        if not any(self._noted.values()):
            return
        self._connection.refuse_reentry()
        # Under the lock of the write: what is taken out is told before `outstanding`, which leaves it out, is sent.
        with self._connection.write_lock:
            parts: list[bytes] = []
            for outcome, noted in self._noted.items():
                if noted:
                    sequences = _taken(noted)
                    parts += lease_records(self._leases, sequences) if self._leases.open else []
                    parts += [
                        records.pack_settled(self.number, outcome, first, count, self.cost_ns)
                        for first, count in ranges(sequences)
                    ]
            if parts:
                self._connection.send_locked(b"".join(parts))


def flat_ranges(sequences: list[int]) -> list[int]:
    """The numbers as [first, count, first, count, ...]."""
    return [number for found in ranges(sorted(set(sequences))) for number in found]


def _taken(queue: deque[T]) -> list[T]:
    """Everything that is there now; another thread may be taking, too."""
    taken = []
    for _ in range(len(queue)):
        try:
            taken.append(queue.popleft())
        except IndexError:
            break
    return taken


def ranges(sequences: list[int]) -> list[tuple[int, int]]:
    """The numbers as (first, how many follow each other)."""
    if not sequences:
        return []
    if sequences == list(range(sequences[0], sequences[0] + len(sequences))):
        return [(sequences[0], len(sequences))]  # As it mostly is.
    found = []
    first = following = sequences[0]
    for sequence in sequences:
        if sequence != following:
            found.append((first, following - first))
            first = sequence
        following = sequence + 1
    return [*found, (first, following - first)]


def lease_records(leases: LeaseBook, sequences: list[int]) -> list[bytes]:
    """The records that keep what is still viewed, and give back what no longer is."""
    places = [place for sequence in sequences for place in leases.outliving(sequence)]
    return [records.pack_span_leased(*place) for place in places] + release_records(leases)


def release_records(leases: LeaseBook) -> list[bytes]:
    """The records for told leases whose views are gone."""
    ended: list[Any] = leases.collect_ended()
    return [records.pack_span_released(place.sequence) for place in ended]
