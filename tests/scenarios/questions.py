"""From the words of a transcript's `ask` to the fields of a request."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from eventbus_mp.protocol.requests import FieldType, Request, field_types

__all__ = ["fields_of"]

PARSERS: dict[FieldType, Callable[[str], Any]] = {
    str: str,
    str | None: str,
    bytes: str.encode,
    int: int,
    bool: {"yes": True, "no": False}.__getitem__,
    list[str]: lambda word: word.split(","),
    list[int]: lambda word: [int(number) for number in word.split(",")],
}


def fields_of(kind: type[Request], words: Sequence[str], numbers: Mapping[str, Mapping[str, int]]) -> list[Any]:
    """The fields that a request of this kind has.

    Args:
        words: One for each field; in a list there are commas.
        numbers: Name of a field -> what the transcript calls things by -> the numbers that travel.
    """
    types = field_types(kind.NUMBER)
    return [
        numbers.get(name, {}).get(word) or PARSERS[types[name]](word) for name, word in zip(types, words, strict=True)
    ]
