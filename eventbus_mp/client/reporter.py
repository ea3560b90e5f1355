"""Reporting: outcomes of deliveries, and the ends of views, in few writes."""

from __future__ import annotations

import threading

from eventbus_mp.client.connection import Connection
from eventbus_mp.client.endpoint import ClientEndpoint
from eventbus_mp.memory.leases import LeaseBook
from eventbus_mp.protocol.requests import Demand, RecallObeyed

__all__ = ["REPORT_DELAY_S", "Reporter"]

REPORT_DELAY_NS = 2_000_000
"""How long an outcome may wait for others to be reported with, while its process holds more deliveries."""
REPORT_DELAY_S = REPORT_DELAY_NS / 1e9


class Reporter:
    """Tells the manager what this process has settled, and which views into payloads outlive that.

    Args:
        connection: The link.
        leases: The views that this process has.
    """

    def __init__(self, connection: Connection, leases: LeaseBook) -> None:
        self._connection = connection
        self._protocol = connection.protocol
        self._transport = connection.transport
        self._lock = connection.transport.lock
        self._leases = leases
        self._reported_ns = 0
        """When `flush_soon` last reported something."""
        self._late = connection.transport.late_call(self.flush_all, REPORT_DELAY_S)

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
        if not endpoint.has_news:
            return
        lock = self._lock
        lock.refuse_reentry()
        # hot path: once a batch, and once for a lone event. The lock is written out (locking.py), which saves 1 us.
        with lock.raw:
            lock.owner = threading.get_ident()
            try:
                self._say(endpoint)
                self._connection.flush_locked()
            finally:
                lock.owner = 0

    def _say(self, endpoint: ClientEndpoint) -> None:
        """With the lock held: what is settled, and what is taken and kept.

        What is taken out here is written before another thread can send `outstanding`, which leaves it out.
        """
        for outcome, sequences in endpoint.take_outcomes():
            if self._leases.open:
                self._lease_outliving(sequences)
            self._protocol.settle(endpoint, outcome, sequences)
        if endpoint.kept:
            self._protocol.keep(endpoint, endpoint.take_kept())

    def flush_soon(self, endpoint: ClientEndpoint) -> None:
        """Report what is settled: at once if nothing else is left here, or nothing was reported lately; otherwise
        together with what is settled within the next `REPORT_DELAY_S`.

        A report wakes the manager, which costs as much as ten deliveries do.
        """
        is_last = not (endpoint.in_flight or endpoint.pending or endpoint.running)
        if not is_last and self._late.is_armed:
            return
        now_ns = self._transport.monotonic_ns()
        if is_last or now_ns - self._reported_ns >= REPORT_DELAY_NS:
            self._reported_ns = now_ns
            self.flush(endpoint)
        else:
            self._late.arm()

    def demand(self, endpoint: ClientEndpoint, count: int) -> int:
        """Report what is settled and taken, and ask for up to `count` deliveries: the number of the request."""
        return self._connection.call(self._demand, endpoint, count)

    def _demand(self, endpoint: ClientEndpoint, count: int) -> int:
        self._say(endpoint)
        endpoint.demand = max(0, count - len(endpoint.pending))
        return self._protocol.request(Demand, endpoint.number, count)

    def report_recalled(self, endpoint: ClientEndpoint) -> None:
        """Report what was handed back, and that this is all of it."""
        self._connection.call(self._report_recalled, endpoint)

    def _report_recalled(self, endpoint: ClientEndpoint) -> None:
        self._say(endpoint)
        self._protocol.notice(RecallObeyed, endpoint.number)

    def flush_all(self) -> None:
        """Report what is settled in this process, by any thread, and which views have ended."""
        for endpoint in self._protocol.endpoints:
            self.flush(endpoint)
        self.release_ended()

    def close(self) -> None:
        """Report nothing late any more. Blocks while a late report is being written."""
        self._late.close()

    def abandon(self) -> None:
        """In a forked child: let go of what is the parent's."""
        self._late.abandon()

    def release_ended(self) -> None:
        """Give back the memory of views that are gone."""
        if self._leases.ended:
            self._connection.call(self._release_ended)

    def _lease_outliving(self, sequences: list[int]) -> None:
        """Give back what is no longer viewed, and keep what still is."""
        leases = self._leases
        if leases.ended:
            self._release_ended()  # First, because this is the end of most views, and then there is nothing to lease.
        if leases.open:
            for place in leases.outliving(sequences):
                self._protocol.lease(place)

    def _release_ended(self) -> None:
        for place in self._leases.collect_ended():
            self._protocol.release(place.sequence)
