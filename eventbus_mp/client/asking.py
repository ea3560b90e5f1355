"""What a handle asks about its bus, and changes nothing but dead letters.

What answers the questions is imported by the first one: its classes are a tenth of what importing a handle would take.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from eventbus_mp.client.handle import BusHandle
from eventbus_mp.client.listeners import listener_of
from eventbus_mp.client.session import Session
from eventbus_mp.client.validation import check_page, check_patterns
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


class AskingHandle(BusHandle):
    """The part of `EventBus` that looks at the bus."""

    @property
    def life(self) -> str:
        """What distinguishes this bus from every other one of its name, before and after it.

        A takeover does not change it. It is another one when the bus has ended and begun anew, and so are all counts
        and all numbers of events. Connects; once connected, it does not block.
        """
        return self._live().connection.welcome.life

    # --- topics and subscribers ---

    def topic_exists(self, name: str) -> bool:
        """Whether the topic is registered. Blocks for one round trip.

        Raises:
            InvalidTopic: The name cannot name a topic.
        """
        return bool(self._ask(requests.ResolveTopic, check_topic(name))[0])

    def topics(self) -> list[str]:
        """The names of all registered topics, sorted. Blocks for one round trip."""
        return list(self._ask(requests.ListTopics))

    def subscribed(self, listener: Any, patterns: Iterable[str]) -> bool:
        """Whether any process has subscribed the listener with exactly these patterns. Blocks for one round trip.

        Raises:
            UsageError: The listener or the patterns are not valid.
        """
        key, wanted = listener_of(listener).key, check_patterns(patterns)
        return any(item.key == key and list(item.patterns) == wanted for item in self.subscribers())

    def subscribers(self, topic: str | None = None) -> list[Subscriber]:
        """All subscribers, or those that get this topic's events, oldest first. Blocks for one round trip."""
        from eventbus_mp.client import questions

        return self._run(lambda session: questions.subscribers(topic))

    # --- dead letters ---

    def dead_letters(self, *, limit: int = 1_000) -> list[DeadLetter]:
        """What is unsettled in the dead letter topic, the oldest first: what failed, why, and for whom.

        Blocks for one round trip for each hundred. Only events that went to the dead letter topic are listed: the topic
        must be set (`dead_letter_topic`) and have a subscriber when they fail.

        Args:
            limit: How many at most.
        """
        from eventbus_mp.client.dead_letters import list_dead_letters

        return self._run(lambda session: list_dead_letters(session, limit))

    def redeliver(self, letter: DeadLetter | EventShadow | tuple[str, EventId] | None = None) -> int:
        """Send a dead letter, or all, again to the subscriber that failed, and complete it in the dead letter topic.

        The event is delivered to that subscriber only, whatever its ttl says; if it fails again, it becomes a dead
        letter again. Blocks for one round trip; for a pair, after listing the dead letters as `dead_letters` does.

        Args:
            letter: One of `dead_letters`, or its shadow, or its (topic, id); None: all whose subscriber and topic still
                exist.

        Returns:
            How many were sent; 0 if the dead letter was settled meanwhile.

        Raises:
            NotSubscribed: The subscriber that failed is gone.
            UnknownTopic: The event's topic is gone.
            UsageError: The event is settled, or it is neither of these.
        """
        from eventbus_mp.client.dead_letters import redeliver

        return self._run(lambda session: redeliver(session, letter))

    # --- watching ---

    def watcher(self, shadow: EventShadow | tuple[str, EventId]) -> Watcher | None:
        """Which subscribers the event was delivered to, and which have settled it; None if all have.

        Includes what this process has settled until now. Blocks for one round trip.

        Raises:
            UsageError: It is neither a shadow nor a pair.
        """
        from eventbus_mp.client import questions

        return self._run(lambda session: questions.watcher(session, shadow))

    def watchers(self, topic: str, *, limit: int | None = None, after: int | None = None) -> WatcherPage:
        """The watchers of the topic's unsettled events, by id. Blocks for one round trip for each 1,000 of them.

        The events come in the order of their sequence numbers: in order for each producer, one producer after the
        other. If two events share an id, the later one's watcher is given.

        Args:
            topic: The topic.
            limit: How many events at most; None: all.
            after: The `next` of the page before; None: from the first event.

        Raises:
            UsageError: `limit` or `after` is not a whole number in its range.
        """
        limit, after = check_page(limit, after)
        from eventbus_mp.client import questions

        return self._run(lambda session: questions.watchers(session, topic, limit, after))

    def explain(self, shadow: EventShadow | tuple[str, EventId]) -> Explanation | None:
        """Why the event is still here: who has not settled it, where it waits or who has it, and who keeps its memory.

        For a delivery that a process holds it says since when, which attempt, and what the threads of that process are
        doing, if the process shows it (`show_stacks`). None: no such event is remembered. Blocks for one round trip,
        two for a pair, and up to 100 ms for each process that is asked.

        Raises:
            UsageError: It is neither a shadow nor a pair.
        """
        from eventbus_mp.client import questions

        return self._run(lambda session: questions.explain(session, shadow))

    def stuck(
        self, older_than_s: float = 1.0, *, limit: int = 100, topic: str | None = None
    ) -> list[UnsettledDelivery]:
        """The deliveries of events that have been unsettled for `older_than_s`, the oldest first.

        Its cost grows with what is listed, and not with what is unsettled. Blocks for one round trip.

        Args:
            older_than_s: Seconds since the event was notified.
            limit: How many are listed at most, 1 to 1,000.
            topic: Only events of this topic; None: of all. In the dead letter topic these are the dead letters.

        Raises:
            UsageError: An argument is not valid.
        """
        from eventbus_mp.client import questions

        return self._run(lambda session: questions.stuck(session, older_than_s, limit, topic))

    def snapshot(self, *, topics_max: int | None = None) -> Snapshot:
        """All numbers of the bus at this moment, as one tree of values: see `Snapshot`.

        Its cost grows with topics, subscribers and processes, and not with events. Includes what this process has
        settled until now. Blocks for one round trip.

        Args:
            topics_max: How many topics are listed, those with the most unsettled events; None: all. A bus of thousands
                of topics that is looked at every second should list some.

        Raises:
            UsageError: `topics_max` is not a whole number, or less than 0.
        """
        from eventbus_mp.client import questions

        return self._run(lambda session: questions.snapshot(session, topics_max))

    def statistics(self) -> BusStatistics:
        """The counts of `snapshot` in short. Blocks for one round trip."""
        return self._run(Session.statistics)

    def story(self, shadow: EventShadow | tuple[str, EventId]) -> list[str]:
        """What the manager's log still holds of the event, oldest first, a line for each step.

        The event may be settled. The log is bounded (`event_log_bytes_max`), so the story of an old event is empty. Of
        several events of one (topic, id) it is that of the newest. Blocks for one round trip, or two for a pair.

        Raises:
            UsageError: It is neither a shadow nor a pair.
        """
        from eventbus_mp.client import questions

        return self._run(lambda session: questions.story(session, shadow))

    def history(
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

        An entry is about one event or several that arrived together, in one topic or several. The log is bounded
        (`event_log_bytes_max`) and survives a takeover. Blocks for one round trip, or two for a pair.

        Args:
            topic: Only entries about events of this topic; they count these events only.
            subscriber: Only what happened for subscribers of this name.
            kind: Only entries of this kind: see `HistoryEntry.kind`.
            shadow: Only what happened to this event, given as for `story`.
            since_s: Only the latest seconds.
            limit: How many entries a page has at most, 1 to 1,000.
            before: `HistoryPage.before` of the page before, for the next, older one.

        Raises:
            UsageError: An argument is not valid; the text names it.
        """
        from eventbus_mp.client import questions

        return self._run(
            lambda session: questions.history(session, topic, subscriber, kind, shadow, since_s, limit, before)
        )
