"""Reporting: outcomes of deliveries, and the ends of views, in few writes."""

from __future__ import annotations

from threading import get_ident

from eventbus_mp.client.connection import Connection
from eventbus_mp.client.endpoint import ClientEndpoint
from eventbus_mp.geometry import REASON_LENGTH_MAX
from eventbus_mp.memory.leases import LeaseBook
from eventbus_mp.protocol.requests import ExplainSkip

__all__ = ["Reporter"]


class Reporter:
    """Tells the manager what this process has settled, and which views into payloads outlive that.

    Args:
        connection: The link.
        leases: The views that this process has.
    """

    def __init__(self, connection: Connection, leases: LeaseBook) -> None:
        self._connection = connection
        self._protocol = connection.protocol
        self._lock = connection.transport.lock
        self._leases = leases

    @property
    def lost(self) -> bool:
        """Whether the link has ended, so that nothing can be reported."""
        return self._connection.lost

    def flush(self, endpoint: ClientEndpoint) -> None:
        """Report what is settled; views that outlive their delivery are leased first, in the same write.

        Raises:
            ManagerLost, BusClosed: The link has ended.
            UsageError: This thread is in the middle of writing.
        """
        if not endpoint.has_outcomes:
            return
        lock = self._lock
        lock.refuse_reentry()
        # hot path: once a batch, and once for a lone event. The lock is written out (locking.py), which saves 0.5 us.
        with lock.raw:
            lock.owner = get_ident()
            try:
                # What is taken out here is written before another thread can send `outstanding`, which leaves it out.
                for outcome, sequences in endpoint.take_outcomes():
                    if self._leases.open:
                        self._lease_outliving(sequences)
                    self._protocol.settle(endpoint, outcome, sequences)
                self._connection.flush_locked()
            finally:
                lock.owner = 0

    def flush_all(self) -> None:
        """Report what is settled in this process, by any thread, and which views have ended."""
        for endpoint in self._protocol.endpoints:
            self.flush(endpoint)
        self.release_ended()

    def explain(self, endpoint: ClientEndpoint, event_id: str, reason: str) -> None:
        """Tell the manager why a delivery is skipped, for `statistics`."""
        # Lone surrogates, as in the names of files that are not UTF-8, cannot travel.
        text = reason[:REASON_LENGTH_MAX].encode(errors="backslashreplace").decode()
        self._connection.send_oneway(ExplainSkip, endpoint.number, event_id, text)

    def release_ended(self) -> None:
        """Give back the memory of views that are gone."""
        if self._leases.ended:
            self._connection.call(self._release_ended)

    def _lease_outliving(self, sequences: list[int]) -> None:
        """Keep what is still viewed, and give back what no longer is."""
        for sequence in sequences:
            for place in self._leases.outliving(sequence):
                self._protocol.lease(place)
        self._release_ended()

    def _release_ended(self) -> None:
        for place in self._leases.collect_ended():
            self._protocol.release(place.sequence)
