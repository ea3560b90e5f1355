"""A program whose threads gevent replaces after it has imported the bus; test_gevent.py says what it is to do."""

from __future__ import annotations

import sys
from typing import Any

from eventbus_mp import Event, EventBus, Instrument

WAIT_S = 10


def await_all(greenlets: list[Any]) -> list[Any]:
    import gevent

    gevent.joinall(greenlets, timeout=WAIT_S, raise_error=True)
    return [greenlet.value for greenlet in greenlets]


def connect_at_once(bus: EventBus) -> str:
    """Several greenlets make the first calls of the handle: it connects once."""
    import gevent

    await_all([gevent.spawn(bus.topics) for _ in range(5)])
    return f"{bus.statistics().links} link"


def handle(bus: EventBus) -> str:
    """A handler is a greenlet among others, and only it is in the handler's loop."""
    from gevent.queue import Queue

    got = Queue()
    inbox = bus.inbox("box", ["b"])
    bus.on("a", name="taker")(lambda event: got.put(str(event.id)))
    bus.notify_many(Event(str(number), "a", number) for number in range(3))
    found = [got.get(timeout=WAIT_S) for _ in range(3)]
    inbox.close()
    bus.close()  # waits for the end of the handlers' greenlet
    return " ".join(found)


def settle_by_hand(bus: EventBus) -> str:
    """What is settled while more is there is reported a little later, by another greenlet, which must not stop us."""
    import gevent

    with bus.inbox("box", ["a"], credit=100) as inbox:
        bus.notify_many(Event(str(number), "a", number) for number in range(50))
        for shadow in inbox.get_many(50, WAIT_S):
            inbox.complete(shadow)
            gevent.sleep(0)
        bus.drain(timeout_s=WAIT_S)
    return "drained"


def wait_side_by_side(bus: EventBus) -> str:
    """A greenlet that waits for an event to be settled lets the one that settles it run."""
    import gevent

    with bus.inbox("box", ["a"]) as inbox:
        waiting = [gevent.spawn(bus.notify_and_wait, Event(str(n), "a", n), timeout_s=WAIT_S) for n in range(3)]
        for _ in waiting:
            shadow = inbox.get(WAIT_S)
            assert shadow is not None
            inbox.complete(shadow)
        watchers = await_all(waiting)
    return f"{sum(len(watcher.completers) for watcher in watchers)} completed"


def look_with_instruments(bus: EventBus) -> str:
    """While one greenlet is in a hook, the hooks of another are called."""
    import gevent

    told: list[str] = []

    class Slow(Instrument):
        def before_notify(self, events: Any) -> None:
            gevent.sleep(0.01)
            told.append(events[0].id)

    bus.topics()
    slow = EventBus(bus.name, config=bus.config, instruments=[Slow])
    slow.inbox("box", ["a"]).close(keep=True)
    await_all([gevent.spawn(slow.notify, Event(str(number), "a", number)) for number in range(3)])
    slow.close()
    return " ".join(sorted(told))


WORK = {
    work.__name__: work for work in (connect_at_once, handle, settle_by_hand, wait_side_by_side, look_with_instruments)
}


def main(how: str, run_dir: str) -> None:
    bus = EventBus("test", topics=["a", "b"], run_dir=run_dir, manager_idle_s=0.5)
    connected = EventBus("test", run_dir=run_dir)
    if how == "connected":
        connected.on("a", name="early")(lambda event: None)
    from gevent import monkey

    monkey.patch_all()
    try:
        print(WORK[how](bus) if how in WORK else connected.topics(), flush=True)
    finally:
        if how in WORK:
            EventBus("test", run_dir=run_dir).shutdown()


if __name__ == "__main__":
    main(*sys.argv[1:])
