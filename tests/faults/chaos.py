"""Chaos: `python -m tests.faults.chaos --seconds N --seed S`. Random load and random deaths, checked by outside books.

A bus with several topics; hosts that share subscribers, and producers, each a process. A hand, moved by the seed,
kills, stops and continues them, the manager and its standby, and makes subscribers come and go. Each process keeps a
book of its own, an append-only file: what its `notify` returned for, what its handlers got. At the end the books are
compared:

- every event whose `notify` returned was handled by each lasting subscriber of its topic, at least once, or was skipped
  for a reason that the bus counted;
- nobody got what nobody sent, or bytes that nobody wrote;
- nothing is unsettled, leased or in use, and no segment, file or process is left.

When processes die depends on the machine, so a seed repeats the plan and not each race.
"""

from __future__ import annotations

import argparse
import os
import random
import select
import shutil
import signal
import sys
import tempfile
import threading
import time
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from eventbus_mp import Event, EventBus, EventBusError
from eventbus_mp.memory.shm import SHARED_MEMORY
from eventbus_mp.runtime.rundir import RunDir
from tests.faults.helpers import await_links, end_with_parent

__all__ = ["Book", "Chaos", "Child", "Entry", "consume", "ignore", "main", "produce", "read_books"]

TOPICS = ("t0", "t1", "t2")
LASTING = {"all": [".*"], "even": ["t0", "t2"], "one": ["t1$"]}
"""Subscribers that are always there, by the hosts below; each host serves one of them."""
SIZES = (0, 10, 200, 3_000, 20_000, 300_000)
CRASHES_MAX = 1_000
"""Nobody is given up for crashes that are not its events' fault."""
SETTLE_TIMEOUT_S = 120.0


class Entry(NamedTuple):
    """A line of a book: an event's topic and id, and the checksum of its bytes."""

    topic: str
    id: str
    checksum: int


class Book:
    """A file that one process appends to; whole lines, so a killed writer leaves at most its last one out."""

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def add(self, topic: str, id: str, data: bytes) -> None:
        os.write(self._fd, f"{topic} {id} {zlib.crc32(data)}\n".encode())


def read_books(folder: Path, pattern: str) -> list[Entry]:
    lines = [line.split(" ") for path in sorted(folder.glob(pattern)) for line in path.read_text().splitlines()]
    return [Entry(topic, id, int(checksum)) for topic, id, checksum in lines]


# --- the processes ---


