"""Hides memoryviews and bytearrays from msgpack, which would take them for bytes and has no setting against that."""

from __future__ import annotations

import operator
from collections.abc import Iterable
from itertools import chain
from typing import Any

__all__ = ["Wrapped", "holds_buffers", "wrap_buffers"]


class Wrapped:
    """A memoryview or a bytearray, as a value that msgpack does not know and asks the encoder for."""

    __slots__ = ("buffer",)

    def __init__(self, buffer: memoryview | bytearray) -> None:
        self.buffer = buffer


_RAW = {memoryview, bytearray}
_NO_LEAVES = frozenset((*_RAW, dict, list, tuple, set, frozenset))


def holds_buffers(value: Any) -> bool:
    """Whether a memoryview or a bytearray is anywhere in `value`, which has no cycles.

    It goes down level by level: to collect the types of a whole level takes a third of the time that a loop takes.
    """
    level: Any = (value,)
    kinds = {type(value)}
    while not kinds.isdisjoint(_NO_LEAVES):
        if not kinds.isdisjoint(_RAW):
            return True
        below: list[Iterable[Any]] = []
        for kind in kinds & _NO_LEAVES:
            items = level if len(kinds) == 1 else [item for item in level if type(item) is kind]
            below += map(dict.values, items) if kind is dict else items
        level = below[0] if len(below) == 1 else list(chain.from_iterable(below))
        kinds = set(map(type, level))
    return False


def wrap_buffers(value: Any) -> Any:
    """`value` with each memoryview and bytearray in it wrapped; `value` itself when it has none.

    Keys of dicts are left alone: msgpack makes them bytes, which are equal to them and find the same entries.
    """
    kind = type(value)
    if kind is memoryview or kind is bytearray:
        return Wrapped(value)
    if kind is dict:
        parts = [wrap_buffers(part) for part in value.values()]
        changed = any(map(operator.is_not, parts, value.values()))
        return dict(zip(value, parts, strict=True)) if changed else value
    if kind is list or kind is tuple or kind is set or kind is frozenset:
        parts = [wrap_buffers(part) for part in value]
        return kind(parts) if any(map(operator.is_not, parts, value)) else value
    return value
