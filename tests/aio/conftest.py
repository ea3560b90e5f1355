"""What the tests of the asyncio client stand on: buses of the test's own, and calls that are cut off at an await."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

from eventbus_mp import EventBus, aio
from eventbus_mp.runtime.rundir import RunDir

MEMORY_BYTES = 16 << 20


@pytest.fixture
def open_bus(run_dir: Path) -> Iterator[Callable[..., aio.EventBus]]:
    """Makes asyncio handles of a bus of this test, which is shut down at the end."""
    names = set()

    def make(name: str = "test", topics: Any = ("a", "b"), **settings: Any) -> aio.EventBus:
        names.add(name)
        settings = {"memory_bytes_max": MEMORY_BYTES, "manager_idle_s": 0.5, "run_dir": str(run_dir), **settings}
        return aio.EventBus(name, topics, **settings)

    yield make
    for name in names:
        if RunDir(run_dir, name).socket.exists():
            EventBus(name, run_dir=str(run_dir)).shutdown()


class CutOff:
    """Awaits a coroutine up to its await of this number, where it is cancelled; 0: the first one."""

    def __init__(self, work: Coroutine[Any, Any, Any], at: int) -> None:
        self._work = work
        self._left = at
        self.has_ended = False
        """The coroutine has ended before it came to that await."""

    def __await__(self) -> Generator[Any, Any, Any]:
        while True:
            try:
                waited_for = self._work.send(None)
            except StopIteration as end:
                self.has_ended = True
                return end.value
            if not self._left:
                return self._work.throw(asyncio.CancelledError())
            self._left -= 1
            yield waited_for


@pytest.fixture
def cut_off() -> Callable[..., Awaitable[int]]:
    """Cancels a call at each of its awaits, one after the other; how many there were.

    `begin` makes the call's coroutine; `after` is awaited after each, with whether the call was cancelled.
    """

    async def run(
        begin: Callable[[], Coroutine[Any, Any, Any]], after: Callable[[bool, Any], Awaitable[object]] | None = None
    ) -> int:
        at = 0
        while True:
            call = CutOff(begin(), at)
            result = None
            try:
                result = await call
            except asyncio.CancelledError:
                assert not call.has_ended
            if after is not None:
                await after(not call.has_ended, result)
            if call.has_ended:
                return at
            at += 1

    return run
