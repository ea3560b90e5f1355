"""An event bus for many processes on one machine. Begin with `EventBus`.

Public are the names in `__all__` of this package, and nothing else: import them from `eventbus_mp`. All its modules and
folders are private, whatever their names, and so is every name that begins with an underscore. Every error is an
`EventBusError`; its module has the tree. ARCHITECTURE.md has the picture of the whole.

    client/     what users hold: EventBus, Inbox, EventSource
    worker/     WorkerPool: processes that run handlers
    manager/    the manager process, which the first client starts
    core/       every decision; pure: no clock, no file, no pipe

`import eventbus_mp` alone imports none of them. A name's module is imported when the name is first used, so the manager
never loads a client or a worker, and a program without a pool never loads `multiprocess`.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from eventbus_mp.client.bus import EventBus
    from eventbus_mp.client.inbox import Inbox
    from eventbus_mp.client.source import EventSource
    from eventbus_mp.config import BusConfig
    from eventbus_mp.errors import (
        BusClosed,
        BusFull,
        DecodeError,
        EncodeError,
        EventBusError,
        EventTooLarge,
        InternalError,
        InvalidPattern,
        InvalidTopic,
        ManagerLost,
        NotSubscribed,
        ProtocolError,
        Skip,
        UnknownTopic,
        UsageError,
        WaitTimeout,
    )
    from eventbus_mp.events import Event, EventShadow
    from eventbus_mp.ids import unique_id
    from eventbus_mp.memory.registered import register_type
    from eventbus_mp.statistics import BusStatistics, Subscriber, SubscriberKey, SubscriberStatistics, Watcher
    from eventbus_mp.worker.pool import WorkerPool

__all__ = [
    "BusClosed",
    "BusConfig",
    "BusFull",
    "BusStatistics",
    "DecodeError",
    "EncodeError",
    "Event",
    "EventBus",
    "EventBusError",
    "EventShadow",
    "EventSource",
    "EventTooLarge",
    "Inbox",
    "InternalError",
    "InvalidPattern",
    "InvalidTopic",
    "ManagerLost",
    "NotSubscribed",
    "ProtocolError",
    "Skip",
    "Subscriber",
    "SubscriberKey",
    "SubscriberStatistics",
    "UnknownTopic",
    "UsageError",
    "WaitTimeout",
    "Watcher",
    "WorkerPool",
    "register_type",
    "unique_id",
]

__version__ = "0.1.0"
"""The only place that has it: pyproject.toml reads it from here."""

_MODULES = {
    "EventBus": "client.bus",
    "Inbox": "client.inbox",
    "EventSource": "client.source",
    "BusConfig": "config",
    "Event": "events",
    "EventShadow": "events",
    "unique_id": "ids",
    "register_type": "memory.registered",
    "BusStatistics": "statistics",
    "Subscriber": "statistics",
    "SubscriberKey": "statistics",
    "SubscriberStatistics": "statistics",
    "Watcher": "statistics",
    "WorkerPool": "worker.pool",
}
"""Where a public name is defined; the other ones are in `errors`."""


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_MODULES.get(name, 'errors')}"), name)
    globals()[name] = value  # From now on it is found without this function.
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
