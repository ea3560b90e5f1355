"""What a host says of itself: kept in the cluster for every other one, also for those that come later. Pure.

A state is msgpack, a map from the names of its fields to their values. A host of another version finds what it knows by
name, and passes over the rest: that is how it learns that the other one is of another version.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from eventbus_mp.addons.bridge.fields import (
    ParcelError,
    binary,
    each,
    fields_of,
    host_name,
    identity,
    integer,
    one_of,
    packed_fields,
    text,
    time_unit,
    unpack_bounded,
)
from eventbus_mp.addons.bridge.frame import BYTE_ORDER, LAYOUT, VERSION

__all__ = ["SCOPES", "RemoteSubscriber", "State", "why_unreadable"]

SCOPES = ("host", "cluster", "local")
PATTERN_CHARACTERS_MAX = 1 << 16
ADDRESS_CHARACTERS_MAX = 300
TOKEN_BYTES_MAX = 256


class RemoteSubscriber(NamedTuple):
    """A subscriber of the host."""

    name: str
    config: bytes
    patterns: Sequence[str]
    scope: str
    """One of `SCOPES`."""


@dataclass(frozen=True, slots=True)
class State:
    """What the bridge of `host` says of its bus and of itself."""

    host: str
    unit: str
    """The bus's time unit."""
    life: bytes
    """That of its bus."""
    bridge: bytes
    """Its own life."""
    seen_at_ms: int
    """When it said so, by its clock, since 1970."""
    subscribers: Sequence[RemoteSubscriber] = ()
    bulk: str | None = None
    """The address, HOST:PORT, where large payloads can be fetched; None: nowhere."""
    token: bytes = b""
    """What to show there."""
    version: int = VERSION
    layout: int = LAYOUT
    byte_order: str = BYTE_ORDER

    @property
    def is_foreign(self) -> bool:
        """Whether its parcels with payloads cannot be read here, nor ours there."""
        return (self.version, self.layout, self.byte_order) != (VERSION, LAYOUT, BYTE_ORDER)

    def encode(self) -> bytes:
        """The state's bytes.

        Raises:
            ParcelError: It has more subscribers than fit.
        """
        return packed_fields({name: getattr(self, name) for name in self.__slots__})

    @staticmethod
    def decode(data: bytes) -> State:
        """What `encode` made, here or by another version.

        Raises:
            ParcelError: They are not those of a state; the text says what is wrong.
        """
        fields = unpack_bounded(data, "a host's state")
        if type(fields) is not dict:
            raise ParcelError(f"a host's state is a {type(fields).__name__}, not a map")
        get = fields.get
        return State(
            host=host_name(get("host")),
            unit=time_unit(get("unit")),
            life=identity(get("life"), "its life"),
            bridge=identity(get("bridge"), "its bridge"),
            seen_at_ms=integer(get("seen_at_ms"), "its time"),
            subscribers=each(get("subscribers"), "its subscribers", _subscriber),
            bulk=_address(get("bulk")),
            token=binary(get("token", b""), "its token", most=TOKEN_BYTES_MAX),
            version=integer(get("version"), "its version"),
            layout=integer(get("layout"), "its layout"),
            byte_order=one_of(get("byte_order"), "its byte order", ("little", "big")),
        )


def why_unreadable(subscriber: RemoteSubscriber) -> str | None:
    """Why other hosts could not read a state with this subscriber in it; None: they can. A bus knows no such bounds."""
    try:
        _subscriber([*subscriber[:2], list(subscriber.patterns), subscriber.scope], "a subscriber")
    except ParcelError as error:
        return str(error)
    return None


def _subscriber(value: Any, what: str) -> RemoteSubscriber:
    name, config, patterns, scope = fields_of(value, f"one of {what}", 4)
    return RemoteSubscriber(
        text(name, f"the name in {what}"),
        binary(config, f"the config in {what}"),
        each(patterns, f"the patterns in {what}", _pattern),
        one_of(scope, f"the scope in {what}", SCOPES),
    )


def _pattern(value: Any, what: str) -> str:
    return text(value, what, 0, PATTERN_CHARACTERS_MAX)


def _address(value: Any) -> str | None:
    return None if value is None else text(value, "its address", most=ADDRESS_CHARACTERS_MAX)
