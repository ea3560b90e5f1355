"""Dead letters: what they say of what failed, and sending them again."""

from collections.abc import Callable
from typing import Any

import pytest

from eventbus_mp import Event, EventBus, EventShadow, NotSubscribed, UnknownTopic, UsageError
from eventbus_mp.ids import EventId
from eventbus_mp.protocol.requests import ListDeadLetters
from eventbus_mp.testing.inprocess import InProcessBus

Make = Callable[..., EventBus]


@pytest.fixture
def letters() -> InProcessBus:
    return InProcessBus(dead_letter_topic="failed")


def test_dead_letters_say_what_failed_and_go_again(letters: InProcessBus, caplog: pytest.LogCaptureFixture) -> None:
    bus = letters.handle(("a", "failed"))
    keeper = bus.inbox("keeper", ["failed"])
    is_fixed: list[bool] = []
    done: list[str] = []

    @bus.on("a", name="bill", retries=2)
    def bill(event: Event) -> None:
        if not is_fixed:
            raise LookupError(f"no price for {event.id}")
        done.append(event.id)

    began_s = letters.clock.time_ns() / 1e9
    bus.notify_many([Event(id, "a", 1) for id in ("one", "two", "three")])
    letters.run()
    letters.clock.advance(5)
    found = bus.dead_letters()
    assert [item.shadow for item in found] == [("a", "one"), ("a", "two"), ("a", "three")]
    first = found[0]
    assert (first.subscriber.name, first.error, first.text) == ("bill", "LookupError", "no price for one")
    assert first.reason == "LookupError: no price for one"
    assert first.attempts == 3
    assert first.traceback.endswith("LookupError: no price for one\n")
    assert "in bill" in first.traceback
    assert first.first_failed_at_s == pytest.approx(began_s, abs=0.5)
    assert first.last_failed_at_s == pytest.approx(began_s, abs=0.5)
    assert [item.shadow.id for item in bus.dead_letters(limit=2)] == ["one", "two"]

    # It fails again.
    assert bus.redeliver(first) == 1
    letters.run()
    assert [(item.shadow.id, item.attempts) for item in bus.dead_letters()] == [("two", 3), ("three", 3), ("one", 6)]

    is_fixed.append(True)
    assert bus.redeliver(("a", "two")) == 1
    letters.run()
    assert done == ["two"]
    assert bus.redeliver() == 2
    bus.drain(timeout_s=5)
    assert done == ["two", "three", "one"]
    assert bus.dead_letters() == []
    assert bus.redeliver() == 0
    for shadow in keeper.get_many(10, timeout_s=0):
        keeper.complete(shadow)  # It has them still, and that they are completed changes nothing.
    assert bus.statistics().events_unsettled == 0
    with pytest.raises(UsageError, match="not an unsettled event"):
        bus.redeliver(("a", "one"))
    bus.close()


def test_what_cannot_be_sent_again(letters: InProcessBus) -> None:
    bus = letters.handle(("a", "failed"))
    keeper = bus.inbox("keeper", ["failed"])

    def fail(event: Event) -> None:
        raise ValueError

    bus.on("a", name="gone")(fail)
    bus.notify(Event("1", "a", 1))
    letters.run()
    bus.unsubscribe("gone")
    (letter,) = bus.dead_letters()
    with pytest.raises(NotSubscribed, match="gone failed and is not subscribed any more"):
        bus.redeliver(letter)
    bus.on("a", name="gone")(fail)
    assert bus.redeliver(letter) == 1
    letters.run()
    bus.unregister_topic("a")
    with pytest.raises(UnknownTopic, match="'a' was unregistered"):
        bus.redeliver(bus.dead_letters()[0])
    assert bus.redeliver() == 0
    for shadow in keeper.get_many(10, timeout_s=0):
        keeper.complete(shadow)
    bus.close()


