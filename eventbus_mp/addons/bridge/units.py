"""Times of an event, from the time unit of one bus to that of another."""

from __future__ import annotations

from eventbus_mp import Event
from eventbus_mp.addons.journal.row import TIME_UNITS_NS

__all__ = ["in_unit", "is_unit"]


def is_unit(unit: str) -> bool:
    """Whether this version knows the time unit."""
    return unit in TIME_UNITS_NS


def in_unit(event: Event, ours: str, theirs: str) -> Event:
    """The event of a bus whose time unit is `ours`, for one whose unit is `theirs`; its data is not decoded.

    To a coarser unit, times are rounded down and a ttl up: no event lives shorter for it.
    """
    factor, divisor = TIME_UNITS_NS[ours], TIME_UNITS_NS[theirs]

    def scaled(value: int | None) -> int | None:
        return None if value is None else value * factor // divisor

    ttl = event.ttl
    return Event.from_encoded(
        event.id,
        event.topic,
        event.encoded,
        transaction_id=event.transaction_id,
        initialized_at=scaled(event.initialized_at),
        occurred_at=scaled(event.occurred_at),
        source=event.source,
        ttl=None if ttl is None else -(-ttl * factor // divisor),
        headers=event.headers,
    )
