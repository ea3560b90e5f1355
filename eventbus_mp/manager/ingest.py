"""Taking in: what happened to the links becomes messages, is written to the journal, and is decided and carried out.

Everything that enters the core comes through here in one of five ways, and each is one kind of entry in the journal.
Each has two halves: one writes the entry down, the other carries it out. The second half is all that a standby repeats
(takeover.py), so it depends on nothing but the entry and what came before it.

    entry          written down by    carried out by
    READ           read               take_in
    LINK_OPENED    open_link          decide(LinkOpened)
    LINK_LOST      lose               close and decide(LinkLost)
    TIME_PASSED    pass_time          decide(TimePassed)
    END_ASKED      ask_end            decide(EndAsked)
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from eventbus_mp.errors import ProtocolError
from eventbus_mp.manager.batching import BatchDelay
from eventbus_mp.manager.executor import EffectExecutor
from eventbus_mp.manager.journal import EntryKind, Journal
from eventbus_mp.manager.links import Link, LinkTable
from eventbus_mp.protocol.decoders import ManagerDecoder
from eventbus_mp.protocol.messages import EndAsked, LinkLost, LinkOpened, Message, TimePassed
from eventbus_mp.runtime.handshake import Welcome
from eventbus_mp.runtime.pipe import PipeEnds

__all__ = ["Ingest"]

log = logging.getLogger("eventbus_mp.manager")


class Ingest:
    """Reads from the links and opens and ends them.

    Args:
        executor: What carries out messages.
        links: The connected processes.
        journal: Where everything is written down before it is carried out.
        batch_delay: Counts the bytes that came in.
        welcome: What to greet the process of a new link with, by the link's number.
    """

    def __init__(
        self,
        executor: EffectExecutor,
        links: LinkTable,
        journal: Journal,
        batch_delay: BatchDelay,
        welcome: Callable[[int], Welcome],
    ) -> None:
        self._executor = executor
        self._links = links
        self._journal = journal
        self._batch_delay = batch_delay
        self._welcome = welcome
        self.link_serial = 0
        """The number of the newest link. None is used twice."""
        self.is_standby_stale = True
        """The standby lacks the pipes of a link, holds those of a process that has to see their end, or is dead."""

    # --- deciding ---

    def decide(self, message: Message, now_ns: int) -> None:
        """Carry out a message, and then what follows from it."""
        follow_ups = self._executor.perform(message, now_ns)
        if follow_ups:
            self._follow(follow_ups, now_ns)

    def _follow(self, follow_ups: list[Message], now_ns: int) -> None:
        """Carry out what effects have caused, in order; more may follow from that, and goes to the end."""
        for message in follow_ups:
            if type(message) is LinkLost:
                # The process may live, and the standby has copies of the pipe ends that were closed here. Only a new
                # standby, which does not have them, lets the process see the end of its pipe.
                self.is_standby_stale = True
            follow_ups += self._executor.perform(message, now_ns)

    # --- a process connects ---

    def open_link(self, pid: int, pidfd: int, ends: PipeEnds) -> Welcome:
        """A process has said HELLO: give it a link. Returns its greeting, for when the standby has its pipes."""
        number = self.link_serial = self.link_serial + 1
        welcome = self._welcome(number)
        self.is_standby_stale = True
        self._links.open(Link(number, pid, pidfd, ends, ManagerDecoder(number), self.read, self.read_to_end))
        now_ns = time.monotonic_ns()
        self._journal.append(EntryKind.LINK_OPENED, number, pid, now_ns)
        self.decide(LinkOpened(number, pid), now_ns)
        return welcome

    # --- a process has written ---

    def read(self, link: Link) -> bool:
        """Take what a link's pipe holds. Returns whether there may be more."""
        if self._journal.is_full:
            return False  # It is read after the next standby has been made: until then the pipe keeps it.
        now_ns = time.monotonic_ns()
        data = self._journal.read(link.ends.incoming, link.number, now_ns)
        if data:
            self._batch_delay.count(len(data))
            self.take_in(link, data, now_ns)
            return True
        if data is not None:
            self.lose(link)
        return False

    def take_in(self, link: Link, data: bytes, now_ns: int) -> None:
        """Carry out what a process has sent."""
        try:
            messages = link.decoder.feed(data)
        except ProtocolError as error:
            self._links.cut_off(link.number, str(error))
            self._follow([LinkLost(link.number, crashed=True)], now_ns)
            return
        perform = self._executor.perform
        for message in messages:
            follow_ups = perform(message, now_ns)
            if follow_ups:
                self._follow(follow_ups, now_ns)

    # --- a process ends ---

    def read_to_end(self, link: Link) -> None:
        """A process has ended. What it sent before counts: read it all, then take everything back."""
        more = True
        while more and link.is_open:
            more = self.read(link)
        if link.is_open and not self._journal.is_full:
            self.lose(link)

    def lose(self, link: Link) -> None:
        """End a link whose process is gone, or is to be given up."""
        now_ns = time.monotonic_ns()
        self._journal.append(EntryKind.LINK_LOST, link.number, 0, now_ns)
        self._links.close(link)
        self.decide(LinkLost(link.number, crashed=True), now_ns)

    def cut_off_overflowing(self, overflowing: list[Link]) -> None:
        """End the links that `LinkTable.flush` returned.

        A successor cannot know how fast their processes read, so it finds these losses in the journal.
        """
        for link in overflowing:
            log.warning("process %d is cut off: it asks and does not read the answers", link.pid)
            self.lose(link)
            self.is_standby_stale = True  # As in `_follow`.

    # --- time, and signals ---

    def pass_time(self) -> None:
        """Something is due."""
        now_ns = time.monotonic_ns()
        self._journal.append(EntryKind.TIME_PASSED, 0, 0, now_ns)
        self.decide(TimePassed(), now_ns)

    def ask_end(self) -> None:
        """A signal asks the manager to end."""
        now_ns = time.monotonic_ns()
        self._journal.append(EntryKind.END_ASKED, 0, 0, now_ns)
        self.decide(EndAsked(), now_ns)
