"""Things that take more than one step, each with what has to be true at its end, whatever became of the manager.

`stage.kill()` is called where the manager may be killed. test_takeover_amid.py runs them.
"""

from __future__ import annotations

import fcntl
import os
import select
import signal
import threading
from collections.abc import Callable
from typing import Any

import pytest

from eventbus_mp import Event, EventBus, EventShadow, Inbox, NoSubscriber, Retry

__all__ = [
    "Stage",
    "a_batch_being_filled",
    "a_batch_in_a_handler",
    "a_demand_that_is_unanswered",
    "a_history_in_pages",
    "a_letter_sent_again",
    "a_list_of_letters",
    "a_recall",
    "a_required_subscriber",
    "a_retry_that_waits",
    "fail_all",
    "marks_that_are_half_written",
    "names",
    "questions",
    "take",
    "what_is_released_for_later",
]


class Stage:
    """A bus whose manager is doomed, handles of it, and processes.

    Args:
        kill: Kills the manager, if the test is to do that; otherwise does nothing. It asks for its pid, or is told.
    """

    def __init__(self, make_bus: Callable[..., EventBus], fork: Callable[..., Any], kill: Callable[..., None]) -> None:
        self._make_bus = make_bus
        self.fork = fork
        self.kill = kill
        self.bus = self.handle()

    def handle(self, **settings: Any) -> EventBus:
        return self._make_bus(topics=["a", "b", "failed"], dead_letter_topic="failed", **settings)

    def publish(self, count: int, first: int = 0) -> list[EventShadow]:
        return self.bus.notify_many([Event(str(number), "a", number) for number in range(first, first + count)])


def names(count: int) -> list[str]:
    return [str(number) for number in range(count)]


def take(inbox: Inbox, count: int) -> list[EventShadow]:
    """Exactly so many, and no more are there."""
    taken: list[EventShadow] = []
    while len(taken) < count:
        more = inbox.get_many(count, timeout_s=30)
        assert more, f"only {len(taken)} of {count} came"
        taken += more
    return taken


def a_batch_being_filled(stage: Stage) -> None:
    batches: list[list[Any]] = []
    stage.bus.on("a", name="taker", batch=6, within_s=3600)(lambda events: batches.append([e.id for e in events]))
    stage.publish(4)
    stage.kill()
    stage.publish(2, first=4)
    stage.bus.drain(timeout_s=30)
    assert batches == [names(6)]


def a_batch_in_a_handler(stage: Stage) -> None:
    batches: list[list[Any]] = []
    is_called, may_return = threading.Event(), threading.Event()

    @stage.bus.on("a", name="taker", batch=5, within_s=0)
    def handle(events: list[Event]) -> None:
        batches.append([event.id for event in events])
        is_called.set()
        assert may_return.wait(30)

    stage.publish(5)
    assert is_called.wait(30)
    stage.kill()
    assert stage.bus.topic_exists("a")
    stage.publish(5, first=5)
    may_return.set()
    stage.bus.drain(timeout_s=30)
    assert [id for batch in batches for id in batch] == names(10)


def a_demand_that_is_unanswered(stage: Stage) -> None:
    publisher, inbox = stage.handle(), stage.bus.inbox("taker", ["a"])
    got: list[str] = []

    def ask() -> None:
        while len(got) < 120:
            shadows = inbox.get_many(50, timeout_s=30)
            assert shadows
            got.extend(str(shadow.id) for shadow in shadows)
            inbox.complete_many(shadows)

    asking = threading.Thread(target=ask)
    asking.start()
    stage.kill()
    publisher.notify_many([Event(str(number), "a", number) for number in range(60)])
    stage.kill()
    publisher.notify_many([Event(str(number), "a", number) for number in range(60, 120)])
    asking.join(60)
    publisher.drain(timeout_s=30)
    assert got == names(120)
    assert inbox.get(0) is None


def a_retry_that_waits(stage: Stage) -> None:
    calls: list[tuple[Any, int]] = []

    @stage.bus.on("a", name="taker")
    def handle(event: Event) -> None:
        calls.append((event.id, event.data))
        if len(calls) <= 20:
            raise Retry(delay_s=0.3)

    stage.publish(20)
    while len(calls) < 20:
        stage.bus.topics()
    stage.kill()
    stage.bus.drain(timeout_s=30)
    assert sorted(calls) == sorted([(str(number), number) for number in range(20)] * 2)


