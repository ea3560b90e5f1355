"""Start the whole shop, and end it in good order at Ctrl-C: python -m examples.shop"""

import logging
import os
import signal
import sys
from contextlib import ExitStack

from eventbus_mp import WaitTimeout
from eventbus_mp.addons.logger import EventLogger
from examples.shop.programs import Program
from examples.shop.settings import FOLDER, JOURNAL, PAGE_PORT, PORT, TRACES, bus

JOURNAL_RUN = ("eventbus_mp", "journal", "run", bus.name, "--db", JOURNAL)
PAGE = ("eventbus_mp", "web", bus.name, "--port", str(PAGE_PORT), "--allow-actions", "--journal", JOURNAL)
TASKS = ("eventbus_mp", "worker", "examples.shop.tasks:pool", "--log-level", "warning")
WEB = ("gunicorn", "--config", "python:examples.shop.gunicorn_settings", "examples.shop.web:app")

STARTED = f"""
  order    curl -X PUT http://127.0.0.1:{PORT}/orders/1 --json '{{"cents": 250, "card": "4111"}}'
  page     http://127.0.0.1:{PAGE_PORT}/
  journal  {JOURNAL}
  traces   {os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT", TRACES)}
Ctrl-C ends the shop.
"""


def finish_orders():
    """Block until the pool has done what was ordered, or for half a minute."""
    try:
        bus.drain("order_", timeout_s=30)
    except WaitTimeout as error:
        print(f"not all orders are done: {error}", flush=True)


def main():
    FOLDER.mkdir(exist_ok=True)
    logging.basicConfig(format="     log | %(message)s", level=logging.INFO, stream=sys.stdout)
    for number in (signal.SIGTERM, signal.SIGINT):  # SIGINT as well: a shell's background jobs ignore it
        signal.signal(number, signal.default_int_handler)
    # What is entered last ends first: no more orders, then all work done, and only then the journal and the bus.
    with ExitStack() as at_the_end:
        at_the_end.callback(bus.shutdown)
        bus.topics()  # The process that connects first starts the bus, with its settings; the journal has no others.
        at_the_end.enter_context(Program("page", *PAGE, ready="http://"))
        at_the_end.enter_context(Program("journal", *JOURNAL_RUN, ready=f"{bus.name}: "))
        at_the_end.enter_context(EventLogger(bus, topics=["order_"], redact=["card", "traceparent"], per_second=5))
        at_the_end.enter_context(bus.inbox("staff", ["failed"]))  # Dead letters wait here for a decision.
        at_the_end.enter_context(Program("tasks", *TASKS, ready="ready"))
        at_the_end.callback(finish_orders)
        at_the_end.enter_context(Program("web", *WEB, ready="Listening at"))
        print(STARTED, flush=True)
        ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOWAIT)  # until one of them ends, which none should
        print(f"process {ended.si_pid} has ended, so the shop ends", flush=True)
    return 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        print("the shop has ended", flush=True)
