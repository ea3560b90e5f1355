"""What a query asks of a store. Pure; the stores differ in how they mark a parameter and how they hold an id."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from eventbus_mp.addons.checks import compiled
from eventbus_mp.addons.journal.store import Selection

__all__ = ["Condition", "condition_of", "first_position_at", "matching"]


class Condition(NamedTuple):
    """What comes behind WHERE, with its parameters."""

    text: str
    parameters: list[Any]


def matching(pattern: str, names: Iterable[str]) -> list[str]:
    """The names that the pattern matches from their beginning.

    Raises:
        InvalidPattern: It is not a regular expression.
    """
    match = compiled(pattern).match
    return [name for name in names if match(name)]


def condition_of(
    selection: Selection,
    numbers: Mapping[str, int],
    position_at: Callable[[int], int],
    mark: str,
    transaction: Callable[[str | int], Condition],
) -> Condition | None:
    """The condition of a selection; None: nothing can be selected.

    Args:
        selection: What is selected.
        numbers: All topics, with their numbers.
        position_at: As of `Store`.
        mark: Of a parameter.
        transaction: The condition that an entry is of this transaction.

    Raises:
        InvalidPattern: The topic's pattern is not a regular expression.
    """
    parts, parameters = [f"position > {mark}"], [_after(selection, position_at)]
    before = _before(selection, position_at)
    if before is not None:
        parts.append(f"position < {mark}")
        parameters.append(before)
    if selection.topic is not None:
        wanted = [numbers[name] for name in matching(selection.topic, numbers)]
        if not wanted:
            return None
        if len(wanted) < len(numbers):
            # With one topic its index has the order of positions as well. With several it has not, and the plus keeps
            # a query away from it that would have to sort.
            parts.append(f"topic = {wanted[0]}" if len(wanted) == 1 else f"+topic IN ({','.join(map(str, wanted))})")
    if selection.transaction_id is not None:
        wanted_transaction = transaction(selection.transaction_id)
        parts.append(wanted_transaction.text)
        parameters += wanted_transaction.parameters
    return Condition(" AND ".join(parts), parameters)


def first_position_at(recorded_ns: int, last: int, following: Callable[[int], tuple[int, int] | None]) -> int:
    """The first position recorded at this time or later, by bisection; if there is none, the one behind the last.

    Args:
        recorded_ns: The time.
        last: The last position that is there.
        following: The first entry from a position on, as (position, recorded_ns); None: there is none.
    """
    low, high = 1, last + 1
    while low < high:
        middle = (low + high) // 2
        found = following(middle)
        if found is None or found[1] >= recorded_ns:
            high = middle
        else:
            low = found[0] + 1
    found = following(low)
    return found[0] if found is not None else low


def _after(selection: Selection, position_at: Callable[[int], int]) -> Any:
    since = position_at(selection.since_ns) - 1 if selection.since_ns is not None else 0
    return max(selection.after, since)


def _before(selection: Selection, position_at: Callable[[int], int]) -> int | None:
    ends = [selection.before] if selection.before is not None else []
    if selection.until_ns is not None:
        ends.append(position_at(selection.until_ns))
    return min(ends) if ends else None