def what_is_released_for_later(stage: Stage) -> None:
    inbox = stage.bus.inbox("taker", ["a"])
    stage.publish(20)
    for shadow in take(inbox, 20):
        inbox.release(shadow, 0.3)
    stage.kill()
    again = take(inbox, 20)
    assert sorted(int(shadow.id) for shadow in again) == list(range(20))
    assert {inbox.attempt(shadow) for shadow in again} == {2}
    inbox.complete_many(again)
    stage.bus.drain(timeout_s=30)
    assert inbox.get(0) is None


def a_recall(stage: Stage) -> None:
    """A process that has a hundred works on one; another one comes, and gets the rest."""

    def hoard(to_parent: Any) -> None:
        inbox = stage.handle().inbox("taker", ["a"])
        inbox.fileno()  # A thread reads what the manager says.
        to_parent.send("here")
        to_parent.recv()
        (first,) = inbox.get_many(1)
        session, endpoint = inbox._session, inbox._endpoint
        while len(endpoint.pending) < 99:
            session.connection.await_reply(session.reporter.demand(endpoint, 99), "Demand")
        to_parent.send(first.id)
        to_parent.recv()
        inbox.complete(first)
        rest = inbox.get_many(100, timeout_s=0)
        inbox.complete_many(rest)
        to_parent.send([shadow.id for shadow in rest])
        to_parent.recv()

    child = stage.fork(hoard)
    assert child.hear() == "here"
    stage.publish(100)
    child.tell()
    first = child.hear()
    inbox = stage.bus.inbox("taker", ["a"])
    stage.kill()
    got = [shadow.id for shadow in inbox.get_many(200, timeout_s=30)]
    stage.kill()
    if len(got) < 98:
        got += [shadow.id for shadow in take(inbox, 98 - len(got))]
    stage.bus.mark_many(inbox, [("a", id) for id in got])
    child.tell()
    kept = child.hear()
    stage.bus.drain(timeout_s=30)
    assert sorted(map(int, [first, *got, *kept])) == list(range(100))
    child.tell()
    child.wait()


def marks_that_are_half_written(stage: Stage) -> None:
    """The manager is stopped, and its pipe holds a part of the request only."""
    inbox, other = stage.bus.inbox("taker", ["a"], credit=10), stage.handle()
    other.topics()
    outgoing = other._session.connection.transport._outgoing  # type: ignore[union-attr]
    fcntl.fcntl(outgoing, fcntl.F_SETPIPE_SZ, 4096)
    shadows = stage.publish(5_000)
    held = take(inbox, 10)
    pid = stage.bus.statistics().manager_pid
    os.kill(pid, signal.SIGSTOP)
    marking = threading.Thread(target=other.mark_many, args=("taker", shadows))
    marking.start()
    while select.select([], [outgoing], [], 0)[1]:
        marking.join(0.001)
    stage.kill(pid)
    os.kill(pid, signal.SIGCONT)
    marking.join(60)
    assert stage.bus.statistics().subscribers[0].completed == 5_000
    for shadow in held:
        inbox.complete(shadow)
    stage.bus.drain(timeout_s=30)
    assert inbox.get(0) is None


def fail_all(stage: Stage, count: int) -> tuple[Inbox, list[str], threading.Event]:
    """Events that failed for "taker": the inbox of dead letters, what it was called with, and whether it is mended."""
    letters = stage.bus.inbox("letters", ["failed"])
    calls: list[str] = []
    is_mended = threading.Event()

    @stage.handle().on("a", name="taker")
    def handle(event: Event) -> None:
        calls.append(str(event.id))
        if not is_mended.is_set():
            raise LookupError(event.id)

    stage.publish(count)
    stage.bus.drain("a", timeout_s=30)
    assert calls == names(count)
    return letters, calls, is_mended


