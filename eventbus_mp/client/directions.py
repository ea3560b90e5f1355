"""Events for some subscribers only: what a process says to the manager before it writes them, and behind them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from eventbus_mp.arguments import as_text
from eventbus_mp.client.listeners import listener_of, wire_key
from eventbus_mp.errors import UsageError
from eventbus_mp.events import Event, EventShadow
from eventbus_mp.geometry import DIRECTED_MAX
from eventbus_mp.memory.written import EncodedEvent
from eventbus_mp.protocol.decoders import encode_request
from eventbus_mp.protocol.requests import Direct
from eventbus_mp.statistics import SubscriberKey

__all__ = ["Direction", "direction_of", "imported_direction_of"]


class Direction:
    """What is written round the records of events, in the same write, so that it holds for these alone.

    Args:
        keys: Who is to get them; none: all of this host that want them.
        is_imported: They come from another host.

    Raises:
        UsageError: A config cannot travel.
    """

    is_directed = True

    def __init__(self, keys: Iterable[SubscriberKey], *, is_imported: bool = False) -> None:
        self._begins = _packed(keys, is_imported=is_imported)

    def begin(self, prepared: list[tuple[Event, EncodedEvent]]) -> None:
        """See `publisher.Around`."""

    def frame(self, shadows: list[EventShadow]) -> tuple[bytes, bytes]:
        """See `publisher.Around`."""
        return self._begins, _ENDS


def _packed(keys: Iterable[SubscriberKey], *, is_imported: bool) -> bytes:
    return encode_request(Direct(0, 0, [list(wire_key(key)) for key in keys], is_imported))


_ENDS = _packed((), is_imported=False)


def imported_direction_of(only: Iterable[Any] | None) -> Direction:
    """Of events from another host: to these subscribers, or to all of this host that want them.

    Raises:
        UsageError: As `direction_of`.
    """
    return Direction((), is_imported=True) if only is None else direction_of(only, is_imported=True)


def direction_of(only: Iterable[Any], *, is_imported: bool = False) -> Direction:
    """To these subscribers, each given as a key or as `listener_of` takes it.

    Raises:
        UsageError: They are not a list of subscribers, or none, or too many, or a config cannot travel.
    """
    if as_text(only) is not None or isinstance(only, SubscriberKey):
        raise UsageError(f"only={only!r:.80}: give a list of subscribers, as in only=[{only!r:.80}]")
    try:
        keys = [listener_of(item).key for item in only]
    except TypeError:
        raise UsageError(f"only={only!r:.80}: give a list of subscribers, or None for all") from None
    if not 0 < len(keys) <= DIRECTED_MAX:
        raise UsageError(f"only= names {len(keys)} subscribers; give 1 to {DIRECTED_MAX}, or None for all")
    return Direction(keys, is_imported=is_imported)
