"""The data's codec: msgpack, and ext types for what it does not have. No pickle, ever.

What goes in comes out with the same type. An ext type's body is msgpack again. Raw memory is not copied into the
msgpack: it is collected on the way, and the body says where it lies beside the data.
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
from eventbus_mp.memory.buffers import BUFFER_DECODERS, find_buffer_encoder, wrap_buffers
from eventbus_mp.memory.layout import ALIGNMENT
from eventbus_mp.memory.registered import find_registered, make_registered
from eventbus_mp.memory.values import VALUE_TYPES

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
"""Flat bytes that lie beside the data, each at the next multiple of `ALIGNMENT`."""

REGISTERED = 64
"""Ext code of a value of a registered type: [name, body]."""
ENCODE_FAILURES = (TypeError, ValueError, OverflowError, RecursionError, BufferError)
"""What a packer raises."""

_VALUE_ENCODERS = {kind: (code, down) for code, (kind, down, _) in enumerate(VALUE_TYPES)}
_VALUE_DECODERS = tuple(up for _, _, up in VALUE_TYPES)
_PLAIN = "a dict, list, str, bytes, number or one of the standard library's value types"


class Encoder:
    """A packer, and another one for the bodies of its ext types, which are packed while it is at work.

    Whoever encodes takes one out of `idle_encoders` and brings it back: a signal handler, or a registered `encode`, may
    publish in between, and a packer that is used within its own use mixes up both. One that failed is not brought
    back: it keeps what it had.

    Args:
        outer: Whose ext types it packs.
        plain: Only value types travel: nothing beside the data, nothing that has to be registered.
    """

    __slots__ = ("_end", "_inner", "_plain", "_root", "buffers", "pack")

    def __init__(self, outer: Encoder | None = None, *, plain: bool = False) -> None:
        self._root: Encoder = self if outer is None else outer._root
        self._plain = plain
        self._inner: Encoder | None = None
        self.buffers: list[memoryview] = []
        """What the root came across and that goes beside the data."""
        self._end = 0
        # strict_types sends tuples and subclasses to `default` instead of flattening them.
        self.pack: Callable[[Any], bytes] = msgpack.Packer(default=self._ext, strict_types=True, use_bin_type=True).pack

    def take_buffers(self) -> Buffers:
        buffers = tuple(self.buffers)
        self.buffers.clear()
        self._end = 0
        return buffers

    def drop(self) -> None:
        """It is not used again: give its memory back now, and not when the collector finds it."""
        del self.pack, self._root
        if self._inner is not None:
            self._inner.drop()

    def _add(self, buffer: memoryview) -> int:
        offset = self._end
        self.buffers.append(buffer)
        self._end = (offset + len(buffer) + ALIGNMENT - 1) & -ALIGNMENT
        return offset

    def _ext(self, value: Any) -> msgpack.ExtType:
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
    """One out of `idle_encoders`, or a new one."""
    try:
        return idle_encoders.pop()
    except IndexError:
        return Encoder()


def encode(value: Any) -> bytes:
    """A small value as msgpack, of value types only: nothing beside it, nothing that has to be registered.

    Raises:
        EncodeError: It holds something that cannot travel; the text names the path to it.
    """
    encoder = Encoder(plain=True)
    try:
        return encoder.pack(value)
    except ENCODE_FAILURES as cause:
        raise EncodeError(_explain(value, "data", cause, plain=True)) from cause
    finally:
        encoder.drop()


def decode(data: bytes | memoryview, raw: memoryview | bytes = b"") -> Any:
    """The value that was encoded; `raw` is what lies beside it.

    Raises:
        DecodeError: A registered type is not registered here, or does not make the value; a package is missing.
    """
    return unpackb(data, ext_hook=_Decoder(raw).ext if raw else decode_ext, strict_map_key=False)


class _Decoder:
    """Decodes ext types. Not a closure: one that calls itself would keep `raw`, a lease, until the collector comes."""

    __slots__ = ("_raw",)

    def __init__(self, raw: memoryview | bytes) -> None:
        self._raw = raw

    def ext(self, code: int, body: bytes) -> Any:
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
    """What of an event does not encode, and why; `cause` is what the packer said."""
    for field, value in zip(ENVELOPE_FIELDS, envelope, strict=True):
        if _failure(value) is not None:
            return _explain(value, f"Event.{field}", cause)
    return _explain(data, "data", cause)


def check_envelope(envelope: list[Any]) -> None:
    """Raise `EncodeError` for a buffer in it: there is nothing beside an envelope."""
    for field, value in zip(ENVELOPE_FIELDS, envelope, strict=True):
        if value is None or type(value) in (str, int):
            continue
        encoder = Encoder()
        encoder.pack(wrap_buffers(value))
        if encoder.buffers:
            raise EncodeError(f"Event.{field}: {type(value)} travels only in data")
        encoder.drop()


def _explain(value: Any, path: str, cause: Exception, *, plain: bool = False) -> str:
    path, culprit = _find_culprit(value, path, (), plain)
    failure = _failure(culprit, plain) or cause
    if isinstance(failure, RecursionError) or "recursion" in str(failure):  # msgpack says it with a ValueError
        return f"{path}: nested too deeply, or within itself"
    if isinstance(failure, UnicodeEncodeError):
        return f"{path}: text that is not valid unicode: {culprit!r:.60}"
    return f"{path}: {failure}"


def _failure(value: Any, plain: bool = False) -> Exception | None:
    encoder = Encoder(plain=plain)
    try:
        encoder.pack(value if plain else wrap_buffers(value))
    except ENCODE_FAILURES as error:
        return error
    finally:
        encoder.drop()
    return None


def _find_culprit(value: Any, path: str, above: tuple[int, ...], plain: bool) -> tuple[str, Any]:
    """The path to the first part of `value` that does not encode, and that part."""
    if id(value) not in above:
        for name, part in _parts(value, path):
            if _failure(part, plain) is not None:
                return _find_culprit(part, name, (*above, id(value)), plain)
    return path, value


def _parts(value: Any, path: str) -> list[tuple[str, Any]]:
    if type(value) is dict:
        keys = [(f"{path} (key {key!r:.40})", key) for key in value]
        return keys + [(f"{path}[{key!r:.40}]", part) for key, part in value.items()]
    if type(value) in (list, tuple, set, frozenset):
        return [(f"{path}[{index}]", part) for index, part in enumerate(value)]
    try:
        registered = find_registered(value)
    except TypeError:
        return []  # Its own `encode` failed.
    return [] if registered is None else [(path, registered[1])]
