"""Things that wait for what others do, as those of interrupted.py."""

from __future__ import annotations

import threading

from eventbus_mp import Event, EventShadow
from tests.faults.interrupted import Stage, names, take

__all__ = ["a_change_that_is_followed", "a_producer_that_waits_for_room"]


def a_producer_that_waits_for_room(stage: Stage) -> None:
    inbox, producer = stage.bus.inbox("taker", ["a"], backlog_max=4), stage.handle()
    published: list[int] = []
    events = [Event(str(number), "a", number) for number in range(40)]
    waiting = threading.Thread(target=lambda: published.append(len(producer.notify_many(events))))
    waiting.start()
    got: list[EventShadow] = []
    while len(got) < 40:
        if len(got) % 8 == 0:
            stage.kill()
        taken = take(inbox, 4 if len(got) < 36 else 40 - len(got))
        inbox.complete_many(taken)
        got += taken
    waiting.join(30)
    assert published == [40]
    assert [shadow.id for shadow in got] == names(40)


def a_change_that_is_followed(stage: Stage) -> None:
    changes, other = stage.bus.changes(), stage.handle()
    got = changes.get(30)
    assert [change.topic for change in got] == ["failed", "a", "b", None]
    stage.kill()
    inbox = other.inbox("taker", ["a"])
    stage.kill()
    inbox.close()
    other.unregister_topic("b")
    got = []
    while len(got) < 4:
        got += changes.get(30)
    assert [change.kind for change in got] == ["subscribed", "subscribed", "unsubscribed", "topic_unregistered"]
