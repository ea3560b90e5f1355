"""The bus for asyncio and trio: the classes of the threaded one, with their names and errors.

    from eventbus_mp import Event, aio

    async with aio.EventBus("shop", topics=["order"]) as bus:
        await bus.notify(Event("4711", "order", {"sum": 12}))

It is the second shell round the same `ClientProtocol`: a session's parts are those of `eventbus_mp.EventBus`, their
waits are written as steps (client/steps.py), and here the steps are awaited. There is no thread: the loop calls when
the pipe has something to read.
"""

from eventbus_mp.aio.bus import EventBus
from eventbus_mp.aio.changes import Changes
from eventbus_mp.aio.inbox import Inbox
from eventbus_mp.aio.source import EventSource

__all__ = ["Changes", "EventBus", "EventSource", "Inbox"]
