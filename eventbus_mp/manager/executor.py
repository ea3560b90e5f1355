"""The desk: hands messages to the core, one at a time, and carries out its effects."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from typing import Any, ClassVar, Protocol

import msgpack

from eventbus_mp.core.bus import BusCore
from eventbus_mp.events import ID_BYTES_MAX
from eventbus_mp.memory import shm
from eventbus_mp.memory.layout import HEADER_BYTES
from eventbus_mp.memory.payload import read_id
from eventbus_mp.protocol import effects, records
from eventbus_mp.protocol.messages import Message, SkipNamed

__all__ = ["EffectExecutor", "LinkOutput"]

log = logging.getLogger("eventbus_mp.manager")


class LinkOutput(Protocol):
    """What the desk needs of the server around it."""

    def post(self, link: int, frames: list[bytes], *, is_reply: bool = False) -> None:
        """Send to a process, soon; one that is gone gets nothing."""

    def cut_off(self, link: int, reason: str) -> None:
        """The process broke the protocol."""

    def leave(self) -> None:
        """Stop serving after this cycle."""


class EffectExecutor:
    """Args:
    core: The decisions.
    prefix: What the names of segments begin with.
    office: Where effects on processes go.
    """

    def __init__(self, core: BusCore, prefix: str, links: LinkOutput) -> None:
        self._core = core
        self._prefix = prefix
        self._links_out = links
        self._messages: deque[Message] = deque()
        self._missing: dict[int, effects.CreateSegment] = {}
        """Segments that the kernel refused to make, by number."""
        self._now_ns = 0
        self.is_catching_up = False
        """A new manager does again what the one before it did: segments may be there, warnings were given."""

    def decide(self, message: Message, now_ns: int) -> None:
        """Have the core decide, and do it. Messages that an effect causes wait until all its effects are done."""
        self._messages.append(message)
        if len(self._messages) > 1:
            return
        self._now_ns = now_ns
        while self._messages:
            for effect in self._core.handle(self._messages[0], now_ns):
                self._EFFECTS[type(effect)](self, effect)
            self._messages.popleft()

    # --- effects ---

    def _deliver(self, effect: effects.Deliver) -> None:
        self._links_out.post(effect.link, records.pack_delivered(effect.subscriber, effect.attempt, effect.packed))

    def _reply(self, effect: effects.Reply) -> None:
        frames = records.pack_replied(records.REPLIED, effect.request, msgpack.packb(effect.value))
        self._links_out.post(effect.link, frames, is_reply=True)

    def _refuse(self, effect: effects.Refuse) -> None:
        body = msgpack.packb([effect.error, effect.text])
        self._links_out.post(effect.link, records.pack_replied(records.REFUSED, effect.request, body), is_reply=True)

    def _tell_topic_stale(self, effect: effects.TellTopicStale) -> None:
        self._links_out.post(effect.link, [records.pack_topic_stale(effect.topic, effect.dropped)])

    def _grant_span(self, effect: effects.GrantSpan) -> None:
        if effect.segment in self._missing:
            self._create_segment(self._missing.pop(effect.segment))
        granted = records.pack_span_granted(effect.segment, effect.offset, effect.length, effect.backed)
        self._links_out.post(effect.link, [granted])

    def _create_segment(self, effect: effects.CreateSegment) -> None:
        try:
            shm.create(f"{self._prefix}{effect.segment}", effect.length)
        except FileExistsError:
            if not self.is_catching_up:
                raise
        except OSError as error:
            # The core need not know: whoever gets a span there cannot map it, gives it back and asks again.
            log.warning("cannot make a segment of %d bytes: %s", effect.length, error)
            self._missing[effect.segment] = effect

    def _remove_segment(self, effect: effects.RemoveSegment) -> None:
        self._missing.pop(effect.segment, None)
        shm.remove(f"{self._prefix}{effect.segment}")

    def _free_pages(self, effect: effects.FreePages) -> None:
        if self.is_catching_up or effect.segment in self._missing:
            return  # Since then somebody may have written there; or nothing is there.
        try:
            shm.free_pages(f"{self._prefix}{effect.segment}", effect.offset, effect.length)
        except OSError as error:
            log.warning("cannot give back %d bytes that are free: %s", effect.length, error)

    def _close_link(self, effect: effects.CloseLink) -> None:
        self._links_out.cut_off(effect.link, effect.reason)

    def _warn(self, effect: effects.Warn) -> None:
        if not self.is_catching_up:
            log.warning("%s", effect.text)

    def _warn_of_lease(self, effect: effects.WarnOfLease) -> None:
        if self.is_catching_up:
            return
        log.warning(
            "process %d has kept a view of event %r of topic %r, %d bytes, for %d s: drop it, or keep event.copy()",
            effect.pid,
            self._id_of(effect.segment, effect.offset, effect.length, effect.sequence),
            effect.topic,
            effect.length,
            effect.age_s,
        )

    def _name_skip(self, effect: effects.NameSkip) -> None:
        _, _, segment_number, offset, length, _, _, sequence = records.RECORD.unpack(effect.packed_record)
        event_id = self._id_of(segment_number, offset, length, sequence)
        if effect.is_given_up and not self.is_catching_up:
            log.warning("%s: gave up event %r of %r: %s", effect.name, event_id, effect.topic, effect.reason)
        self.decide(SkipNamed(effect.subscriber, event_id, effect.reason), self._now_ns)

    def _id_of(self, segment_number: int, offset: int, length: int, sequence: int) -> str:
        """The event's id; its sequence number when its memory was overwritten, or went to others meanwhile."""
        try:
            head = shm.read(f"{self._prefix}{segment_number}", offset, min(length, HEADER_BYTES + ID_BYTES_MAX))
        except OSError:
            return f"{sequence:#x}"
        event_id = read_id(head, sequence)
        return event_id if event_id is not None else f"{sequence:#x}"

    def _stop(self, effect: effects.Stop) -> None:
        self._links_out.leave()

    _EFFECTS: ClassVar[dict[type, Callable[[EffectExecutor, Any], None]]] = {
        effects.Deliver: _deliver,
        effects.Reply: _reply,
        effects.Refuse: _refuse,
        effects.TellTopicStale: _tell_topic_stale,
        effects.GrantSpan: _grant_span,
        effects.CreateSegment: _create_segment,
        effects.RemoveSegment: _remove_segment,
        effects.FreePages: _free_pages,
        effects.CloseLink: _close_link,
        effects.Warn: _warn,
        effects.WarnOfLease: _warn_of_lease,
        effects.NameSkip: _name_skip,
        effects.Stop: _stop,
    }
