"""The executor of effects: hands one message to the core and carries out what the core decides.

It has no clock, no descriptor and no process of its own. The time is passed in, frames go to a `LinkOutput`,
segments are made in a `SegmentStore`. So a whole bus can run in one thread, under a clock that a test holds.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar

import msgpack

from eventbus_mp.core.bus import BusCore
from eventbus_mp.events import ID_BYTES_MAX
from eventbus_mp.geometry import SPILLED_FROM
from eventbus_mp.ids import EventId
from eventbus_mp.memory.layout import HEADER_BYTES
from eventbus_mp.memory.store import SegmentStore
from eventbus_mp.memory.written import read_id, write_payload
from eventbus_mp.protocol import effects, records
from eventbus_mp.protocol.client_events import SpanGranted, pack_client_event
from eventbus_mp.protocol.effects import Effect, Replay
from eventbus_mp.protocol.messages import LinkLost, Message, SkipNamed

__all__ = ["EffectExecutor", "LinkOutput"]

log = logging.getLogger("eventbus_mp.manager")

SPILL_DIR = "/var/tmp"
"""Where the files of the bus lie, unless `BusConfig.spill_dir` says otherwise: /tmp may be in memory."""


class LinkOutput(Protocol):
    """How frames reach processes. Neither method blocks, and neither calls the executor."""

    def post(self, link: int, frames: list[bytes], *, is_reply: bool = False) -> None:
        """Send frames to a process soon. They are dropped if its link is closed."""

    def cut_off(self, link: int, reason: str) -> bool:
        """Close the link of a process that broke the protocol. Returns whether it was open."""


_Row = Callable[["EffectExecutor", Any], None]
_ROWS: dict[type[Effect], _Row] = {}
"""Every effect, and the method that carries it out."""

_AnyEffect = TypeVar("_AnyEffect", bound=Effect)
_Method = Callable[["EffectExecutor", _AnyEffect], None]


def _performs(kind: type[_AnyEffect]) -> Callable[[_Method[_AnyEffect]], _Method[_AnyEffect]]:
    """A decorator for the method that carries out effects of this kind."""

    def register(row: _Method[_AnyEffect]) -> _Method[_AnyEffect]:
        _ROWS[kind] = row
        return row

    return register


class EffectExecutor:
    """Carries out the effects of one message at a time, in their order.

    Nothing here calls back, so nothing is entered twice: what an effect causes is returned as messages, and the caller
    performs those after all effects of the first one are done.

    Args:
        core: The decisions.
        prefix: What the names of segments begin with.
        links: Where frames go.
        store: Where payloads live.
        facts: Gives what the manager knows of itself, for a snapshot.
    """

    def __init__(
        self,
        core: BusCore,
        prefix: str,
        links: LinkOutput,
        store: SegmentStore,
        facts: Callable[[], dict[str, int]] = dict,
    ) -> None:
        self.core = core
        self.is_stopping = False
        """The core said that the bus is over."""
        self._prefix = prefix
        self._spill_dir = core.state.config.spill_dir or SPILL_DIR
        self._links = links
        self._store = store
        self._facts = facts
        self._rows = _ROWS
        self._follow_ups: list[Message] = []
        self._missing: dict[int, effects.CreateSegment] = {}
        """Segments that the kernel refused to make, by number."""
        self._refusal: int | None = None
        """With which error number it refused the latest one; None: it made it."""

    def perform(self, message: Message, now_ns: int) -> list[Message]:
        """Have the core decide and carry it out.

        Returns:
            What the effects caused, to be performed next and in this order: `SkipNamed` for a skip that was named,
            `LinkLost` for a process that was cut off. Its link is closed already, and the process may be alive.
        """
        follow_ups = self._follow_ups = []
        rows = self._rows
        for effect in self.core.handle(message, now_ns):
            rows[type(effect)](self, effect)
        return follow_ups

    @contextmanager
    def replaying(self) -> Iterator[None]:
        """A context in which each effect is carried out as the `REPLAY` of its class says.

        A new manager repeats in it what the one before did. Nothing else in the manager looks at `REPLAY`.
        """
        self._rows = {kind: _REPLAYED[kind.REPLAY](row) for kind, row in _ROWS.items()}
        try:
            yield
        finally:
            self._rows = _ROWS

    def _carry_out(self, effect: Effect) -> None:
        """An effect that is part of another one, by the same rows."""
        self._rows[type(effect)](self, effect)

    # --- effects on processes ---

    @_performs(effects.Deliver)
    def _deliver(self, effect: effects.Deliver) -> None:
        self._links.post(effect.link, records.pack_delivered(effect.subscriber, effect.attempt, effect.packed))

    @_performs(effects.Tell)
    def _tell(self, effect: effects.Tell) -> None:
        self._links.post(effect.link, [pack_client_event(effect.event)])

    @_performs(effects.Reply)
    def _reply(self, effect: effects.Reply) -> None:
        frames = records.pack_replied(records.REPLIED, effect.request, msgpack.packb(effect.value))
        self._links.post(effect.link, frames, is_reply=True)

    @_performs(effects.ReplyWithFacts)
    def _reply_with_facts(self, effect: effects.ReplyWithFacts) -> None:
        self._reply(effects.Reply(effect.link, effect.request, {**effect.value, "facts": self._facts()}))

    @_performs(effects.Refuse)
    def _refuse(self, effect: effects.Refuse) -> None:
        body = msgpack.packb([effect.error, effect.text])
        self._links.post(effect.link, records.pack_replied(records.REFUSED, effect.request, body), is_reply=True)

    @_performs(effects.GrantSpan)
    def _grant_span(self, effect: effects.GrantSpan) -> None:
        if effect.segment in self._missing:
            # Try again first: there may be memory now.
            self._carry_out(self._missing.pop(effect.segment))
        granted = SpanGranted(effect.segment, effect.offset, effect.length, effect.backed)
        self._links.post(effect.link, [pack_client_event(granted)])

    @_performs(effects.CloseLink)
    def _close_link(self, effect: effects.CloseLink) -> None:
        # One read may bring more messages after the one that broke the protocol. The core objects to each of them,
        # and only the first time there is a link to lose.
        if self._links.cut_off(effect.link, effect.reason):
            self._follow_ups.append(LinkLost(effect.link, crashed=True))

    # --- effects on memory ---

    @_performs(effects.CreateSegment)
    def _create_segment(self, effect: effects.CreateSegment) -> None:
        try:
            directory = self._spill_dir if effect.segment >= SPILLED_FROM else None
            self._store.create(self._name(effect.segment), effect.length, directory)
        except FileExistsError:
            raise
        except OSError as error:
            # The core need not know: a process that is granted a span there cannot map it, gives it back and asks
            # again.
            if error.errno != self._refusal:  # A process that waits asks again and again.
                log.warning("cannot make a segment of %d bytes: %s", effect.length, error)
            self._refusal = error.errno
            self._missing[effect.segment] = effect
        else:
            self._refusal = None

    @_performs(effects.RemoveSegment)
    def _remove_segment(self, effect: effects.RemoveSegment) -> None:
        self._missing.pop(effect.segment, None)
        self._store.remove(self._name(effect.segment))

    @_performs(effects.FreePages)
    def _free_pages(self, effect: effects.FreePages) -> None:
        if effect.segment in self._missing:
            return  # It has no pages.
        try:
            self._store.free_pages(self._name(effect.segment), effect.offset, effect.length)
        except OSError as error:
            log.warning("cannot give back %d bytes that are free: %s", effect.length, error)

    def _name(self, segment: int) -> str:
        return f"{self._prefix}{segment}"

    # --- effects on the log ---

    @_performs(effects.Warn)
    def _warn(self, effect: effects.Warn) -> None:
        log.warning("%s", effect.text)

    @_performs(effects.WarnOfLease)
    def _warn_of_lease(self, effect: effects.WarnOfLease) -> None:
        log.warning(
            "process %d has kept a view of event %r of topic %r, %d bytes, for %d s: drop it, or keep event.copy()",
            effect.pid,
            self._id_of(effect.segment, effect.offset, effect.length, effect.sequence),
            effect.topic,
            effect.length,
            effect.age_s,
        )

    @_performs(effects.NameSkip)
    def _name_skip(self, effect: effects.NameSkip) -> None:
        _, _, segment, offset, length, _, _, sequence = records.RECORD.unpack(effect.packed_record)
        event_id = self._id_of(segment, offset, length, sequence)
        if effect.is_given_up:
            text = f"{effect.name}: gave up event {event_id!r} of {effect.topic!r}: {effect.reason}"
            self._carry_out(effects.Warn(text))
        self._follow_ups.append(SkipNamed(effect.subscriber, event_id, effect.reason))

    def _id_of(self, segment: int, offset: int, length: int, sequence: int) -> EventId:
        """The event's id, or its sequence number if its memory has been overwritten or recycled meanwhile."""
        try:
            head = self._store.read(self._name(segment), offset, min(length, HEADER_BYTES + ID_BYTES_MAX))
        except OSError:
            return f"{sequence:#x}"
        event_id = read_id(head, sequence)
        return event_id if event_id is not None else f"{sequence:#x}"

    # --- events about the bus itself ---

    @_performs(effects.WriteEvent)
    def _write_event(self, effect: effects.WriteEvent) -> None:
        if effect.segment in self._missing:
            self._carry_out(self._missing.pop(effect.segment))
        name, event_id = self._name(effect.segment), effect.event_id.encode()
        length = HEADER_BYTES + len(event_id) + len(effect.data)
        try:
            self._store.back(name, effect.offset, length)
            write_payload(
                self._store.attach(name), effect.offset, (event_id, b"", effect.data, (), length), effect.sequence
            )
        except FileNotFoundError:
            return  # While it is repeated: everybody was done with it, and the manager before has removed it.
        except OSError as error:
            log.warning("event %s about the bus is lost: %s", effect.event_id, error)

    # --- the end ---

    @_performs(effects.Stop)
    def _stop(self, effect: effects.Stop) -> None:
        self.is_stopping = True


def _again(row: _Row) -> _Row:
    return row


def _if_missing(row: _Row) -> _Row:
    def perform_if_missing(executor: EffectExecutor, effect: Any) -> None:
        try:
            row(executor, effect)
        except FileExistsError:
            pass  # The manager before has come to it.

    return perform_if_missing


def _never(row: _Row) -> _Row:
    return lambda executor, effect: None


_REPLAYED: dict[Replay, Callable[[_Row], _Row]] = {
    Replay.AGAIN: _again,
    Replay.IF_MISSING: _if_missing,
    Replay.NEVER: _never,
}
