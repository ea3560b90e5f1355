"""Which loop it is."""

from __future__ import annotations

import asyncio
import sys

from eventbus_mp.aio.asyncio_loop import AsyncioLoop
from eventbus_mp.aio.loops import Loop

__all__ = ["running_loop"]


def running_loop() -> Loop:
    """The loop that the caller runs in.

    Raises:
        RuntimeError: It runs in none.
    """
    trio = sys.modules.get("trio")
    # First: a trio that is the guest of another loop runs inside that one.
    if trio is not None and trio.lowlevel.in_trio_task():
        from eventbus_mp.aio.trio_loop import TrioLoop

        return TrioLoop()
    return AsyncioLoop(asyncio.get_running_loop())
