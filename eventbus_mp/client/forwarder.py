"""Forwarder: a subscriber's events as they lie in memory, for a process that takes them to another host."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from eventbus_mp.client.endpoint import flat_ranges
from eventbus_mp.client.listeners import wire_key
from eventbus_mp.client.pulled_mailbox import PulledMailbox
from eventbus_mp.client.steps import Steps, ask
from eventbus_mp.client.validation import OUTCOMES, check_ranges, check_timeout
from eventbus_mp.errors import DecodeError, ManagerLost, UsageError
from eventbus_mp.events import Event
from eventbus_mp.memory.layout import HEADER, HEADER_BYTES
from eventbus_mp.memory.payload import encode_event, read_event
from eventbus_mp.memory.written import write_payload
from eventbus_mp.protocol.messages import Record
from eventbus_mp.protocol.requests import SettleRanges

__all__ = ["Forwarder", "RawEvent"]

SETTLED_MAX = 20_000
"""How many ranges one request settles."""


class RawEvent(NamedTuple):
    """An event that was not decoded."""

    topic: str
    sequence: int
    """Its number on this bus, by which it is settled."""
    payload: bytes | memoryview
    """The block as it lies in shared memory, header included; its length is a multiple of 64. A copy if it is small,
    up to 16 KiB; otherwise a view, which stays valid as long as it exists."""
    deadline_ns: int = 0
    """When its ttl is over, on the monotonic clock of this host; 0: it has none."""

    @classmethod
    def of(cls, event: Event, sequence: int = 0) -> RawEvent:
        """An event as the bytes that it would be in shared memory.

        Raises:
            EncodeError: Its data cannot travel.
        """
        encoded = encode_event(event)
        payload = bytearray(encoded[4])
        write_payload(memoryview(payload), 0, encoded, sequence)
        return cls(event.topic, sequence, bytes(payload))

    def event(self) -> Event:
        """The event over these bytes; nothing is decoded.

        Raises:
            DecodeError: They are not those of an event.
        """
        event = read_event(self.payload, _number_in(self.payload), self.topic)
        if event is None:
            raise DecodeError(f"{len(self.payload)} bytes of topic {self.topic!r} are not an event")
        return event


class Forwarder(PulledMailbox):
    """The events of one subscriber, for a process that takes them to another host. Made by `EventBus.forwarder`.

    What is taken is unsettled until `settle` says how it ended. When this process dies, it goes to the next one as it
    was: no event is accused. Several threads may share a forwarder.
    """

    def take(self, limit: int, timeout_s: float | None = None) -> list[RawEvent]:
        """Take up to `limit` events. Blocks until there is one, then takes what has arrived.

        An event whose time is over is settled here, and left out.

        Args:
            limit: How many at most.
            timeout_s: Seconds to wait at most; 0: do not wait; None: as long as it takes.

        Returns:
            The events in the order of their arrival; empty if none came in time.

        Raises:
            BusClosed: The forwarder, or its bus, was closed.
            ManagerLost: The manager has ended, and the bus with it.
            UsageError: `limit` is not a whole number of 1 or more, or `timeout_s` is not a time.
        """
        if type(limit) is not int or limit < 1:
            limit = self._checked_limit("take", limit)
        return self._take(limit, check_timeout(timeout_s), self._taken)

    def unsettled(self) -> list[RawEvent]:
        """All that was taken and is not settled, once more, the oldest first. Does not block."""
        self._check_open()
        return [self._raw(record) for record in sorted(self._endpoint.in_flight.copy().values(), key=_sequence_of)]

    def settle(self, ranges: Iterable[tuple[int, int]], outcome: str = "completed", reason: str = "") -> None:
        """Settle events of this subscriber by their numbers, all in the same way.

        Does not block for those that were taken here and are unsettled. All others are settled wherever they are, for
        one round trip: also those that another process had, or that have not come yet. What is settled already, or
        never was this subscriber's, is passed over.

        Args:
            ranges: (the first one's `sequence`, how many follow each other, this one included).
            outcome: "completed" or "skipped".
            reason: Why they are skipped; `EventBus.statistics` shows it.

        Raises:
            UsageError: These are no ranges, or the outcome is neither of the two; nothing is settled.
            BusClosed, ManagerLost: As of `take`.
        """
        number = OUTCOMES.get(outcome)
        if number is None:
            raise UsageError(f"settle(outcome={outcome!r}): give 'completed' or 'skipped'")
        sequences = check_ranges(ranges)
        self._check_open()
        session, endpoint = self._session, self._endpoint
        try:
            elsewhere = [sequence for sequence in sequences if not endpoint.settle(sequence, number, reason)]
            session.reporter.flush(endpoint)
            if elsewhere:
                session.connection.run(self._settling(elsewhere, int(number), reason))
        except ManagerLost as error:
            self._follow(session, error)  # What was unsettled is lost with the bus.

    def _settling(self, sequences: list[int], outcome: int, reason: str) -> Steps[None]:
        """Have the manager settle what is not in flight here. It may be on its way, and is then not to be taken."""
        endpoint = self._endpoint
        endpoint.mark_coming(sequences, outcome, reason)
        flat = flat_ranges(sequences)
        for start in range(0, len(flat), 2 * SETTLED_MAX):
            yield ask(SettleRanges, *wire_key(self.key), outcome, reason, flat[start : start + 2 * SETTLED_MAX])
        # What the manager had sent before it answered has arrived by now, and it sends them no more.
        endpoint.unmark_absent(sequences)

    def _look(self, limit: int, now_ns: int) -> None:
        """As of an inbox, but nothing is asked for: what there is comes by itself, up to the credit."""
        session, endpoint = self._session, self._endpoint
        self._looked_ns = now_ns
        if not endpoint.pending:
            session.reporter.flush(endpoint)
        session.connection.wait(lambda: len(endpoint.pending) >= limit, 0)
        session.reporter.release_ended()

    def _taken(self, record: Record) -> RawEvent | None:
        """The event of a delivery just taken; None if it is settled: its time is over, or it was before it came."""
        if record[6] and self._has_expired(record):
            return None
        return self._raw(record) if record[7] in self._endpoint.in_flight else None

    def _raw(self, record: Record) -> RawEvent:
        topic, payload = self._session.fetcher.delivered_block(record)
        return RawEvent(topic, record[7], payload, record[6])

    def __enter__(self) -> Forwarder:
        return self


def _number_in(payload: bytes | memoryview) -> int:
    return int(HEADER.unpack_from(payload)[3]) if len(payload) >= HEADER_BYTES else 0


def _sequence_of(record: Record) -> int:
    return record[7]
