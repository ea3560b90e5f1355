"""What an asyncio handle asks about its bus; each call is that of `eventbus_mp.EventBus`, awaited.

What answers the questions is imported by the first one, as there.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from eventbus_mp.aio.handle import LoopHandle
from eventbus_mp.client.listeners import listener_of
from eventbus_mp.client.session import Session
from eventbus_mp.client.validation import check_page, check_patterns, check_timeout
from eventbus_mp.events import EventShadow, check_topic
from eventbus_mp.ids import EventId
from eventbus_mp.protocol import requests
from eventbus_mp.statistics import BusStatistics, Subscriber, Watcher, WatcherPage

if TYPE_CHECKING:
    from eventbus_mp.client.dead_letters import DeadLetter
    from eventbus_mp.explanation import Explanation, UnsettledDelivery
    from eventbus_mp.history import HistoryPage
    from eventbus_mp.snapshot import Snapshot

__all__ = ["AskingHandle"]


class AskingHandle(LoopHandle):
    """The questions of `aio.EventBus`. Each waits for one round trip, and raises `UsageError` if an argument is not
    valid."""

    async def topic_exists(self, name: str) -> bool:
        """Whether the topic is registered."""
        return bool((await self._ask(requests.ResolveTopic, check_topic(name)))[0])

    async def topics(self) -> list[str]:
        """The names of all registered topics, sorted."""
        return list(await self._ask(requests.ListTopics))

    async def subscribers(self, topic: str | None = None) -> list[Subscriber]:
        """All subscribers, or those that get this topic's events, oldest first."""
        from eventbus_mp.client import questions

        return await self._run(lambda session: questions.subscribers(topic))

    async def subscribed(self, listener: Any, patterns: Iterable[str]) -> bool:
        """Whether any process has subscribed the listener with exactly these patterns."""
        key, wanted = listener_of(listener).key, check_patterns(patterns)
        return any(item.key == key and list(item.patterns) == wanted for item in await self.subscribers())

    async def dead_letters(self, *, limit: int = 1_000) -> list[DeadLetter]:
        """What is unsettled in the dead letter topic, the oldest first: what failed, why, and for whom."""
        from eventbus_mp.client.dead_letters import list_dead_letters

        return await self._run(lambda session: list_dead_letters(session, limit))

    async def redeliver(self, letter: DeadLetter | EventShadow | tuple[str, EventId] | None = None) -> int:
        """Send a dead letter, or all, again to the subscriber that failed; how many were sent.

        Raises:
            NotSubscribed: The subscriber that failed is gone.
            UnknownTopic: The event's topic is gone.
        """
        from eventbus_mp.client.dead_letters import redeliver

        return await self._run(lambda session: redeliver(session, letter))

    async def watcher(self, shadow: EventShadow | tuple[str, EventId]) -> Watcher | None:
        """Which subscribers the event was delivered to, and which have settled it; None if all have."""
        from eventbus_mp.client import questions

        return await self._run(lambda session: questions.watcher(session, shadow))

    async def watchers(self, topic: str, *, limit: int | None = None, after: int | None = None) -> WatcherPage:
        """The watchers of the topic's unsettled events, by id; one round trip for each 1,000 of them."""
        limit, after = check_page(limit, after)
        from eventbus_mp.client import questions

        return await self._run(lambda session: questions.watchers(session, topic, limit, after))

    async def explain(self, shadow: EventShadow | tuple[str, EventId]) -> Explanation | None:
        """Why the event is still here, and what the processes are doing that have it; None: it is not remembered.

        These processes are asked in a thread of the loop's executor, up to 100 ms for each.
        """
        from eventbus_mp.client import questions

        return await self._run(lambda session: questions.explain(session, shadow))

    async def stuck(
        self, older_than_s: float = 1.0, *, limit: int = 100, topic: str | None = None
    ) -> list[UnsettledDelivery]:
        """The deliveries of events that have been unsettled for `older_than_s`, the oldest first."""
        from eventbus_mp.client import questions

        return await self._run(lambda session: questions.stuck(session, older_than_s, limit, topic))

    async def snapshot(self, *, topics_max: int | None = None) -> Snapshot:
        """All numbers of the bus at this moment: see `Snapshot`.

        Args:
            topics_max: How many topics are listed, those with the most unsettled events; None: all.
        """
        from eventbus_mp.client import questions

        return await self._run(lambda session: questions.snapshot(session, topics_max))

    async def statistics(self) -> BusStatistics:
        """The counts of `snapshot` in short."""
        return await self._run(Session.statistics)

    async def story(self, shadow: EventShadow | tuple[str, EventId]) -> list[str]:
        """What the manager's log still holds of the event, oldest first, a line for each step."""
        from eventbus_mp.client import questions

        return await self._run(lambda session: questions.story(session, shadow))

    async def history(
        self,
        *,
        topic: str | None = None,
        subscriber: str | None = None,
        kind: str | None = None,
        shadow: EventShadow | tuple[str, EventId] | None = None,
        since_s: float | None = None,
        limit: int = 100,
        before: tuple[int, int] | None = None,
    ) -> HistoryPage:
        """What happened to events lately: a page of entries, the newest first, and counts of all that were asked for.

        The arguments are those of `eventbus_mp.EventBus.history`.
        """
        from eventbus_mp.client import questions

        return await self._run(
            lambda session: questions.history(session, topic, subscriber, kind, shadow, since_s, limit, before)
        )

    async def drain(self, pattern: str = "", *, timeout_s: float | None = None) -> None:
        """Wait until no topic that the pattern matches has an unsettled event.

        Raises:
            WaitTimeout: There are unsettled events after `timeout_s`; the text says which processes hold them.
            InvalidPattern: The pattern does not compile.
        """
        timeout_s = check_timeout(timeout_s)
        session = await self._live()
        await session.link.run(session.drain(pattern, timeout_s))
