"""The data's codec: msgpack. No pickle, ever.

A value comes out with the type that it went in with. Most events' data is what msgpack has: it is packed as it is, in
one call, in which no other thread runs. Anything else is made plain first (plain.py), and begins with a byte that
msgpack never uses. Raw memory is not copied into the msgpack: it is collected in `Beside`, and its parts say where it
will be.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgpack
from msgpack import unpackb

from eventbus_mp.errors import EncodeError
from eventbus_mp.events import ENVELOPE_FIELDS
from eventbus_mp.memory import culprit
from eventbus_mp.memory.buffers import Beside
from eventbus_mp.memory.plain import (
    Opened,
    decode_marked,
    in_order,
    make_plain,
    open_here,
    open_in_envelope,
    open_value_types_only,
    parts_of,
)

__all__ = [
    "MARKED",
    "Pack",
    "decode",
    "encode_comparable",
    "explain_event",
    "idle_packers",
    "make_packer",
    "pack_data",
    "pack_envelope",
    "without_frames",
]

Pack = Callable[[Any], bytes]

MARKED = 0xC1
"""The first byte of data that was made plain. In msgpack it means nothing."""
_MARKED = bytes((MARKED,))

idle_packers: list[Pack] = []
"""Packers, each used by one call at a time. The call takes one out, or makes one, and returns it afterwards. A signal's
handler or a registered `encode` may publish in between; the second call then takes another one."""


def make_packer() -> Pack:
    """A new packer's `pack`."""
    # With strict_types, tuples and subclasses are refused; else they would come out as lists and base types.
    return msgpack.Packer(strict_types=True, use_bin_type=True).pack  # type: ignore[no-any-return]


def pack_data(pack: Pack, value: Any, beside: Beside) -> bytes:
    """An event's data that is made plain; its buffers are added `beside`.

    Raises:
        Exception: A part of it cannot travel.
    """
    open_other = open_here(beside)
    try:
        return _MARKED + pack(make_plain(value, open_other))
    except OverflowError:
        beside.release()
        return _MARKED + pack(make_plain(value, open_other, big_ints=True))


def pack_envelope(pack: Pack, envelope: list[Any]) -> bytes:
    """An envelope with values that msgpack does not have.

    Raises:
        Exception: A part of it cannot travel.
    """
    return _pack_marked(pack, envelope, open_in_envelope)


def _pack_marked(pack: Pack, value: Any, open_other: Callable[[Any], Opened]) -> bytes:
    return _MARKED + pack(make_plain(value, open_other, big_ints=True))


def encode_comparable(value: Any) -> bytes:
    """A value as bytes that are equal for equal values: the entries of dicts and sets are sorted.

    Only value types travel: nothing beside it, nothing that has to be registered.

    Raises:
        EncodeError: A part of it cannot travel; the text names the path to that part.
    """
    pack = make_packer()

    def failure_of(part: Any) -> Exception | None:
        return _failure(lambda: _pack_marked(pack, part, open_value_types_only))

    try:
        return _MARKED + pack(in_order(make_plain(value, open_value_types_only, big_ints=True), pack))
    except Exception as cause:
        text = culprit.explain(value, "data", cause, failure_of, parts_of)
        raise EncodeError(text) from without_frames(cause)


def decode(data: bytes | memoryview, raw: memoryview | bytes = b"") -> Any:
    """The value that `data` was encoded from; `raw` is the memory beside the data.

    Raises:
        DecodeError: A type is not registered here, or its `decode` failed; or a package is not installed.
        ValueError, TypeError, LookupError, ArithmeticError, UnpackException: These bytes were not encoded here.
    """
    return decode_marked(data[1:], raw) if data[0] == MARKED else unpackb(data, strict_map_key=False)


def explain_event(envelope: list[Any], data: Any, cause: Exception) -> str:
    """Which part of an event cannot travel, and why; `cause` is the error of encoding it."""
    pack = make_packer()

    def failure_of_field(value: Any) -> Exception | None:
        return _failure(lambda: pack_envelope(pack, value))

    def failure_of_data(value: Any) -> Exception | None:
        beside = Beside()
        try:
            return _failure(lambda: pack_data(pack, value, beside))
        finally:
            beside.release()

    for field, value in zip(ENVELOPE_FIELDS, envelope, strict=False):  # without headers, it ends before them
        if failure_of_field(value) is not None:
            return culprit.explain(value, f"Event.{field}", cause, failure_of_field, parts_of)
    return culprit.explain(data, "data", cause, failure_of_data, parts_of)


def _failure(encode: Callable[[], object]) -> Exception | None:
    try:
        encode()
    except Exception as error:
        return without_frames(error, its_cause=True)
    return None


def without_frames(error: Exception, *, its_cause: bool = False) -> Exception:
    """The error without its traceback, whose frames have the user's data and memory in their variables.

    They would keep it in use as long as the error, or until the garbage collector runs. `its_cause`: as well those of
    what caused it, which is mostly the error of a registered `encode`, and tells the user where that failed.
    """
    one: BaseException | None = error
    while one is not None:
        one.__traceback__ = one.__context__ = None
        one = one.__cause__ if its_cause else None
    return error