def test_a_dead_letter_goes_again_after_its_ttl(letters: InProcessBus) -> None:
    bus = letters.handle(("a", "failed"), time_unit="second")
    bus.inbox("keeper", ["failed"])
    done: list[str] = []

    @bus.on("a", name="one")
    def fail_once(event: Event) -> None:
        done.append(event.id)
        if len(done) == 1:
            raise ValueError

    bus.notify(Event("1", "a", 1, occurred_at=letters.clock.time_ns() // 10**9, ttl=30))
    letters.run()
    letters.clock.advance(60)
    assert bus.redeliver() == 1
    bus.drain(timeout_s=5)
    assert done == ["1", "1"]
    bus.close()


def test_a_list_leaves_out_nothing_when_letters_are_settled_meanwhile(
    letters: InProcessBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eventbus_mp.client.dead_letters.PAGE", 2)
    bus, other = letters.handle(("a", "failed")), letters.handle(("a", "failed"))
    inbox = other.inbox("keeper", ["failed"], credit=10)

    @bus.on("a", name="bill")
    def fail(event: Event) -> None:
        raise ValueError

    bus.notify_many([Event(str(number), "a", 1) for number in range(6)])
    letters.run()
    shadows = inbox.get_many(6)
    request = bus._session.connection.request  # type: ignore[union-attr]

    def ask(kind: Any, *fields: Any) -> Any:
        answer = request(kind, *fields)
        if kind is ListDeadLetters and shadows:
            inbox.complete(shadows.pop(0))
            letters.run()
        return answer

    monkeypatch.setattr(bus._session.connection, "request", ask)  # type: ignore[union-attr]
    assert [letter.shadow.id for letter in bus.dead_letters()] == [str(number) for number in range(6)]
    monkeypatch.undo()
    inbox.complete_many(shadows)
    bus.close()
    other.close()


@pytest.mark.parametrize("style", ["handler", "inbox", "listener"])
def test_who_sends_a_letter_again_gets_the_next_one(letters: InProcessBus, style: str) -> None:
    """Even if the event fails again before the letter that was sent again is settled here."""
    failing, clerks = letters.handle(("a", "failed")), letters.handle(("a", "failed"))
    tries: list[str] = []

    @failing.on("a", name="bill")
    def bill(event: Event) -> None:
        tries.append(event.id)
        if len(tries) < 5:
            raise ValueError

    def send_again(letter: EventShadow | tuple[str, EventId]) -> None:
        assert clerks.redeliver(letter) == 1
        letters.run()

    def listen(shadow: EventShadow) -> None:
        send_again(shadow)
        clerks.mark_as_completed(listen, shadow)

    if style == "handler":
        clerks.on("failed", name="clerk")(lambda event: send_again(("a", event.id)))
    elif style == "listener":
        clerks.subscribe(listen, ["failed"])
    inbox = clerks.inbox("clerk", ["failed"]) if style == "inbox" else None
    failing.notify(Event("1", "a", 1))
    letters.run()
    while inbox is not None and (shadow := inbox.get(timeout_s=0)) is not None:
        send_again(shadow)
        inbox.complete(shadow)
        letters.run()
    assert len(tries) == 5
    assert failing.dead_letters() == []
    failing.drain(timeout_s=5)
    failing.close()
    clerks.close()


def test_why_says_what_happened_at_the_attempt_before(letters: InProcessBus) -> None:
    bus = letters.handle(("a", "failed"))

    @bus.on("a", name="bill", retries=1, retry_delay_s=100)
    def fail(event: Event) -> None:
        raise LookupError("no price")

    bus.notify(Event("1", "a", 1))
    letters.run()
    explained = bus.explain(("a", "1"))
    assert explained is not None
    (found,) = explained.deliveries
    assert (found.state, found.attempt, found.last_error) == ("delayed", 2, "LookupError: no price")
    assert bus.stuck(0)[0].last_error == found.last_error
    assert "LookupError: no price" in str(explained)
    bus.unsubscribe("bill")
    bus.close()


# --- real processes ---


def test_a_worker_fails_and_another_process_sends_again(make_bus: Make, fork: Callable[..., Any]) -> None:
    bus = make_bus(topics=["a", "failed"], dead_letter_topic="failed")
    keeper = bus.inbox("keeper", ["failed"])

    def work(to_parent: Any) -> None:
        child = make_bus(dead_letter_topic="failed")
        calls: list[str] = []

        @child.on("a", name="bill", retries=1, retry_delay_s=0.001)
        def bill(event: Event) -> None:
            calls.append(event.id)
            if len(calls) < 3:
                raise ValueError(f"call {len(calls)}")
            to_parent.send(event.id)

        to_parent.send("here")
        to_parent.recv()

    child = fork(work)
    assert child.hear() == "here"
    bus.notify(Event("1", "a", 1))
    assert keeper.get(20) is not None
    (letter,) = bus.dead_letters()
    assert letter.shadow == ("a", "1")
    assert letter.subscriber.name == "bill"
    assert (letter.text, letter.attempts) == ("call 2", 2)
    assert bus.redeliver(letter) == 1
    assert child.hear() == "1"
    bus.drain(timeout_s=20)
