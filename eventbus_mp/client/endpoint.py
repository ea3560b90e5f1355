"""A process's side of one subscriber: what has arrived, what is in flight, what is settled and not reported yet.

Pure: no lock, no descriptor, no clock. Several threads use it at once all the same: the one that reads the pipe appends
to `pending`, handler threads take from it, and any thread settles. Each step is a single operation on a deque or a
dict, which the interpreter does not interrupt; where two steps have to go together, the order is explained.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import TypeVar

from eventbus_mp.protocol.messages import Outcome, Record
from eventbus_mp.protocol.records import RECORD
from eventbus_mp.statistics import SubscriberKey

__all__ = ["ClientEndpoint", "flat_ranges", "ranges"]

T = TypeVar("T")


class ClientEndpoint:
    """This process's place for one subscriber.

    A delivery moves from `pending` (arrived, not taken) to `in_flight` (taken, not settled) to the settled ones, which
    `ClientProtocol.report` sends in batches. A handler loop that settles what it takes leaves out `in_flight`.
    """

    def __init__(self, number: int, key: SubscriberKey, config_bytes: bytes) -> None:
        self.number = number
        self.key = key
        self.config_bytes = config_bytes
        self.pending: deque[Record] = deque()
        self.in_flight: dict[int, Record] = {}
        """By sequence."""
        self.cost_ns = 0
        """Nanoseconds that a delivery took lately, as the handler loop measures it; 0: nobody measures."""
        self.current: Record | None = None
        """The delivery that the handler loop runs, or ran last."""
        self.is_over = False
        """This process no longer hosts the subscriber: nothing more arrives, and what is taken now goes back."""
        self.on_arrival: Callable[[], None] | None = None
        """Called by `announce`, in the thread that reads the pipe: it must not block."""
        self._settled: dict[int, deque[int]] = {int(outcome): deque() for outcome in Outcome}
        """Outcome -> sequences that are settled and not reported."""
        self.note_completed = self._settled[Outcome.COMPLETED].append
        """`note(sequence, COMPLETED)` as a single call, for the handler loop."""

    def arrive(self, packed: bytes) -> None:
        """Take in a batch of packed records."""
        self.pending.extend(RECORD.iter_unpack(packed))
        self.announce()

    def announce(self) -> None:
        """Something has arrived, or nothing will any more."""
        if self.on_arrival is not None:
            self.on_arrival()

    def take(self) -> Record | None:
        """The next delivery, in flight from now on; None when nothing is pending."""
        try:
            record = self.pending.popleft()
        except IndexError:
            return None
        self.in_flight[record[7]] = record
        return record

    def settle(self, sequence: int, outcome: int) -> bool:
        """Note how a delivery in flight ended; False when it is not in flight (it was settled before)."""
        if self.in_flight.pop(sequence, None) is None:
            return False
        self.note(sequence, outcome)
        return True

    def note(self, sequence: int, outcome: int) -> None:
        """Note how a delivery that never was in `in_flight` ended."""
        self._settled[outcome].append(sequence)

    def return_unstarted(self) -> None:
        """Note all that is not settled as returned: another process gets it, and no attempt is counted."""
        self.is_over = True
        for record in _drained(self.pending):
            self.note(record[7], Outcome.RETURNED)
        for sequence in list(self.in_flight):
            self.settle(sequence, Outcome.RETURNED)

    @property
    def has_outcomes(self) -> bool:
        """Whether anything is settled and not reported."""
        return any(self._settled.values())

    def take_outcomes(self) -> Iterator[tuple[int, list[int]]]:
        """Take out what is settled and not reported: an outcome and its sequences at a time."""
        for outcome, settled in self._settled.items():
            if settled:
                yield outcome, _drained(settled)

    def outstanding(self) -> list[int]:
        """What has arrived and is not reported as settled, as flat ranges: for a manager that has taken over.

        It may name a delivery that is being reported at this moment, which changes nothing. It misses one that another
        thread has just taken out of `pending` and not yet noted as `current`, a window of some 50 ns: the new manager
        sends that one again. Closing it would cost every delivery as much.
        """
        sequences = [record[7] for record in (*self.pending, *self.in_flight.values())]
        for settled in self._settled.values():
            sequences += settled
        if self.current is not None:
            sequences.append(self.current[7])
        return flat_ranges(sequences)


def _drained(queue: deque[T]) -> list[T]:
    """Everything that is in the queue now; another thread may be taking from it as well."""
    taken = []
    for _ in range(len(queue)):
        try:
            taken.append(queue.popleft())
        except IndexError:
            break
    return taken


def flat_ranges(sequences: list[int]) -> list[int]:
    """The numbers as [first, count, first, count, ...]."""
    return [number for found in ranges(sorted(set(sequences))) for number in found]


def ranges(sequences: list[int]) -> list[tuple[int, int]]:
    """The numbers as (first, how many follow each other)."""
    if not sequences:
        return []
    if sequences == list(range(sequences[0], sequences[0] + len(sequences))):
        return [(sequences[0], len(sequences))]  # The common case: a handler settles in the order of arrival.
    found = []
    first = following = sequences[0]
    for sequence in sequences:
        if sequence != following:
            found.append((first, following - first))
            first = sequence
        following = sequence + 1
    return [*found, (first, following - first)]
