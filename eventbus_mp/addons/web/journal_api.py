"""What can be asked about a journal, and the answers as values for JSON: `api/journal` and below.

No answer costs more in a store of a billion events than in one of a thousand: lists are read from a position on,
without data, and a search that finds little stops after a while and says where to go on.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from eventbus_mp import EventBusError, UsageError
from eventbus_mp.addons.journal import Checkpoint, Entry, Heading, Rejected, Selection, Store, event_of
from eventbus_mp.addons.journal.figures import Figures
from eventbus_mp.addons.web.journal_view import JournalView
from eventbus_mp.addons.web.parameters import NotFound, given, id_of, number_of, page_of, seconds_ns
from eventbus_mp.addons.web.preview import id_fields
from eventbus_mp.addons.web.rows import event_fields

__all__ = ["JournalApi"]

COUNTED_MAX = 200_000
"""If there may be more entries, they are not counted: counting these takes 20 ms."""
FRESH_S = 1.0
WINDOW = 1_000
WINDOW_GROWTH = 4
SEARCH_S = 0.25
"""How long a search goes on that has not found enough, about."""
PREVIEWED_BYTES_MAX = 64 << 20


class JournalApi:
    """The answers about one journal.

    Args:
        view: How its store is asked.
    """

    def __init__(self, view: JournalView) -> None:
        self._view = view
        self._summary: tuple[float, dict[str, Any]] | None = None
        self._looking: asyncio.Task[dict[str, Any]] | None = None

    async def answer(self, path: Sequence[str], query: Mapping[str, str]) -> dict[str, Any]:
        """The answer to a GET of `api/journal/` and this path.

        Raises:
            NotFound: There is no such path or entry.
            UsageError: A parameter is not valid.
            StoreError: The store cannot be asked.
        """
        match path:
            case []:
                return {"journal": await self._looked()}
            case ["events"]:
                return await self._view.ask(_events_question(query))
            case ["event"]:
                return {"event": await self._view.ask(_event_question(query))}
            case ["rejected"]:
                limit, after = page_of(query)
                return await self._view.ask(lambda store: _rejected(store, limit, after))
        raise NotFound("path")

    async def _looked(self) -> dict[str, Any]:
        """The summary, which all who ask at the same time share."""
        known = self._summary
        if known is not None and time.monotonic() - known[0] < FRESH_S:
            return known[1]
        if self._looking is None or self._looking.done() or self._looking.get_loop() is not asyncio.get_running_loop():
            self._looking = asyncio.ensure_future(self._look())
        return await asyncio.shield(self._looking)

    async def _look(self) -> dict[str, Any]:
        figures = await self._view.figures()
        whole: dict[str, Any] = {"writer": _writer_fields(figures), "store": None, "checkpoints": [], "error": None}
        try:
            whole |= await self._view.ask(_store_fields)
        except EventBusError as error:
            whole["error"] = str(error)
        self._summary = time.monotonic(), whole
        return whole


# --- questions, which are answered in the thread ---


def _store_fields(store: Store) -> dict[str, Any]:
    oldest, newest = store.headings(Selection(), 1), store.headings(Selection(), 1, newest_first=True)
    span = newest[0].position - oldest[0].position + 1 if oldest and newest else 0
    is_exact = span <= COUNTED_MAX
    return {
        "store": {
            "url": store.url,
            "events": store.count(Selection()) if is_exact else span,
            "is_exact": is_exact,
            "bytes": store.size_bytes(),
            "oldest_s": oldest[0].recorded_ns / 1e9 if oldest else None,
            "newest_s": newest[0].recorded_ns / 1e9 if newest else None,
            "last_position": newest[0].position if newest else 0,
        },
        "checkpoints": [_checkpoint_row(item) for item in store.checkpoints()],
    }


def _events_question(query: Mapping[str, str]) -> Callable[[Store], dict[str, Any]]:
    limit, _ = page_of(query)
    before = number_of(query, "before", 0) or None
    transaction = query.get("transaction")
    selection = Selection(
        topic=_pattern(query),
        transaction_id=id_of(transaction, query) if transaction is not None else None,
        before=before,
        since_ns=seconds_ns(query, "since_s"),
        until_ns=seconds_ns(query, "until_s"),
    )

    def question(store: Store) -> dict[str, Any]:
        found, following = _newest(store, selection, limit)
        return {
            "events": [_heading_row(item) for item in found],
            "next": str(following) if following is not None else None,
            "searched_to_s": _recorded_s(store, following) if following is not None and len(found) < limit else None,
        }

    return question


def _pattern(query: Mapping[str, str]) -> str | None:
    """The regular expression of one topic, or of all that have this text; nothing that a user writes is one."""
    if "topic" in query:
        return re.escape(query["topic"]) + r"\Z"
    match = query.get("match", "")
    return f"(?is:.*{re.escape(match)})" if match else None


def _newest(store: Store, selection: Selection, limit: int) -> tuple[list[Heading], int | None]:
    """The newest entries that are selected, and in front of which position the rest is; None: there is no rest.

    They are looked for in windows of positions that grow: an index may have none of those that are wanted.
    """
    bottom = max(selection.after, store.position_at(selection.since_ns) - 1 if selection.since_ns is not None else 0)
    ends = [store.last_position() + 1]
    ends += [selection.before] if selection.before is not None else []
    ends += [store.position_at(selection.until_ns)] if selection.until_ns is not None else []
    plain = replace(selection, since_ns=None, until_ns=None)
    top, window, found = min(ends), WINDOW, list[Heading]()
    deadline = time.monotonic() + SEARCH_S
    while top > bottom + 1:
        floor = max(bottom, top - 1 - window)
        found += store.headings(replace(plain, after=floor, before=top), limit - len(found), newest_first=True)
        if len(found) >= limit:
            return found, found[-1].position
        top, window = floor + 1, window * WINDOW_GROWTH
        if time.monotonic() > deadline and top > bottom + 1:
            return found, top
    return found, None


def _recorded_s(store: Store, position: int) -> float | None:
    following = store.headings(Selection(after=position - 1), 1)
    return following[0].recorded_ns / 1e9 if following else None


def _event_question(query: Mapping[str, str]) -> Callable[[Store], dict[str, Any]]:
    if "position" not in query:
        topic, event_id = given(query, "topic"), id_of(given(query, "id"), query)
        return lambda store: _entry_fields(store.find(topic, event_id))
    position = number_of(query, "position", 0)
    selection = Selection(after=max(position - 1, 0), before=position + 1)

    def question(store: Store) -> dict[str, Any]:
        for heading in store.headings(selection, 1):
            if heading.nbytes > PREVIEWED_BYTES_MAX:
                shown = {"fields": {}, "headers": {}, "bytes": heading.nbytes, "data": None, "is_cut": True}
                return {**_heading_row(heading), **shown, "error": "it is too large to be shown"}
        return _entry_fields(next(iter(store.page(selection, 1)), None))

    return question


def _rejected(store: Store, limit: int, after: int) -> dict[str, Any]:
    found = store.rejected(limit, after=after)
    following = str(found[-1].position) if len(found) == limit else None
    return {"rejected": [_rejected_row(item) for item in found], "next": following}


# --- rows ---


def _writer_fields(figures: Figures | None) -> dict[str, Any] | None:
    if figures is None:
        return None
    return {
        "is_running": figures.is_running,
        "bus": figures.bus,
        "subscriber": figures.name,
        "pid": figures.pid,
        "stored": figures.stored,
        "duplicates": figures.duplicates,
        "rejected": figures.rejected,
        "commits": figures.commits,
        "commit_mean_s": figures.commit_ns / figures.commits / 1e9 if figures.commits else None,
        "lag_s": figures.lag_s if figures.is_running else None,
        "spooled": figures.spooled,
        "failing_s": figures.failing_s,
        "error": figures.error or None,
    }


def _heading_row(item: Heading) -> dict[str, Any]:
    transaction = id_fields(item.transaction_id)
    return {
        # A text, because a number of 64 bits does not outlive a browser.
        "position": str(item.position),
        "topic": item.topic,
        **id_fields(item.id),
        "transaction": transaction["id"],
        "transaction_int": transaction["int"],
        "source": item.source,
        "recorded_s": item.recorded_ns / 1e9,
        "bytes": item.nbytes,
    }


def _entry_fields(entry: Entry | None) -> dict[str, Any]:
    if entry is None:
        raise NotFound("event")
    row = entry.row
    try:
        fields = event_fields(event_of(row))
    except UsageError as error:  # Of another version.
        fields = {"fields": {}, "headers": {}, "bytes": len(row.data), "data": None, "is_cut": True}
        fields["error"] = str(error)
    place = {"position": str(entry.position), "topic": row.topic, **id_fields(row.id)}
    return {**place, "recorded_s": row.recorded_ns / 1e9, **fields}


def _rejected_row(item: Rejected) -> dict[str, Any]:
    size = sum(len(part) for part in (item.data, item.buffers) if part is not None)
    return {
        "position": str(item.position),
        "topic": item.topic,
        **id_fields(item.id),
        "reason": item.reason,
        "recorded_s": item.recorded_ns / 1e9,
        "bytes": size,
    }


def _checkpoint_row(item: Checkpoint) -> dict[str, Any]:
    return {
        "name": item.name,
        "target": item.target,
        "next_position": str(item.next_position),
        "until_position": str(item.until_position) if item.until_position is not None else None,
        "updated_s": item.updated_ns / 1e9,
        "has_ended": item.ended,
    }
