"""An event bus for many processes on one machine. Begin with `EventBus`.

Public are the names in `__all__` of this package and of `eventbus_mp.testing`, and nothing else. All other modules and
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
    from eventbus_mp.client.change_feed import Change
    from eventbus_mp.client.changes import Changes
    from eventbus_mp.client.dead_letters import DeadLetter
    from eventbus_mp.client.forwarder import Forwarder, RawEvent
    from eventbus_mp.client.handle_state import LostBus
    from eventbus_mp.client.inbox import Inbox
    from eventbus_mp.client.receipts import Receipt, Receipts
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
        NoSubscriber,
        NoSuchBus,
        NotSubscribed,
        ProtocolError,
        Retry,
        Skip,
        UnknownTopic,
        UsageError,
        WaitTimeout,
    )
    from eventbus_mp.events import EncodedData, EventShadow
    from eventbus_mp.explanation import Explanation, OpenView, UnsettledDelivery
    from eventbus_mp.history import HistoryEntry, HistoryPage
    from eventbus_mp.ids import unique_id
    from eventbus_mp.instrument import Deliveries, Instrument
    from eventbus_mp.memory.payload import Event
    from eventbus_mp.memory.registered import register_type
    from eventbus_mp.snapshot import (
        EventCounts,
        ManagerSnapshot,
        MemorySnapshot,
        ProcessSnapshot,
        Snapshot,
        SubscriberSnapshot,
        TopicSnapshot,
    )
    from eventbus_mp.statistics import (
        BusStatistics,
        Subscriber,
        SubscriberKey,
        SubscriberStatistics,
        Watcher,
        WatcherPage,
    )
    from eventbus_mp.worker.pool import WorkerPool

__all__ = [
    "BusClosed",
    "BusConfig",
    "BusFull",
    "BusStatistics",
    "Change",
    "Changes",
    "DeadLetter",
    "DecodeError",
    "Deliveries",
    "EncodedData",
    "EncodeError",
    "Event",
    "EventBus",
    "EventBusError",
    "EventCounts",
    "EventShadow",
    "EventSource",
    "EventTooLarge",
    "Explanation",
    "Forwarder",
    "HistoryEntry",
    "HistoryPage",
    "Inbox",
    "Instrument",
    "InternalError",
    "InvalidPattern",
    "InvalidTopic",
    "LostBus",
    "ManagerLost",
    "ManagerSnapshot",
    "MemorySnapshot",
    "NoSubscriber",
    "NoSuchBus",
    "NotSubscribed",
    "OpenView",
    "ProcessSnapshot",
    "ProtocolError",
    "RawEvent",
    "Receipt",
    "Receipts",
    "Retry",
    "Skip",
    "Snapshot",
    "Subscriber",
    "SubscriberKey",
    "SubscriberSnapshot",
    "SubscriberStatistics",
    "TopicSnapshot",
    "UnknownTopic",
    "UnsettledDelivery",
    "UsageError",
    "WaitTimeout",
    "Watcher",
    "WatcherPage",
    "WorkerPool",
    "register_type",
    "unique_id",
]

__version__ = "0.1.0"
"""The only place that has it: pyproject.toml reads it from here."""

_MODULES = {
    "EventBus": "client.bus",
    "Inbox": "client.inbox",
    "Forwarder": "client.forwarder",
    "RawEvent": "client.forwarder",
    "EventSource": "client.source",
    "BusConfig": "config",
    "Event": "memory.payload",
    "EncodedData": "events",
    "EventShadow": "events",
    "Explanation": "explanation",
    "OpenView": "explanation",
    "UnsettledDelivery": "explanation",
    "HistoryEntry": "history",
    "HistoryPage": "history",
    "unique_id": "ids",
    "Deliveries": "instrument",
    "Instrument": "instrument",
    "register_type": "memory.registered",
    "EventCounts": "snapshot",
    "ManagerSnapshot": "snapshot",
    "MemorySnapshot": "snapshot",
    "ProcessSnapshot": "snapshot",
    "Snapshot": "snapshot",
    "SubscriberSnapshot": "snapshot",
    "TopicSnapshot": "snapshot",
    "Change": "client.change_feed",
    "Changes": "client.changes",
    "DeadLetter": "client.dead_letters",
    "Receipt": "client.receipts",
    "Receipts": "client.receipts",
    "LostBus": "client.handle_state",
    "BusStatistics": "statistics",
    "Subscriber": "statistics",
    "SubscriberKey": "statistics",
    "SubscriberStatistics": "statistics",
    "Watcher": "statistics",
    "WatcherPage": "statistics",
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
