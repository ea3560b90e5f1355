"""What the page knows of its bus: looks at it, shared by all who ask at the same time, and never more often than it
is good for the manager.

A look is one snapshot with some topics, and the deliveries that are unsettled for longest. Its cost for the manager
does not grow with the events, and hardly with the topics. All topics of a bus of thousands are looked at only if
somebody wants to search them, and not often.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, TypeVar

from eventbus_mp import BusConfig, EventBus, Snapshot, TopicSnapshot, UnsettledDelivery
from eventbus_mp.addons.observer import Observer
from eventbus_mp.addons.web.rows import bus_fields, delivery_row, process_row, subscriber_row, topic_row

__all__ = ["BusView", "Look", "Topics"]

Answer = TypeVar("Answer")

TOPICS_LOOKED_AT = 200
ROWS_MAX = 200
"""Of subscribers and of processes in a message to the page."""
STUCK_LISTED = 10
STUCK_AGE_S = 1.0
FRESH_S = 0.9
"""A look is as good as a new one for so long."""
SHARE_ALL = 100
"""One at all topics of a bus of many is as good for so many times what it took: 2 s at 1,000 topics, half a minute at
10,000. So the manager never spends more than a hundredth of its time on it."""
THREADS = 4


class Look(NamedTuple):
    """The bus at one moment."""

    at_s: float
    now: Snapshot
    stuck: list[UnsettledDelivery]
    rate: float | None
    """Events that reach the bus in a second; None: not known yet."""
    topic_rates: dict[str, float]
    subscriber_rates: dict[tuple[str, str], float]

    def as_dict(self) -> dict[str, Any]:
        """The look as the page shows it."""
        now = self.now
        return {
            "is_up": True,
            "rate": self.rate,
            "snapshot": {
                **bus_fields(now),
                "topics": [topic_row(item, self.topic_rates.get(item.name)) for item in now.topics],
                "subscribers": [
                    subscriber_row(item, self.subscriber_rates.get((item.key.text, repr(item.config))))
                    for item in now.subscribers[:ROWS_MAX]
                ],
                "processes": [process_row(item) for item in now.processes[:ROWS_MAX]],
            },
            "stuck": [delivery_row(item) for item in self.stuck],
        }


class Topics(NamedTuple):
    """All topics of the bus, with their rates."""

    at_s: float
    items: tuple[TopicSnapshot, ...]
    rates: dict[str, float]
    fresh_s: float = 0.0
    """For how long they are as good as new ones."""


class BusView:
    """Asks one bus, in threads of its own, so that the event loop never waits.

    Args:
        bus: The bus's name, or a handle of it.
        config: As of `Observer`.
    """

    def __init__(self, bus: str | EventBus, config: BusConfig | None = None) -> None:
        self._observer = Observer(bus, config=config)
        self.name = self._observer.name
        self._executors: dict[int, ThreadPoolExecutor] = {}
        """By the process, as a fork leaves the threads behind."""
        self._tasks: dict[str, asyncio.Task[Any]] = {}
        self._look: Look | None = None
        self._topics: Topics | None = None

    async def ask(self, question: Callable[[EventBus], Answer]) -> Answer:
        """The answer of the bus; raises as `Observer.ask`."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._executor(), self._observer.ask, question)

    async def look(self) -> Look:
        """The bus now: a new look, or one that is less than a second old, or the one that is under way.

        Raises:
            EventBusError: The bus cannot be asked.
        """
        if self._look is not None and time.monotonic() - self._look.at_s < FRESH_S:
            return self._look
        return await self._shared("look", self._new_look)

    async def topics(self) -> Topics:
        """All topics; if they are many, perhaps those of some seconds ago. Raises as `look`."""
        look = await self.look()
        if look.now.topics_total <= len(look.now.topics):
            return Topics(look.at_s, look.now.topics, look.topic_rates)
        known = self._topics
        if known is not None and time.monotonic() - known.at_s < known.fresh_s:
            return known
        return await self._shared("topics", self._new_topics)

    def close(self) -> None:
        """Leave the bus, and end the threads. Does not block for more than the answer that is under way."""
        executor = self._executors.pop(os.getpid(), None)
        if executor is not None:
            executor.shutdown(wait=True, cancel_futures=True)
        self._observer.close()

    async def _shared(self, name: str, work: Callable[[], Awaitable[Answer]]) -> Answer:
        """What the task of this name answers, which may be under way already; one who goes does not end it."""
        loop = asyncio.get_running_loop()
        task = self._tasks.get(name)
        if task is None or task.done() or task.get_loop() is not loop:
            task = self._tasks[name] = asyncio.ensure_future(work())
            task.add_done_callback(_retrieved)
        answer: Answer = await asyncio.shield(task)
        return answer

    async def _new_look(self) -> Look:
        def question(bus: EventBus) -> tuple[Snapshot, list[UnsettledDelivery]]:
            return bus.snapshot(topics_max=TOPICS_LOOKED_AT), bus.stuck(STUCK_AGE_S, limit=STUCK_LISTED)

        now, stuck = await self.ask(question)
        at_s, before = time.monotonic(), self._look
        rate: float | None = None
        topics: dict[str, float] = {}
        subscribers: dict[tuple[str, str], float] = {}
        if before is not None and before.now.manager.incarnation == now.manager.incarnation:
            seconds = at_s - before.at_s
            rate = (now.events.notified - before.now.events.notified) / seconds if seconds > 0 else None
            topics = _rates(_notified(now.topics), _notified(before.now.topics), seconds)
            subscribers = _rates(_completed(now), _completed(before.now), seconds)
        self._look = Look(at_s, now, stuck, rate, topics, subscribers)
        return self._look

    async def _new_topics(self) -> Topics:
        began_s = time.monotonic()
        now = await self.ask(EventBus.snapshot)
        at_s, before = time.monotonic(), self._topics
        rates = {}
        if before is not None:
            rates = _rates(_notified(now.topics), _notified(before.items), at_s - before.at_s)
        self._topics = Topics(at_s, now.topics, rates, max(FRESH_S, SHARE_ALL * (at_s - began_s)))
        return self._topics

    def _executor(self) -> ThreadPoolExecutor:
        executor = self._executors.get(os.getpid())
        if executor is None:
            executor = self._executors[os.getpid()] = ThreadPoolExecutor(THREADS, "eventbus_mp-web")
        return executor


Key = TypeVar("Key")


def _rates(now: dict[Key, int], before: dict[Key, int], seconds: float) -> dict[Key, float]:
    """How much was added in a second; nothing for what was not there before."""
    if seconds <= 0:
        return {}
    return {key: max(0, count - before[key]) / seconds for key, count in now.items() if key in before}


def _notified(topics: tuple[TopicSnapshot, ...]) -> dict[str, int]:
    return {item.name: item.notified for item in topics}


def _completed(now: Snapshot) -> dict[tuple[str, str], int]:
    return {(item.key.text, repr(item.config)): item.completed for item in now.subscribers}


def _retrieved(task: asyncio.Task[Any]) -> None:
    """Take the task's error, which those who wait for it get: they may have gone."""
    if not task.cancelled():
        task.exception()
