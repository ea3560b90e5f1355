"""An asyncio handle with the calls of the threaded one: each is awaited in a loop that runs in another thread."""

import asyncio
import inspect
import threading
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from typing import Any

from eventbus_mp import aio
from eventbus_mp.aio.loan import Loan
from eventbus_mp.aio.source import EventBlock
from eventbus_mp.testing import TestBus
from eventbus_mp.testing.loop import TestLoop, run_to_the_end

__all__ = ["LoopHere", "LoopThread", "Plain"]

WAIT_S = 60.0
WRAPPED = (aio.EventBus, aio.Inbox, aio.Changes, Loan, EventBlock)
"""What a call returns that has calls of its own."""


class LoopThread:
    """A loop that runs in a thread, in a `with` block."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Run it in the loop, and wait for what it returns or raises."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(WAIT_S)

    def __enter__(self) -> "LoopThread":
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(WAIT_S)
        self._loop.close()


class LoopHere:
    """The loop of a `TestBus`, which runs in this thread as long as a call does."""

    def __init__(self, bus: TestBus) -> None:
        self.bus = bus
        self._loop = TestLoop(bus._world)

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        """See `LoopThread.run`."""
        return self._loop.run_until_complete(work)

    def __enter__(self) -> "LoopHere":
        return self

    def __exit__(self, *error: object) -> None:
        async def nothing() -> None:
            """Tasks that were cancelled end."""

        run_to_the_end(self._loop, nothing())


class Plain:
    """Something of `aio`, with calls that block in place of those that are awaited."""

    inner: Any
    _loop: LoopThread | LoopHere

    def __init__(self, inner: Any, loop: LoopThread | LoopHere) -> None:
        vars(self).update(inner=inner, _loop=loop)

    def source(self, topic: str, **settings: Any) -> "Plain":
        """A source of events of this bus."""
        return Plain(aio.EventSource(self.inner, topic, **settings), self._loop)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self.inner, name, value)

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.inner, name)
        if not callable(found):
            return found
        if name == "on":
            return lambda *patterns, **settings: self._decorator(found(*patterns, **settings))
        if name == "emits":
            return lambda function: self._emitting(found, function)
        return lambda *arguments, **settings: self._loop.run(self._call(found, arguments, settings))

    async def _call(self, call: Callable[..., Any], arguments: tuple[Any, ...], settings: dict[str, Any]) -> Any:
        result = call(*(item.inner if isinstance(item, Plain) else item for item in arguments), **settings)
        if inspect.isawaitable(result):
            result = await result
        return Plain(result, self._loop) if isinstance(result, WRAPPED) else result

    def _decorator(self, decorate: Callable[..., Any]) -> Callable[..., Any]:
        async def subscribe(function: Any) -> Any:
            decorated = decorate(function)
            await self.inner.connect()  # What is decorated is subscribed by the next call.
            return decorated

        return lambda function: self._loop.run(subscribe(function))

    def _emitting(self, emits: Callable[..., Any], function: Callable[..., Any]) -> Callable[..., Any]:
        async def awaited(*arguments: Any) -> Any:
            return function(*arguments)

        emitting = emits(awaited)
        return lambda *arguments: self._loop.run(emitting(*arguments))

    def __enter__(self) -> "Plain":
        self._loop.run(_awaited(self.inner.__aenter__()))
        return self

    def __exit__(self, *error: object) -> None:
        self._loop.run(_awaited(self.inner.__aexit__(*error)))

    def __iter__(self) -> Iterator[Any]:
        while True:
            try:
                yield self._loop.run(_awaited(self.inner.__anext__()))
            except StopAsyncIteration:
                return


async def _awaited(what: Awaitable[Any]) -> Any:
    return await what
