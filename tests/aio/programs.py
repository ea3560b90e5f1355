"""What the tests of the asyncio client run, and what they publish."""

import asyncio
from collections.abc import Callable
from typing import Any

from eventbus_mp import Event

WAIT_S = 60.0


def run(main: Callable[[], Any]) -> Any:
    """Run a test's coroutine function in a loop of its own, for a minute at most."""
    return asyncio.run(asyncio.wait_for(main(), WAIT_S))


def event(number: int, topic: str = "a", data: Any = None) -> Event:
    return Event(str(number), topic, data if data is not None else number)
