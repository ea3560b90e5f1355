"""Requests about what failed: why it did, which dead letters there are, and to try them again."""

from __future__ import annotations

from itertools import islice
from typing import Any

from eventbus_mp.core.dead_letters import send_again
from eventbus_mp.core.event_batch import EventBatch
from eventbus_mp.core.failures import Failure
from eventbus_mp.core.links import LinkState
from eventbus_mp.core.requests.events import settle_wherever
from eventbus_mp.core.requests.handling import handles
from eventbus_mp.core.state import Letter, Step
from eventbus_mp.errors import NotSubscribed, ProtocolError, UnknownTopic, UsageError
from eventbus_mp.geometry import REASON_LENGTH_MAX, TRACEBACK_LENGTH_MAX
from eventbus_mp.protocol import requests
from eventbus_mp.protocol.messages import Outcome
from eventbus_mp.protocol.records import U32_MAX


@handles(requests.ReportFailure)
def report_failure(step: Step, link: LinkState, message: requests.ReportFailure) -> None:
    endpoint = link.endpoints.get(message.subscriber)
    if endpoint is None or message.tries < 1:
        return
    for batch, bit in step.state.batches.find(message.sequence):
        # Only of what it holds, and what is not settled meanwhile: so this is forgotten when the delivery is.
        held = endpoint.in_flight.get(batch, 0) & bit
        if held and batch.unsettled[batch.route.row_of[message.subscriber]] & bit:
            failure = endpoint.subscriber.failure(batch, bit.bit_length() - 1, step.now_ns)
            failure.tries = message.tries
            failure.last_ns = step.now_ns
            failure.error = message.error[:REASON_LENGTH_MAX]
            failure.text = message.text[:REASON_LENGTH_MAX]
            failure.traceback = message.traceback[-TRACEBACK_LENGTH_MAX:]


@handles(requests.ListDeadLetters)
def list_dead_letters(step: Step, link: LinkState, message: requests.ListDeadLetters) -> list[dict[str, Any]]:
    if message.limit < 0:
        raise ProtocolError(f"it asked for {message.limit} dead letters")
    found = (
        (batch, letter)
        for batch, letter in step.state.letters.items()
        if batch.is_dead_letter and batch.live and letter.number > message.after
    )
    # `islice` counts with machine words.
    return [_described(batch, letter) for batch, letter in islice(found, min(message.limit, U32_MAX))]


def _described(batch: EventBatch, letter: Letter) -> dict[str, Any]:
    failure = letter.failure or Failure(0)
    return {
        "number": letter.number,
        "record": batch.packed,
        "name": letter.name,
        "config": letter.config,
        "host": letter.host,
        "reason": letter.reason,
        "error": failure.error,
        "text": failure.text,
        "traceback": failure.traceback,
        "attempts": letter.attempts,
        "first_ns": failure.first_ns,
        "last_ns": failure.last_ns,
    }


@handles(requests.Redeliver)
def redeliver(step: Step, link: LinkState, message: requests.Redeliver) -> int:
    letters = [
        batch
        for batch in step.state.letters
        if batch.is_dead_letter and batch.live and message.sequence in (0, batch.first)
    ]
    return sum(_redeliver(step, batch, is_named=message.sequence != 0) for batch in letters)


def _redeliver(step: Step, batch: EventBatch, *, is_named: bool) -> bool:
    letter = step.state.letters[batch]
    failed = step.state.registry.subscribers.get((letter.name, letter.config, letter.host))
    if failed is not None and failed.backlog is not None and not failed.backlog.takes(batch, 1):
        if not is_named:
            return False
        raise UsageError(
            f"{failed.shown} failed, and its backlog of {failed.backlog.events} events is full; redeliver when it has "
            "settled some"
        )
    if send_again(step, batch) is None:
        if not is_named:
            return False
        if letter.topic.is_gone:
            raise UnknownTopic(f"topic {letter.topic.name!r} was unregistered; its dead letters cannot be sent again")
        raise NotSubscribed(f"{letter.name} failed and is not subscribed any more; subscribe it before you redeliver")
    for row, subscriber in enumerate(batch.route.subscribers):
        if batch.unsettled[row] & 1:
            settle_wherever(step, batch, 1, subscriber, Outcome.COMPLETED)
    return True