def produce(chaos: Chaos, name: str, seed: int) -> None:
    """Publish until the stop file is there. `tried` is written before each notify, `sent` after it returned."""
    dice = random.Random(seed)
    bus = chaos.bus()
    tried, sent = Book(chaos.books / f"tried.{name}"), Book(chaos.books / f"sent.{name}")
    number = 0
    while not chaos.stop_file.exists():
        batch = []
        for _ in range(dice.choice((1, 1, 1, 5, 40))):
            data = dice.randbytes(8) * (dice.choice(SIZES) // 8 + 1)
            batch.append(Event(f"{name}-{number}", dice.choice(TOPICS), data))
            number += 1
        for event in batch:
            tried.add(event.topic, event.id, event.data)
        if len(batch) == 1:
            bus.notify(batch[0])
        else:
            bus.notify_many(batch)
        for event in batch:
            sent.add(event.topic, event.id, event.data)
        if dice.random() < 0.3:
            select.select([], [], [], dice.random() * 0.01)
    bus.close()


def consume(chaos: Chaos, name: str, seed: int) -> None:
    """Host one lasting subscriber, with leases that outlive their events; now and then a passing one as well."""
    dice = random.Random(seed)
    subscriber = name.partition("-")[0]
    bus = chaos.bus()
    book = Book(chaos.books / f"got.{subscriber}.{name}")
    views: list[tuple[memoryview, int]] = []

    def handle(event: Event) -> None:
        book.add(event.topic, event.id, event.data)
        if len(event.data) > 16_384 and dice.random() < 0.2:
            assert event.raw is not None
            views.append((event.raw, zlib.crc32(event.raw)))
        if len(views) > 3:
            view, checksum = views.pop(0)
            if zlib.crc32(view) != checksum:
                chaos.complain(f"{name}: a view changed while it was held")
        if dice.random() < 0.001:
            select.select([], [], [], 0.02)

    bus.on(*LASTING[subscriber], name=subscriber)(handle)
    while not chaos.end_file.exists():
        select.select([], [], [], 0.05)
        if dice.random() < 0.1:
            chaos.come_and_go(bus, dice, name)
    views.clear()
    bus.close()


class Child(NamedTuple):
    name: str
    pid: int
    work: Callable[[Chaos, str, int], None]


class Chaos:
    """One run.

    Args:
        seconds: How long to make trouble; then everything is left in peace to settle.
        seed: Of all choices.
        folder: Where books and run directory go; empty.
        check_invariants: Whether the manager checks itself after each message.
    """

    def __init__(self, seconds: float, seed: int, folder: Path, *, check_invariants: bool = False) -> None:
        self.seconds = seconds
        self.books = folder / "books"
        self.run_dir = folder / "run"
        self.stop_file = folder / "stop"
        self.end_file = folder / "end"
        self._complaints = folder / "complaints"
        self._check_invariants = check_invariants
        self._dice = random.Random(seed)
        self._children: list[Child] = []
        self._stopped: dict[int, float] = {}
        self._serial = 0
        self._manager_at = 0.0
        self.deaths: dict[str, int] = {}

    def bus(self) -> EventBus:
        return EventBus(
            "chaos",
            TOPICS,
            run_dir=str(self.run_dir),
            memory_bytes_max=32 << 20,
            crashes_max=CRASHES_MAX,
            orphan_grace_s=10,
            notify_timeout_s=300,
            request_timeout_s=120,
            manager_idle_s=1,
            check_invariants=self._check_invariants,
        )

    def complain(self, text: str) -> None:
        with self._complaints.open("a") as file:
            file.write(text + "\n")

    def come_and_go(self, bus: EventBus, dice: random.Random, name: str) -> None:
        """A subscriber and a topic that nobody relies on."""
        what = dice.randrange(4)
        if what == 0:
            bus.subscribe((ignore, {"of": name}), [dice.choice((".*", "t[01]"))])
            bus.unsubscribe((ignore, {"of": name}))
        elif what == 1:
            bus.register_topic(f"passing {name}")
            bus.unregister_topic(f"passing {name}")
        elif what == 2:
            with bus.inbox(f"passing {name}", ["t2"]) as inbox:
                shadow = inbox.get(0.05)
                if shadow is not None:
                    bus.fetch_event(shadow)
            bus.unsubscribe(f"passing {name}")
        else:
            bus.statistics()

    # --- the run ---

    def run(self) -> list[str]:
        """Make trouble, then peace, then compare the books: what is wrong."""
        self.books.mkdir(parents=True)
        bus = self.bus()
        for subscriber, patterns in LASTING.items():
            # They exist before the first event, so that every event is theirs.
            bus.inbox(subscriber, patterns).close()
        for subscriber in LASTING:
            for _ in range(self._dice.randint(1, 3)):
                self._start(subscriber, consume)
        for _ in range(self._dice.randint(1, 3)):
            self._start("producer", produce)
        end = time.monotonic() + self.seconds
        while time.monotonic() < end:
            select.select([], [], [], self._dice.random() * 0.1)
            self._disturb(bus)
        wrong = self._make_peace(bus)
        return wrong + self._compare() + self._look_for_leftovers()

    def _start(self, kind: str, work: Callable[[Chaos, str, int], None]) -> None:
        self._serial += 1
        name, seed = f"{kind}-{self._serial}", self._dice.randrange(1 << 32)
        pid = os.fork()
        if not pid:
            try:
                end_with_parent()
                work(self, name, seed)
            except BaseException as error:
                self.complain(f"{name}: {type(error).__name__}: {error}")
                os._exit(1)
            os._exit(0)
        self._children.append(Child(name, pid, work))

    def _disturb(self, bus: EventBus) -> None:
        now = time.monotonic()
        for pid in [pid for pid, until in self._stopped.items() if until < now]:
            del self._stopped[pid]
            os.kill(pid, signal.SIGCONT)
        what = self._dice.random()
        if what < 0.4:
            self._kill_a_child()
        elif what < 0.6:
            child = self._dice.choice(self._children)
            self._stop(child.pid, "stopped")
        elif what < 0.75 and now > self._manager_at:
            # Not both at once: a manager whose standby was killed needs a moment to have another.
            self._manager_at = now + 0.5
            self._strike_the_manager(bus)

    def _kill_a_child(self) -> None:
        child = self._children.pop(self._dice.randrange(len(self._children)))
        os.kill(child.pid, signal.SIGKILL)
        os.waitpid(child.pid, 0)
        self._stopped.pop(child.pid, None)
        kind = child.name.partition("-")[0]
        self._count("consumer" if kind in LASTING else kind)
        self._start(kind, child.work)

    def _stop(self, pid: int, what: str) -> None:
        os.kill(pid, signal.SIGSTOP)
        self._stopped[pid] = time.monotonic() + self._dice.random() * 0.3
        self._count(what)

    def _strike_the_manager(self, bus: EventBus) -> None:
        pid = bus.statistics().manager_pid
        what = self._dice.randrange(4)
        if what == 0:
            standby = [int(part) for part in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()][-1:]
            for child in standby:
                with suppress(ProcessLookupError):  # One that was dismissed just now.
                    os.kill(child, signal.SIGKILL)
                    self._count("standby")
        elif what == 1:
            self._stop(pid, "manager stopped")
        else:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
                self._count("manager")

    def _count(self, what: str) -> None:
        self.deaths[what] = self.deaths.get(what, 0) + 1

    def _make_peace(self, bus: EventBus) -> list[str]:
        wrong = []
        for pid in self._stopped:
            os.kill(pid, signal.SIGCONT)
        self.stop_file.touch()
        await_links(bus, 1 + len(self._children))
        for item in bus.subscribers():
            # A passing one whose host was killed: its events would keep everything waiting until its grace is over.
            if item.name not in LASTING and not item.pids:
                bus.unsubscribe(item.key)
        for child in [child for child in self._children if child.work is produce]:
            self._await_end(child)
        try:
            bus.drain(timeout_s=SETTLE_TIMEOUT_S)
        except EventBusError as error:
            wrong.append(f"not settled: {error}")
        self.end_file.touch()
        for child in self._children:
            self._await_end(child)
        now = bus.statistics()
        skipped = {item.name: (item.skipped, item.recent_skips) for item in now.subscribers if item.name in LASTING}
        wrong += [f"{name} skipped {count}: {why[-3:]}" for name, (count, why) in skipped.items() if count]
        if now.events_unsettled or now.memory_bytes_leased or now.memory_bytes_used:
            wrong.append(f"still held at the end: {now}")
        shutil.copy(RunDir(self.run_dir, "chaos").log, self.books.parent)
        bus.shutdown()
        return wrong

    def _await_end(self, child: Child) -> None:
        self._children = [other for other in self._children if other is not child]
        watchdog = threading.Timer(SETTLE_TIMEOUT_S, os.kill, (child.pid, signal.SIGKILL))
        watchdog.start()
        status = os.waitstatus_to_exitcode(os.waitpid(child.pid, 0)[1])
        watchdog.cancel()
        if status:
            self.complain(f"{child.name} ended with {status}")

    # --- the check ---

    def _compare(self) -> list[str]:
        wrong = self._complaints.read_text().splitlines() if self._complaints.exists() else []
        tried, sent = set(read_books(self.books, "tried.*")), set(read_books(self.books, "sent.*"))
        self.events_sent = len(sent)
        if not sent:
            wrong.append("nothing was sent")
        for subscriber in LASTING:
            got = set(read_books(self.books, f"got.{subscriber}.*"))
            wanted = {entry for entry in sent if subscriber in ("all", "even" if entry.topic != "t1" else "one")}
            wrong += [f"{subscriber} never got {entry}" for entry in sorted(wanted - got)[:5]]
            wrong += [f"{subscriber} got what nobody sent: {entry}" for entry in sorted(got - tried)[:5]]
        return wrong

    def _look_for_leftovers(self) -> list[str]:
        run_dir = RunDir(self.run_dir, "chaos")
        wrong = [f"left in /dev/shm: {name}" for name in SHARED_MEMORY.leftovers(run_dir.segment_prefix)]
        if run_dir.path.exists():
            wrong.append(f"left in the run directory: {os.listdir(run_dir.path)}")
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            with suppress(OSError):
                if str(self.run_dir).encode() in path.read_bytes() and path.parent.name != str(os.getpid()):
                    wrong.append(f"left as a process: {path.parent.name}")
        return wrong


def ignore(shadow: object, config: object) -> None:
    """Settles nothing; its deliveries are skipped when it is unsubscribed."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split(".")[0] if __doc__ else None)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--check-invariants", action="store_true")
    options = parser.parse_args()
    seed = int.from_bytes(os.urandom(4), "little") if options.seed is None else options.seed
    print(f"seed {seed}", flush=True)
    folder = Path(tempfile.mkdtemp(prefix="ebmp-chaos-"))
    chaos = Chaos(options.seconds, seed, folder, check_invariants=options.check_invariants)
    wrong = chaos.run()
    print(f"{chaos.events_sent} events sent; killed or stopped: {chaos.deaths}")
    for line in wrong:
        print("WRONG:", line)
    if wrong:
        print("books and log are in", folder)
    else:
        shutil.rmtree(folder)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
