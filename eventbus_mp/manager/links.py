"""Links: the processes that are connected, what waits to be written to each, and their descriptors."""

from __future__ import annotations

import logging
import os
import select
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial

from eventbus_mp.manager.poller import Poller
from eventbus_mp.protocol.decoders import ManagerDecoder
from eventbus_mp.runtime.pipe import PipeEnds

__all__ = ["Link", "LinkTable"]

log = logging.getLogger("eventbus_mp.manager")


@dataclass(slots=True)
class Link:
    """One connected process, as the manager's shell knows it."""

    number: int
    pid: int
    pidfd: int
    """Readable when the process has ended; -1 if the kernel gives none."""
    ends: PipeEnds
    decoder: ManagerDecoder
    on_readable: Callable[[Link], object]
    on_exit: Callable[[Link], object]
    is_open: bool = True
    writable_wanted: bool = False
    """The poller watches for room in the pipe."""
    unsent_replies: list[bytes] = field(default_factory=list)
    """The replies among the frames in `ends`. What other frames say is made up for when a manager takes over, but a
    process does not ask twice. So these are written by the next manager if this one dies before it has."""


class LinkTable:
    """The open links by number. It calls nobody: what becomes of a link is returned to the caller.

    Args:
        poller: Watches the links' descriptors.
    """

    def __init__(self, poller: Poller) -> None:
        self._poller = poller
        self._links: dict[int, Link] = {}
        self._unflushed: dict[int, Link] = {}

    def open(self, link: Link) -> None:
        """Add a link and watch it. Its `on_readable` and `on_exit` are called with it from the poller's `wait`."""
        self._links[link.number] = link
        self._watch(link)

    def get(self, number: int) -> Link | None:
        """The link of this number, if it is open."""
        return self._links.get(number)

    def __iter__(self) -> Iterator[Link]:
        """All open links; they may be closed meanwhile."""
        return iter(list(self._links.values()))

    def post(self, link: int, frames: list[bytes], *, is_reply: bool = False) -> None:
        """Have frames written by the next `flush`. A link that is closed takes them and writes nothing."""
        found = self._links.get(link)
        if found is not None:
            found.ends.queue(frames)
            self._unflushed[link] = found
            if is_reply:
                found.unsent_replies += frames

    def flush(self) -> list[Link]:
        """Write to each link as much as its pipe takes. Returns those that have to be cut off, for they overflow.

        They come back as a value and are still open, because a lost link is a message for the core, whose effects may
        post to any link, even to one that was flushed before it. So the caller carries out that message and flushes
        again, and nothing changes while the links are walked through here.
        """
        overflowing = []
        for number, link in list(self._unflushed.items()):
            if link.ends.flush():
                if link.writable_wanted:
                    self._want_writable(link, False)
                del self._unflushed[number]
                link.unsent_replies.clear()
            elif link.ends.overflowing:
                overflowing.append(link)
            elif not link.writable_wanted:
                self._want_writable(link, True)
        return overflowing

    def _want_writable(self, link: Link, wanted: bool) -> None:
        link.writable_wanted = wanted
        if wanted:
            # There is nothing to call: the wait ends, and `flush` follows each wait.
            self._poller.watch(link.ends.outgoing, lambda: None, select.EPOLLOUT)
        else:
            self._poller.unwatch(link.ends.outgoing)

    def cut_off(self, link: int, reason: str) -> bool:
        """Close the link of a process that broke the protocol. Returns whether it was open."""
        found = self._links.get(link)
        if found is None:
            return False
        log.warning("process %d broke the protocol and is cut off: %s", found.pid, reason)
        self.close(found)
        return True

    def close(self, link: Link) -> None:
        """Write what its pipe takes, then close the pipes; frames for it that come later are dropped."""
        link.ends.flush()
        link.is_open = False
        del self._links[link.number]
        self._unflushed.pop(link.number, None)
        self._poller.unwatch(link.ends.incoming)
        if link.writable_wanted:
            self._poller.unwatch(link.ends.outgoing)
        if link.pidfd >= 0:
            self._poller.unwatch(link.pidfd)
            os.close(link.pidfd)
        link.ends.close()

    def resume(self) -> None:
        """In a standby that takes over: watch every link again, without the frames that were queued when it forked."""
        for link in self._links.values():
            link.writable_wanted = False
            link.ends.drop_queued()
            self._watch(link)

    def _watch(self, link: Link) -> None:
        self._poller.watch(link.ends.incoming, partial(link.on_readable, link))
        if link.pidfd >= 0:
            self._poller.watch(link.pidfd, partial(link.on_exit, link))
