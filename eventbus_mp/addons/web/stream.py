"""The live stream: one task looks at the bus while somebody watches, and all who watch get the same bytes.

Each viewer has room for one message: who is slow misses some and gets the latest. Who takes none for ten seconds is cut
off, so nothing ever piles up here. The messages are server-sent events; `id` is the number of the look.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

__all__ = ["Stream"]

log = logging.getLogger("eventbus_mp.web")

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

INTERVAL_S = 1.0
SHARE = 10
"""Between looks there is at least so many times what a look takes: a manager that is busy is asked less often."""
QUIET_S = 15.0
"""After so long without a message there is a comment, so that nothing between here and the viewer gives up."""
CUT_S = 10.0
LIFE_S = 20.0
"""A stream ends after so long, and the page opens the next one at once. A server that ends waits for what is open, and
says nothing of it to an app that is mounted in another one: so it waits no longer than this."""
OVER = b"event: over\ndata: {}\n\n"
RETRY_MS = 2_000
HEADERS = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"x-accel-buffering", b"no")]


class _Viewer:
    """One open stream, and the message that it has not taken yet."""

    def __init__(self) -> None:
        self.message: bytes | None = None
        self.is_over = False
        self._news = asyncio.Event()

    def offer(self, message: bytes) -> None:
        """Put the message in the place of one that was not taken."""
        self.message = message
        self._news.set()

    def end(self, *_: object) -> None:
        """There is nothing more, or nobody who would take it."""
        self.is_over = True
        self._news.set()

    async def take(self, patience_s: float) -> bytes | None:
        """The next message; None: there is none yet, or the stream is over."""
        try:
            await asyncio.wait_for(self._news.wait(), patience_s)
        except (TimeoutError, asyncio.TimeoutError):  # Two classes before 3.11.
            return None
        message, self.message = self.message, None
        if not self.is_over:
            self._news.clear()
        return message


class Stream:
    """The viewers of one bus.

    Args:
        look: What the next message says, as JSON on one line; it does not raise for a bus that is not there.
    """

    def __init__(self, look: Callable[[], Awaitable[bytes]]) -> None:
        self._look = look
        self._viewers: set[_Viewer] = set()
        self._task: asyncio.Task[None] | None = None
        self._serial = 0
        self._latest: bytes | None = None
        self._is_stopped = False

    @property
    def viewers(self) -> int:
        """How many streams are open."""
        return len(self._viewers)

    async def serve(self, receive: Receive, send: Send, headers: list[tuple[bytes, bytes]]) -> None:
        """Serve one viewer, until it goes, is cut off, or `stop` is called."""
        await send({"type": "http.response.start", "status": 200, "headers": [*HEADERS, *headers]})
        await self._send(send, f": streaming {RETRY_MS}\nretry: {RETRY_MS}\n\n".encode())
        viewer = _Viewer()
        gone = asyncio.ensure_future(_disconnected(receive))
        gone.add_done_callback(viewer.end)
        self._add(viewer)
        try:
            await self._feed(viewer, send)
        except (TimeoutError, asyncio.TimeoutError):
            log.info("a viewer has taken nothing for %g s and is cut off", CUT_S)
            return  # The answer has no end, so the server closes the connection.
        except asyncio.CancelledError:
            # A server that ends has waited long enough. Raised further, it would be logged as an error of the app.
            log.info("the server has ended a stream")
        finally:
            gone.cancel()
            self._remove(viewer)
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    def stop(self) -> None:
        """End all streams, now and from now on. To be called in the event loop."""
        self._is_stopped = True
        for viewer in self._viewers:
            viewer.end()

    async def _feed(self, viewer: _Viewer, send: Send) -> None:
        name, loop = b"event: init\n", asyncio.get_running_loop()
        ends_s = loop.time() + LIFE_S
        while not viewer.is_over:
            left_s = ends_s - loop.time()
            if left_s <= 0:
                await self._send(send, OVER)
                return
            message = await viewer.take(min(QUIET_S, left_s))
            if viewer.is_over:
                return
            await self._send(send, name + message if message is not None else b":\n\n")
            if message is not None:
                name = b"event: snapshot\n"

    async def _send(self, send: Send, body: bytes) -> None:
        """Raises TimeoutError if the viewer does not take it."""
        await asyncio.wait_for(send({"type": "http.response.body", "body": body, "more_body": True}), CUT_S)

    def _add(self, viewer: _Viewer) -> None:
        self._viewers.add(viewer)
        if self._is_stopped:
            viewer.end()
        elif self._task is None:
            self._latest = None
            self._task = asyncio.ensure_future(self._look_on())
            self._task.add_done_callback(self._looked_last)
        elif self._latest is not None:
            viewer.offer(self._latest)

    def _remove(self, viewer: _Viewer) -> None:
        self._viewers.discard(viewer)
        if not self._viewers and self._task is not None:
            self._task.cancel()
            self._task = None

    async def _look_on(self) -> None:
        """Look at the bus again and again, while anybody watches."""
        loop = asyncio.get_running_loop()
        while True:
            began_s = loop.time()
            data = await self._look()
            self._serial += 1
            self._latest = b"id: %d\ndata: %b\n\n" % (self._serial, data)
            for viewer in self._viewers:
                viewer.offer(self._latest)
            taken_s = loop.time() - began_s
            await asyncio.sleep(max(INTERVAL_S - taken_s, SHARE * taken_s))

    def _looked_last(self, task: asyncio.Task[None]) -> None:
        if task.cancelled():
            return
        log.error("the stream ends: no look at the bus could be made", exc_info=task.exception())
        if self._task is task:
            self._task = None
        for viewer in self._viewers:  # They come again.
            viewer.end()


async def _disconnected(receive: Receive) -> None:
    message = await receive()
    while message["type"] != "http.disconnect":
        message = await receive()
