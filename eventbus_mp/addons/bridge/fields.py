"""The fields of parcels, as they come from another machine: each is checked for its type and length before it is used.

A parcel's head is msgpack, a list of fields. Before it is decoded, its length is bounded, and so is what msgpack sets
aside for a list that says it is long.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

from msgpack import Packer, UnpackException, unpackb

from eventbus_mp import EventBusError

__all__ = [
    "HEAD_BYTES_MAX",
    "LIFE_BYTES",
    "ForeignLayout",
    "ITEMS_MAX",
    "ParcelError",
    "Target",
    "binary",
    "each",
    "fields_of",
    "host_name",
    "identity",
    "integer",
    "one_of",
    "packed_fields",
    "target",
    "targets",
    "text",
    "time_unit",
    "topic_name",
    "unpack_bounded",
]

T = TypeVar("T")

HEAD_BYTES_MAX = 1 << 20
"""Longer than any head that fits into a message of NATS as it is set up by default."""
ITEMS_MAX = 1 << 14
"""How long a list in a head may be: that of the subscribers of a bus, the longest."""
LIFE_BYTES = 8
"""The length of what identifies one life of a bus, or of a bridge."""
NAME_CHARACTERS_MAX = 1024
TOPIC_CHARACTERS_MAX = 255
HOST_CHARACTERS_MAX = 255
UNIT_CHARACTERS_MAX = 20
CONFIG_BYTES_MAX = 1 << 16
KEYS_MAX = 64

FAILURES = (ValueError, TypeError, OverflowError, RecursionError, UnpackException)
"""What msgpack raises for bytes that are none."""


class ParcelError(EventBusError):
    """The bytes are not a parcel. The text says what is wrong with them."""


class ForeignLayout(ParcelError):
    """The parcel is of another version, or its payloads are laid out as this machine or version cannot read them."""


class Target(NamedTuple):
    """A subscriber that an event is for: its name, and its config as bytes, which are not looked at here."""

    name: str
    config: bytes


def packed_fields(value: Any) -> bytes:
    """A list of fields, or a dict of them, as msgpack.

    Raises:
        ParcelError: It is longer than `unpack_bounded` takes.
    """
    packed: bytes = Packer().pack(value)
    if len(packed) > HEAD_BYTES_MAX:
        raise ParcelError(f"a head of {len(packed)} bytes is too long; {HEAD_BYTES_MAX} are allowed: send it in pieces")
    return packed


def unpack_bounded(data: bytes | memoryview, what: str) -> Any:
    """What `packed_fields` made, in time and memory that follow from the length, which is bounded as well.

    Raises:
        ParcelError: It is too long, or not msgpack, or holds what no parcel does.
    """
    if len(data) > HEAD_BYTES_MAX:
        raise ParcelError(f"{what} is {len(data)} bytes long; {HEAD_BYTES_MAX} are allowed")
    try:
        # Lists, not tuples: their memory is set aside without being touched, as long as it is not filled.
        return unpackb(data, max_array_len=ITEMS_MAX, max_map_len=KEYS_MAX, max_ext_len=0, strict_map_key=True)
    except FAILURES as cause:
        raise ParcelError(f"{what} is not msgpack of ours ({type(cause).__name__}: {str(cause)[:80]})") from cause


def fields_of(value: Any, what: str, count: int) -> list[Any]:
    """A list of exactly so many fields.

    Raises:
        ParcelError: It is none.
    """
    if type(value) is not list:
        raise ParcelError(f"{what} is a {type(value).__name__}, not a list")
    if len(value) != count:
        raise ParcelError(f"{what} has {len(value)} fields, not {count}")
    return value


def each(value: Any, what: str, check: Callable[[Any, str], T]) -> list[T]:
    """A list, each item of which is checked.

    Raises:
        ParcelError: It is something else, or as `check` says.
    """
    if type(value) is not list:
        raise ParcelError(f"{what} are a {type(value).__name__}, not a list")
    return [check(item, what) for item in value]


def text(value: Any, what: str, least: int = 1, most: int = NAME_CHARACTERS_MAX) -> str:
    """A text of so many characters.

    Raises:
        ParcelError: It is none, or shorter or longer.
    """
    if type(value) is not str:
        raise ParcelError(f"{what} is a {type(value).__name__}, not a text")
    if not least <= len(value) <= most:
        raise ParcelError(f"{what} has {len(value)} characters; {least} to {most} are allowed")
    return value


def topic_name(value: Any, what: str) -> str:
    """A text that can name a topic: 1 to 255 characters, no control characters.

    Raises:
        ParcelError: It cannot.
    """
    name = text(value, what, most=TOPIC_CHARACTERS_MAX)
    if not name.isprintable() and any(ord(char) < 32 or 127 <= ord(char) < 160 for char in name):
        raise ParcelError(f"{what} {name[:40]!r} has a control character")
    return name


def host_name(value: Any, what: str = "its host") -> str:
    """A text of 1 to 255 characters.

    Raises:
        ParcelError: It is none.
    """
    return text(value, what, most=HOST_CHARACTERS_MAX)


def time_unit(value: Any, what: str = "its time unit") -> str:
    """A short text. Which units there are is not known here.

    Raises:
        ParcelError: It is none.
    """
    return text(value, what, most=UNIT_CHARACTERS_MAX)


def binary(value: Any, what: str, least: int = 0, most: int = CONFIG_BYTES_MAX) -> bytes:
    """Bytes, of this length.

    Raises:
        ParcelError: It is something else, or shorter or longer.
    """
    if type(value) is not bytes:
        raise ParcelError(f"{what} is a {type(value).__name__}, not bytes")
    if not least <= len(value) <= most:
        raise ParcelError(f"{what} is {len(value)} bytes long; {least} to {most} are allowed")
    return value


def identity(value: Any, what: str) -> bytes:
    """The 8 bytes of a life.

    Raises:
        ParcelError: It is something else.
    """
    return binary(value, what, LIFE_BYTES, LIFE_BYTES)


def integer(value: Any, what: str, least: int = 0, most: int = (1 << 64) - 1) -> int:
    """A whole number.

    Raises:
        ParcelError: It is something else, or too small or too large.
    """
    if type(value) is not int:
        raise ParcelError(f"{what} is a {type(value).__name__}, not a whole number")
    if not least <= value <= most:
        raise ParcelError(f"{what} is {value}; {least} to {most} is allowed")
    return value


def one_of(value: Any, what: str, allowed: tuple[str, ...]) -> str:
    """One of these texts.

    Raises:
        ParcelError: It is something else.
    """
    if text(value, what) not in allowed:
        raise ParcelError(f"{what} is {value[:40]!r}, which is not one of {', '.join(allowed)}")
    return str(value)


def target(value: Any, what: str) -> Target:
    """A subscriber's name and config.

    Raises:
        ParcelError: It is something else.
    """
    name, config = fields_of(value, what, 2)
    return Target(text(name, f"the name in {what}"), binary(config, f"the config in {what}"))


def targets(value: Any, what: str) -> list[Target]:
    """A list of them; empty: all subscribers that the topic has.

    Raises:
        ParcelError: It is something else.
    """
    return each(value, what, target)
