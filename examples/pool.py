"""CPU-bound work on a pool, with one event that kills every process that takes it.

A skipped event has a reason. The unsettled events of a killed process go to another one. The event that kills is
given up after `crashes_max` crashes, and no other event is given up with it.
"""

import logging
import os
import signal

from eventbus_mp import Event, EventBus, Skip, WorkerPool

bus = EventBus("example-pool", topics=["range_given", "primes_counted"], crashes_max=2)
pool = WorkerPool(bus, processes=2, max_events=1000)  # a worker is replaced after so many events


@pool.on("range_given", name="primes")
def count_primes(event):
    first, last = event.data
    if first < 0:
        os.kill(os.getpid(), signal.SIGKILL)  # stands for a crash in a C extension
    if last < first:
        raise Skip(f"{first} to {last} is empty")
    primes = sum(all(n % small for small in range(2, int(n**0.5) + 1)) for n in range(first, last))
    bus.notify(Event(event.id, "primes_counted", primes))


def main():
    ranges = [(start, start + 1000) for start in range(2, 20_002, 1000)]
    with bus.inbox("sum", ["primes_counted"]) as inbox, pool:
        for number, bounds in enumerate([*ranges, (10, 1), (-1, 5)]):
            bus.notify(Event(f"range-{number}", "range_given", bounds))
        primes = {}  # By id: a worker killed after its notify makes the same result twice.
        while len(primes) < len(ranges):
            shadow = inbox.get()
            primes[shadow.id] = bus.fetch_event_data(shadow)
            inbox.complete(shadow)
        bus.drain("range_given")
        print(f"{sum(primes.values())} primes from 2 to 20001")
        workers = next(item for item in bus.statistics().subscribers if item.name == "primes")
        print(f"{workers.completed} ranges completed, {workers.skipped} skipped:")
        for reason in sorted({reason for _, reason in workers.recent_skips}):
            print(f"  {reason}")
    bus.shutdown()


if __name__ == "__main__":
    logging.getLogger("eventbus_mp").setLevel(logging.ERROR)  # the pool warns of each worker that dies
    main()
