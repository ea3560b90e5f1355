"""The data's codec: msgpack, and ext types for the standard library's values. No pickle, ever.

What goes in comes out with the same type: tuples stay tuples, sets stay sets. An ext type's body is msgpack again.
"""

from __future__ import annotations

import datetime
import decimal
import pathlib
import threading
import uuid
from collections.abc import Callable
from typing import Any

import msgpack

from eventbus_mp.errors import EncodeError

__all__ = ["decode", "encode", "encode_both"]


_MICROSECOND = datetime.timedelta(microseconds=1)


def _int_bytes(value: int) -> bytes:
    return value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)


def _iso(value: Any) -> Any:
    # A zone is kept as its offset; not in the ISO text, where `fromisoformat` loses what is under a second.
    offset = value.utcoffset()
    return [value.replace(tzinfo=None).isoformat(), value.fold, None if offset is None else offset // _MICROSECOND]


def _from_iso(kind: Any) -> Callable[[Any], Any]:
    def decode_iso(body: Any) -> Any:
        text, fold, offset = body
        zone = None if offset is None else datetime.timezone(offset * _MICROSECOND)
        return kind.fromisoformat(text).replace(fold=fold, tzinfo=zone)

    return decode_iso


_EXT_TYPES: tuple[tuple[type, Callable[[Any], Any], Callable[[Any], Any]], ...] = (
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
"""(type, to a msgpack value, back). The index is the ext code on the wire: append, never reorder."""

_ENCODERS = {kind: (code, down) for code, (kind, down, _) in enumerate(_EXT_TYPES)}
_DECODERS = tuple(up for _, _, up in _EXT_TYPES)
_local = threading.local()


def encode(value: Any) -> bytes:
    """`value` as msgpack.

    Raises:
        EncodeError: It holds something that cannot travel; the text names the path to it.
    """
    return encode_both(None, value)[1]


def encode_both(first: Any, second: Any) -> tuple[bytes, bytes]:
    """Two values, each as msgpack of its own: an event's envelope and its data.

    Raises:
        EncodeError: As `encode`, for either.
    """
    try:
        pack = _local.pack
    except AttributeError:
        pack = _local.pack = _new_packer().pack
    try:
        return pack(first), pack(second)
    except (TypeError, ValueError, OverflowError, RecursionError, UnicodeEncodeError) as cause:
        # A packer that failed half way keeps what it had.
        del _local.pack
        raise EncodeError(_explain(second if _encodes(first) else first, cause)) from cause


def decode(data: bytes | memoryview) -> Any:
    """The value that `encode` was given."""
    return msgpack.unpackb(data, ext_hook=_decode_ext, strict_map_key=False, use_list=True)


def _new_packer() -> msgpack.Packer:
    # strict_types sends tuples and subclasses to `default` instead of flattening them.
    return msgpack.Packer(default=_encode_ext, strict_types=True, use_bin_type=True)


def _encodes(value: Any) -> bool:
    try:
        _new_packer().pack(value)
    except (TypeError, ValueError, OverflowError, RecursionError):
        return False
    return True


def _encode_ext(value: Any) -> msgpack.ExtType:
    found = _ENCODERS.get(type(value))
    if found is None:
        raise TypeError(f"{type(value)} cannot travel")
    code, down = found
    return msgpack.ExtType(code, _new_packer().pack(down(value)))


def _decode_ext(code: int, body: bytes) -> Any:
    if code >= len(_DECODERS):
        return msgpack.ExtType(code, body)
    return _DECODERS[code](decode(body))


def _explain(value: Any, cause: Exception) -> str:
    path, culprit = _find_culprit(value, "data", ())
    if isinstance(cause, RecursionError) or "recursion" in str(cause):  # msgpack says it with a ValueError
        return f"{path}: nested too deeply, or within itself"
    if isinstance(cause, UnicodeEncodeError):
        return f"{path}: text that is not valid unicode: {culprit!r:.60}"
    if type(culprit) in (dict, list, tuple, set, frozenset, str, bytes):
        return f"{path}: {cause}"
    return (
        f"{path}: {type(culprit)} cannot travel on the bus; "
        "convert it to a dict, list, str, bytes, number or one of the standard library's value types"
    )


def _find_culprit(value: Any, path: str, above: tuple[int, ...]) -> tuple[str, Any]:
    """The path to the first part of `value` that does not encode, and that part."""
    if id(value) not in above:
        for name, part in _parts(value, path):
            if not _encodes(part):
                return _find_culprit(part, name, (*above, id(value)))
    return path, value


def _parts(value: Any, path: str) -> list[tuple[str, Any]]:
    if type(value) is dict:
        keys = [(f"{path} (key {key!r:.40})", key) for key in value]
        return keys + [(f"{path}[{key!r:.40}]", part) for key, part in value.items()]
    if type(value) in (list, tuple, set, frozenset):
        return [(f"{path}[{index}]", part) for index, part in enumerate(value)]
    return []
