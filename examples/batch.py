"""20,000 items through three stages: progress, results in a file, and the 1 % that failed is listed and sent again.

Ctrl-C ends a run, and the next one with the same file does what is missing. A worker that is killed loses nothing.

    python examples/batch.py [RESULTS]
"""

import json
import logging
import sys
import tempfile
from itertools import islice
from pathlib import Path

from eventbus_mp import Event, EventBus, WorkerPool

ITEMS, ON_THE_WAY = 20_000, 4_000  # The memory that a run takes depends on the second one only.
logging.getLogger("eventbus_mp").setLevel(logging.CRITICAL)  # The dead letters say what failed.
bus = EventBus("example-batch", topics=["read", "parsed", "priced", "failed"], dead_letter_topic="failed")
pool = WorkerPool(bus, processes=2)


@pool.on("read", name="parse")
def parse(event):
    bus.notify(Event(event.id, "parsed", {**event.data, "count": event.id % 7}))


@pool.on("parsed", name="price")
def price(event):
    if event.id % 100 == 7 and not Path(event.data["catalog"]).exists():
        raise LookupError("no price yet")
    bus.notify(Event(event.id, "priced", event.data["count"] * 30))


def run(events, results, inbox, file):
    """Feed these events and collect results, until each item has one or has failed: the dead letters."""
    fed, had = 0, len(results)
    while True:
        if fed - (len(results) - had) < ON_THE_WAY:
            fed += len(bus.notify_many(list(islice(events, 500))))
        found = inbox.get_many(500, timeout_s=0.2)
        for shadow in found:
            if shadow.id not in results:  # A worker that was killed just after its notify makes it twice.
                results[shadow.id] = bus.fetch_event_data(shadow)
                print(json.dumps([shadow.id, results[shadow.id]]), file=file)
            inbox.complete(shadow)
        print(f"\r{len(results) / ITEMS:4.0%}", end="", file=sys.stderr)
        if not found and len(results) + len(letters := bus.dead_letters(limit=ITEMS)) >= ITEMS:
            return letters


def main(path):
    results = dict(map(json.loads, path.read_text().splitlines())) if path.exists() else {}
    catalog = path.with_suffix(".catalog")
    events = (Event(n, "read", {"catalog": str(catalog)}) for n in range(ITEMS) if n not in results)
    with path.open("a") as file, bus.inbox("results", ["priced"]) as inbox, bus.inbox("failures", ["failed"]), pool:
        letters = run(events, results, inbox, file)
        print(f"{len(results)} done, {len(letters)} failed")
        if letters:
            print(f"item {letters[0].shadow.id} at {letters[0].subscriber.name}: {letters[0].reason}")
            catalog.touch()  # what they need
            print(f"{bus.redeliver()} sent again, {len(run(iter(()), results, inbox, file))} failed")
    print(f"{len(results)} results, {sum(results.values())} in all")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        try:
            main(Path(sys.argv[1] if len(sys.argv) > 1 else f"{folder}/results"))
        except KeyboardInterrupt:
            sys.exit("stopped; the next run does what is missing")
        finally:
            bus.shutdown()
