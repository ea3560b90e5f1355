"""Taking over: how a manager is followed by its standby.

    manager                            standby
    -------                            -------
    renew_standby: fork  ------------> closes what only a manager may hold, sleeps
    restart the journal
    greet the processes that waited
    ... takes in, writes down, decides, carries out ...
    dies                               wakes: watches every link again
                                       forks a standby of its own
                                       repeats the journal, without writing to anybody
                                       gives up the links that were never greeted
                                       tells each process that it is the manager now, with the replies since the fork

Nobody knows which of the dead manager's frames have reached their processes. Replies are all sent again, because a
process ignores one that it has already. Of everything else nothing is sent again: each process reports what it has, and
the core makes up the difference (`ManagerReplaced`, `Resync`).
"""

from __future__ import annotations

import logging
import os
import sys
import time
from functools import partial

from eventbus_mp.manager.acceptor import Acceptor
from eventbus_mp.manager.executor import EffectExecutor
from eventbus_mp.manager.ingest import Ingest
from eventbus_mp.manager.journal import Entry, EntryKind, Journal, Position
from eventbus_mp.manager.links import LinkTable
from eventbus_mp.manager.poller import Poller
from eventbus_mp.manager.standby import Standby
from eventbus_mp.protocol.client_events import ManagerChanged, pack_client_event
from eventbus_mp.protocol.messages import EndAsked, LinkLost, LinkOpened, ManagerReplaced, TimePassed

__all__ = ["Takeover"]

log = logging.getLogger("eventbus_mp.manager")

TAKEOVERS_MAX = 5
"""If this many managers in a row died while they took over, the bus ends: the next one would die of the same cause."""


class Takeover:
    """Keeps a standby that is up to date, and is what that standby does when it wakes.

    Args:
        poller: To be closed in the standby, and opened when it takes over.
        acceptor: Greets processes when the standby has their pipes.
        links: The connected processes.
        executor, ingest: Carry out what the journal says.
        journal: What the standby repeats.
    """

    def __init__(
        self,
        poller: Poller,
        acceptor: Acceptor,
        links: LinkTable,
        executor: EffectExecutor,
        ingest: Ingest,
        journal: Journal,
    ) -> None:
        self._poller = poller
        self._acceptor = acceptor
        self._links = links
        self._executor = executor
        self._ingest = ingest
        self._journal = journal
        self._standby = Standby(journal)

    # --- the manager's side ---

    @property
    def standby_pid(self) -> int:
        """The process that would take over now; 0: there is none."""
        return self._standby.pid

    def renew_standby(self) -> None:
        """Have a standby with every link there is, and greet the processes that wait for it. In the standby: take over.

        The fork comes before the greeting. A process that has been greeted relies on the bus, and so every standby must
        have its pipes.
        """
        self._ingest.is_standby_stale = False
        position = self._journal.position
        if self._fork_standby():
            self._take_over(position)
            return
        # The copy has all that the entries up to here have done.
        self._journal.restart()
        self._acceptor.greet_pending()

    def _fork_standby(self) -> bool:
        """Whether this is the standby, after the manager's death. If none can be made, the manager goes on alone."""
        try:
            if self._standby.fork(self._let_go):
                return True
        except OSError as error:
            log.error("cannot make a standby (%s): until it can, the manager's death is the end of the bus", error)
            # The old one lacks links, and the journal that it would need is about to be overwritten.
            self._standby.dismiss()
            self._journal.successor_pid = 0
            return False
        pidfd = self._standby.pidfd
        self._poller.watch(pidfd, partial(self._on_standby_ended, pidfd))
        return False

    def _on_standby_ended(self, pidfd: int) -> None:
        """Any standby has died: one that was dismissed, as it should, or the one that is needed."""
        self._poller.unwatch(pidfd)
        if self._standby.reap(pidfd):
            log.warning("the standby of the manager died; another one takes its place")
            self._ingest.is_standby_stale = True

    def close(self) -> None:
        """End the standby: the bus ends in order."""
        self._standby.close()

    # --- the standby's side ---

    def _let_go(self) -> None:
        """Before it sleeps: keep the links and nothing else.

        A process that was not greeted yet connects again when the manager dies. It notices that at once, because only
        the manager has the other end of its connection.
        """
        self._acceptor.close(unwatched=True)
        self._poller.close()

    def _take_over(self, position: Position) -> None:
        """The manager is dead: become it. `position` is where the journal was when this copy was made."""
        self._journal.takeovers += 1
        if self._journal.takeovers > TAKEOVERS_MAX:
            sys.exit("the managers of this bus die while they take over; the bus ends")
        log.warning("the manager died; process %d goes on in its place", os.getpid())
        self._poller.open()
        self.listen()
        self._links.resume()
        # Before anything is repeated: if this one dies as well, another does all of this again, from the same position.
        if self._fork_standby():
            self._take_over(position)
            return
        self.catch_up(position)
        self._journal.takeovers = 0
        self._ingest.is_standby_stale = True  # For one that need not repeat all of this.

    def listen(self) -> None:
        """Have new processes accepted."""
        self._poller.watch(self._acceptor.listener.fileno(), self._acceptor.accept)

    def catch_up(self, position: Position) -> None:
        """Repeat what the dead manager took in, then have each process report what it has."""
        ingest, links = self._ingest, self._links
        with self._executor.replaying():
            for entry in self._journal.replay(position):
                self._repeat(entry)
        now_ns = time.monotonic_ns()
        for number in [number for number in self._executor.core.state.links if links.get(number) is None]:
            # It was opened after the fork and never greeted: its pipes have gone with the manager before.
            ingest.decide(LinkLost(number, crashed=False), now_ns)
        pid = os.getpid()
        ingest.decide(ManagerReplaced(pid), now_ns)
        for link in links:
            link.ends.drop_queued()
            links.post(link.number, [pack_client_event(ManagerChanged(pid)), *link.unsent_replies])

    def _repeat(self, entry: Entry) -> None:
        """Carry out one entry, as the table in ingest.py says."""
        ingest, link = self._ingest, self._links.get(entry.link)
        if entry.kind is EntryKind.TIME_PASSED:
            ingest.decide(TimePassed(), entry.now_ns)
        elif entry.kind is EntryKind.END_ASKED:
            ingest.decide(EndAsked(), entry.now_ns)
        elif entry.kind is EntryKind.LINK_OPENED:
            ingest.link_serial = entry.link
            ingest.decide(LinkOpened(entry.link, entry.number), entry.now_ns)
        elif link is None:
            return  # Its pipes are not here: it was opened after the fork, or what was repeated has ended it.
        elif entry.kind is EntryKind.READ:
            ingest.take_in(link, entry.data, entry.now_ns)
        else:
            self._links.close(link)
            ingest.decide(LinkLost(entry.link, crashed=True), entry.now_ns)
