"""Every exception of the bus.

- :exc:`EventBusError`
    - :exc:`UsageError` (also a `ValueError`): the call was wrong; nothing was stored
        - :exc:`UnknownTopic`: the topic is not registered (and `BusConfig.strict` is set)
        - :exc:`InvalidTopic`: a topic name of no, or too many, or control characters
        - :exc:`InvalidPattern`: a subscription pattern that does not compile
        - :exc:`NotSubscribed`: a listener that does not have this event to settle
        - :exc:`EventTooLarge`: an event over `BusConfig.event_bytes_max`
        - :exc:`EncodeError`: data that msgpack cannot carry
    - :exc:`DecodeError`: an event's data holds a type that this process cannot make
    - :exc:`BusFull`: no memory became free within `BusConfig.notify_timeout_s`
    - :exc:`WaitTimeout` (also a `TimeoutError`): a wait with a `timeout_s` ran out
    - :exc:`BusClosed`: you closed this handle
    - :exc:`ManagerLost`: the manager died, or could not be started
    - :exc:`ProtocolError`: the other side sent something that is not the protocol
    - :exc:`InternalError`: a bug of ours, with the story of the event it happened to

The layout follows trio and h11: the type says whose fault it is, the text says which value and what to do.
"""

from __future__ import annotations

__all__ = [
    "BusClosed",
    "BusFull",
    "DecodeError",
    "EncodeError",
    "EventBusError",
    "EventTooLarge",
    "InternalError",
    "InvalidPattern",
    "InvalidTopic",
    "ManagerLost",
    "NotSubscribed",
    "ProtocolError",
    "Skip",
    "UnknownTopic",
    "UsageError",
    "WaitTimeout",
]


class EventBusError(Exception):
    """The root of everything the bus raises."""


class UsageError(EventBusError, ValueError):
    """The caller's mistake. Nothing was stored and nothing was sent."""


class UnknownTopic(UsageError):
    """The topic is not registered."""


class InvalidTopic(UsageError):
    """A topic name is 1 to 255 characters without control characters."""


class InvalidPattern(UsageError):
    """A subscription pattern is not a regular expression."""


class NotSubscribed(UsageError):
    """The listener does not have this event to settle."""


class EventTooLarge(UsageError):
    """The encoded event is over `BusConfig.event_bytes_max`."""


class EncodeError(UsageError):
    """The data holds a value that msgpack cannot carry; the text names the path to it."""


class DecodeError(EventBusError):
    """An event's data holds a type that this process does not know: register it, or install its package.

    Also: something wrote over the event's memory, which only a program that maps the bus's segments itself can do.
    """


class BusFull(EventBusError):
    """The bus's memory is in use, and nothing became free in time; the text says who holds it."""


class WaitTimeout(EventBusError, TimeoutError):
    """A wait ran out of its `timeout_s`. What was waited for goes on."""


class BusClosed(EventBusError):
    """You closed this handle; open another one."""


class ManagerLost(EventBusError):
    """The manager process died, was shut down, or could not be started; the text carries its last words."""


class ProtocolError(EventBusError):
    """The other side of a link sent bytes that are not the protocol."""


class InternalError(EventBusError):
    """A bug of eventbus_mp. Please report it with the text, which carries the event's story."""


class Skip(Exception):
    """Raise it in a handler to skip the event instead of completing it.

    The text is the reason, kept by the manager and shown in `statistics()`.
    """
