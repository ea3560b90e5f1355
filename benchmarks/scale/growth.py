"""The cost of an event as something grows: the rows of a table each, the smallest first."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from benchmarks.scale.proc import private_bytes
from benchmarks.scale.setting import TIMEOUT_S, Cost, Setting, setting
from eventbus_mp import Inbox

__all__ = ["Row", "arrival", "backlog", "endpoints", "subscribers", "topics"]

Row = dict[str, float]

HELD, FLOWING = "held", "flowing"
HOLDER_CREDIT = 256


def backlog(sizes: list[int], events: int) -> Iterator[Row]:
    """Events wait in a mailbox that nobody reads; then it is read to its end.

    `publish` and `take` are the events of the backlog itself; `beside` are events of another topic, published and
    settled while the backlog waits.
    """
    for size in sizes:
        with setting([HELD, FLOWING], backlog=size) as scene:
            scene.subscribe(["flow"], FLOWING)
            scene.flow([FLOWING], events)  # The manager has its working memory.
            inbox = scene.bus.inbox("holder", [HELD], credit=HOLDER_CREDIT)
            before = private_bytes(scene.manager_pid)
            published = scene.cost(size, partial(_hold, scene, size))
            held_bytes = (private_bytes(scene.manager_pid) - before) / size
            beside = scene.flow([FLOWING], events)
            taken = scene.cost(size, partial(_take, scene, inbox, size))
        yield {
            "backlog": size,
            **_columns("publish", published),
            **_columns("beside", beside),
            **_columns("take", taken),
            "manager bytes an unsettled event": held_bytes,
        }


def _hold(scene: Setting, size: int) -> None:
    scene.publish([HELD], size)
    scene.bus.statistics()  # Its answer comes after all that was published.


def _take(scene: Setting, inbox: Inbox, size: int) -> None:
    taken = 0
    while taken < size:
        for shadow in inbox.get_many(HOLDER_CREDIT, TIMEOUT_S):
            inbox.complete(shadow)
            taken += 1
    scene.bus.drain(HELD, timeout_s=TIMEOUT_S)


def arrival(events: int) -> Iterator[Row]:
    """Memory of the manager while events wait: those that arrive together share what they can."""
    for apart in (False, True):
        with setting([HELD], backlog=events) as scene:
            scene.bus.inbox("holder", [HELD], credit=HOLDER_CREDIT)
            scene.bus.statistics()
            before = private_bytes(scene.manager_pid)
            for _ in range(events if apart else 1):
                _hold(scene, 1 if apart else events)
            held_bytes = (private_bytes(scene.manager_pid) - before) / events
        yield {"unsettled": events, "arrived one by one": apart, "manager bytes an event": held_bytes}


def topics(sizes: list[int], events: int) -> Iterator[Row]:
    """Events go to each of the topics in turn; one subscriber gets them all."""
    for size in sizes:
        names = [f"topic-{number}" for number in range(size)]
        with setting(names) as scene:
            scene.subscribe(["all"], "topic-")
            yield {"topics": size, **_columns("event", scene.flow(names, events))}


def endpoints(sizes: list[int], events: int) -> Iterator[Row]:
    """Several processes share one subscriber's events."""
    for size in sizes:
        with setting([FLOWING]) as scene:
            scene.subscribe(["shared"], FLOWING, processes=size)
            yield {"endpoints": size, **_columns("event", scene.flow([FLOWING], events))}


def subscribers(sizes: list[int], events: int) -> Iterator[Row]:
    """Each event goes to several subscribers, all in one process; the cost is that of one delivery."""
    for size in sizes:
        with setting([FLOWING]) as scene:
            scene.subscribe([f"subscriber-{number}" for number in range(size)], FLOWING)
            cost = scene.flow([FLOWING], min(events, 4 * events // size))
            each = Cost(cost.elapsed_us / size, cost.manager_us / size)
            yield {"subscribers": size, **_columns("delivery", each)}


def _columns(name: str, cost: Cost) -> Row:
    return {f"{name} us": cost.elapsed_us, f"{name}: manager us": cost.manager_us}
