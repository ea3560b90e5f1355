"""The data's codec: msgpack, and ext types for what it does not have. No pickle, ever.

A value comes out with the type that it went in with. An ext type's body is msgpack again. Raw memory is not copied into
the msgpack: the encoder collects it in `buffers`, and the ext type's body says where it will be beside the data.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Callable
from typing import Any

import msgpack
from msgpack import unpackb

from eventbus_mp.errors import DecodeError, EncodeError
from eventbus_mp.events import ENVELOPE_FIELDS
from eventbus_mp.memory.buffers import BUFFER_DECODERS, find_buffer_encoder
from eventbus_mp.memory.layout import ALIGNMENT
from eventbus_mp.memory.registered import find_registered, make_registered
from eventbus_mp.memory.values import VALUE_TYPES
from eventbus_mp.memory.wrapping import wrap_buffers

__all__ = [
    "ENCODE_FAILURES",
    "Buffers",
    "Encoder",
    "check_envelope",
    "decode",
    "decode_ext",
    "encode",
    "explain_event",
    "idle_encoders",
    "take_encoder",
]

Buffers = tuple[memoryview, ...]
"""Flat bytes that are written beside the data, each at the next multiple of `ALIGNMENT`."""

REGISTERED = 64
"""Ext code of a value of a registered type: [name, body]."""
ENCODE_FAILURES = (TypeError, ValueError, OverflowError, RecursionError, BufferError)
"""What a packer raises for a value that cannot travel."""

DEEP_PATH_LEVELS = 16
"""Of data that is nested too deeply an error names the path to this level."""

_VALUE_ENCODERS = {kind: (code, down) for code, (kind, down, _) in enumerate(VALUE_TYPES)}
_VALUE_DECODERS = tuple(up for _, _, up in VALUE_TYPES)
_PLAIN = "a dict, list, str, bytes, number or one of the standard library's value types"


class Encoder:
    """A packer, and another one for the bodies of its ext types, which are packed while the first is at work.

    An encoder is used by one call at a time. The call takes it out of `idle_encoders` and returns it afterwards. A
    signal's handler or a registered `encode` may publish in between; the second call then takes another encoder,
    because a packer that is used within its own use mixes up both values without an error. An encoder that failed is
    not returned but dropped, since it still has the bytes of the value that failed.

    Args:
        outer: The encoder whose ext types this one packs; None: it is the root.
        plain: Only value types travel: nothing beside the data, nothing that has to be registered.
    """

    __slots__ = ("_end", "_inner", "_plain", "_root", "buffers", "pack")

    def __init__(self, outer: Encoder | None = None, *, plain: bool = False) -> None:
        self._root: Encoder = self if outer is None else outer._root
        self._plain = plain
        self._inner: Encoder | None = None
        self.buffers: list[memoryview] = []
        """Of the root: the memory that has to be written beside the data so far."""
        self._end = 0
        # With strict_types, tuples and subclasses go to `default`; else they would come out as lists and base types.
        self.pack: Callable[[Any], bytes] = msgpack.Packer(default=self._ext, strict_types=True, use_bin_type=True).pack

    def take_buffers(self) -> Buffers:
        """The memory to be written beside the data; the encoder is ready for the next value."""
        buffers = tuple(self.buffers)
        self.buffers.clear()
        self._end = 0
        return buffers

    def drop(self) -> None:
        """Free the encoder's memory now. It refers to itself, so the garbage collector would free it, but later."""
        del self.pack, self._root
        if self._inner is not None:
            self._inner.drop()

    def _add(self, buffer: memoryview) -> int:
        """Note a buffer to be written beside the data: the offset that it will have there."""
        offset = self._end
        self.buffers.append(buffer)
        self._end = (offset + len(buffer) + ALIGNMENT - 1) & -ALIGNMENT
        return offset

    def _ext(self, value: Any) -> msgpack.ExtType:
        """What the packer asks for when msgpack does not know a value's type."""
        inner = self._inner
        if inner is None:
            inner = self._inner = Encoder(self, plain=self._plain)
        found = _VALUE_ENCODERS.get(type(value))
        if found is not None:
            code, down = found
            return msgpack.ExtType(code, inner.pack(down(value)))
        if self._plain:
            raise TypeError(f"{type(value)} cannot travel here; convert it to {_PLAIN}")
        registered = find_registered(value)
        if registered is not None:
            return msgpack.ExtType(REGISTERED, inner.pack(wrap_buffers(registered)))
        raw = find_buffer_encoder(value)
        if raw is None:
            raise TypeError(_unknown(value))
        code, encode_raw = raw
        return msgpack.ExtType(code, inner.pack(encode_raw(value, self._root._add)))


idle_encoders: list[Encoder] = []


def take_encoder() -> Encoder:
    """An idle encoder, or a new one. The caller appends it to `idle_encoders` afterwards, or drops it."""
    try:
        return idle_encoders.pop()
    except IndexError:
        return Encoder()


def encode(value: Any) -> bytes:
    """A small value as msgpack. Only value types travel: nothing beside it, nothing that has to be registered.

    Raises:
        EncodeError: A part of it cannot travel; the text names the path to that part.
    """
    encoder = Encoder(plain=True)
    try:
        return encoder.pack(value)
    except ENCODE_FAILURES as cause:
        raise EncodeError(_explain(value, "data", cause, plain=True)) from cause
    finally:
        encoder.drop()


