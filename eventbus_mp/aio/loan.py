"""Loans of an asyncio program: `async with bus.loan(...)`."""

from __future__ import annotations

from typing import Protocol

from eventbus_mp.aio.session import LoopSession
from eventbus_mp.client.loan import BaseLoan, LoanAsked

__all__ = ["Loan"]


class _Connects(Protocol):
    """The handle that makes loans."""

    async def _live(self) -> LoopSession: ...


class Loan(BaseLoan):
    """Shared memory to fill in an `async with` block, whose end publishes it without a copy. Made by
    `aio.EventBus.loan`, and else like that of a threaded bus (client/loan.py).

    Entering the block waits and raises as `aio.EventBus.notify` does. If that, or the block, is cancelled, nothing is
    published, and the memory is given back. The end of the block does not wait.
    """

    def __init__(self, handle: _Connects, asked: LoanAsked) -> None:
        super().__init__(handle, asked)
        self._connects = handle
        self._session: LoopSession | None = None

    async def __aenter__(self) -> Loan:
        self._session = session = await self._connects._live()
        await session.link.take_turn()
        await session.link.run(self._entering(session.publisher))
        return self

    async def __aexit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        assert self._session is not None
        self._session.link.check_loop()
        self._leave(error)
