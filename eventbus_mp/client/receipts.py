"""Receipts: what became of events, told to their producer, even if that is another process by then."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple

from eventbus_mp.client.connection import only_looks
from eventbus_mp.client.directions import Direction, direction_of, imported_direction_of
from eventbus_mp.client.pulled_mailbox import ComesBack
from eventbus_mp.client.raw_events import check_raws, publish_raws
from eventbus_mp.client.raw_loan import RawLoan
from eventbus_mp.client.receipt_box import OpenBox
from eventbus_mp.client.tagging import Tagging, check_tags
from eventbus_mp.client.validation import check_limit, check_timeout
from eventbus_mp.errors import BusClosed, EventBusError, ManagerLost, UsageError
from eventbus_mp.events import Event, EventShadow
from eventbus_mp.lifecycle import FORK_MARK, notice_fork
from eventbus_mp.locking import NonReentrantLock
from eventbus_mp.statistics import Watcher

if TYPE_CHECKING:
    from eventbus_mp.client.session import Session

__all__ = ["Receipt", "Receipts"]

LIMIT_MAX = 1 << 20


class Receipt(NamedTuple):
    """Events that were settled alike."""

    tags: tuple[bytes, ...]
    """Their tags."""
    watcher: Watcher
    """Who got each of these events, and who has completed or skipped it; nobody, if there was no subscriber."""


class Receipts:
    """What became of the events that are published here. Made by `EventBus.receipts`; threads may share one.

    Each event has a tag. When all its deliveries are settled, `get` tells its tag and its final watcher. The bus keeps
    both until `confirm`, even when this process dies: the next one that opens the name gets again what was not
    confirmed. So each event that was published comes at least once, and none that was not.

    One process at a time has a name. All is in the memory of the bus, and ends with it.
    """

    def __init__(self, handle: ComesBack, name: str, session: Session) -> None:
        if session.publisher.numbers.is_refused:
            raise only_looks(session.connection.bus)
        self.name = name
        self._handle = handle
        self._closed = False
        self._refusal: EventBusError | None = None
        self._event_fd = -1
        self._event_lock = NonReentrantLock()
        self._is_cut_off = False
        """The thread that took in what arrives has ended."""
        self._box = OpenBox(session, name)

    @property
    def left(self) -> tuple[bytes, ...]:
        """The tags of events that other processes had published under this name and that were not settled when this one
        opened it, in the order in which they were published. `get` tells of them when they are. What is in neither was
        never published."""
        return self._box.left

    @property
    def kept(self) -> tuple[bytes, ...]:
        """The tags of all events that others had published under this name and not confirmed when this one opened it:
        those of `left`, and those of which `get` tells."""
        return self._box.kept

    def notify_many(
        self,
        events: Iterable[Event],
        *,
        tags: Iterable[bytes] | None = None,
        only: Iterable[Any] | None = None,
        timeout_s: float | None = None,
    ) -> list[EventShadow]:
        """Publish events, each with a tag; else like `EventBus.notify_many`, as which it blocks and raises.

        An event that nobody is subscribed to is settled at once, by nobody. After an error, the events that its
        `published` lists were published with their tags, and `get` tells of them.

        Args:
            events: The events.
            tags: For each event 1 to 64 bytes by which you know it; None: its id as bytes. Tags should differ: events
                with one tag are confirmed together.
            only: As of `EventBus.notify_many`, and so is `timeout_s`.

        Raises:
            BusFull: There would be more than `BusConfig.receipts_max` unconfirmed receipts. None is published.
            UsageError: There is not one tag for each event, or one is too long.
            BusClosed: This was closed.
        """
        timeout_s = check_timeout(timeout_s)
        wanted = None if tags is None else check_tags("notify_many", tags)
        direction = None if only is None else direction_of(only)
        box = self._opened()
        try:
            return self._publish(box, events, wanted, direction, timeout_s)
        except ManagerLost as error:
            again = self._follow(box, error)
            if not isinstance(events, (list, tuple)):
                raise  # What a generator has given is gone.
            return self._publish(again, events, wanted, direction, timeout_s)

    @staticmethod
    def _publish(
        box: OpenBox,
        events: Iterable[Event],
        tags: list[bytes] | None,
        direction: Direction | None,
        timeout_s: float | None,
    ) -> list[EventShadow]:
        tagging = Tagging(box, tags, direction)
        try:
            return box.session.publisher.notify_many(events, timeout_s, tagging)
        finally:
            tagging.end()

    def notify_raw(
        self,
        raws: Sequence[tuple[str, bytes | memoryview]],
        *,
        tags: Iterable[bytes],
        only: Iterable[Any] | None = None,
        timeout_s: float | None = None,
    ) -> None:
        """Publish events of another bus as they lay there, each with a tag: what `RawEvent` has as its payload.

        They count as imported: they go to no subscriber of another host, and to none whose scope is "local". Nothing is
        decoded, and each is copied once; a ttl is counted anew, from the time that the event has. All are looked at
        before the first one is published. An event whose topic is not registered is settled at once, by nobody.
        Instruments do not see these events. Otherwise like `notify_many`.

        Args:
            raws: (topic, payload) of each event. A payload has the layout of this version, and the byte order of this
                machine.
            tags: As of `notify_many`.
            only: As of `EventBus.notify_many`; None: all of this host that are subscribed to the topic.
            timeout_s: As of `EventBus.notify_many`.

        Raises:
            UsageError: One is not an event's payload, with its index; nothing was published.
            BusFull: As of `notify_many`; or there is no memory, and `published` lists those that were published.
        """
        timeout_s = check_timeout(timeout_s)
        wanted = check_tags("notify_raw", tags)
        direction = imported_direction_of(only)
        box = self._opened()
        checked = check_raws(box.session.publisher, raws)
        if len(wanted) != len(checked):
            raise UsageError(f"notify_raw: {len(checked)} events and {len(wanted)} tags; give one for each event")
        try:
            publish_raws(box, direction, checked, wanted, timeout_s)
        except ManagerLost as error:
            publish_raws(self._follow(box, error), direction, checked, wanted, timeout_s)

    def loan_raw(self, topic: str, nbytes: int, *, tag: bytes, only: Iterable[Any] | None = None) -> RawLoan:
        """Shared memory for a payload that comes from another host, as `RawEvent.payload` has it: see `RawLoan`.

        The event gets a number of this bus, and its deadline by its own times. Only subscribers of this host get it.

        Args:
            topic: A topic that is registered.
            nbytes: The payload's length: a multiple of 64.
            tag: As one of the tags of `notify_many`.
            only: As of `EventBus.notify_many`.

        Raises:
            EventTooLarge: It is larger than `BusConfig.event_bytes_max`.
            UsageError: The length or the tag is not one.
            BusClosed: This was closed.
        """
        wanted = check_tags("loan_raw", [tag])
        direction = imported_direction_of(only)
        box = self._opened()
        return RawLoan(box.session, topic, nbytes, Tagging(box, wanted, direction))

    def get(self, limit: int = 1_000, timeout_s: float | None = None) -> list[Receipt]:
        """What is settled and was not told to this process yet. Blocks until there is something, the first time for a
        round trip.

        Args:
            limit: Of how many events at most.
            timeout_s: Seconds to wait at most; 0: do not wait; None: as long as it takes.

        Returns:
            Events that were settled alike are one `Receipt`. Empty if nothing came in time.

        Raises:
            BusClosed: This, or the handle, was closed.
            ManagerLost: The manager has ended, and the bus with it, and the handle does not come back.
            UsageError: `limit` is not a whole number of 1 or more, or `timeout_s` is not a time.
        """
        limit = check_limit("get", limit, LIMIT_MAX)
        timeout_s = check_timeout(timeout_s)
        now_ns = self._opened().session.connection.transport.monotonic_ns
        deadline_ns = None if timeout_s is None else now_ns() + int(timeout_s * 1e9)
        while True:
            box = self._opened()
            left_s = None if deadline_ns is None else max(0.0, (deadline_ns - now_ns()) / 1e9)
            try:
                if not self._wait(box, left_s):
                    return []
                found = self._take(box, limit)
            except ManagerLost as error:
                self._follow(box, error)
                continue
            if found:
                return found

    def _wait(self, box: OpenBox, timeout_s: float | None) -> bool:
        if not box.has_news:
            box.look()
        if not box.has_news:
            box.ask()
        return box.session.connection.wait(lambda: self._is_due(box), timeout_s)

    def _take(self, box: OpenBox, limit: int) -> list[Receipt]:
        """What has come, after which the next is asked for: while it is worked on, the manager may answer."""
        box.take_in()
        found = [Receipt(tuple(tags), watcher) for watcher, tags in box.take(limit)]
        if box.has_news:
            box.session.connection.wake()  # Another thread may wait for the rest.
        else:
            box.ask()
        self._note_look()
        return found

    def confirm(self, tags: Iterable[bytes]) -> None:
        """Forget the receipts of these tags, which `get` has returned: they come to no process again.

        Does not wait for the manager. Tags that were not told, or that are confirmed already, are passed over.

        Raises:
            UsageError: `tags` is not a list of bytes.
            BusClosed, ManagerLost: As of `get`.
        """
        wanted = check_tags("confirm", tags)
        box = self._opened()
        try:
            box.confirm(wanted)
        except ManagerLost as error:
            self._follow(box, error)  # They are gone with the bus.

    # --- a bus that was lost ---

    def _opened(self) -> OpenBox:
        if not FORK_MARK[0]:
            notice_fork()
        if self._closed:
            raise BusClosed(f"receipts {self.name!r} were closed")
        if self._refusal is not None:
            raise self._refusal
        return self._box

    def _resume(self, session: Session) -> None:
        """Go on with this session, where there is nothing yet: the bus of the one before was lost."""
        if self._closed or self._box.session is session or self._refusal is not None:
            return
        try:
            self._box = OpenBox(session, self.name)
        except UsageError as error:
            self._refusal = error  # Another process was faster; that is for the next call to say.
        if self._event_fd >= 0:
            self._is_cut_off = False
            session.start_thread()
            self._note_look()

    def _follow(self, box: OpenBox, error: ManagerLost) -> OpenBox:
        """A call has ended with `error`: go on with the handle's next session.

        Raises:
            ManagerLost: `error`, if there is none.
        """
        found = self._handle._after_loss(box.session, error)
        if self._box is box:
            self._resume(found)
        return self._opened()

    # --- a descriptor ---

    def fileno(self) -> int:
        """A descriptor for select, epoll and asyncio, readable when `get` has something to tell. Do not read from it.

        It is also readable when the bus is lost. The first call starts a listener thread of this process, which takes
        in what arrives.

        Raises:
            BusClosed: This was closed.
        """
        box = self._opened()
        if self._event_fd < 0:
            box.session.start_thread()
            self._event_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
            self._note_look()
        return self._event_fd

    def _is_due(self, box: OpenBox) -> bool:
        return self._closed or box.has_news

    def _note_end(self) -> None:
        self._is_cut_off = True
        self._ring()

    def _ring(self) -> None:
        """Make the descriptor readable, if it is to be."""
        if self._event_lock.is_mine:
            return  # A signal handler, in the middle of what follows.
        with self._event_lock.held():  # Or `close` could close it in between, and another file get its number.
            if self._event_fd >= 0 and (self._is_due(self._box) or self._is_cut_off):
                os.eventfd_write(self._event_fd, 1)

    def _note_look(self) -> None:
        """After a look: have the descriptor say what there is beyond it."""
        if self._event_fd < 0:
            return
        box = self._box
        with self._event_lock.held(), suppress(BlockingIOError):
            os.eventfd_read(self._event_fd)
        with suppress(EventBusError):  # The next call says it.
            asked = box.ask() if not box.has_news else 0
            box.session.connection.at_end[id(self)] = self._note_end
            if asked:
                box.session.connection.protocol.when_replied(asked, self._ring)
        self._ring()  # It may have come before.

    def close(self) -> None:
        """Let go of the name: another process may open it. What is not confirmed is kept for that. Does not block.

        Repeated, it does nothing. The end of the process, or of the handle, is such a close as well.
        """
        if self._closed:
            return
        self._closed = True
        box = self._box
        box.session.connection.at_end.pop(id(self), None)
        if not box.session.connection.lost:
            box.close()
            box.session.connection.wake()
        if not self._event_lock.is_mine:
            with self._event_lock.held():
                if self._event_fd >= 0:
                    os.close(self._event_fd)
                    self._event_fd = -1

    def __enter__(self) -> Receipts:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()
