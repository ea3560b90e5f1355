"""A pool beside a web application: its workers, and nobody else, handle what takes long. In this folder:

    $ python reports.py example-flask

It ends at SIGTERM or Ctrl-C, after the events that its workers are handling.
"""

import os
import signal
import sys
import threading

from eventbus_mp import EventBus, WorkerPool

bus = EventBus(sys.argv[-1], topics=["report_wanted"])
pool = WorkerPool(bus, processes=2)


@pool.on("report_wanted")
def write_report(event):
    print(f"pool process {os.getpid()} writes report {event.data}", flush=True)


if __name__ == "__main__":
    asked_to_end = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: asked_to_end.set())
    with pool:
        print("the pool is ready", flush=True)
        asked_to_end.wait()
