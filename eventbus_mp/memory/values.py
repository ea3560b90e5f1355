"""The standard library's value types that msgpack does not have: the parts of each, and how it is made again.

A value comes out with the type that it went in with: tuples stay tuples, sets stay sets.
"""

from __future__ import annotations

import datetime
import decimal
import pathlib
import uuid
import zoneinfo
from collections.abc import Callable
from typing import Any

from msgpack import ExtType

from eventbus_mp.errors import DecodeError

__all__ = ["VALUE_TYPES"]

_MICROSECOND = datetime.timedelta(microseconds=1)
_SAFETY_UNKNOWN = uuid.SafeUUID.unknown


def _int_parts(value: int) -> list[Any]:
    return [value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)]


def _moment_parts(value: Any) -> list[Any]:
    """Of a datetime or a time. A zone of the standard library is put down here, any other one is a value of its own."""
    zone = value.tzinfo
    if zone is None:
        return [value.isoformat(), value.fold, None]
    kind = type(zone)
    if kind is datetime.timezone:
        zone = _timezone_parts(zone)
    elif kind is zoneinfo.ZoneInfo:
        zone = _zone_parts(zone)[0]
    return [value.replace(tzinfo=None).isoformat(), value.fold, zone]


def _moment(kind: Any) -> Callable[[Any], Any]:
    def make(parts: Any) -> Any:
        text, fold, zone = parts
        if type(zone) is list:
            zone = _timezone(zone)
        elif type(zone) is str:
            zone = _zone([zone])
        return kind.fromisoformat(text).replace(fold=fold, tzinfo=zone)

    return make


def _timezone_parts(zone: datetime.timezone) -> list[Any]:
    # In microseconds: texts of an offset lose the part under a second. The name is only there if it was given.
    offset, *name = zone.__getinitargs__()  # type: ignore[attr-defined]
    return [offset // _MICROSECOND, *name]


def _timezone(parts: Any) -> datetime.timezone:
    offset, *name = parts
    return datetime.timezone(offset * _MICROSECOND, *name)


def _zone_parts(zone: zoneinfo.ZoneInfo) -> list[Any]:
    if zone.key is None:
        raise TypeError(f"{zone!r} was read from a file and has no key, by which a reader would find it")
    return [zone.key]


def _zone(parts: Any) -> zoneinfo.ZoneInfo:
    try:
        return zoneinfo.ZoneInfo(parts[0])
    except zoneinfo.ZoneInfoNotFoundError as cause:
        raise DecodeError(
            f"the data holds the time zone {parts[0]}, which this machine's Python does not know: pip install tzdata"
        ) from cause


def _uuid_parts(value: uuid.UUID) -> list[Any]:
    return [value.bytes] if value.is_safe is _SAFETY_UNKNOWN else [value.bytes, value.is_safe.value]


def _uuid(parts: Any) -> uuid.UUID:
    return uuid.UUID(bytes=parts[0], is_safe=uuid.SafeUUID(parts[1]) if len(parts) > 1 else _SAFETY_UNKNOWN)


def _path_parts(value: Any) -> list[Any]:
    # A file's name is any bytes, which Python has as text with surrogates.
    return [str(value).encode("utf-8", "surrogateescape")]


def _path(kind: Any) -> Callable[[Any], Any]:
    return lambda parts: kind(parts[0].decode("utf-8", "surrogateescape"))


def _pairs(parts: Any) -> dict[Any, Any]:
    return dict(zip(parts[::2], parts[1::2], strict=True))


VALUE_TYPES: tuple[tuple[Any, Callable[[Any], list[Any]], Callable[[Any], Any]], ...] = (
    (tuple, list, tuple),
    (set, list, set),
    (frozenset, list, frozenset),
    (datetime.datetime, _moment_parts, _moment(datetime.datetime)),
    (datetime.date, lambda value: [value.isoformat()], lambda parts: datetime.date.fromisoformat(parts[0])),
    (datetime.time, _moment_parts, _moment(datetime.time)),
    (
        datetime.timedelta,
        lambda value: [value.days, value.seconds, value.microseconds],
        lambda parts: datetime.timedelta(*parts),
    ),
    (decimal.Decimal, lambda value: [str(value)], lambda parts: decimal.Decimal(parts[0])),
    (uuid.UUID, _uuid_parts, _uuid),
    (complex, lambda value: [value.real, value.imag], lambda parts: complex(*parts)),
    (pathlib.PurePosixPath, _path_parts, _path(pathlib.PurePosixPath)),
    (pathlib.PosixPath, _path_parts, _path(pathlib.PosixPath)),
    # An int that msgpack's 64 bits do not hold.
    (int, _int_parts, lambda parts: int.from_bytes(parts[0], "little", signed=True)),
    (datetime.timezone, _timezone_parts, _timezone),
    (zoneinfo.ZoneInfo, _zone_parts, _zone),
    # A dict with keys that msgpack does not have: keys and values in turn.
    (dict, lambda value: [part for pair in value.items() for part in pair], _pairs),
    # The user's own, which would otherwise be taken for one of these marks.
    (ExtType, list, lambda parts: ExtType(*parts)),
)
"""(type, to a new list of parts, back). The index is the mark's code on the wire: append, never reorder; under 32."""