def decode(data: bytes | memoryview, raw: memoryview | bytes = b"") -> Any:
    """The value that `data` was encoded from; `raw` is the memory beside the data.

    Raises:
        DecodeError: A type is not registered here, or its `decode` failed; or a package is not installed.
        ValueError, TypeError, LookupError, ArithmeticError, UnpackException: These bytes were not encoded here.
    """
    return unpackb(data, ext_hook=_Decoder(raw).ext if raw else decode_ext, strict_map_key=False)


class _Decoder:
    """Decodes ext types, which may hold others.

    It is a class because a closure that calls itself is a cycle: it would keep `raw`, and with it a lease, until the
    garbage collector runs.
    """

    __slots__ = ("_raw",)

    def __init__(self, raw: memoryview | bytes) -> None:
        self._raw = raw

    def ext(self, code: int, body: bytes) -> Any:
        """What msgpack asks for when it comes to an ext type."""
        value = unpackb(body, ext_hook=self.ext, strict_map_key=False)
        if code < len(_VALUE_DECODERS):
            return _VALUE_DECODERS[code](value)
        if code == REGISTERED:
            return make_registered(*value)
        make = BUFFER_DECODERS.get(code)
        if make is None:
            raise DecodeError(f"the data holds an ext type {code}, which this version does not know")
        return make(value, memoryview(self._raw))


decode_ext = _Decoder(b"").ext


# --- what is wrong, and where ---


def _unknown(value: Any) -> str:
    kind = type(value)
    if isinstance(value, enum.Enum) or dataclasses.is_dataclass(kind):
        return f"{kind} is not registered; call eventbus_mp.register_type({kind.__name__}) where it is defined"
    return (
        f"{kind} cannot travel on the bus; convert it to {_PLAIN}, "
        f"or register it: eventbus_mp.register_type({kind.__name__}, encode, decode)"
    )


def explain_event(envelope: list[Any], data: Any, cause: Exception) -> str:
    """Which part of an event cannot travel, and why; `cause` is the packer's error."""
    for field, value in zip(ENVELOPE_FIELDS, envelope, strict=True):
        if _failure(value) is not None:
            return _explain(value, f"Event.{field}", cause)
    return _explain(data, "data", cause)


def check_envelope(envelope: list[Any]) -> None:
    """Raise `EncodeError` if an event's envelope holds a buffer: buffers are written beside the data only."""
    for field, value in zip(ENVELOPE_FIELDS, envelope, strict=True):
        if value is None or type(value) in (str, int):
            continue
        encoder = Encoder()
        encoder.pack(wrap_buffers(value))
        if encoder.buffers:
            raise EncodeError(f"Event.{field}: {type(value)} travels only in data")
        encoder.drop()


def _explain(value: Any, path: str, cause: Exception, *, plain: bool = False) -> str:
    """The path to the part of `value` that cannot travel, and what is wrong with it; `value` itself is at `path`."""
    path, culprit = _find_culprit(value, path, plain)
    failure = _failure(culprit, plain) or cause
    if _is_of_depth(failure):
        return f"{path}: nested too deeply, or within itself"
    if isinstance(failure, UnicodeEncodeError):
        return f"{path}: text that is not valid unicode: {culprit!r:.60}"
    return f"{path}: {failure}"


def _failure(value: Any, plain: bool = False) -> Exception | None:
    """The error of encoding this value alone; None if it encodes."""
    encoder = Encoder(plain=plain)
    try:
        encoder.pack(value if plain else wrap_buffers(value))
    except ENCODE_FAILURES as error:
        return error
    finally:
        encoder.drop()
    return None


def _find_culprit(value: Any, path: str, plain: bool) -> tuple[str, Any]:
    """The path to the first part of `value` that does not encode, and that part.

    A loop, not a recursion: the data may be nested more deeply than Python's own calls. It ends at a value that is
    inside itself, and after some levels of data whose only fault is its depth, where a longer path says no more.
    """
    # The values are kept, because their ids are theirs only as long as they live.
    above: dict[int, Any] = {}
    while id(value) not in above:
        above[id(value)] = value
        failures = ((name, part, _failure(part, plain)) for name, part in _parts(value, path))
        name, part, failure = next((found for found in failures if found[2] is not None), ("", None, None))
        if failure is None or (_is_of_depth(failure) and len(above) > DEEP_PATH_LEVELS):
            break
        path, value = name, part
    return path, value


def _is_of_depth(failure: Exception) -> bool:
    """Whether it is the error of data that is nested too deeply, which is a ValueError when msgpack finds it."""
    return isinstance(failure, RecursionError) or "recursion" in str(failure)


def _parts(value: Any, path: str) -> list[tuple[str, Any]]:
    """(path, part) of everything directly inside `value`."""
    if type(value) is dict:
        names = [_shown(key) for key in value]
        keys = [(f"{path} (key {name})", key) for name, key in zip(names, value, strict=True)]
        return keys + [(f"{path}[{name}]", part) for name, part in zip(names, value.values(), strict=True)]
    if type(value) in (list, tuple, set, frozenset):
        return [(f"{path}[{index}]", part) for index, part in enumerate(value)]
    try:
        registered = find_registered(value)
    except TypeError:
        return []  # Its registered `encode` failed, so there are no parts to look at.
    return [] if registered is None else [(path, registered[1])]


def _shown(key: Any) -> str:
    """The key as text, whatever its class does."""
    try:
        return f"{key!r:.40}"
    except Exception:
        return f"<{type(key).__name__}>"
