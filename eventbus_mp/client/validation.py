"""Checks of arguments: each returns the value in the form that the bus takes, or says what is wrong with it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any

from eventbus_mp.arguments import as_int, as_list, as_number, as_text
from eventbus_mp.client.subscription import BacklogBound
from eventbus_mp.config import BusConfig, check_bus_name, check_topics
from eventbus_mp.errors import UsageError
from eventbus_mp.event_fields import plain_id
from eventbus_mp.geometry import REQUIRED_MAX, SETTLED_RANGE_MAX, WAIT_S_MAX
from eventbus_mp.ids import INT_IDS, EventId
from eventbus_mp.patterns import compile_pattern
from eventbus_mp.protocol.messages import Outcome
from eventbus_mp.protocol.requests import SCOPES

OUTCOMES = {"completed": Outcome.COMPLETED, "skipped": Outcome.SKIPPED}
BACKLOG_MAX = 1 << 62
DELAY_S_MAX = 10 * 365 * 86_400.0

__all__ = [
    "bus_settings",
    "check_backlog",
    "check_batch",
    "check_concurrency",
    "check_credit",
    "check_delay",
    "check_limit",
    "check_mark",
    "check_name",
    "check_page",
    "check_patterns",
    "check_ranges",
    "check_required",
    "check_retries",
    "check_scope",
    "check_shadows",
    "check_threads",
    "check_time_limit",
    "check_timeout",
    "pair_of",
]


WITHIN_S = 0.05
"""How long a handler of batches waits for a full one unless it says otherwise."""
THREADS_MAX = 1000
"""How many threads of its own a subscriber may have in a process."""


def check_patterns(patterns: Iterable[str]) -> list[str]:
    """The patterns as a list.

    Raises:
        InvalidPattern: One of them does not compile; the text names it.
        UsageError: They are not a list of patterns.
    """
    if isinstance(patterns, str):
        raise UsageError(f"patterns must be a list of them, not the str {patterns!r}; write [{patterns!r}]")
    wanted = as_list(patterns)
    if wanted is None:
        raise UsageError(f"patterns must be a list of regular expressions, not {patterns!r}")
    for pattern in wanted:
        compile_pattern(pattern)
    return wanted


def check_name(name: object) -> str:
    """The name of a subscriber.

    Raises:
        UsageError: It is not a str, or is empty.
    """
    text = as_text(name)
    if not text:
        raise UsageError(f"a subscriber's name is a text of one character or more, not {name!r}")
    return text


def check_credit(credit: int | str) -> int:
    """The credit as it travels: 0 means automatic.

    Raises:
        UsageError: It is neither "auto" nor an int of 1 or more.
    """
    if isinstance(credit, str) and credit == "auto":
        return 0
    shadows = as_int(credit)
    if shadows is None or shadows < 1:
        raise UsageError(f"credit={credit!r}: give a number of shadows, 1 or more, or 'auto'")
    return shadows


def check_ranges(ranges: Iterable[tuple[int, int]]) -> list[int]:
    """The numbers in these ranges.

    Raises:
        UsageError: They are not pairs of a number and a count.
    """
    given = as_list(ranges)
    if given is None:
        raise UsageError(f"ranges={ranges!r:.80}: give a list of (first sequence, how many)")
    numbers: list[int] = []
    for item in given:
        first, count = item if isinstance(item, (tuple, list)) and len(item) == 2 else (None, None)
        if type(first) is not int or type(count) is not int or first < 0 or not 0 < count <= SETTLED_RANGE_MAX:
            raise UsageError(f"{item!r:.80}: give a range as (first sequence, how many), which is 1 or more")
        numbers += range(first, first + count)
    return numbers


def check_backlog(backlog_max: int | None, backlog_bytes_max: int | None, when_full: str) -> BacklogBound:
    """How much a subscriber may have unsettled.

    Raises:
        UsageError: One of the two is not an int of 1 or more, or `when_full` is neither "block" nor "skip".
    """
    text = as_text(when_full)
    if text not in ("block", "skip"):
        raise UsageError(
            f"when_full={when_full!r}: give 'block', to have producers wait, or 'skip', to skip what comes"
        )
    events_max = _amount("backlog_max", backlog_max)
    return BacklogBound(events_max, _amount("backlog_bytes_max", backlog_bytes_max), text)


def _amount(name: str, given: int | None) -> int:
    amount = as_int(given) if given is not None else 0
    if amount is None or (given is not None and amount < 1):
        raise UsageError(f"{name}={given!r}: give a whole number, 1 or more, or None for any")
    return min(amount, BACKLOG_MAX)


def check_scope(scope: str, *, broadcast: bool) -> str:
    """Who shares a subscriber's events where several hosts are joined.

    Raises:
        UsageError: It is none of the scopes, or one that a subscriber that broadcasts cannot have.
    """
    text = as_text(scope)
    if text not in SCOPES:
        raise UsageError(f"scope={scope!r}: give 'host', 'cluster' or 'local'")
    if broadcast and text == "cluster":
        raise UsageError(
            "scope='cluster' shares each event among the processes of all hosts, and broadcast=True gives it to each "
            "of them; give one of the two"
        )
    return text


def check_batch(batch: int | None, within_s: float | None, credit: int) -> tuple[int, float]:
    """The largest batch, 0 if there are none, and how long to wait for it.

    Raises:
        UsageError: They are not numbers in their range, or the credit does not allow a batch.
    """
    if batch is None:
        if within_s is not None:
            raise UsageError(f"within_s={within_s!r} is how long to wait for a batch; give batch= as well")
        return 0, 0.0
    events = as_int(batch)
    if events is None or events < 1:
        raise UsageError(f"batch={batch!r}: give a number of events, 1 or more")
    if credit and credit < events:
        raise UsageError(f"credit={credit}, batch={events}: a batch needs a credit of as many events, or 'auto'")
    if within_s is None:
        return events, WITHIN_S
    seconds = as_number(within_s)
    if seconds is None or not 0 <= seconds <= WAIT_S_MAX:
        raise UsageError(f"within_s={within_s!r}: give seconds, 0 or more")
    return events, float(seconds)


def check_concurrency(concurrency: int) -> int:
    """How many calls of a handler may be under way at once.

    Raises:
        UsageError: It is not an int of 1 or more.
    """
    calls = as_int(concurrency)
    if calls is None or calls < 1:
        raise UsageError(f"concurrency={concurrency!r}: give a number of calls at once, 1 or more")
    return calls


def check_threads(threads: int, credit: int, batch: int = 0) -> int:
    """How many threads a handler has.

    Raises:
        UsageError: It is not a whole number in its range, the credit does not keep them busy, or the handler is one of
            batches.
    """
    count = as_int(threads)
    if count is None or not 1 <= count <= THREADS_MAX:
        raise UsageError(f"threads={threads!r}: give a whole number from 1 to {THREADS_MAX}")
    if credit and credit < count:
        raise UsageError(f"credit={credit}, threads={count}: threads need a credit of as many events, or 'auto'")
    if batch and count > 1:
        raise UsageError(
            f"batch={batch}, threads={count}: a handler of batches has no threads of its own; leave one of the two out"
        )
    return count


def check_retries(retries: int) -> int:
    """How often a handler that raised is called again.

    Raises:
        UsageError: It is not an int of 0 or more.
    """
    times = as_int(retries)
    if times is None or times < 0:
        raise UsageError(f"retries={retries!r}: give a whole number, 0 or more")
    return times


def check_time_limit(time_limit_s: float | None) -> float | None:
    """How long one call of a handler may take; None: as long as it likes.

    Raises:
        UsageError: It is not a number over 0, or longer than ten years.
    """
    seconds = as_number(time_limit_s)
    if time_limit_s is not None and (seconds is None or not 0 < seconds <= DELAY_S_MAX):
        raise UsageError(f"time_limit_s={time_limit_s!r}: give seconds, over 0 and up to {DELAY_S_MAX:g}, or None")
    return seconds


def check_required(names: Iterable[str]) -> tuple[str, ...]:
    """The names of the subscribers that are required, each once.

    Raises:
        UsageError: They are not a list of names, or too many.
    """
    given = as_list(names)
    if given is None:
        raise UsageError(f"require={names!r}: give a list of subscribers' names, as in require=['journal']")
    wanted = tuple(dict.fromkeys(check_name(name) for name in given))
    if len(wanted) > REQUIRED_MAX:
        raise UsageError(f"require= names {len(wanted)} subscribers; {REQUIRED_MAX} are allowed")
    return wanted


def check_shadows(call: str, shadows: Iterable[Any]) -> list[Any]:
    """The shadows as a list; what each one is, is for others to say.

    Raises:
        UsageError: They are not a list.
    """
    wanted = as_list(shadows)
    if wanted is None:
        raise UsageError(f"{call}({shadows!r:.80}): give a list of shadows")
    return wanted


def check_mark(shadows: Iterable[Any], outcome: str, reason: str) -> tuple[list[Any], int]:
    """What `mark_many` was given: the shadows as a list, and the outcome as it travels.

    Raises:
        UsageError: They are not a list, there is no such outcome, or it has no reason.
    """
    if not isinstance(outcome, str) or outcome not in OUTCOMES:
        raise UsageError(f"mark_many(outcome={outcome!r}): give 'completed' or 'skipped'")
    if not isinstance(reason, str) or (reason and outcome == "completed"):
        raise UsageError(f"mark_many(reason={reason!r}): only a skip has a reason")
    return check_shadows("mark_many", shadows), OUTCOMES[outcome]


def check_limit(call: str, limit: int, most: int) -> int:
    """How much of a listing is asked for.

    Raises:
        UsageError: It is not a whole number from 1 to `most`.
    """
    number = as_int(limit)
    if number is None or not 1 <= number <= most:
        raise UsageError(f"{call}(limit={limit!r}): give a whole number from 1 to {most}")
    return number


def check_page(limit: int | None, after: int | None) -> tuple[int | None, int | None]:
    """Which part of a listing is asked for.

    Raises:
        UsageError: `limit` is not a number of 1 or more, or `after` not what a page gave.
    """
    events, last = as_int(limit), as_int(after)
    if limit is not None and (events is None or events < 1):
        raise UsageError(f"limit={limit!r}: give a number of events, 1 or more, or None for all")
    if after is not None and (last is None or not 0 <= last < 1 << 63):
        raise UsageError(f"after={after!r}: give the `next` of the page before, or None")
    return events, last


def check_delay(name: str, delay_s: float) -> float:
    """A time to wait before something is tried again, in seconds.

    Raises:
        UsageError: It is not a number of 0 or more, or longer than ten years.
    """
    seconds = as_number(delay_s)
    if seconds is None or not 0 <= seconds <= DELAY_S_MAX:
        raise UsageError(f"{name}={delay_s!r}: give seconds, from 0 to {DELAY_S_MAX:g}")
    return seconds


def check_timeout(timeout_s: float | None) -> float | None:
    """A time to wait, in seconds, from 0 to ten years: less is refused, and more is as good as for ever, which is None.

    Raises:
        UsageError: It is not a number, or one that no float can be.
    """
    if timeout_s is None:
        return None
    seconds = as_number(timeout_s)
    if seconds is not None:
        with suppress(OverflowError):  # An int may be larger than any float.
            if not math.isnan(seconds):
                return min(max(seconds, 0), DELAY_S_MAX)
    raise UsageError(f"timeout_s={timeout_s!r:.40}: give seconds, or None to wait for ever")


def pair_of(shadow: Any) -> tuple[str, EventId]:
    """(topic, id) of a shadow, or of such a pair.

    Raises:
        UsageError: It is neither, or an event has no such id.
    """
    try:
        topic, event_id = shadow
    except (TypeError, ValueError) as cause:
        raise UsageError(f"{shadow!r:.80} is not a shadow; give one, or a (topic, id) pair") from cause
    known = plain_id(event_id)
    if known is None or (type(known) is int and known not in INT_IDS):
        raise UsageError(f"{shadow!r:.80}: an event's id is a str or an int of 64 bits, not {event_id!r:.40}")
    return as_text(topic) or topic, known


def bus_settings(
    name: str, topics: Any, config: BusConfig | None, settings: Mapping[str, Any]
) -> tuple[str, BusConfig, tuple[str, ...]]:
    """What a handle was given, checked: the bus's name, its settings, and the topics that it registers.

    Raises:
        UsageError: The name, a topic or a setting is not valid, or both a config and settings were given.
    """
    name = check_bus_name(name)
    if config is not None and not isinstance(config, BusConfig):
        raise UsageError(f"config={config!r:.80} is not a BusConfig")
    if config is not None and settings:
        raise UsageError(f"give either config or single settings ({', '.join(settings)}), not both")
    config = config if config is not None else BusConfig.from_environment(**settings)
    return name, config, tuple(dict.fromkeys(config.topics + check_topics("topics", topics)))
