"""The asyncio client is the twin of the threaded one: it has its calls, with their arguments, and awaits them."""

import inspect
from typing import Any

import pytest

import eventbus_mp
from eventbus_mp import aio

ONLY_THREADED = {
    eventbus_mp.EventBus: {"forwarder", "receipts"},
    eventbus_mp.Inbox: {"fileno"},
    eventbus_mp.Changes: {"fileno"},
    eventbus_mp.EventSource: set(),
}
ONLY_AWAITED: dict[type, set[str]] = {
    aio.EventBus: {"connect"},
    aio.Inbox: set(),
    aio.Changes: set(),
    aio.EventSource: set(),
}
MORE_ARGUMENTS = {"on": ["concurrency"], "subscribe": ["concurrency"]}
NOT_AWAITED = {
    aio.EventBus: {"changes", "on", "on_lost", "loan", "register_type", "add_instrument", "remove_instrument"},
    aio.Inbox: {"attempt"},
    aio.Changes: set(),
    aio.EventSource: {"notify", "emits", "new_id", "now"},
}
PAIRS = [
    (eventbus_mp.EventBus, aio.EventBus),
    (eventbus_mp.Inbox, aio.Inbox),
    (eventbus_mp.Changes, aio.Changes),
    (eventbus_mp.EventSource, aio.EventSource),
]


def public(owner: type) -> dict[str, Any]:
    return {name: call for name, call in inspect.getmembers(owner, callable) if not name.startswith("_")}


def arguments(call: Any) -> list[tuple[str, Any, Any]]:
    return [(item.name, item.kind, item.default) for item in inspect.signature(call).parameters.values()]


@pytest.mark.parametrize(("threaded", "awaited"), PAIRS, ids=["EventBus", "Inbox", "Changes", "EventSource"])
def test_the_twins_have_the_same_calls(threaded: type, awaited: type) -> None:
    assert set(public(threaded)) - set(public(awaited)) == ONLY_THREADED[threaded]
    assert set(public(awaited)) - set(public(threaded)) == ONLY_AWAITED[awaited]


@pytest.mark.parametrize(("threaded", "awaited"), PAIRS, ids=["EventBus", "Inbox", "Changes", "EventSource"])
def test_their_arguments_are_the_same(threaded: type, awaited: type) -> None:
    theirs, ours = public(threaded), public(awaited)
    for name in set(theirs) & set(ours):
        more = MORE_ARGUMENTS.get(name, [])
        found = [item for item in arguments(ours[name]) if item[0] not in more]
        left_out = [item for item in arguments(theirs[name]) if item[0] not in THREADS_ONLY.get(name, [])]
        assert found == left_out, name


THREADS_ONLY: dict[str, list[str]] = {"on": ["threads"], "subscribe": ["threads"]}
"""How many threads run a handler is said of the threaded one only."""


@pytest.mark.parametrize(("threaded", "awaited"), PAIRS, ids=["EventBus", "Inbox", "Changes", "EventSource"])
def test_what_may_wait_is_awaited(threaded: type, awaited: type) -> None:
    plain = {name for name, call in public(awaited).items() if not inspect.iscoroutinefunction(call)}
    assert plain == NOT_AWAITED[awaited]


def test_they_are_made_in_the_same_way() -> None:
    assert arguments(aio.EventBus) == arguments(eventbus_mp.EventBus)
    assert arguments(aio.EventSource) == arguments(eventbus_mp.EventSource)
