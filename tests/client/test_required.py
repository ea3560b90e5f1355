"""Publishing only while a subscriber that the handle names is there. No process is started, but for the last test."""

import pickle
import threading
from collections.abc import Callable
from typing import Any

import pytest

from eventbus_mp import Event, EventBus, EventBusError, NoSubscriber, UnknownTopic, UsageError
from eventbus_mp.protocol.client_events import TopicStale
from eventbus_mp.protocol.requests import Request
from eventbus_mp.testing.inprocess import InProcessBus

Handle = Callable[..., EventBus]
Make = Callable[..., EventBus]


def test_it_publishes_while_the_subscriber_is_there(handle: Handle, world: InProcessBus) -> None:
    bus, other = handle(require=["journal"]), handle()
    with pytest.raises(NoSubscriber, match=r"topic 'a' has no subscriber journal, which .*; nothing was published"):
        bus.notify(Event("1", "a", 1))
    inbox = other.inbox("journal", ["a"], credit=10)
    bus.notify(Event("2", "a", 1))
    with pytest.raises(NoSubscriber, match="topic 'b'"):
        bus.notify(Event("3", "b", 1))
    other.unsubscribe(inbox)
    world.run()
    with pytest.raises(NoSubscriber):
        bus.notify(Event("4", "a", 1))
    inbox = other.inbox("journal", ["a"], credit=10)
    bus.notify(Event("5", "a", 1))
    assert [shadow.id for shadow in inbox.get_many(9, 1)] == ["5"]


def test_its_siblings_refuse_as_well(handle: Handle) -> None:
    bus, other = handle(require=["journal"]), handle()
    inbox = other.inbox("journal", ["b"], credit=10)
    with pytest.raises(NoSubscriber):
        bus.notify_many([Event("1", "b", 1), Event("2", "a", 1)])
    with pytest.raises(NoSubscriber):
        bus.notify_and_wait(Event("3", "a", 1))
    with pytest.raises(NoSubscriber), bus.loan("a", 5):
        pass
    assert inbox.get_many(9, 0) == []
    assert not issubclass(NoSubscriber, UsageError)
    assert issubclass(NoSubscriber, EventBusError)


def test_all_that_are_missing_are_named(handle: Handle) -> None:
    bus = handle(require=["journal", "audit", "journal", "bill"])
    bus.inbox("audit", ["a"])
    with pytest.raises(NoSubscriber, match="no subscriber journal, bill, which"):
        bus.notify(Event("1", "a", 1))
    bus.inbox("journal", [".*"])
    bus.on("a", name="bill", broadcast=True)(print)
    bus.notify(Event("2", "a", 1))


def test_a_topic_that_is_not_registered_has_none(handle: Handle) -> None:
    bus = handle(require=["journal"])
    bus.inbox("journal", [".*"])
    with pytest.raises(NoSubscriber):
        bus.notify(Event("1", "c", 1))
    with pytest.raises(UnknownTopic):
        handle(require=["journal"], strict=True).notify(Event("1", "c", 1))


def test_one_answer_is_enough(handle: Handle) -> None:
    bus = handle(require=["journal"])
    bus.inbox("journal", [".*"], credit=100)
    asked: list[str] = []
    protocol = bus._session.connection.protocol  # type: ignore[union-attr]
    request = protocol.request

    def ask(kind: type[Request], *fields: Any) -> int:
        asked.append(kind.__name__)
        return request(kind, *fields)

    protocol.request = ask  # type: ignore[method-assign]
    for number in range(5):
        bus.notify(Event(str(number), "a", 1))
    assert asked == ["ResolveTopic", "RequireSubscribers"]


def test_the_word_that_it_is_gone_may_follow_the_answer_at_once(handle: Handle, world: InProcessBus) -> None:
    """Both come with one read, and are taken in before the thread that asked goes on."""
    bus, other = handle(require=["journal"]), handle()
    inbox = other.inbox("journal", ["a"])
    protocol = bus._session.connection.protocol  # type: ignore[union-attr]
    number = bus._session.connection.call(protocol.require, "a", ["journal"])  # type: ignore[union-attr]
    world._read(*world.outgoing.popleft())
    other.unsubscribe(inbox)
    assert protocol.take_reply(number) == [1, [], None]
    assert protocol.topics == {}


def test_a_takeover_forgets_what_was_asked(handle: Handle, world: InProcessBus) -> None:
    bus, other = handle(require=["journal"]), handle()
    inbox = other.inbox("journal", ["a"])
    bus.notify(Event("1", "a", 1))
    other.unsubscribe(inbox)  # The word of it is lost with the manager.
    bus._session.connection.transport.incoming.clear()  # type: ignore[union-attr]
    world.replace_manager()
    bus.topics()
    with pytest.raises(NoSubscriber):
        bus.notify(Event("2", "a", 1))


def test_an_answer_of_the_manager_before_is_not_remembered(handle: Handle, world: InProcessBus) -> None:
    bus, other = handle(require=["journal"]), handle()
    other.inbox("journal", ["a"])
    connection = bus._session.connection  # type: ignore[union-attr]
    number = connection.call(connection.protocol.require, "a", ["journal"])
    world._read(*world.outgoing.popleft())
    world.replace_manager()
    assert connection.await_reply(number, "RequireSubscribers") == [1, [], None]
    assert connection.protocol.topics == {}


@pytest.mark.parametrize("names", ["journal", 5, [""], [None], [str(number) for number in range(65)]])
def test_what_are_no_names(make_bus: Make, names: Any) -> None:
    with pytest.raises(UsageError):
        make_bus(require=names)


def test_a_pickled_handle_requires_the_same(make_bus: Make) -> None:
    with pickle.loads(pickle.dumps(make_bus(topics=["a"], require=["journal"]))) as bus, pytest.raises(NoSubscriber):
        bus.notify(Event("1", "a", 1))


def test_a_producer_that_waits_for_nothing_hears_at_once(make_bus: Make) -> None:
    bus, other = make_bus(topics=["a"], require=["journal"]), make_bus()
    inbox = other.inbox("journal", ["a"])
    bus.notify(Event("1", "a", 1))
    connection = bus._session.connection  # type: ignore[union-attr]
    heard = threading.Event()
    tell = connection.on_topic_stale

    def hear(event: TopicStale) -> None:
        tell(event)
        heard.set()

    connection.on_topic_stale = hear
    other.unsubscribe(inbox)
    assert heard.wait(30)
    with pytest.raises(NoSubscriber):
        bus.notify(Event("2", "a", 1))
