"""Chaos: `python -m tests.faults.chaos --seconds N --seed S`. Random load and random deaths, checked by outside books.

A bus with several topics; hosts that share subscribers, producers, and processes that send dead letters again, each a
process. A hand, moved by the seed, kills, stops and continues them, the manager and its standby, and makes subscribers
come and go. Each process keeps a book of its own, an append-only file: what its `notify` returned for, what its
handlers got, what it wanted again and what it marked. At the end the books are compared:

- every event whose `notify` returned was handled by each lasting subscriber of its topic, or marked for it, and the bus
  counted each of them as completed once;
- what was released, tried again or failed came again;
- nobody got what a living process had and kept;
- nobody got what nobody sent, or bytes that nobody wrote;
- nothing is unsettled, leased or in use, and no segment, file or process is left.

When processes die depends on the machine, so a seed repeats the plan and not each race.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from eventbus_mp import EventBus, EventBusError
from eventbus_mp.memory.shm import SHARED_MEMORY
from eventbus_mp.runtime.rundir import RunDir
from eventbus_mp.statistics import BusStatistics
from tests.faults.actors import LASTING, LETTER_TOPIC, LETTERS, Stage, consume, produce, send_again
from tests.faults.books import never_came, read_books, twice
from tests.faults.helpers import await_links, end_with_parent
from tests.helpers import pause

__all__ = ["Chaos", "Child", "main"]

SETTLE_TIMEOUT_S = 120.0


class Child(NamedTuple):
    name: str
    pid: int
    work: Callable[[Stage, str, int], None]


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
        self.stage = Stage(folder, check_invariants=check_invariants)
        self._dice = random.Random(seed)
        self._children: list[Child] = []
        self._stopped: dict[int, float] = {}
        self._serial = 0
        self._manager_at = 0.0
        self._killed_ns: dict[str, int] = {}
        """Name of a process -> when it was killed, or a moment before."""
        self._completed: dict[str, int] = {}
        """Subscriber -> how many events the bus has counted as completed."""
        self.deaths: dict[str, int] = {}
        self.counts: dict[str, int] = {}
        """How many lines of each kind the books have."""

    # --- the run ---

    def run(self) -> list[str]:
        """Make trouble, then peace, then compare the books: what is wrong."""
        self.stage.books.mkdir(parents=True)
        bus = self.stage.bus()
        for subscriber, patterns in {**LASTING, LETTERS: [LETTER_TOPIC]}.items():
            # They exist before the first event, so that every event is theirs.
            bus.inbox(subscriber, patterns).close(keep=True)
        for subscriber in LASTING:
            for _ in range(self._dice.randint(1, 3)):
                self._start(subscriber, consume)
        for kind, work in (("producer", produce), (LETTERS, send_again)):
            for _ in range(self._dice.randint(1, 3)):
                self._start(kind, work)
        end = time.monotonic() + self.seconds
        while time.monotonic() < end:
            pause(self._dice.random() * 0.1)
            self._disturb(bus)
        wrong = self._make_peace(bus)
        return wrong + self._compare() + self._look_for_leftovers()

    def _start(self, kind: str, work: Callable[[Stage, str, int], None]) -> None:
        self._serial += 1
        name, seed = f"{kind}-{self._serial}", self._dice.randrange(1 << 32)
        pid = os.fork()
        if not pid:
            try:
                end_with_parent()
                work(self.stage, name, seed)
            except BaseException as error:
                self.stage.complain(f"{name}: {type(error).__name__}: {error}")
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
        self._killed_ns[child.name] = time.monotonic_ns()
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
        self.stage.stop_file.touch()
        await_links(bus, 1 + len(self._children))
        for item in bus.subscribers():
            # A passing one whose host was killed: its events would keep everything waiting until its grace is over.
            if item.name not in (*LASTING, LETTERS) and not item.pids:
                bus.unsubscribe(item.key)
        for child in [child for child in self._children if child.work is produce]:
            self._await_end(child)
        try:
            bus.drain(timeout_s=SETTLE_TIMEOUT_S)
        except EventBusError as error:
            wrong.append(f"not settled: {error}")
        self.stage.end_file.touch()
        for child in self._children:
            self._await_end(child)
        now = bus.statistics()
        wrong += self._look_at_numbers(now)
        shutil.copy(RunDir(self.stage.run_dir, "chaos").log, self.stage.folder)
        bus.shutdown()
        return wrong

    def _await_end(self, child: Child) -> None:
        self._children = [other for other in self._children if other is not child]
        watchdog = threading.Timer(SETTLE_TIMEOUT_S, os.kill, (child.pid, signal.SIGKILL))
        watchdog.start()
        status = os.waitstatus_to_exitcode(os.waitpid(child.pid, 0)[1])
        watchdog.cancel()
        if status:
            self.stage.complain(f"{child.name} ended with {status}")

    # --- the check ---

    def _look_at_numbers(self, now: BusStatistics) -> list[str]:
        wrong = []
        for item in now.subscribers:
            if item.name in LASTING:
                self._completed[item.name] = item.completed
                others = {reason: count for reason, count in item.reasons.items() if reason != "Fails: "}
                if others:
                    wrong.append(f"{item.name} skipped {others}: {item.recent_skips[-3:]}")
        if now.events_unsettled or now.memory_bytes_leased or now.memory_bytes_used:
            wrong.append(f"still held at the end: {now}")
        return wrong

    def _compare(self) -> list[str]:
        file = self.stage.complaints
        wrong = file.read_text().splitlines() if file.exists() else []
        lines = read_books(self.stage.books)
        for line in lines:
            self.counts[line.verb] = self.counts.get(line.verb, 0) + 1
        sent = {line.event for line in lines if line.verb == "sent"}
        tried = {(line.event, line.checksum) for line in lines if line.verb == "tried"}
        if not sent:
            wrong.append("nothing was sent")
        for subscriber, patterns in LASTING.items():
            mine = [line for line in lines if line.process.partition("-")[0] == subscriber]
            wanted = [event for event in sent if any(re.match(pattern, event[0]) for pattern in patterns)]
            strange = [line for line in mine if line.verb == "got" and (line.event, line.checksum) not in tried]
            told = [
                *never_came(mine, wanted),
                *twice(mine, self._killed_ns),
                *(f"{line.process} got what nobody sent: {line.event}" for line in strange),
            ]
            wrong += [f"{subscriber}: {text}" for text in told[:5]]
            settled = {line.event for line in mine}
            if self._completed.get(subscriber) != len(settled):
                wrong.append(f"{subscriber} completed {self._completed.get(subscriber)}, but got {len(settled)}")
        return wrong

    def _look_for_leftovers(self) -> list[str]:
        run_dir = RunDir(self.stage.run_dir, "chaos")
        wrong = [f"left in /dev/shm: {name}" for name in SHARED_MEMORY.leftovers(run_dir.segment_prefix)]
        if run_dir.path.exists():
            wrong.append(f"left in the run directory: {os.listdir(run_dir.path)}")
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            with suppress(OSError):
                if str(self.stage.run_dir).encode() in path.read_bytes() and path.parent.name != str(os.getpid()):
                    wrong.append(f"left as a process: {path.parent.name}")
        return wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split(".")[0] if __doc__ else None)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--check-invariants", action="store_true")
    options = parser.parse_args()
    print("seed", seed := int.from_bytes(os.urandom(4), "little") if options.seed is None else options.seed, flush=True)
    folder = Path(tempfile.mkdtemp(prefix="ebmp-chaos-"))
    chaos = Chaos(options.seconds, seed, folder, check_invariants=options.check_invariants)
    wrong = chaos.run()
    print(f"events: {chaos.counts}; killed or stopped: {chaos.deaths}")
    for line in wrong:
        print("WRONG:", line)
    if wrong:
        print("books and log are in", folder)
        return 1
    shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
