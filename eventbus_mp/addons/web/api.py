"""What can be asked: paths, their parameters, and the answers as values for JSON.

A topic and an id in a path are one segment each, in which `/` is written as `%2F`; both can be given as parameters
instead (`api/event?topic=...&id=...`), for what stands between decodes paths. An id is a text; with `int=1` it is an
integer: `7` and `"7"` are two ids.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from eventbus_mp import EventBus, EventBusError, Snapshot, SubscriberKey, UsageError, Watcher
from eventbus_mp.addons.web.journal_api import JournalApi
from eventbus_mp.addons.web.parameters import NotFound, event_of, given, id_of, page_of
from eventbus_mp.addons.web.rows import (
    bus_fields,
    delivery_row,
    event_fields,
    explanation_fields,
    json_bytes,
    process_row,
    story_rows,
    subscriber_row,
    topic_row,
    watcher_row,
)
from eventbus_mp.addons.web.view import BusView

__all__ = ["Api"]

log = logging.getLogger("eventbus_mp.web")

STORY_MAX = 200
SORTS = ("unsettled", "rate", "notified", "oldest_age_s", "bytes_unsettled", "dropped", "name")
ACTIONS = ("complete", "skip", "redeliver")


class Api:
    """The answers of one app.

    Args:
        view: What it knows of its bus.
        actions: What is said of actions: None, or how to ask for them.
        journal: Answers about its journal; None: it has none.
    """

    def __init__(
        self, view: BusView, actions: Mapping[str, str] | None = None, journal: JournalApi | None = None
    ) -> None:
        self._view = view
        self._actions = actions
        self._journal = journal

    async def answer(self, path: Sequence[str], query: Mapping[str, str]) -> dict[str, Any]:
        """The answer to a GET.

        Raises:
            NotFound: There is no such path, topic or event.
            UsageError: A parameter is not valid.
            EventBusError: The bus cannot be asked.
        """
        match path:
            case ["topics"]:
                return await self._topics(query)
            case ["topics", topic]:
                return {"topic": await self._topic(topic)}
            case ["topics", topic, "events"]:
                return await self._events(topic, query)
            case ["topics", topic, "events", event_id]:
                return {"event": await self._event(topic, id_of(event_id, query))}
            case ["subscribers"]:
                return await self._subscribers()
            case ["api", "journal", *rest] if self._journal is not None:
                return await self._journal.answer(rest, query)
            case ["api", name]:
                return await self._named(name, query)
        raise NotFound("path")

    async def _named(self, name: str, query: Mapping[str, str]) -> dict[str, Any]:
        match name:
            case "bus":
                return bus_fields((await self._view.look()).now) | {"actions": self._actions}
            case "processes":
                return {"processes": [process_row(item) for item in (await self._view.look()).now.processes]}
            case "events":
                return await self._events(given(query, "topic"), query)
            case "event":
                return {"event": await self._event(*event_of(query))}
            case "explain":
                return await self._explain(*event_of(query))
            case "story":
                return await self._story(*event_of(query))
            case "stuck":
                return await self._stuck(query)
        raise NotFound("path")

    async def state(self) -> bytes:
        """The message of the live stream: a look, or why there is none."""
        try:
            look = (await self._view.look()).as_dict()
        except EventBusError as error:
            look = {"is_up": False, "error": str(error)}
        return json_bytes({**look, "has_journal": self._journal is not None})

    async def snapshot(self) -> Snapshot:
        """With all topics."""
        topics = (await self._view.topics()).items
        return replace((await self._view.look()).now, topics=topics)

    # --- lists ---

    async def _topics(self, query: Mapping[str, str]) -> dict[str, Any]:
        found = await self._view.topics()
        match, sort = query.get("match", "").casefold(), query.get("sort", "")
        if sort and sort not in SORTS:
            raise UsageError(f"sort={sort!r:.40}: give one of {', '.join(SORTS)}")
        items = [item for item in found.items if match in item.name.casefold()]
        if sort == "rate":
            items.sort(key=lambda item: -found.rates.get(item.name, 0.0))
        elif sort == "name":
            items.sort(key=lambda item: item.name)
        elif sort:
            items.sort(key=lambda item: -(getattr(item, sort) or 0))
        limit, after = page_of(query)
        page = items[after : after + limit]
        return {
            "topics": [topic_row(item, found.rates.get(item.name)) for item in page],
            "total": len(items),
            "next": str(after + limit) if after + limit < len(items) else None,
        }

    async def _topic(self, name: str) -> dict[str, Any]:
        look = await self._view.look()
        for item in look.now.topics:
            if item.name == name:
                return topic_row(item, look.topic_rates.get(name))
        found = await self._view.topics()
        for item in found.items:
            if item.name == name:
                return topic_row(item, found.rates.get(name))
        raise NotFound("topic")

    async def _subscribers(self) -> dict[str, Any]:
        look = await self._view.look()
        return {
            "subscribers": [
                subscriber_row(item, look.subscriber_rates.get((item.key.text, repr(item.config))))
                for item in look.now.subscribers
            ]
        }

    async def _events(self, topic: str, query: Mapping[str, str]) -> dict[str, Any]:
        limit, after = page_of(query)

        def question(bus: EventBus) -> dict[str, Any]:
            if not bus.topic_exists(topic):
                raise NotFound("topic")
            page = bus.watchers(topic, limit=limit, after=after or None)
            rows = [watcher_row(topic, event_id, watcher) for event_id, watcher in page.items()]
            # A text, because a number of 64 bits does not outlive a browser.
            return {"events": rows, "next": str(page.next) if page.next is not None else None}

        return await self._view.ask(question)

    async def _stuck(self, query: Mapping[str, str]) -> dict[str, Any]:
        limit, _ = page_of(query)
        try:
            older_s = float(query.get("older_s", "1"))
        except ValueError as cause:
            raise UsageError(f"older_s={query['older_s']!r:.40}: give seconds") from cause
        found = await self._view.ask(lambda bus: bus.stuck(older_s, limit=limit, topic=query.get("topic")))
        return {"stuck": [delivery_row(item) for item in found]}

    # --- one event ---

    async def _event(self, topic: str, event_id: str | int) -> dict[str, Any]:
        def question(bus: EventBus) -> dict[str, Any]:
            event = bus.fetch_event((topic, event_id))
            if event is None:
                raise NotFound("event")
            fields = event_fields(event)
            del event  # Its view ends here, and the next question tells the bus.
            watcher = bus.watcher((topic, event_id))
            return {**watcher_row(topic, event_id, watcher if watcher is not None else Watcher()), **fields}

        return await self._view.ask(question)

    async def _explain(self, topic: str, event_id: str | int) -> dict[str, Any]:
        found = await self._view.ask(lambda bus: bus.explain((topic, event_id)))
        if found is None:
            raise NotFound("event")
        return explanation_fields(found)

    async def _story(self, topic: str, event_id: str | int) -> dict[str, Any]:
        page = await self._view.ask(lambda bus: bus.history(shadow=(topic, event_id), limit=STORY_MAX))
        return {"story": story_rows(page), "is_cut": page.before is not None}

    # --- actions ---

    async def act(self, wanted: Any, who: str) -> dict[str, Any]:
        """Carry out an action, and log it.

        Args:
            wanted: The body of the request: `action`, `topic`, `id`, `int`, and for all but "redeliver" `subscriber`,
                `config` and `host`.
            who: Who asks, for the log.

        Raises:
            UsageError: The body is not what it should be.
            EventBusError: The bus refuses it.
        """
        if not isinstance(wanted, dict) or wanted.get("action") not in ACTIONS:
            raise UsageError(f"the body is an object with an action, one of {', '.join(ACTIONS)}")
        fields = {name: wanted.get(name) for name in ("topic", "id")}
        if not all(isinstance(value, str) for value in fields.values()):
            raise UsageError("topic and id are texts")
        topic = str(fields["topic"])
        event_id = id_of(str(fields["id"]), {"int": "1"} if wanted.get("int") is True else {})
        action, subscriber, host = wanted["action"], wanted.get("subscriber"), wanted.get("host")
        if action == "redeliver":
            done = await self._view.ask(lambda bus: bus.redeliver((topic, event_id)))
        else:
            if not isinstance(subscriber, str) or not isinstance(host, (str, type(None))):
                raise UsageError("subscriber is whom the event is settled for, by name, and host where that one is")
            listener = SubscriberKey(subscriber, wanted.get("config"), host)
            outcome = "completed" if action == "complete" else "skipped"
            reason = "settled on the page" if action == "skip" else ""
            await self._view.ask(lambda bus: bus.mark_many(listener, [(topic, event_id)], outcome, reason=reason))
            done = 1
        log.info("%s: %s event %r of topic %r for %r (%d)", who, action, event_id, topic, subscriber, done)
        return {"done": done}
