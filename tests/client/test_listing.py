"""Listing what is unsettled, in pages, and who is subscribed. No process is started."""

from collections.abc import Callable
from typing import Any

import pytest

from eventbus_mp import Event, EventBus, SubscriberKey, UsageError, WatcherPage
from eventbus_mp.protocol.requests import ListEvents

Handle = Callable[..., EventBus]


@pytest.fixture
def bus(handle: Handle) -> EventBus:
    """With the events "0" to "2499" of topic "a", unsettled."""
    bus = handle()
    bus.inbox("one", ["a"])
    bus.notify_many([Event(str(number), "a", 1) for number in range(2500)])
    return bus


@pytest.fixture
def asked(bus: EventBus, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """How many events each question asks for."""
    limits: list[Any] = []
    connection = bus._session.connection  # type: ignore[union-attr]
    request = connection.request

    def ask(kind: Any, *fields: Any) -> Any:
        if kind is ListEvents:
            limits.append(fields[-1])
        return request(kind, *fields)

    monkeypatch.setattr(connection, "request", ask)
    return limits


def test_all_come_in_pages_of_a_thousand(bus: EventBus, asked: list[Any]) -> None:
    found = bus.watchers("a")
    assert list(found) == [str(number) for number in range(2500)]
    assert found["7"].waiting == (SubscriberKey("one"),)
    assert found.next is None
    assert asked == [1000, 1000, 1000]


def test_page_by_page(bus: EventBus, asked: list[Any]) -> None:
    found: list[str] = []
    page = bus.watchers("a", limit=1100)
    while True:
        found += page
        if page.next is None:
            break
        page = bus.watchers("a", limit=1100, after=page.next)
    assert found == [str(number) for number in range(2500)]
    assert asked == [1000, 100, 1000, 100, 1000]


def test_a_page_that_ends_with_the_last_event(bus: EventBus) -> None:
    page = bus.watchers("a", limit=2500)
    assert len(page) == 2500
    assert page.next is not None
    assert bus.watchers("a", after=page.next) == {}
    assert bus.watchers("nothing") == {}
    assert type(page) is WatcherPage


def test_an_event_is_found_on_any_page(bus: EventBus) -> None:
    assert bus.fetch_event(("a", "2499")) is not None
    assert bus.fetch_event(("a", "0")) is not None
    assert bus.fetch_event(("a", "2500")) is None


@pytest.mark.parametrize(
    "arguments", [{"limit": 0}, {"limit": True}, {"limit": 1.5}, {"after": -1}, {"after": "7"}, {"after": 1 << 63}]
)
def test_what_is_no_page(handle: Handle, arguments: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=next(iter(arguments))):
        handle().watchers("a", **arguments)


def test_subscribers_show_listener_config_and_patterns(handle: Handle) -> None:
    bus = handle()
    bus.subscribe((listen, {"region": "eu"}), ["a", "b"])
    bus.inbox("two", [".*"])
    first, second = bus.subscribers()
    assert first.listener == (f"{__name__}.listen", {"region": "eu"})
    assert (first.config, first.patterns) == ({"region": "eu"}, ("a", "b"))
    assert (second.listener, second.config, second.patterns) == ("two", None, (".*",))
    assert bus.subscribed(first.listener, first.patterns)
    assert bus.unsubscribe(first.listener)
    assert bus.unsubscribe(second.listener)
    assert bus.subscribers() == []


def listen(shadow: Any, config: Any) -> None:
    """Settles nothing."""
