"""Shadows, settled by hand: two listeners with a config, the event's watcher, and its story.

`subscribe` passes a shadow and leaves it to the listener to settle the event, now or later. The same listener
with a different config is a different subscriber.
"""

import threading

from eventbus_mp import Event, EventBus

bus = EventBus("example-audit", topics=["order_paid"])
handled = threading.Semaphore(0)


def audit(shadow, config):
    """Runs on this process's listener thread."""
    order = bus.fetch_event_data(shadow)
    if order["region"] == config["region"]:
        bus.mark_as_completed((audit, config), shadow)
    else:
        bus.mark_as_skipped((audit, config), shadow)
    handled.release()


def describe(keys):
    return ", ".join(f"{key.name} {key.config}" for key in keys)


if __name__ == "__main__":
    bus.subscribe((audit, {"region": "eu"}), ["order_"])
    bus.subscribe((audit, {"region": "us"}), ["order_"])
    with bus.inbox("archive", ["order_paid$"]) as archive:
        shadow = bus.notify(Event("124", "order_paid", {"total": 12, "region": "eu"}))
        topic, event_id = shadow
        print("notified", topic, event_id)

        handled.acquire()
        handled.acquire()
        waiting = archive.get()  # the archive has not settled it yet, so the event is still there
        watcher = bus.watcher(shadow)
        print("completed by", describe(watcher.completers))
        print("skipped by", describe(watcher.skippers))
        print("waits for", describe(watcher.waiting))

        archive.complete(waiting)
        bus.drain()
        print("watcher when all have settled:", bus.watcher(shadow))
        print("event when all have settled:", bus.fetch_event(shadow))
        for line in bus.story(shadow):
            print("story:", line.split(" ", 1)[1])
    bus.shutdown()
