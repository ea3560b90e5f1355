"""What each hook of an instrument is told, and when."""

from collections.abc import Callable

import pytest

from eventbus_mp import Event, EventBus, EventShadow, EventTooLarge, Retry, Skip, SubscriberKey, UsageError
from eventbus_mp.instrument import Instrument as Base
from eventbus_mp.testing.inprocess import InProcessBus
from tests.client.recorder import Recorder

Handle = Callable[..., EventBus]
NONE = type(None)


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture
def recorded(handle: Handle, recorder: Recorder) -> EventBus:
    """A handle that `recorder` watches; nothing is noted yet."""
    bus = handle(instruments=[recorder])
    recorder.take()
    return bus


def test_the_recorder_overrides_every_hook() -> None:
    hooks = {name for name in vars(Base) if name.startswith(("before_", "after_"))}
    assert hooks <= set(vars(Recorder))


def test_publishing(recorded: EventBus, recorder: Recorder) -> None:
    inbox = recorded.inbox("one", ["a"], credit=10)
    recorder.take()
    recorded.notify(Event("1", "a", 1))
    recorded.notify_many([Event("2", "a", 2), Event("3", "b", 3)])
    recorded.notify_many(Event(name, "a", 1) for name in "45")
    assert recorder.take() == [
        ("before_notify", ["1"]),
        ("after_notify", ["1"], [("a", "1")], NONE),
        ("before_notify", ["2", "3"]),
        ("after_notify", ["2", "3"], [("a", "2"), ("b", "3")], NONE),
        ("before_notify", ["4", "5"]),
        ("after_notify", ["4", "5"], [("a", "4"), ("a", "5")], NONE),
    ]
    assert [shadow.id for shadow in inbox.get_many(9, 1)] == ["1", "2", "4", "5"]


def test_publishing_that_fails(handle: Handle, recorder: Recorder) -> None:
    bus = handle(instruments=[recorder], event_bytes_max=64)
    recorder.take()
    with pytest.raises(EventTooLarge):
        bus.notify(Event("1", "a", "x" * 100))
    with pytest.raises(UsageError, match="give an Event"):
        bus.notify("no event")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="give an Event"):
        bus.notify_many(["no event"])  # type: ignore[list-item]
    assert recorder.take() == [("before_notify", ["1"]), ("after_notify", ["1"], [], EventTooLarge)]


def test_a_loan(recorded: EventBus, recorder: Recorder) -> None:
    inbox = recorded.inbox("one", ["a"])
    recorder.take()
    with recorded.loan("a", 5, id="1") as loan:
        assert recorder.take() == [("before_notify", ["1"])]
        assert loan.buffer is not None
        loan.buffer[:] = b"hello"
    assert recorder.take() == [("after_notify", ["1"], [("a", "1")], NONE)]
    with pytest.raises(KeyError), recorded.loan("a", 5, id="2"):
        raise KeyError
    assert recorder.take() == [("before_notify", ["2"]), ("after_notify", ["2"], [], KeyError)]
    with recorded.loan("b", 5, id="3"):  # of a topic that nobody is subscribed to
        pass
    assert recorder.take() == [("before_notify", ["3"]), ("after_notify", ["3"], [("b", "3")], NONE)]
    assert bytes(recorded.fetch_event_data(inbox.get(1))) == b"hello"  # type: ignore[arg-type]


