"""The standard library's value types that msgpack does not have: what each is turned into, and how it is made again.

A value comes out with the type that it went in with: tuples stay tuples, sets stay sets.
"""

from __future__ import annotations

import datetime
import decimal
import pathlib
import uuid
from collections.abc import Callable
from typing import Any

__all__ = ["VALUE_TYPES"]

_MICROSECOND = datetime.timedelta(microseconds=1)


def _int_bytes(value: int) -> bytes:
    return value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)


def _iso(value: Any) -> Any:
    # A time zone is kept as its offset from UTC in microseconds. `fromisoformat` would lose the part under a second.
    offset = value.utcoffset()
    return [value.replace(tzinfo=None).isoformat(), value.fold, None if offset is None else offset // _MICROSECOND]


def _from_iso(kind: Any) -> Callable[[Any], Any]:
    def decode_iso(body: Any) -> Any:
        text, fold, offset = body
        zone = None if offset is None else datetime.timezone(offset * _MICROSECOND)
        return kind.fromisoformat(text).replace(fold=fold, tzinfo=zone)

    return decode_iso


VALUE_TYPES: tuple[tuple[type, Callable[[Any], Any], Callable[[Any], Any]], ...] = (
    (tuple, list, tuple),
    (set, list, set),
    (frozenset, list, frozenset),
    (datetime.datetime, _iso, _from_iso(datetime.datetime)),
    (datetime.date, datetime.date.isoformat, datetime.date.fromisoformat),
    (datetime.time, _iso, _from_iso(datetime.time)),
    (
        datetime.timedelta,
        lambda value: [value.days, value.seconds, value.microseconds],
        lambda body: datetime.timedelta(*body),
    ),
    (decimal.Decimal, str, decimal.Decimal),
    (uuid.UUID, lambda value: value.bytes, lambda body: uuid.UUID(bytes=body)),
    (complex, lambda value: [value.real, value.imag], lambda body: complex(*body)),
    (pathlib.PurePosixPath, str, pathlib.PurePosixPath),
    (pathlib.PosixPath, str, pathlib.PosixPath),
    # An int that msgpack's 64 bits do not hold.
    (int, _int_bytes, lambda body: int.from_bytes(body, "little", signed=True)),
)
"""(type, to a msgpack value, back). The index is the ext code on the wire: append, never reorder; under 32."""
