"""A value in terms of what msgpack has, and back: how everything else travels.

msgpack has numbers, texts, bytes, lists and dicts. Any other value becomes a list of its parts with a mark at the end,
which says what the list stands for: `(1, 2)` becomes `[1, 2, <tuple>]`. A mark is an ext type without content, so no
data of the user's looks like one. Both directions go through all levels without calling themselves for each, so the
depth of the data takes no C stack: the packer and the unpacker are called once, and the unpacker keeps its levels in a
table. (Ext types that have msgpack inside are read by an unpacker for each level, which takes 40 KiB of the C stack:
200 levels killed the reader with SIGSEGV.)

What is made plain is made of copies. While a registered `encode` or this module runs, other threads run in between, and
may change the data. Each list, dict or set is copied in one step, so it travels as it was at one moment.
"""

from __future__ import annotations

import dataclasses
import datetime
import enum
from collections.abc import Callable
from typing import Any

from msgpack import ExtType, Timestamp, unpackb

from eventbus_mp.errors import DecodeError
from eventbus_mp.memory.buffers import BUFFER_DECODERS, Beside, find_buffer_encoder
from eventbus_mp.memory.registered import find_registered, make_registered
from eventbus_mp.memory.values import VALUE_TYPES

__all__ = [
    "LEVELS_MAX",
    "Opened",
    "decode_marked",
    "in_order",
    "make_plain",
    "open_here",
    "open_in_envelope",
    "open_value_types_only",
    "parts_of",
]

LEVELS_MAX = 256
"""How deeply data that is made plain may be nested. The packer calls itself for each level: 256 fit into a stack of 128
KiB, but the 1,024 at which msgpack ends need 360. Reading takes no stack for a level."""

REGISTERED = 64
"""The code of a value of a registered type: [name, body]."""

PLAIN = "a dict, list, str, bytes, number or one of the standard library's value types"

Opened = tuple[Any, "ExtType | None"]
"""A new list or dict whose items are still the user's, and the mark that comes to its end."""

_MSGPACK_HAS = frozenset((type(None), bool, int, float, str, bytes, Timestamp))
_MSGPACK_HAS_BUT_INT = _MSGPACK_HAS - {int}
_INTS_OF_MSGPACK = range(-(1 << 63), 1 << 64)

_MARKS = {code: ExtType(code, b"") for code in (*range(len(VALUE_TYPES)), *BUFFER_DECODERS, REGISTERED)}
_OPENERS: dict[type, tuple[Callable[[Any], list[Any]], ExtType | None]] = {
    kind: (parts, _MARKS[code]) for code, (kind, parts, _) in enumerate(VALUE_TYPES)
}
_split_pairs, _PAIRS = _OPENERS.pop(dict)
_OPENERS[list] = (list.copy, None)


# --- a value in terms of what msgpack has ---


def make_plain(value: Any, open_other: Callable[[Any], Opened], *, big_ints: bool = False) -> Any:
    """The value as something that msgpack has, made of copies.

    Args:
        value: What travels.
        open_other: Takes apart a value that is of none of the standard library's types.
        big_ints: Whether to look for ints that 64 bits do not hold, which costs a step for each int.

    Raises:
        TypeError: A part of it cannot travel; the text says why.
        RecursionError: It is nested too deeply.
    """
    known = _MSGPACK_HAS_BUT_INT if big_ints else _MSGPACK_HAS
    top = [value]
    todo: list[tuple[Any, ExtType | None, int]] = [(top, None, 0)]
    while todo:
        own, mark, level = todo.pop()
        for at, item in own.items() if type(own) is dict else enumerate(own):
            kind = type(item)
            if kind in known or (kind is int and item in _INTS_OF_MSGPACK):
                continue
            opener = _OPENERS.get(kind)
            if opener is not None:
                split, below_mark = opener
                below: Any = split(item)
            elif kind is dict:
                below, below_mark = _open_dict(item, known)
            else:
                below, below_mark = open_other(item)
            own[at] = below
            if not known.issuperset(map(type, below.values() if type(below) is dict else below)):
                if level == LEVELS_MAX:
                    raise RecursionError(f"more than {LEVELS_MAX} levels")
                todo.append((below, below_mark, level + 1))
            elif below_mark is not None:
                below.append(below_mark)
        if mark is not None:
            own.append(mark)
    return top[0]


def _open_dict(value: dict[Any, Any], known: frozenset[type]) -> Opened:
    copy = dict(value)
    return (copy, None) if known.issuperset(map(type, copy)) else (_split_pairs(copy), _PAIRS)


def in_order(plain: Any, pack: Callable[[Any], bytes]) -> Any:
    """What `make_plain` made, with the entries of dicts and sets in the order of their bytes."""
    if type(plain) is dict:
        return {key: in_order(plain[key], pack) for key in sorted(plain, key=pack)}
    if type(plain) is not list or not plain:
        return plain
    *parts, mark = [in_order(part, pack) for part in plain]
    if mark is _OPENERS[set][1] or mark is _OPENERS[frozenset][1]:
        parts.sort(key=pack)
    elif mark is _PAIRS:
        pairs = sorted(zip(parts[::2], parts[1::2], strict=True), key=lambda pair: pack(pair[0]))
        parts = [part for pair in pairs for part in pair]
    return [*parts, mark]


