"""How long events stay in a journal: what is too old is deleted in bounded steps, beside the writing."""

from __future__ import annotations

import logging
import re
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from eventbus_mp import UsageError
from eventbus_mp.addons.journal.selecting import matching
from eventbus_mp.addons.journal.store import Store

__all__ = ["Pruning", "Retention", "duration_ns"]

log = logging.getLogger("eventbus_mp.journal")

UNITS_NS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800}
LONGEST_NS = 1 << 62
"""146 years, which 64 bits still have; more is for ever."""
_DURATION = re.compile(r"(\d+(?:\.\d+)?)([smhdw])")
STEP_ROWS = 10_000
HOLD_NS = 7 * 86_400 * 1_000_000_000
"""For so long a replay that does not go on keeps what it still needs; or one that was forgotten would keep it all."""
LOOKS_MAX = 1_000
"""How many times `Pruning` remembers, at most."""
AHEAD_NS = 3_600 * 1_000_000_000
"""A clock that differs by less is nothing to speak of."""


def duration_ns(text: str | None) -> int | None:
    """Nanoseconds of "90s", "15m", "1h", "30d" or "2w"; None, or of "forever": no end.

    Raises:
        UsageError: It is not one of these.
    """
    if text is None or text == "forever":
        return None
    found = _DURATION.fullmatch(text) if isinstance(text, str) else None
    if found is None:
        raise UsageError(f"{text!r} is not how long to keep events; give '90s', '15m', '1h', '30d', '2w' or 'forever'")
    ns = float(found[1]) * UNITS_NS[found[2]] * 1e9
    return int(ns) if ns < LONGEST_NS else None


@dataclass(frozen=True)
class Retention:
    """Args:
        keep: How long events stay after they were recorded: "30d", or "forever".
        topics: The same for topics that a pattern matches from the beginning of their names; the first that does.
        own_ttl: Whether an event goes when its own `ttl` is over, if that is sooner.

    Raises:
        UsageError: A time or a pattern is not valid.
    """

    keep: str | None = "30d"
    topics: Mapping[str, str | None] = field(default_factory=dict)
    own_ttl: bool = True

    def __post_init__(self) -> None:
        if not isinstance(self.topics, Mapping):
            raise UsageError(f"keep_topics={self.topics!r:.80}: give a mapping of patterns to times")
        for text in (self.keep, *self.topics.values()):
            duration_ns(text)
        for pattern in self.topics:
            matching(pattern, ())

    def kept_ns(self, names: list[str]) -> dict[int, list[str]]:
        """Nanoseconds -> the topics that are kept for so long; those that are kept for ever are left out."""
        kept: dict[int, list[str]] = {}
        left = list(names)
        for pattern, text in (*self.topics.items(), ("", self.keep)):
            found = matching(pattern, left)
            left = [name for name in left if name not in set(found)]
            age_ns = duration_ns(text)
            if age_ns is not None and found:
                kept.setdefault(age_ns, []).extend(found)
        return kept


class Pruning:
    """Deletes what a `Retention` does not keep, and never what an open replay still needs.

    Times of recording never fall in a store. So after a clock was ahead, what comes has a time in the future as well,
    and would stay for as long. What this object itself has seen for longer than it is kept goes nevertheless.

    Args:
        store: With its lock.
        retention: What is kept.
        elapsed_ns: A clock that nobody sets.
    """

    def __init__(self, store: Store, retention: Retention, elapsed_ns: Callable[[], int] = time.monotonic_ns) -> None:
        self._store = store
        self._retention = retention
        self._elapsed_ns = elapsed_ns
        self._looks: deque[tuple[int, int]] = deque()
        """(when, the last position then), the oldest first."""
        self._has_warned = False

    def step(self, now_ns: int, limit: int = STEP_ROWS) -> int:
        """Delete up to `limit` entries: how many; fewer than `limit`: for now there are no more.

        Args:
            now_ns: Nanoseconds since the epoch.
            limit: How many at most.

        Raises:
            StoreError: As of `Store`.
        """
        store = self._store
        floor = self._needed_from(now_ns)
        self._look(now_ns)
        deleted = store.delete_expired(now_ns, floor, limit) if self._retention.own_ttl else 0
        for age_ns, topics in self._retention.kept_ns(store.topics()).items():
            if deleted < limit:
                position = max(store.position_at(now_ns - age_ns), self._seen_for(age_ns) + 1)
                position = position if floor is None else min(position, floor)
                deleted += store.delete_below(position, topics, limit - deleted)
        kept_ns = duration_ns(self._retention.keep)
        if kept_ns is not None and deleted < limit:
            deleted += store.drop_rejected_before(now_ns - kept_ns, limit - deleted)
        if deleted:
            store.reclaim()
        return deleted

    def _look(self, now_ns: int) -> None:
        """Remember what is there now, unless it was looked at a little while ago."""
        kept = [duration_ns(text) for text in (self._retention.keep, *self._retention.topics.values())]
        longest_ns = max(filter(None, kept), default=0)
        elapsed_ns, looks = self._elapsed_ns(), self._looks
        if longest_ns and (not looks or elapsed_ns - looks[-1][0] >= longest_ns // LOOKS_MAX):
            looks.append((elapsed_ns, self._store.last_position()))
        # The first one that is old enough for all is enough.
        while len(looks) > 1 and elapsed_ns - looks[1][0] >= longest_ns:
            looks.popleft()
        if not self._has_warned and self._store.position_at(now_ns + AHEAD_NS) <= self._store.last_position():
            self._has_warned = True
            log.warning(
                "%s has events that are stamped in the future; they go when this process has had them for as long as "
                "they are kept",
                self._store.url,
            )

    def _seen_for(self, age_ns: int) -> int:
        """The last position that this object has seen for so long; 0: none."""
        elapsed_ns = self._elapsed_ns()
        return max((last for at_ns, last in self._looks if elapsed_ns - at_ns >= age_ns), default=0)

    def _needed_from(self, now_ns: int) -> int | None:
        """The first position that an open replay still needs; None: there is no open replay."""
        needed = [
            checkpoint.next_position
            for checkpoint in self._store.checkpoints()
            if not checkpoint.ended and now_ns - checkpoint.updated_ns < HOLD_NS
        ]
        return min(needed, default=None)
