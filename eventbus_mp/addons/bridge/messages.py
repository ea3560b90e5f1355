"""The parcels without payloads: what became of events, and what bridges ask each other. Many events are ranges."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, chain, pairwise
from typing import Any, ClassVar, NamedTuple

from eventbus_mp.addons.bridge.fields import (
    ITEMS_MAX,
    ParcelError,
    binary,
    each,
    fields_of,
    host_name,
    identity,
    integer,
    one_of,
    text,
    topic_name,
)
from eventbus_mp.addons.bridge.frame import Frame, framed
from eventbus_mp.addons.bridge.ranges import checked_ranges, packed, unpacked

__all__ = ["OUTCOMES", "Confirm", "Have", "Held", "Outcomes", "Result", "Topics", "Who"]

OUTCOMES = ("completed", "skipped")
NUMBER_BYTES = 8
REASON_CHARACTERS_MAX = 1000


class Result(NamedTuple):
    """What became of many events for one subscriber."""

    name: str
    config: bytes
    outcome: str
    """One of `OUTCOMES`."""
    reason: str
    ranges: Sequence[int]
    """Sequence numbers of the origin's bus, as flat ranges."""


class Held(NamedTuple):
    """The events that a host has for one subscriber."""

    name: str
    config: bytes
    ranges: Sequence[int]


@dataclass(frozen=True, slots=True)
class Outcomes:
    """What became of events of `life` on `host`, for good. Their origin answers with the serial, in a `Confirm`."""

    KIND: ClassVar[int] = 3

    host: str
    life: bytes
    """That of the origin's bus."""
    bridge: bytes
    """The life of the bridge that says it, which counts its `Outcomes` to one host by serials."""
    serial: int
    results: Sequence[Result]

    def encode(self) -> bytes:
        """The parcel's bytes."""
        heads = [(*result[:4], len(result.ranges)) for result in self.results]
        numbers = packed(chain.from_iterable(result.ranges for result in self.results))
        fields = [self.host, self.life, self.bridge, self.serial, heads]
        return framed(self.KIND, fields, (numbers,), len(numbers))

    @staticmethod
    def read(frame: Frame, data: bytes) -> Outcomes:
        """What `encode` made."""
        host, life, bridge, serial, heads = fields_of(frame.fields(), "the head of outcomes", 5)
        heads = each(heads, "its results", _result_head)
        ranges = _distributed(_numbers(frame, data), [count for *_, count in heads])
        results = [
            Result(name, config, outcome, reason, flat)
            for (name, config, outcome, reason, _), flat in zip(heads, ranges, strict=True)
        ]
        serial = integer(serial, "its serial")
        return Outcomes(host_name(host), identity(life, "its life"), identity(bridge, "its bridge"), serial, results)


@dataclass(frozen=True, slots=True)
class Confirm:
    """The origin has noted these `Outcomes` of the bridge `bridge`, which may forget them."""

    KIND: ClassVar[int] = 4

    host: str
    bridge: bytes
    serials: Sequence[int]
    position: int
    """Of the last letter that `host` had stored then for the host it confirms to, any copy of it."""

    def encode(self) -> bytes:
        """The parcel's bytes."""
        numbers = packed(self.serials)
        return framed(self.KIND, [self.host, self.bridge, self.position], (numbers,), len(numbers))

    @staticmethod
    def read(frame: Frame, data: bytes) -> Confirm:
        """What `encode` made."""
        host, bridge, position = fields_of(frame.fields(), "the head of a confirmation", 3)
        serials = list(_numbers(frame, data))
        return Confirm(host_name(host), identity(bridge, "its bridge"), serials, integer(position, "its position"))


