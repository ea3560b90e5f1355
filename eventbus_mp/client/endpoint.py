"""A process's side of one subscriber: what has arrived, what is in flight, what is settled and not reported yet.

Pure: no lock, no descriptor, no clock. Several threads use it at once all the same: the one that reads the pipe appends
to `pending`, handler threads take from it, and any thread settles. Each step is a single operation on a deque or a
dict, which the interpreter does not interrupt; where two steps have to go together, the order is explained.

A delivery only moves forward: from `pending` into a slot, a batch or `in_flight`, and from there to the settled ones.
Who looks in this order (`outstanding`) misses none, if none is in between. So what is taken is taken by `takes`, in
the head of a `for`, and put away first: the interpreter may go over to another thread when a call or a round of a loop
ends, and neither does between the two.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import TypeVar

from eventbus_mp.protocol.messages import Outcome, Record
from eventbus_mp.protocol.records import RECORD, RECORD_BYTES
from eventbus_mp.statistics import SubscriberKey

__all__ = ["ClientEndpoint", "Slot", "flat_ranges", "ranges"]

T = TypeVar("T")


class Slot:
    """The place of one handler loop at an endpoint."""

    __slots__ = ("current",)

    def __init__(self) -> None:
        self.current: Record | None = None
        """The delivery that the loop runs."""


class ClientEndpoint:
    """This process's place for one subscriber.

    A delivery moves from `pending` (arrived, not taken) to `in_flight` (taken, not settled) to the settled ones, which
    `Reporter` sends in batches. A handler loop that settles what it takes leaves out `in_flight`.
    """

    def __init__(self, number: int, key: SubscriberKey, config_bytes: bytes) -> None:
        self.number = number
        self.key = key
        self.config_bytes = config_bytes
        self.pending: deque[Record] = deque()
        self.takes: Iterator[Record] = iter(self.pending.popleft, None)
        """Each step takes the next one that is pending, or raises `IndexError`. Used as the top of this file says."""
        self.in_flight: dict[int, Record] = {}
        """By sequence."""
        self.kept: deque[int] = deque()
        """Sequences that were taken, and of which the manager has not been told that; some are settled meanwhile."""
        self.demand = 0
        """How many deliveries more the manager will send as soon as it has them, because they were asked for."""
        self.cost_ns = 0
        """Nanoseconds that a delivery took lately, as the handler loop measures it; 0: nobody measures."""
        self.slots: dict[object, Slot] = {}
        """Handler loop -> its slot; with threads of its own, a subscriber has several."""
        self.batch: list[Record] = []
        """The deliveries that the handler loop runs together, if it has a handler of batches."""
        self.running: dict[int, Record] = {}
        """By sequence: the deliveries whose handlers run as tasks of an event loop."""
        self.is_over = False
        """This process no longer hosts the subscriber: nothing more arrives, and what is taken now goes back."""
        self.on_arrival: Callable[[], None] | None = None
        """Called by `announce`, in the thread that reads the pipe or one that settles: it must not block."""
        self.is_cut_off = False
        """Nobody reads the pipe for it any more: who waits for an arrival has to look himself."""
        self.is_at_work = False
        """Who takes deliveries has found some the last time: no news before those are settled, or none was found."""
        self._settled: dict[int, deque[int]] = {int(outcome): deque() for outcome in Outcome}
        """Outcome -> sequences that are settled and not reported."""
        self.reasons: dict[int, str] = {}
        """Sequence -> the reason, of skips that are not reported."""
        self.delays_ns: dict[int, int] = {}
        """Sequence -> after how long to try again, of what is not reported."""
        self.failures: dict[int, tuple[int, str, str, str]] = {}
        """Sequence -> (tries here, name of the error's class, its text, end of traceback), of what is not reported."""
        self.marked: dict[int, tuple[int, str]] = {}
        """Sequence -> outcome and reason, of deliveries that were settled while they were pending and are not reported
        since."""
        self.attempts: dict[int, int] = {}
        """Sequence -> number of the attempt, of deliveries that were tried before and are not reported as settled."""
        self.note_completed = self._settled[Outcome.COMPLETED].append
        """`note(sequence, COMPLETED)` as a single call, for the handler loop."""

    def arrive(self, packed: bytes, attempt: int = 1) -> None:
        """Take in a batch of packed records."""
        if attempt > 1:
            self.attempts.update((record[7], attempt) for record in RECORD.iter_unpack(packed))
        self.pending.extend(RECORD.iter_unpack(packed))
        if self.demand:
            self.demand = max(0, self.demand - len(packed) // RECORD_BYTES)
        if not self.is_at_work or self.is_due:
            self.announce()

    @property
    def is_due(self) -> bool:
        """Whether there is news for who takes from it."""
        return bool(self.pending and not (self.is_at_work and self.in_flight)) or self.is_cut_off

    def announce(self) -> None:
        """Something has arrived, or nothing will any more."""
        if self.on_arrival is not None:
            self.on_arrival()

    def put_back(self, records: list[Record]) -> None:
        """Undo `take_many`: they are the next ones again, but for those that are settled."""
        for record in reversed(records):
            if self.in_flight.pop(record[7], None) is not None:
                self.pending.appendleft(record)

    def take_many(self, limit: int) -> list[Record]:
        """Up to `limit` deliveries that are pending, in flight from now on."""
        pending, in_flight = self.pending, self.in_flight
        taken = []
        try:
            for _, record in zip(range(min(limit, len(pending))), self.takes, strict=False):
                in_flight[record[7]] = record
                taken.append(record)
        except IndexError:
            pass  # Another thread takes as well.
        self.kept.extend([record[7] for record in taken])
        if self.marked:
            for record in taken:
                self.settle_marked(record[7])
        return taken

    def settle(self, sequence: int, outcome: int, reason: str = "") -> bool:
        """Note how a delivery in flight ended; False when it is not in flight (it was settled before)."""
        if self.in_flight.pop(sequence, None) is None:
            return False
        self.note(sequence, outcome, reason)
        if self.is_at_work and self.is_due:
            self.announce()
        return True

    def mark_pending(self, sequences: list[int], outcome: int, reason: str = "") -> None:
        """Those of these deliveries that have arrived and were not taken: they are settled as soon as they are.

        Their listener gets the shadows all the same, and need not settle them.
        """
        # First noted, then looked for: another thread may take and settle some meanwhile.
        self.mark_coming(sequences, outcome, reason)
        self.unmark_absent(sequences)

    def mark_coming(self, sequences: list[int], outcome: int, reason: str = "") -> None:
        """As `mark_pending`, also of what is still on its way, until `unmark_absent`."""
        self.marked.update(dict.fromkeys(sequences, (outcome, reason)))

    def unmark_absent(self, sequences: list[int]) -> None:
        """Those of these deliveries that have not arrived will not: they are marked no longer."""
        pending = {record[7] for record in list(self.pending)}
        for sequence in sequences:
            if sequence not in pending:
                self.marked.pop(sequence, None)

    def settle_marked(self, sequence: int) -> bool:
        """Settle a delivery that has just been taken, if it was marked before; whether it was."""
        marked = self.marked.pop(sequence, None)
        return marked is not None and self.settle(sequence, *marked)

    def note(self, sequence: int, outcome: int, reason: str = "") -> None:
        """Note how a delivery that never was in `in_flight` ended."""
        if reason:
            self.reasons[sequence] = reason
        self._settled[outcome].append(sequence)

    def note_retry(self, sequence: int, delay_ns: int) -> None:
        """Note that a delivery, which is not in `in_flight`, is to be tried again after a delay."""
        if delay_ns:
            self.delays_ns[sequence] = delay_ns
        self.note(sequence, Outcome.RETRIED)

    def note_release(self, sequence: int, delay_ns: int) -> None:
        """Note that a delivery, which is not in `in_flight`, is handed back for a while; no attempt is counted."""
        self.delays_ns[sequence] = delay_ns
        self.note(sequence, Outcome.RETURNED)

    def attempt_of(self, sequence: int) -> int:
        """The number of this attempt at a delivery, 1 for the first."""
        return self.attempts.get(sequence, 1)

    def note_attempt(self, sequence: int) -> None:
        """Note that a delivery is tried again here, at once."""
        self.attempts[sequence] = self.attempt_of(sequence) + 1

    def return_unstarted(self) -> None:
        """Note all that is not settled as returned: another process gets it, and no attempt is counted."""
        self.is_over = True
        for record in _drained(self.pending):
            self.note(record[7], Outcome.RETURNED)
        for sequence in list(self.in_flight):
            self.settle(sequence, Outcome.RETURNED)

    def give_back(self, keep: int) -> None:
        """Note what is pending beyond the first `keep` as returned: other processes have nothing to do."""
        self.demand = 0
        returned = []
        while len(self.pending) > keep:
            try:
                returned.append(self.pending.pop()[7])
            except IndexError:
                break  # Another thread has taken it.
        self._settled[Outcome.RETURNED].extend(reversed(returned))

    @property
    def has_news(self) -> bool:
        """Whether anything is settled or taken, and not reported."""
        return any(self._settled.values()) or bool(self.kept)

    def take_kept(self) -> list[int]:
        """Take out what was taken and is not settled, and of which the manager has not been told that."""
        in_flight, running = self.in_flight, self.running
        return [sequence for sequence in _drained(self.kept) if sequence in in_flight or sequence in running]

    def take_outcomes(self) -> list[tuple[int, list[int]]]:
        """Take out what is settled and not reported: each outcome with its sequences."""
        taken = [(outcome, _drained(settled)) for outcome, settled in self._settled.items() if settled]
        for notes in (self.attempts, self.marked):
            if notes:
                for _, sequences in taken:
                    for sequence in sequences:
                        notes.pop(sequence, None)
        return taken

    def outstanding(self) -> list[int]:
        """What has arrived and is not reported as settled, as flat ranges: for a manager that has taken over.

        Nothing may be reported meanwhile.
        """
        # In the order in which a delivery moves, see the top.
        records = list(self.pending)
        records += self.batch
        currents = [slot.current for slot in tuple(self.slots.values())]
        records += [record for record in currents if record is not None]
        records += [*self.running.values(), *self.in_flight.values()]
        sequences = [record[7] for record in records]
        for settled in self._settled.values():
            sequences += settled
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
    if len(sequences) == 1:
        return [(sequences[0], 1)]
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
