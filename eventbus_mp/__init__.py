"""An event bus for many processes on one machine.

    bus.py, inbox.py, source.py     EventBus, Inbox, EventSource      client/    what you hold
    pool.py                         WorkerPool                        worker/    processes that run handlers
    server.py                       the manager process               manager/   started by the first client
    bus.py, spans.py, watcher.py    every decision                    core/      pure: no clock, no file, no pipe

Begin with `EventBus`. Every error is an `EventBusError`; errors.py has the tree. ARCHITECTURE.md has the whole picture.
"""

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
