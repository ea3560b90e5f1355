"""Forked workers that share one bus, as the workers of gunicorn do.

The handle is made before the fork. Each process connects on its own first use; a child uses nothing
of its parent's connection. The same subscriber in several processes shares its events between them; with
`broadcast=True` each process gets every event.
"""

import os
import sys

from eventbus_mp import Event, EventBus

WORKERS = 3
JOBS = 30

bus = EventBus("example-prefork", topics=["job_posted", "settings_changed", "server_stopped"])


def work(ready):
    """One worker: returns how many jobs it has done."""
    done = []

    @bus.on("job_posted", name="jobs")
    def handle(event):
        done.append(event.id)

    settings = bus.inbox("settings", ["settings_changed"], broadcast=True)
    stopped = bus.inbox("stopped", ["server_stopped"], broadcast=True)
    os.write(ready, b".")
    shadow = settings.get()
    level = bus.fetch_event_data(shadow)["level"]
    settings.complete(shadow)
    stopped.complete(stopped.get())
    bus.close()
    sys.stdout.write(f"a worker has new settings: level={level}\n")  # one write: the others print as well
    sys.stdout.flush()
    return len(done)


if __name__ == "__main__":
    read_end, write_end = os.pipe()
    bus.topics()  # The parent is connected when it forks; the children connect anew.
    pids = []
    for _ in range(WORKERS):
        if not (pid := os.fork()):
            os._exit(work(write_end))  # the exit code carries the count; only an example may do that
        pids.append(pid)
    for _ in pids:
        os.read(read_end, 1)  # each worker has subscribed
    bus.notify_many(Event(str(number), "job_posted", {"number": number}) for number in range(JOBS))
    bus.notify(Event("1", "settings_changed", {"level": "debug"}))
    bus.drain()
    bus.notify(Event("1", "server_stopped", True))
    jobs = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
    print(f"{sum(jobs)} of {JOBS} jobs were done by {WORKERS} processes")
    bus.shutdown()
    sys.exit(0 if sum(jobs) == JOBS else 1)
