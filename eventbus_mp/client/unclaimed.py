"""Shadows that an executor's thread takes from an inbox, perhaps for a caller who has given up meanwhile.

`asyncio.wait_for(asyncio.to_thread(inbox.get), 1)` ends the wait and not the thread. What the thread then gets is
dropped by its future, and nobody could settle it. So such a shadow notes whether anybody has looked at it; if it goes
and nobody has, its delivery is the inbox's next one again.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

from eventbus_mp.events import EventShadow, shadow_at

__all__ = ["UnclaimedShadow", "is_in_executor"]

EXECUTORS = ("concurrent.futures.thread", "trio._threads", "anyio._backends._asyncio")
"""The modules whose threads run a call for a future that its caller may have left."""
FRAMES_MAX = 8
_AT: Any = vars(EventShadow)["_at"]


def is_in_executor() -> bool:
    """Whether the calling thread runs a call for somebody else, by a look at its stack."""
    if threading.current_thread() is threading.main_thread():
        return False
    frame: FrameType | None = sys._getframe(1)
    for _ in range(FRAMES_MAX):
        if frame is None:
            return False
        if frame.f_globals.get("__name__") in EXECUTORS:
            return True
        frame = frame.f_back
    return False


class UnclaimedShadow(EventShadow):
    """A shadow that nobody has looked at yet; `give_back` is called with its place if nobody ever does.

    `give_back` runs between any two steps of any thread, so it must not take a lock.
    """

    __slots__ = ("_give_back",)

    def __init__(self, shadow: EventShadow, give_back: Callable[[int], None]) -> None:
        super().__init__(shadow._topic, shadow._id)
        _AT.__set__(self, shadow._at)
        self._give_back: Callable[[int], None] | None = give_back

    def unlooked(self) -> EventShadow:
        """The same shadow for who is not the caller: to look at it says nothing."""
        return shadow_at(self._topic, self._id, _AT.__get__(self))

    @property
    def _at(self) -> Any:
        self._give_back = None
        return _AT.__get__(self)

    @_at.setter
    def _at(self, at: Any) -> None:
        _AT.__set__(self, at)

    @property
    def topic(self) -> str:
        self._give_back = None
        return super().topic

    @property
    def id(self) -> Any:
        self._give_back = None
        return super().id

    def __iter__(self) -> Iterator[Any]:
        self._give_back = None
        return super().__iter__()

    def __getitem__(self, index: int) -> Any:
        self._give_back = None
        return super().__getitem__(index)

    def __eq__(self, other: object) -> bool:
        self._give_back = None
        return super().__eq__(other)

    def __hash__(self) -> int:
        self._give_back = None
        return super().__hash__()

    def __repr__(self) -> str:
        self._give_back = None
        return super().__repr__()

    def __del__(self) -> None:
        give_back = self._give_back
        at = _AT.__get__(self)
        if give_back is not None and at is not None:
            give_back(at[4])
