"""The receipts of one name, as one session has them open: what is published, told and confirmed there."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from eventbus_mp.client.listeners import watcher_of
from eventbus_mp.client.receipt_book import ReceiptBook
from eventbus_mp.errors import BusFull, EventBusError
from eventbus_mp.geometry import RECEIPTS_TOLD_MAX, SETTLED_RANGE_MAX, TAGS_MAX
from eventbus_mp.protocol.decoders import encode_request
from eventbus_mp.protocol.requests import (
    CloseReceipts,
    ConfirmReceipts,
    ListReceipts,
    OpenReceipts,
    Tag,
    TakeReceipts,
)
from eventbus_mp.statistics import Watcher

if TYPE_CHECKING:
    from eventbus_mp.client.session import Session

__all__ = ["OpenBox"]

RANGES_MAX = 10_000
"""How many ranges are confirmed by one notice."""
WATCHERS_MAX = 1_024
"""How many watchers are kept to be given out again; beyond that, all are made anew."""


class OpenBox:
    """Opens a name, for as long as the session lives or until `close`.

    Raises:
        UsageError: Another process has it, or this one.
    """

    def __init__(self, session: Session, name: str) -> None:
        self.session = session
        self.name = name
        self._connection = session.connection
        self._protocol = session.connection.protocol
        self._lock = session.connection.transport.lock
        self._book = ReceiptBook()
        self._arrived: deque[tuple[Watcher, int, int]] = deque()
        """(watcher, first sequence, count) that have come and were not taken."""
        self._watchers: dict[Any, Watcher] = {}
        self._asked = 0
        """The request whose answer is waited for; 0: none is."""
        self.left: tuple[bytes, ...] = ()
        self.kept: tuple[bytes, ...] = ()
        self._number, self._most, self._count = self._connection.request(OpenReceipts, name)
        try:
            if self._count:
                kept, left = self._list()
                self.kept, self.left = tuple(kept), tuple(left)
        except BaseException:
            self.close()
            raise

    def _list(self) -> tuple[list[bytes], list[bytes]]:
        """Learn what is kept, in its order: all of that, and what of it is unsettled."""
        kept: list[bytes] = []
        left: list[bytes] = []
        skip = 0
        while pages := self._connection.request(ListReceipts, self._number, skip):
            skip += len(pages)
            for sequences, unsettled, widths, tags in pages:
                here = _cut(widths, tags)
                kept += here
                at = iter(here)
                with self._lock.held():
                    for first, count in zip(sequences[::2], sequences[1::2], strict=True):
                        self._book.note(first, [next(at) for _ in range(count)])
                for first, count in zip(unsettled[::2], unsettled[1::2], strict=True):
                    left += self._book.tags_of(first, count)
        return kept, left

    # --- publishing ---

    def reserve(self, count: int) -> None:
        """Make room for the receipts of so many events.

        Raises:
            BusFull: There would be too many.
        """
        with self._lock.held():
            if self._count + count > self._most:
                raise BusFull(
                    f"receipts {self.name!r} has {self._count} that are not confirmed, and {count} more would be over "
                    f"BusConfig.receipts_max={self._most}; take them with get(), and confirm them"
                )
            self._count += count

    def unreserve(self, count: int) -> None:
        """They were not published."""
        if count:
            with self._lock.held():
                self._count -= count

    def tagged(self, first: int, tags: Sequence[bytes]) -> list[bytes]:
        """What is to be written in front of the events from `first` on; with the lock held, as `dropped`."""
        self._book.note(first, tags)
        return _pack_tags(self._number, first, tags)

    def dropped(self, tags: Sequence[bytes]) -> list[bytes]:
        """What is to be written for events that nobody is subscribed to, behind `tagged`: they take numbers as well."""
        first = self._protocol.sequence + 1
        self._protocol.sequence += len(tags)
        self._book.note(first, tags)
        return _pack_tags(self._number, first, tags, dropped=True)

    # --- being told ---

    @property
    def has_news(self) -> bool:
        """Whether there is something to take, or has come in."""
        return bool(self._arrived) or self._protocol.has_reply(self._asked)

    def ask(self) -> int:
        """Have the manager tell what is settled, unless it was asked already: the request that it answers."""
        if not self._asked:
            with self._lock.held():
                if not self._asked:
                    self._asked = self._protocol.request(TakeReceipts, self._number, RECEIPTS_TOLD_MAX, True)
                    self._connection.flush_locked()
        return self._asked

    def take_in(self) -> None:
        """Take in the answer, if it is here and no other thread does."""
        asked = self._asked
        if not asked or not self._protocol.has_reply(asked):
            return
        try:
            told = self._protocol.take_reply(asked)
        except KeyError:
            return
        self._note_told(told)
        self._asked = 0

    def look(self) -> None:
        """Ask what is settled now, unless the manager says it as soon as something is; one round trip."""
        if not self._asked:
            self._note_told(self._connection.request(TakeReceipts, self._number, RECEIPTS_TOLD_MAX, False))

    def _note_told(self, told: list[Any]) -> None:
        for subscribers, completed, flat in told:
            watcher = self._watcher(subscribers, completed)
            self._arrived.extend((watcher, first, count) for first, count in zip(flat[::2], flat[1::2], strict=True))

    def _watcher(self, subscribers: list[list[Any]], completed: list[int]) -> Watcher:
        known = (tuple(map(tuple, subscribers)), tuple(completed))
        watcher = self._watchers.get(known)
        if watcher is None:
            if len(self._watchers) >= WATCHERS_MAX:
                self._watchers.clear()
            places = set(completed)
            parts = {
                "subscribers": subscribers,
                "completers": [key for place, key in enumerate(subscribers) if place in places],
                "skippers": [key for place, key in enumerate(subscribers) if place not in places],
            }
            watcher = self._watchers[known] = watcher_of(parts)
        return watcher

    def take(self, limit: int) -> list[tuple[Watcher, list[bytes]]]:
        """Up to `limit` of the events that have come: their tags, by watcher."""
        found: dict[int, tuple[Watcher, list[bytes]]] = {}
        with self._lock.held():
            while limit and self._arrived:
                watcher, first, count = self._arrived.popleft()
                if count > limit:
                    self._arrived.appendleft((watcher, first + limit, count - limit))
                    count = limit
                limit -= count
                _, tags = found.setdefault(id(watcher), (watcher, []))
                tags += self._book.tell(first, count)
        return list(found.values())

    def confirm(self, tags: Iterable[bytes]) -> None:
        """Forget these, of those that were taken; the manager hears of it."""
        self._connection.call(self._confirm, tags)

    def _confirm(self, tags: Iterable[bytes]) -> None:
        flat: list[int] = []
        events = 0
        for first, count in self._book.confirm(tags):
            self._count -= count
            if len(flat) >= 2 * RANGES_MAX or events + count > SETTLED_RANGE_MAX:
                self._protocol.notice(ConfirmReceipts, self._number, flat)
                flat, events = [], 0
            flat += (first, count)
            events += count
        if flat:
            self._protocol.notice(ConfirmReceipts, self._number, flat)

    # --- the end ---

    def close(self) -> None:
        """Let go of the name. What is kept stays for the next process that opens it."""
        if self._asked:
            self._protocol.forget_reply(self._asked)
        try:
            self._connection.send_oneway(CloseReceipts, self._number)
        except EventBusError:
            return  # The session has ended, and the name with it.


def _pack_tags(box: int, first: int, tags: Sequence[bytes], *, dropped: bool = False) -> list[bytes]:
    """The notices that events from `first` on have these tags. `dropped`: none of these is sent."""
    found = []
    for start in range(0, len(tags), TAGS_MAX):
        part = tags[start : start + TAGS_MAX]
        widths = bytes(map(len, part))
        found.append(encode_request(Tag(0, 0, box, first + start, widths, b"".join(part), len(part) if dropped else 0)))
    return found


def _cut(widths: bytes, tags: bytes) -> list[bytes]:
    found, end = [], 0
    for width in widths:
        found.append(tags[end : end + width])
        end += width
    return found
