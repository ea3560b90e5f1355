"""What a bridge needs of the network between hosts: two mailboxes a host, and what each host says of itself."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple, Protocol

from eventbus_mp import EventBusError, UsageError

__all__ = [
    "BOXES",
    "Letter",
    "LetterTooLarge",
    "MailboxError",
    "MailboxFull",
    "Mailboxes",
    "MailboxesClosed",
    "MailboxesRefused",
    "MailboxesUnreachable",
    "checked_box",
    "checked_name",
]

BOXES = ("to", "back")
"""Of each host: events come to "to"; outcomes and questions come to "back", where they never wait behind events."""

_NAME = re.compile("[A-Za-z0-9_-]{1,64}")


class MailboxError(EventBusError):
    """The root of what the mailboxes raise; the text says what to do."""


class MailboxFull(MailboxError):
    """The letter was not stored: that host's mailbox has as many letters as it may, or the server's store is full."""

    def __init__(self, host: str, text: str) -> None:
        super().__init__(text)
        self.host = host


class LetterTooLarge(MailboxError):
    """The letter is larger than the server takes, and was not sent; see `Mailboxes.part_bytes`."""


class MailboxesUnreachable(MailboxError):
    """No server answered in time. Try again later."""


class MailboxesRefused(MailboxError):
    """A server answered, and refuses: credentials, permissions, no JetStream, or a stream of another configuration.

    To try again is of no use before somebody has changed that.
    """


class MailboxesClosed(MailboxError):
    """They were closed, or the client closed itself for good. Open new ones."""


class Letter(NamedTuple):
    """What was in a mailbox. `token` is the mailbox's own, by which the letter is settled."""

    data: bytes
    position: int
    """Where it was stored: letters that are stored later have higher ones, whichever mailbox they are in."""
    token: object


class Mailboxes(Protocol):
    """The mailboxes of all hosts of a cluster, as one host sees them. For one event loop; nothing blocks it.

    A letter is kept until it is settled, or for ever; one that is not settled in time is given out again. It can come
    twice: its reader finds out by what is in it.
    """

    @property
    def is_connected(self) -> bool:
        """Whether a server is there at this moment."""

    @property
    def part_bytes(self) -> int:
        """How large a part of something larger may be: a multiple of 64, with room for a head of 4 KiB."""

    async def open(self) -> None:
        """Connect, and make what is not there yet."""

    async def store(self, box: str, host: str, data: bytes) -> int:
        """Put a letter into a mailbox of this host or another, in the order of the calls; its position, when stored."""

    async def pull(self, box: str) -> list[Letter]:
        """The letters that have come to this host, in order; waits until there is one. One caller at a time a box."""

    async def settle(self, letter: Letter, how: str) -> None:
        """Say what became of it: "done", "working" (more time, please), or "broken" (never again, to nobody).

        When "done" has returned, the letter does not come again.
        """

    async def floor(self) -> int:
        """Up to which position all letters of this host's box "to" are settled, for good."""

    async def shout(self, state: bytes) -> None:
        """Say this host's state to all; kept for those who come later, in place of what was said before."""

    def hear(self, heard: Callable[[str, bytes | None], None]) -> None:
        """Call `heard(host, state)` for what each host has said, this one as well, and for each change of it.

        None: it is no longer kept.
        """

    async def close(self) -> None:
        """End. All calls that wait raise `MailboxesClosed`."""


def checked_name(name: str, what: str) -> str:
    """The name of a host or a cluster, which becomes part of names that the server, its users and its files have."""
    if not _NAME.fullmatch(name):
        raise UsageError(f"{what} {name!r} is not 1 to 64 of the characters A-Z a-z 0-9 _ -; give it such a name")
    return name


def checked_box(box: str) -> str:
    """One of `BOXES`."""
    if box not in BOXES:
        raise UsageError(f"there is no mailbox {box!r}; each host has {' and '.join(map(repr, BOXES))}")
    return box
