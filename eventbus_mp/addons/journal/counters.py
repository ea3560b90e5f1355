"""The counters of a bus's topics, from which gaps in a journal are found. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from eventbus_mp import Snapshot, SubscriberSnapshot
from eventbus_mp.addons.journal.selecting import matching

__all__ = ["first_counts", "notified_counts", "subscriber_of"]


def notified_counts(snapshot: Snapshot, patterns: Sequence[str]) -> dict[str, int]:
    """Topic -> events that have reached the manager, of topics that one of the patterns matches."""
    counts = {topic.name: topic.notified for topic in snapshot.topics}
    wanted = {name for pattern in patterns for name in matching(pattern, counts)}
    return {name: counts[name] for name in counts if name in wanted}


def subscriber_of(snapshot: Snapshot, name: str) -> SubscriberSnapshot | None:
    """The subscriber of this name and without a config."""
    found = (one for one in snapshot.subscribers if one.name == name and one.config is None)
    return next(found, None)


def first_counts(before: Mapping[str, int], after: Mapping[str, int], delivered: int) -> dict[str, int]:
    """The counters at the moment of the subscription, from those a little before and after it.

    What was notified in between and not delivered came before the subscription. Of which topic that was is known only
    if one topic had events meanwhile; else the sum is right, and the topics share it in the order of their names.

    Args:
        before: Before the subscription; a topic that is missing had none.
        after: After it.
        delivered: How many deliveries the subscriber has had at the time of `after`.
    """
    rose = {name: max(0, count - before.get(name, 0)) for name, count in after.items()}
    missed = max(0, sum(rose.values()) - delivered)
    first = {}
    for name in sorted(after):
        share = min(missed, rose[name])
        missed -= share
        first[name] = min(before.get(name, 0), after[name]) + share
    return first