def a_letter_sent_again(stage: Stage) -> None:
    letters, calls, is_mended = fail_all(stage, 3)
    is_mended.set()
    first, second, third = take(letters, 3)
    assert stage.bus.redeliver(first) == 1
    stage.kill()
    assert stage.bus.redeliver(first) == 0
    assert stage.bus.redeliver(("a", "1")) == 1
    assert stage.bus.redeliver() == 1
    letters.complete_many([first, second, third])
    stage.bus.drain(timeout_s=30)
    assert calls[:3] == names(3)
    assert sorted(calls[3:]) == names(3)
    assert letters.get(0) is None


def a_list_of_letters(stage: Stage) -> None:
    letters, _, _ = fail_all(stage, 250)
    pages = []
    request = stage.bus._session.connection.request  # type: ignore[union-attr]

    def ask(kind: Any, *fields: Any) -> Any:
        answer = request(kind, *fields)
        pages.append(kind)
        if len(pages) == 1:
            stage.kill()
        return answer

    stage.bus._session.connection.request = ask  # type: ignore[union-attr, method-assign]
    found = stage.bus.dead_letters()
    assert [letter.shadow.id for letter in found] == names(250)
    assert {(item.subscriber.name, item.error, item.attempts) for item in found} == {("taker", "LookupError", 1)}
    assert [letter.text for letter in found] == names(250)
    letters.complete_many(take(letters, 250))
    stage.bus.drain(timeout_s=30)


def a_history_in_pages(stage: Stage) -> None:
    inbox = stage.bus.inbox("taker", ["a"], credit=1)
    for number in range(30):
        stage.publish(1, first=number)
        for shadow in take(inbox, 1):
            inbox.complete(shadow)
    stage.bus.drain(timeout_s=30)
    page = stage.bus.history(topic="a", limit=7)
    entries = list(page.entries)
    while page.before is not None:
        stage.kill()
        page = stage.bus.history(topic="a", limit=7, before=page.before)
        entries += page.entries
    kinds = [entry.kind for entry in entries]
    assert {kind: kinds.count(kind) for kind in kinds} == page.counts
    assert page.counts["notified"] == page.counts["completed"] == page.counts["settled"] == 30
    assert [entry.at_ns for entry in entries] == sorted((entry.at_ns for entry in entries), reverse=True)


def questions(stage: Stage) -> None:
    inbox = stage.bus.inbox("taker", ["a"], credit=10)
    shadows = stage.publish(30)
    held = take(inbox, 10)
    answers: list[tuple[Any, Any, Any]] = []
    other = stage.handle()

    def ask() -> None:
        for _ in range(5):
            answers.append((other.explain(shadows[0]), other.snapshot(), other.stuck(0)))

    asking = threading.Thread(target=ask)
    asking.start()
    stage.kill()
    asking.join(60)
    assert len(answers) == 5
    for explanation, snapshot, stuck in answers:
        (delivery,) = explanation.deliveries
        assert (delivery.state, delivery.pid, delivery.attempt) == ("in_flight", os.getpid(), 1)
        (row,) = [item for item in snapshot.subscribers if item.name == "taker"]
        assert (row.queued, row.in_flight, row.completed) == (20, 10, 0)
        assert [item.id for item in stuck] == names(30)
        assert [item.state for item in stuck] == ["in_flight"] * 10 + ["queued"] * 20
    inbox.complete_many(held)
    for _ in range(2):
        inbox.complete_many(take(inbox, 10))
    stage.bus.drain(timeout_s=30)


def a_required_subscriber(stage: Stage) -> None:
    producer = stage.handle(require=["journal"])
    inbox = stage.bus.inbox("journal", ["a"], credit=100)
    producer.notify(Event("0", "a", 0))
    stage.kill()
    producer.notify(Event("1", "a", 1))
    stage.kill()
    producer.notify_many([Event("2", "a", 2), Event("3", "a", 3)])
    got = take(inbox, 4)
    assert [shadow.id for shadow in got] == names(4)
    inbox.complete_many(got)
    stage.bus.unsubscribe(inbox)
    stage.kill()
    producer.topics()
    with pytest.raises(NoSubscriber):
        producer.notify(Event("4", "a", 4))
    stage.bus.drain(timeout_s=30)
