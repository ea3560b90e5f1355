"""BusCore: all decisions of the manager as one pure object.

Feed every message to :meth:`BusCore.handle` and perform the returned effects in order, before the next call. The core
never blocks, reads no clock and touches no file, so the same messages always give the same effects.

Effects come in this order: what the message itself causes (replies after the state they promise), then deliveries,
then spans for those who waited, then the answers to drains, to those who wait for room, to those who follow what
changes, and to those who wait for receipts.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from eventbus_mp.config import BusConfig
from eventbus_mp.core.bounds import answer_room
from eventbus_mp.core.dispatcher import dispatch
from eventbus_mp.core.hosting import on_link_lost, on_link_opened, on_manager_replaced
from eventbus_mp.core.ingest import on_notified
from eventbus_mp.core.invariants import check_invariants
from eventbus_mp.core.leases import on_span_leased, on_span_released
from eventbus_mp.core.leaving import on_end_asked
from eventbus_mp.core.lifecycle import announce_process, write_waiting
from eventbus_mp.core.outcomes import on_settled, on_taken
from eventbus_mp.core.receipts import answer_receipts
from eventbus_mp.core.requests import ANSWERED_LATER, REQUEST_HANDLERS
from eventbus_mp.core.settlement import answer_drains
from eventbus_mp.core.skips import on_skip_named
from eventbus_mp.core.span_requests import on_span_sealed, on_span_wanted, serve_span_requests
from eventbus_mp.core.state import BusState, Step
from eventbus_mp.core.timers import next_due_ns, on_time_passed
from eventbus_mp.errors import InternalError, ProtocolError, UsageError
from eventbus_mp.protocol.effects import CloseLink, Effect, Refuse, Reply, Warn
from eventbus_mp.protocol.messages import (
    DeliveriesSettled,
    DeliveriesTaken,
    EndAsked,
    EventsNotified,
    LinkLost,
    LinkOpened,
    ManagerReplaced,
    Message,
    SkipNamed,
    SpanLeased,
    SpanReleased,
    SpanSealed,
    SpanWanted,
    TimePassed,
)
from eventbus_mp.protocol.requests import Introduce, Observe, Request

__all__ = ["BusCore"]

ABOUT_ITSELF = (Introduce, Observe)
"""What a process says first of all, before it asks for anything."""


def _on_request(step: Step, message: Request) -> None:
    """Have the request handled, and answer it if it is one that is answered."""
    link = step.state.link(message.link)
    if step.state.unannounced and type(message) not in ABOUT_ITSELF:
        announce_process(step, link)
    try:
        value = REQUEST_HANDLERS[type(message)](step, link, message)
    except UsageError as error:
        if message.ANSWERED:
            step.effects.append(Refuse(message.link, message.request, type(error).__name__, str(error)))
        else:
            step.effects.append(Warn(f"process {link.pid}: {type(message).__name__}: {error}"))
        return
    if message.ANSWERED and value is not ANSWERED_LATER:
        step.effects.append(Reply(message.link, message.request, value))


class BusCore:
    """The registry, the event watcher, the dispatcher and the span table behind one method.

    Args:
        config: The bus-wide settings; `memory_bytes_max` must be a number here.
        now_ns: The monotonic time that later calls go on from.
    """

    HANDLERS: ClassVar[dict[type, Callable[[Step, Any], None]]] = {
        EventsNotified: on_notified,
        DeliveriesSettled: on_settled,
        DeliveriesTaken: on_taken,
        SpanWanted: on_span_wanted,
        SpanSealed: on_span_sealed,
        SpanLeased: on_span_leased,
        SpanReleased: on_span_released,
        LinkOpened: on_link_opened,
        LinkLost: on_link_lost,
        TimePassed: on_time_passed,
        EndAsked: on_end_asked,
        ManagerReplaced: on_manager_replaced,
        SkipNamed: on_skip_named,
        **dict.fromkeys(REQUEST_HANDLERS, _on_request),
    }
    """Everything that can happen to the manager."""

    def __init__(self, config: BusConfig, now_ns: int) -> None:
        self.state = BusState(config, now_ns)
        self._checks = config.check_invariants
        for topic in (config.dead_letter_topic, config.lifecycle_topic):
            if topic is not None:
                self.state.registry.register(topic)

    def handle(self, message: Message, now_ns: int) -> list[Effect]:
        """Decide. A message that breaks the protocol closes its link; it never raises for bad input.

        Raises:
            InternalError: A bug of ours.
        """
        effects: list[Effect] = []
        state = self.state
        step = Step(state, now_ns, effects)
        try:
            self.HANDLERS[type(message)](step, message)
        except ProtocolError as error:
            effects.append(CloseLink(message.link, str(error)))  # type: ignore[union-attr]
        if state.lifecycle_waiting and state.memory_freed:
            write_waiting(step)
        for subscriber in state.dirty:
            dispatch(step, subscriber)
        state.dirty.clear()
        for subscriber in tuple(state.held):
            dispatch(step, subscriber)
        if state.memory_freed:
            serve_span_requests(step)
        if state.topic_emptied and state.drains:
            answer_drains(step)
        if state.room_waiters:
            answer_room(step)
        if state.changes.is_fresh:
            effects += [Reply(*answer) for answer in state.changes.answers()]
        if state.boxes.due:
            answer_receipts(step)
        if self._checks:
            self.check_invariants()
        return effects

    def next_due_ns(self) -> int | None:
        """When `TimePassed` has something to do; None: never, until another message comes."""
        return next_due_ns(self.state)

    def check_invariants(self) -> None:
        """Raise `InternalError` if something that must always be true is not (ARCHITECTURE.md has the list)."""
        try:
            check_invariants(self.state)
        except AssertionError as error:
            raise InternalError(f"invariant broken: {error}") from error
