"""A request, an effect or a client event of any class, made of values that fit its fields."""

from __future__ import annotations

from itertools import count
from types import GenericAlias, UnionType
from typing import Any, get_args

from eventbus_mp.protocol.client_events import RecordEvent
from eventbus_mp.protocol.requests import FieldType, Request, field_types

__all__ = ["sample_event", "sample_fields"]


def sample_fields(kind: type[Request]) -> list[Any]:
    """Values for the fields of a request that travel: an empty one, a zero or no, but for a name."""
    return [_plain(expected) for expected in field_types(kind.NUMBER).values()]


def _plain(expected: FieldType) -> Any:
    if isinstance(expected, GenericAlias):
        return [_plain(element) for element in get_args(expected) * 2 if element is not Any]
    if isinstance(expected, UnionType):
        return None
    return "a" if expected is str else expected()


def sample_event(kind: type[RecordEvent]) -> RecordEvent:
    """An event whose fields all differ, so that none can be taken for another."""
    numbers = count(3)
    return kind(*[of_type(next(numbers)) for _, of_type, _ in kind.PLACES])
