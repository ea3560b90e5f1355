"""Gaps of a journal: events that passed while it was not subscribed. Pure.

They are found from the counters of topics that each run has noted, and never from positions, whose gaps mean nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from eventbus_mp.addons.journal.store import Run

__all__ = ["Gap", "find_gaps"]


@dataclass(frozen=True, slots=True)
class Gap:
    """Events of one topic that are not in the journal, or of all topics if it is not known of which."""

    bus: str
    topic: str | None
    events: int
    at_most: bool
    """The run before was killed, so some of these may have been stored after its counters were noted last."""
    since_ns: int | None
    """Between this time and the next; None: since the topic or the bus was there."""
    until_ns: int | None
    """None: until now."""
    reason: str


def find_gaps(runs: Sequence[Run], now: Mapping[tuple[str, str], Mapping[str, int]] | None = None) -> list[Gap]:
    """The gaps between runs, the oldest first.

    Events that no subscriber at all would have got are not even sent to the bus, so nobody can count them.

    Args:
        runs: All runs of a store, the oldest first.
        now: (bus, incarnation) -> the counters of now, of a bus where the journal is not subscribed.
    """
    gaps: list[Gap] = []
    last: dict[tuple[str, str, str], Run] = {}
    incarnations: dict[tuple[str, str], str] = {}
    for run in runs:
        key = run.bus, run.incarnation, run.subscriber
        before = last.get(key)
        if before is None:
            lost = last.get((run.bus, incarnations.get((run.bus, run.subscriber), ""), run.subscriber))
            gaps += _lost_with_bus(lost) if lost is not None else ()
            gaps += _between(run, None)
        elif not run.continues:
            gaps += _between(run, before)
        last[key] = run
        incarnations[run.bus, run.subscriber] = run.incarnation
    for (bus, incarnation, _), run in last.items():
        counts = (now or {}).get((bus, incarnation))
        if counts is not None:
            gaps += _since(run, counts)
    return gaps


def _between(run: Run, before: Run | None) -> Iterator[Gap]:
    """What passed before this run, and after the one before it in the same incarnation of the bus."""
    known: Mapping[str, int] = before.notified_last if before is not None else {}
    since_ns = before.noted_ns if before is not None else None
    reason = "passed while no journal was subscribed"
    at_most = before is not None and before.ended_ns is None
    for topic, first in sorted(run.notified_first.items()):
        # A topic that was registered anew counts from nought.
        passed = first - known.get(topic, 0) if first >= known.get(topic, 0) else first
        if passed:
            yield Gap(run.bus, topic, passed, at_most, since_ns, run.started_ns, reason)
    if before is not None and before.waiting:
        yield _waited(before, run.started_ns, "waited for a journal that did not come back in time")


def _lost_with_bus(run: Run) -> Iterator[Gap]:
    """What waited in an incarnation of the bus that is gone."""
    if run.waiting:
        yield _waited(run, None, "waited when the bus ended")


def _waited(run: Run, until_ns: int | None, reason: str) -> Gap:
    return Gap(run.bus, None, run.waiting, run.ended_ns is None, run.noted_ns, until_ns, reason)


def _since(run: Run, counts: Mapping[str, int]) -> Iterator[Gap]:
    """What has passed since the last run, whose subscriber is gone."""
    at_most = run.ended_ns is None
    for topic, count in sorted(counts.items()):
        known = run.notified_last.get(topic, 0)
        passed = count - known if count >= known else count
        if passed:
            yield Gap(run.bus, topic, passed, at_most, run.noted_ns, None, "have passed since the journal ended")