@dataclass(frozen=True, slots=True)
class Topics:
    """Topics that are registered on `host`; of a bus with very many, some."""

    KIND: ClassVar[int] = 5

    host: str
    names: Sequence[str]

    def encode(self) -> bytes:
        """The parcel's bytes.

        Raises:
            ParcelError: There are more names than one parcel may have.
        """
        if len(self.names) > ITEMS_MAX:
            raise ParcelError(f"{len(self.names)} topics are too many for one parcel; give up to {ITEMS_MAX}")
        return framed(self.KIND, [self.host, self.names], (), 0)

    @staticmethod
    def read(frame: Frame, data: bytes) -> Topics:
        """What `encode` made."""
        _no_body(frame, data)
        host, names = fields_of(frame.fields(), "the head of topics", 2)
        return Topics(host_name(host), each(names, "its topics", topic_name))


@dataclass(frozen=True, slots=True)
class Who:
    """A question of `host`: which events of this life of its bus do you have? `Have` answers it."""

    KIND: ClassVar[int] = 6

    host: str
    life: bytes
    number: int
    """Of the question; the answer has it as well."""

    def encode(self) -> bytes:
        """The parcel's bytes."""
        return framed(self.KIND, [self.host, self.life, self.number], (), 0)

    @staticmethod
    def read(frame: Frame, data: bytes) -> Who:
        """What `encode` made."""
        _no_body(frame, data)
        host, life, number = fields_of(frame.fields(), "the head of a question", 3)
        return Who(host_name(host), identity(life, "its life"), integer(number, "its number"))


@dataclass(frozen=True, slots=True)
class Have:
    """The answer of `host` to `Who`: what it has of `life` and has not told the end of."""

    KIND: ClassVar[int] = 7

    host: str
    life: bytes
    number: int
    held: Sequence[Held]

    def encode(self) -> bytes:
        """The parcel's bytes."""
        heads = [(item.name, item.config, len(item.ranges)) for item in self.held]
        numbers = packed(chain.from_iterable(item.ranges for item in self.held))
        return framed(self.KIND, [self.host, self.life, self.number, heads], (numbers,), len(numbers))

    @staticmethod
    def read(frame: Frame, data: bytes) -> Have:
        """What `encode` made."""
        host, life, number, heads = fields_of(frame.fields(), "the head of an answer", 4)
        heads = each(heads, "what it has", _held_head)
        ranges = _distributed(_numbers(frame, data), [count for *_, count in heads])
        held = [Held(name, config, flat) for (name, config, _), flat in zip(heads, ranges, strict=True)]
        return Have(host_name(host), identity(life, "its life"), integer(number, "its number"), held)


def _no_body(frame: Frame, data: bytes) -> None:
    if frame.body_at != len(data):
        raise ParcelError(f"it has a body of {len(data) - frame.body_at} bytes, as its kind does not")


def _result_head(value: Any, what: str) -> tuple[str, bytes, str, str, int]:
    name, config, outcome, reason, count = fields_of(value, f"one of {what}", 5)
    return (
        text(name, f"the name in {what}"),
        binary(config, f"the config in {what}"),
        one_of(outcome, f"the outcome in {what}", OUTCOMES),
        text(reason, f"the reason in {what}", 0, REASON_CHARACTERS_MAX),
        integer(count, f"the count in {what}"),
    )


def _held_head(value: Any, what: str) -> tuple[str, bytes, int]:
    name, config, count = fields_of(value, f"one of {what}", 3)
    name, config = text(name, f"the name in {what}"), binary(config, f"the config in {what}")
    return name, config, integer(count, f"the count in {what}")


def _numbers(frame: Frame, data: bytes) -> tuple[int, ...]:
    if (len(data) - frame.body_at) % NUMBER_BYTES:
        raise ParcelError(f"its body of {len(data) - frame.body_at} bytes is not whole numbers of {NUMBER_BYTES}")
    return unpacked(memoryview(data)[frame.body_at :])


def _distributed(numbers: tuple[int, ...], counts: list[int]) -> list[Sequence[int]]:
    """The numbers of each range in its turn; all of them are somebody's."""
    ends = list(accumulate(counts, initial=0))
    if ends[-1] != len(numbers):
        raise ParcelError(f"its head speaks of {ends[-1]} numbers; its body has {len(numbers)}")
    pieces = (numbers[at:end] for at, end in pairwise(ends))
    return [checked_ranges(list(piece), "its ranges") for piece in pieces]