def open_value_types_only(value: Any) -> Opened:
    """Where a value of any other type cannot travel.

    Raises:
        TypeError: In any case; the text names the value's type.
    """
    raise TypeError(f"{_name_of(type(value))} cannot travel here; convert it to {PLAIN}")


def open_in_envelope(value: Any) -> Opened:
    """Take apart a value of a registered type, beside which there is no memory.

    Raises:
        TypeError: Its type is not registered.
    """
    opened = _open_registered(value)
    if opened is None:
        if find_buffer_encoder(value) is not None:
            raise TypeError(f"{_name_of(type(value))} travels only in data")
        raise TypeError(_unknown(type(value)))
    return opened


def open_here(beside: Beside) -> Callable[[Any], Opened]:
    """What takes apart a value of a registered type, or one with memory that is written `beside` the data.

    It raises a TypeError for any other value.
    """

    def open_other(value: Any) -> Opened:
        opened = _open_registered(value)
        if opened is not None:
            return opened
        found = find_buffer_encoder(value)
        if found is None:
            raise TypeError(_unknown(type(value)))
        code, encode = found
        return encode(value, beside.add), _MARKS[code]

    return open_other


def _open_registered(value: Any) -> Opened | None:
    registered = find_registered(value)
    return None if registered is None else (registered, _MARKS[REGISTERED])


def parts_of(value: Any) -> list[Any]:
    """What is directly inside a value, but for the keys of a dict."""
    kind = type(value)
    if kind is dict:
        return list(value.values())
    opener = _OPENERS.get(kind)
    if opener is not None:
        return opener[0](value)
    registered = find_registered(value)
    return [] if registered is None else registered[1:]


def _name_of(kind: type) -> str:
    """The class as texts show it, whatever its metaclass does."""
    try:
        return f"{kind}"
    except Exception:
        return f"<class {type.__dict__['__qualname__'].__get__(kind)!r}>"


def _unknown(kind: type) -> str:
    called = type.__dict__["__name__"].__get__(kind)
    if issubclass(kind, enum.Enum) or dataclasses.is_dataclass(kind):
        return f"{_name_of(kind)} is not registered; call eventbus_mp.register_type({called}) where it is defined"
    if issubclass(kind, datetime.tzinfo):
        return f"{_name_of(kind)} cannot travel on the bus; use zoneinfo.ZoneInfo or datetime.timezone"
    return (
        f"{_name_of(kind)} cannot travel on the bus; convert it to {PLAIN}, "
        f"or register it: eventbus_mp.register_type({called}, encode, decode)"
    )


# --- and back ---


class _Mark:
    """What stands at the end of a list that is not the user's.

    Args:
        make: Makes the value of its parts; of those and the memory beside the data, if it `takes_memory`.
        takes_memory: See there.
    """

    __slots__ = ("make", "takes_memory")

    def __init__(self, make: Callable[..., Any], *, takes_memory: bool = False) -> None:
        self.make = make
        self.takes_memory = takes_memory


def _unknown_mark(code: int) -> _Mark:
    def refuse(parts: Any) -> Any:
        raise DecodeError(f"the data holds a value of kind {code}, which this version does not know")

    return _Mark(refuse)


_MAKERS: dict[int, _Mark] = {code: _unknown_mark(code) for code in range(-128, 128)}
_MAKERS.update({code: _Mark(make) for code, (_, _, make) in enumerate(VALUE_TYPES)})
_MAKERS.update({code: _Mark(make, takes_memory=True) for code, make in BUFFER_DECODERS.items()})
_MAKERS[REGISTERED] = _Mark(lambda parts: make_registered(*parts))


class _Reader:
    """Makes the values of lists with a mark. `raw` is the memory beside the data."""

    __slots__ = ("_raw",)

    def __init__(self, raw: memoryview) -> None:
        self._raw = raw

    def make(self, items: list[Any]) -> Any:
        """What the unpacker calls with each list, when it has all of it."""
        if not items or type(items[-1]) is not _Mark:
            return items
        mark: Any = items.pop()
        return mark.make(items, self._raw) if mark.takes_memory else mark.make(items)


_make_without_memory = _Reader(memoryview(b"")).make


def decode_marked(data: bytes | memoryview, raw: memoryview | bytes = b"") -> Any:
    """The value that was made plain and packed; `raw` is the memory beside it.

    Raises:
        DecodeError: A type is not registered here, or its `decode` failed; or a package is not installed.
        ValueError, TypeError, LookupError, ArithmeticError, UnpackException: These bytes were not encoded here.
    """
    make = _Reader(memoryview(raw)).make if raw else _make_without_memory
    # The table has every code, so this is called with a code and its content, and finds the mark.
    return unpackb(data, ext_hook=_MAKERS.get, list_hook=make, strict_map_key=False)
