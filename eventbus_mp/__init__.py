"""An event bus for many processes on one machine.

    bus.py, inbox.py, source.py     EventBus, Inbox, EventSource      client/    what you hold
    pool.py                         WorkerPool                        worker/    processes that run handlers
    server.py                       the manager process               manager/   started by the first client
    bus.py, spans.py, watcher.py    every decision                    core/      pure: no clock, no file, no pipe

Begin with `EventBus`. Every error is an `EventBusError`; errors.py has the tree. ARCHITECTURE.md has the whole picture.
"""

from eventbus_mp.client.bus import EventBus
from eventbus_mp.config import BusConfig
from eventbus_mp.model import Event

__all__ = ["BusConfig", "Event", "EventBus"]
