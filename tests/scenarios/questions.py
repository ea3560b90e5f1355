"""From the words of a transcript's `ask` to the fields of a request."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from eventbus_mp.geometry import CHUNK_BYTES
from eventbus_mp.protocol.requests import FieldType, Request, field_types
from tests.helpers import subscribe_fields

__all__ = ["crc_of", "fields_of", "settings_of", "subscription_of", "wire_key"]

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


def crc_of(name: str) -> int:
    """What events are found by, from their id."""
    return zlib.crc32(name.encode())


def wire_key(name: str) -> tuple[str, bytes, str]:
    """Name, config and host of `bill` or, of another host, `bill@B`."""
    own, _, host = name.partition("@")
    return own, b"", host


def subscription_of(
    name: str, patterns: str, credit: str, threads: str, scope: str, bound: str, flags: Sequence[str]
) -> tuple[Any, ...]:
    """The fields of a `Subscribe`, from the words of a transcript."""
    own, config, host = wire_key(name)
    events_max, bytes_max, when_full = bound.split(":")
    return subscribe_fields(
        own,
        patterns.split(","),
        0 if credit == "auto" else int(credit),
        config=config,
        broadcast="--broadcast" in flags,
        threads=int(threads),
        scope=scope,
        host=host,
        forwards="--forwards" in flags,
        bound=(int(events_max), int(bytes_max), when_full),
    )


def settings_of(options: Mapping[str, str]) -> dict[str, Any]:
    """The settings of a bus, as its line gives them."""
    numbers = {"memory_chunks": "memory_bytes_max", "spill_chunks": "spill_bytes_max"}
    numbers |= {name: name for name in ("crashes_max", "orphan_grace_s")}
    settings: dict[str, Any] = {numbers[name]: int(value) for name, value in options.items() if name in numbers}
    settings["memory_bytes_max"] = settings.get("memory_bytes_max", 16) * CHUNK_BYTES
    settings["spill_bytes_max"] = settings.get("spill_bytes_max", 0) * CHUNK_BYTES
    topics = {name: options.get(name) for name in ("dead_letter_topic", "lifecycle_topic")}
    return {**settings, **topics}