def test_fetching_and_settling_by_hand(recorded: EventBus, recorder: Recorder) -> None:
    inbox = recorded.inbox("one", ["a"], credit=10)
    shadows = recorded.notify_many([Event(name, "a", int(name)) for name in "1234"])
    taken = inbox.get_many(4, 1)
    assert taken == shadows
    recorder.take()
    assert recorded.fetch_event_data(taken[0]) == 1
    inbox.complete(taken[0])
    inbox.skip(taken[1], "no")
    recorded.mark_as_completed(inbox, ("a", "3"))
    recorded.mark_as_skipped("one", taken[3])
    assert recorded.fetch_event(taken[0]) is None
    assert recorder.take() == [
        ("before_fetch", ("a", "1")),
        ("after_fetch", ("a", "1"), 1, None),
        ("before_settle", "one", [("a", "1")], "completed"),
        ("after_settle", [("a", "1")], "completed", NONE),
        ("before_settle", "one", [("a", "2")], "skipped"),
        ("after_settle", [("a", "2")], "skipped", NONE),
        ("before_settle", "one", [("a", "3")], "completed"),
        ("after_settle", [("a", "3")], "completed", NONE),
        ("before_settle", "one", [("a", "4")], "skipped"),
        ("after_settle", [("a", "4")], "skipped", NONE),
        ("before_fetch", ("a", "1")),
        ("after_fetch", ("a", "1"), None, None),
    ]


def test_subscribing(recorded: EventBus, recorder: Recorder) -> None:
    recorded.on("a", name="one")(print)
    recorded.inbox("two", ["b"])
    assert recorder.take() == [
        ("before_subscribe", "one", ("a",)),
        ("after_subscribe", "one", ("a",), NONE),
        ("before_subscribe", "two", ("b",)),
        ("after_subscribe", "two", ("b",), NONE),
    ]


def test_handling(recorded: EventBus, recorder: Recorder) -> None:
    def judge(event: Event) -> None:
        if event.data == "skip":
            raise Skip("not today")
        if event.data == "fail":
            raise ValueError

    def keep(shadow: EventShadow) -> None:
        recorded._session.settle(SubscriberKey("keeper"), shadow, 0)  # type: ignore[union-attr]

    recorded.on("a", name="one", retries=1)(judge)
    recorder.take()
    recorded.notify_many([Event("1", "a", "fine"), Event("2", "a", "skip"), Event("3", "a", "fail")])
    recorded.drain(timeout_s=5)
    assert recorder.take()[2:] == [
        ("before_handle", "one", ["1"]),
        ("after_handle", ["1"], ["completed"], NONE),
        ("before_handle", "one", ["2"]),
        ("after_handle", ["2"], ["skipped"], Skip),
        ("before_handle", "one", ["3"]),
        ("after_handle", ["3"], ["failed"], ValueError),
        ("before_handle", "one", ["3"]),
        ("after_handle", ["3"], ["failed"], ValueError),
    ]


def test_what_is_to_come_again_has_not_failed(recorded: EventBus, recorder: Recorder) -> None:
    calls: list[str] = []

    def later(event: Event) -> None:
        calls.append(event.id)
        if len(calls) == 1:
            raise Retry

    recorded.on("a", name="one")(later)
    recorded.notify(Event("1", "a", 1))
    recorded.drain(timeout_s=5)
    assert [seen[2] for seen in recorder.take() if seen[0] == "after_handle"] == [["retried"], ["completed"]]


def test_a_listener_settles_within_its_call(recorded: EventBus, recorder: Recorder) -> None:
    key = recorded.subscribe(listen, ["b"])
    listen.bus = recorded  # type: ignore[attr-defined]
    recorder.take()
    recorded.notify(Event("1", "b", 1))
    recorded.drain(timeout_s=5)
    assert recorder.take()[2:] == [
        ("before_handle", key.name, ["1"]),
        ("before_settle", key.name, [("b", "1")], "completed"),
        ("after_settle", [("b", "1")], "completed", NONE),
        ("after_handle", ["1"], ["open"], NONE),
    ]


def listen(shadow: EventShadow) -> None:
    listen.bus.mark_as_completed(listen, shadow)  # type: ignore[attr-defined]


def test_a_takeover(recorded: EventBus, recorder: Recorder, world: InProcessBus) -> None:
    world.replace_manager()
    recorded.topics()
    world.run()
    name, pid = world.name, world.manager_pid
    assert recorder.take() == [("before_takeover", name, pid), ("after_takeover", name, pid, None)]
