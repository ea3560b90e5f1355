"""Every exception of the bus.

- :exc:`EventBusError`
    - :exc:`UsageError` (also a `ValueError`): the call was wrong; nothing was stored
        - :exc:`UnknownTopic`: the topic is not registered (and `BusConfig.strict` is set)
        - :exc:`InvalidTopic`: a topic's name is empty, too long, or has a control character
        - :exc:`InvalidPattern`: a subscription pattern does not compile
        - :exc:`NotSubscribed`: the event was not delivered to this listener
        - :exc:`EventTooLarge`: an event is larger than `BusConfig.event_bytes_max` or the bus's memory
        - :exc:`EncodeError`: an event's data cannot travel
    - :exc:`DecodeError`: an event's data holds a type that this process has not registered
    - :exc:`NoSubscriber`: a subscriber that `EventBus(require=...)` names does not get the event's topic
    - :exc:`BusFull`: no memory became free within `BusConfig.notify_timeout_s`
    - :exc:`WaitTimeout` (also a `TimeoutError`): what was waited for did not happen within its `timeout_s`
    - :exc:`NoSuchBus`: there is no running bus of this name to attach to
    - :exc:`BusClosed`: the handle or the inbox was closed
    - :exc:`ManagerLost`: the manager died together with its standby, or could not be started
    - :exc:`ProtocolError`: the other side of a link sent bytes that are not the protocol
    - :exc:`InternalError`: a bug of eventbus_mp

:exc:`Skip` and :exc:`Retry` are not errors of the bus: handlers raise them.

The layout follows trio and h11: the type says whose fault it is, the text says which value and what to do.
"""

from __future__ import annotations

from typing import Any

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
    "NoSubscriber",
    "NoSuchBus",
    "NotSubscribed",
    "ProtocolError",
    "Retry",
    "Skip",
    "UnknownTopic",
    "UsageError",
    "WaitTimeout",
]


class EventBusError(Exception):
    """The root of all exceptions that the bus raises."""

    published: tuple[Any, ...] = ()
    """Of `EventBus.notify_many`: the shadows of the events that were published, the first of the list. After `BusFull`,
    `events[len(error.published):]` is what is left to publish."""


class UsageError(EventBusError, ValueError):
    """The call was wrong. Nothing was stored and nothing was sent; the text says which argument, and what to do."""


class UnknownTopic(UsageError):
    """The topic is not registered. Raised only if `BusConfig.strict` is set."""


class InvalidTopic(UsageError):
    """A topic's name is not 1 to 255 characters, or has a control character."""


class InvalidPattern(UsageError):
    """A subscription pattern is not a regular expression."""


class NotSubscribed(UsageError):
    """The event was not delivered to this listener, so the listener cannot settle it."""


class EventTooLarge(UsageError):
    """The encoded event is larger than `BusConfig.event_bytes_max`, or than the bus's memory can ever hold."""


class EncodeError(UsageError):
    """The data holds a value that cannot travel; the text names the path to it."""


class DecodeError(EventBusError):
    """An event's data holds a type that this process has not registered, or whose package is not installed.

    It is also raised if another program wrote over the event's memory, which it can do only by mapping the bus's
    segments itself.
    """


class NoSubscriber(EventBusError):
    """A subscriber that `EventBus(require=...)` names does not get the event's topic. Nothing was published.

    It is not a `UsageError`: the call was right, and succeeds when the subscriber is there.
    """


class NoSuchBus(EventBusError):
    """There is no running bus of this name to attach to. `EventBus.attach` starts none."""


class BusFull(EventBusError):
    """The bus's memory is full, and none became free in time; the text names the processes that hold it."""


class WaitTimeout(EventBusError, TimeoutError):
    """What was waited for did not happen within its `timeout_s`. It may still happen later."""


class BusClosed(EventBusError):
    """The handle or the inbox was closed; open another one."""


class ManagerLost(EventBusError):
    """The manager and its standby died, the bus was shut down, or the manager could not be started or did not answer.

    If it could not be started, the text has the tail of the manager's log. A handle that has lost its manager comes
    back with its next call, unless the bus was shut down and nobody has started it again, or `reconnect` is not set.
    """


class ProtocolError(EventBusError):
    """The other side of a link sent bytes that are not the protocol."""


class InternalError(EventBusError):
    """A bug of eventbus_mp. Please report it with its text."""


class Skip(Exception):
    """Raise it in a handler to skip the event instead of completing it.

    Its text is the reason, which `EventBus.statistics` shows.
    """


class Retry(Exception):
    """Raise it in a handler to have the event delivered again instead of settling it.

    It is delivered again as often as it is raised, whatever `retries` says. Meanwhile the event holds no worker.

    Args:
        reason: Why; `EventBus.dead_letters` shows it if the event fails in the end.
        delay_s: After how many seconds; 0: at once, in front of the others.

    Raises:
        UsageError: `reason` is not a text.
    """

    def __init__(self, reason: str = "", *, delay_s: float = 0.0) -> None:
        if not isinstance(reason, str):
            raise UsageError(f"Retry({reason!r}): the reason is a text; a delay is given as Retry(delay_s={reason!r})")
        super().__init__(reason)
        self.delay_s = delay_s
