"""Following what is registered and subscribed in an asyncio program: `async for change in bus.changes()`."""

from __future__ import annotations

from collections import deque
from typing import Protocol

from eventbus_mp.aio.session import LoopSession
from eventbus_mp.client.change_feed import Change, ChangeFeed
from eventbus_mp.client.validation import check_timeout
from eventbus_mp.errors import BusClosed, ManagerLost

__all__ = ["Changes"]


class _ComesBack(Protocol):
    """The handle that has made this one, which has another session when its bus was lost."""

    async def _live(self) -> LoopSession: ...

    async def _after_loss(self, session: LoopSession, error: ManagerLost) -> LoopSession: ...


class Changes(ChangeFeed):
    """All topics and subscribers of a bus, and then each change of them. Made by `aio.EventBus.changes`.

    Its calls are those of `eventbus_mp.Changes`, with the same arguments and errors. It follows from the first of them
    on. A call that is cancelled has taken nothing. It is for one task.

    `async for change in bus.changes()` waits for each next one, and ends when this, or the handle, is closed.
    """

    _asked: tuple[LoopSession, int]

    def __init__(self, handle: _ComesBack) -> None:
        super().__init__()
        self._handle = handle
        self._left: deque[Change] = deque()
        """Taken, and not given out yet by `async for`."""

    async def get(self, timeout_s: float | None = None) -> list[Change]:
        """What has come since the last time; empty if nothing came in time. Waits until there is something.

        Args:
            timeout_s: Seconds to wait at most; None: as long as it takes.

        Raises:
            BusClosed: This, or its bus, was closed.
            ManagerLost: The manager has ended, and the bus with it, and the handle does not come back.
            UsageError: `timeout_s` is not a time.
        """
        timeout_s = check_timeout(timeout_s)
        self._check_open()
        if not hasattr(self, "_asked"):
            self._ask(await self._handle._live())
        now_ns = self._asked[0].transport.monotonic_ns
        deadline_ns = None if timeout_s is None else now_ns() + int(timeout_s * 1e9)
        while True:
            session = self._asked[0]
            left_s = None if deadline_ns is None else max(0.0, (deadline_ns - now_ns()) / 1e9)
            try:
                self._check_open()
                if not await session.link.wait(lambda: self._has_news, left_s):
                    return []
                return self._take()
            except ManagerLost as error:
                self._go_on(await self._handle._after_loss(session, error))

    def __aiter__(self) -> Changes:
        return self

    async def __anext__(self) -> Change:
        while not self._left:
            try:
                self._left += await self.get()
            except BusClosed:
                raise StopAsyncIteration from None
        return self._left.popleft()

    async def _resume(self, session: LoopSession) -> None:
        """Go on with this session: the bus of the one before was lost."""
        if hasattr(self, "_asked"):
            self._go_on(session)

    async def close(self) -> None:
        """Follow no more. Does not wait. Repeated, it does nothing. The end of the handle is such a close as well."""
        if self._closed:
            return
        self._closed = True
        if hasattr(self, "_asked") and not self._asked[0].connection.lost:
            self._asked[0].link.check_loop()
            self._stop()
            self._asked[0].connection.wake()

    async def __aenter__(self) -> Changes:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.close()
