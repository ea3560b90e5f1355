"""A program under gevent, for test_greenlets.py: `gevent_program.py RUN_DIR SCENARIO...`. It fails by its exit code."""

# ruff: noqa: E402  (gevent has to patch first)

from gevent import monkey

monkey.patch_all()

import logging
import os
import signal
import sys
from collections.abc import Callable

import gevent
from gevent.socket import wait_read

from eventbus_mp import BusClosed, Event, EventBus

RUN_DIR, *WANTED = sys.argv[1:]
PIPE_RECORDS_MAX = (1 << 20) // 40
"""More than any pipe holds."""

bus = EventBus("test", topics=["a", "b"], run_dir=RUN_DIR, memory_bytes_max=16 << 20, manager_idle_s=0.05)
others: list[int] = []
"""How often another greenlet ran."""


def run_others() -> None:
    while True:
        others.append(1)
        gevent.sleep(0.001)


def others_run() -> None:
    """Wait until they have run a few times from now on."""
    wanted = len(others) + 5
    while len(others) < wanted:
        gevent.sleep(0.001)


def all_of(*greenlets: gevent.Greenlet) -> None:
    gevent.joinall(greenlets, timeout=20, raise_error=True)
    assert all(greenlet.ready() for greenlet in greenlets)


def handlers() -> None:
    """Greenlets publish and wait at once; a handler's wait and a publisher's keep nobody from running."""
    handled: list[str] = []

    @bus.on("a", name="handler")
    def handle(event: Event) -> None:
        if event.data is None:
            others_run()
        handled.append(event.id)

    def publish(name: str) -> None:
        for number in range(20):
            bus.notify(Event(f"{name}-{number}", "a", number))
            gevent.sleep(0)

    all_of(*[gevent.spawn(publish, name) for name in "xyz"])
    all_of(*[gevent.spawn(bus.notify_and_wait, Event(id, "a", None), timeout_s=20) for id in "123"])
    bus.drain(timeout_s=20)
    assert len(handled) == len(set(handled)) == 63
    bus.unsubscribe("handler")


def inbox() -> None:
    """Greenlets share an inbox; some of what they settle is reported late; its descriptor wakes gevent's loop."""
    with bus.inbox("one", ["a"]) as inbox:
        taken: list[str] = []

        def take() -> None:
            for shadow in inbox:
                taken.append(shadow.id)
                gevent.sleep(0)
                inbox.complete(shadow)

        takers = [gevent.spawn(take) for _ in range(4)]
        others_run()
        bus.notify_many(Event(str(number), "a", number) for number in range(43))
        bus.drain(timeout_s=20)
        gevent.killall(takers, timeout=20)
        assert len(taken) == len(set(taken)) == 43
        gevent.spawn(bus.notify, Event("43", "a", 43))
        wait_read(inbox.fileno(), timeout=20)
        shadow = inbox.get(timeout_s=0)
        assert shadow is not None
        inbox.complete(shadow)
        try:
            with gevent.Timeout(0.01):
                inbox.get()
            raise AssertionError("gevent's Timeout ends a wait")
        except gevent.Timeout:
            bus.drain(timeout_s=20)


def full_pipe() -> None:
    """While the manager does not read, publishers wait, and all others run."""
    bus.on("a", name="full")(lambda event: None)
    pid = bus.statistics().manager_pid
    os.kill(pid, signal.SIGSTOP)
    try:
        half = PIPE_RECORDS_MAX // 2
        publishers = [
            gevent.spawn(lambda: [bus.notify(Event(str(number), "a", number)) for number in range(half)]),
            gevent.spawn(
                bus.notify_many, [Event(str(number), "a", number) for number in range(half, PIPE_RECORDS_MAX)]
            ),
        ]
        others_run()
        assert not any(publisher.ready() for publisher in publishers)
    finally:
        os.kill(pid, signal.SIGCONT)
    all_of(*publishers)
    bus.drain(timeout_s=20)
    bus.unsubscribe("full")


def fork() -> None:
    """A forked child, in which greenlets live on, uses the handle."""
    handled: list[int] = []
    bus.on("a")(lambda event: handled.append(event.data))
    with bus.inbox("one", ["b"]) as inbox:
        bus.notify_many(Event(str(number), "b", number) for number in range(3))
        for _ in range(3):
            inbox.complete(inbox.get(timeout_s=20))
        others_run()  # Its thread for late reports sleeps.
        pid = os.fork()
        if pid == 0:
            logging.disable(logging.WARNING)  # It is warned that its handle's subscribers are its parent's.
            bus.notify_and_wait(Event("1", "a", os.getpid()), timeout_s=20)
            others_run()
            bus.close()
            os._exit(7)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
    assert handled == [pid]


def threads() -> None:
    """Threads of gevent's pool, which are real ones, call the bus beside greenlets."""
    bus.on("a")(lambda event: others_run())
    call = gevent.get_hub().threadpool.spawn
    all_of(*[call(bus.notify_and_wait, Event(id, "a", 1), timeout_s=20) for id in "12"])


def close() -> None:
    """It ends the wait of another greenlet."""
    inbox = bus.inbox("one", ["b"])

    def wait() -> str:
        try:
            return str(inbox.get())
        except BusClosed:
            return "closed"

    waiting = gevent.spawn(wait)
    others_run()
    bus.close()
    assert waiting.get(timeout=20) == "closed"


def end() -> None:
    """The program ends in the middle of things."""
    bus.on("a")(lambda event: gevent.sleep(0.01))
    gevent.spawn(list, bus.inbox("one", ["b"]))
    bus.notify(Event("1", "a", 1))
    others_run()


SCENARIOS: tuple[Callable[[], None], ...] = (handlers, inbox, full_pipe, threads, close, fork, end)

if __name__ == "__main__":
    gevent.spawn(run_others)
    for scenario in SCENARIOS:
        if scenario.__name__ in WANTED:
            scenario()
