"""One trial: a real server and a pool on one bus, clients, disturbances in the middle, and the figures."""

from __future__ import annotations

import os
import re
import signal
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from eventbus_mp import Event, EventBus, unique_id
from eventbus_mp.memory.shm import SHARED_MEMORY
from eventbus_mp.runtime.rundir import RunDir
from tests.helpers import until
from tests.servers.load import Answers, get, send_requests
from tests.servers.programs import ROOT, WORKERS, Server

__all__ = ["DISTURBANCES", "Figures", "Trial", "run_trial"]

READY_TIMEOUT_S = 60.0
LEAVE_TIMEOUT_S = 40.0
"""Longer than gunicorn's own grace."""
HEARD_TIMEOUT_S = 20.0

COMPLAINT = re.compile(r"Traceback|Error\b|\bWARN|\bERROR|CRITICAL|!!!|listeners of bus|was lost")
# gunicorn closes listeners that uvloop has closed.
ABOUT_THE_MACHINE = re.compile(r"running uWSGI as root|rebuild with pcre|INFO. Error while closing socket .Errno 9")
SIGNS_OF_A_KILL = re.compile(r"was sent SIGKILL|Child process \[\d+\] died|killed by signal 9")
"""What servers say of a worker that the trial has killed."""


@dataclass
class Figures:
    """What one trial has counted."""

    requests: int = 0
    events: int = 0
    """Of which the answer told the id."""
    lost: int = 0
    twice: int = 0
    hanging: int = 0
    failed: int = 0
    broken: int = 0
    stale_reads: int = 0
    workers: int = 0
    """Different processes that answered."""
    workers_missing: int = 0
    """Of the workers at the end, those that do not hear what every worker hears."""
    managers: int = 0
    exit_code: int = 0
    requests_per_s: int = 0
    p99_ms: float = 0.0
    slowest_ms: float = 0.0
    complaints: list[str] = field(default_factory=list)
    """Warnings and errors of the server's log, of the pool's and of the manager's."""
    left: list[str] = field(default_factory=list)
    details: list[str] = field(default_factory=list)
    """The first few of what should not have been."""

    def faults(self, disturb: tuple[str, ...]) -> dict[str, Any]:
        """What should not have been, by its name; empty: all is well."""
        wanted: dict[str, Any] = {"managers": 1 + disturb.count("manager-kill")}
        unwanted = ["lost", "hanging", "failed", "stale_reads", "workers_missing", "exit_code", "complaints", "left"]
        found = {name: value for name in unwanted if (value := getattr(self, name))}
        return {**found, **{name: value for name in wanted if (value := getattr(self, name)) != wanted[name]}}

    def __str__(self) -> str:
        return " ".join(f"{name}={value}" for name, value in asdict(self).items())


class Trial:
    """A server, a pool, and a handle of the trial's own, which looks at what becomes of them."""

    def __init__(self, server: Server, directory: Path, *, recycles: bool) -> None:
        self.server = server
        self.directory = directory
        self.socket = directory / "s"
        self.log = directory / "server.log"
        self.pool_log = directory / "pool.log"
        self.run_dir = directory / "run"
        self.environment = _environment(server, directory, self.run_dir)
        self.bus = EventBus("shop", run_dir=str(self.run_dir), manager_idle_s=0.5)
        self.managers: set[int] = set()
        self.replaced: set[int] = set()
        """Processes that a deploy is to end."""
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                server.command(self.socket, recycles=recycles), cwd=ROOT, env=self.environment, stdout=log, stderr=log
            )
        with open(self.pool_log, "ab") as log:
            self.pool = subprocess.Popen(
                [sys.executable, "-m", "tests.servers.pool"],
                cwd=ROOT,
                env={**self.environment, "TRIAL_SUBSCRIBES": "nowhere"},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
            )

    # --- what is there ---

    def worker_pids(self) -> set[int]:
        """The web workers that hear what every worker hears."""
        return {pid for item in self.bus.subscribers("value_changed") if item.name == "cache" for pid in item.pids}

    def await_workers(self) -> None:
        """Wait until each worker has subscribed, and those that the server was to replace have gone."""
        until(
            lambda: len(found := self.worker_pids()) == WORKERS and not found & self.replaced,
            READY_TIMEOUT_S,
            lambda: f"processes {self.worker_pids()} of {WORKERS} have subscribed; the log:\n{self.log.read_text()}",
        )

    def children(self) -> set[int]:
        """The server's, workers that have just begun included."""
        found = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        return set(map(int, found.split()))

    def await_ready(self) -> None:
        assert self.pool.stdout is not None
        assert self.pool.stdout.readline() == b"ready\n", self.pool_log.read_text()
        self.await_workers()
        until(self._answers, READY_TIMEOUT_S, self.log.read_text)

    def _answers(self) -> bool:
        try:
            return get(self.socket, "/job")[0] == 200
        except OSError:
            return False

    def manager_pid(self) -> int:
        pid = self.bus.statistics().manager_pid
        self.managers.add(pid)
        return pid

    # --- disturbances ---

    def hup(self) -> None:
        """As a deploy does, after the one before has ended: the server replaces its workers."""
        self.await_workers()
        self.replaced |= self.children()
        self.process.send_signal(signal.SIGHUP)

    def kill_worker(self) -> None:
        """As the kernel does when memory is short."""
        for pid in sorted(self.worker_pids())[:1]:
            with suppress(ProcessLookupError):  # It was recycled just now.
                os.kill(pid, signal.SIGKILL)

    def terminate_manager(self) -> None:
        """As a service manager does that stops the service which happened to start the bus."""
        os.kill(self.manager_pid(), signal.SIGTERM)

    def kill_manager(self) -> None:
        """Its standby takes over."""
        os.kill(self.manager_pid(), signal.SIGKILL)

    # --- the end ---

    def stop(self) -> int:
        """End the server in good order; its exit code."""
        self.process.terminate()
        return self.process.wait(LEAVE_TIMEOUT_S)

    def stop_pool(self) -> int:
        assert self.pool.stdin is not None
        self.pool.stdin.close()
        return self.pool.wait(LEAVE_TIMEOUT_S)

    def left(self) -> list[str]:
        """Processes, segments and files that the trial has left; asked again until there is nothing, or in vain."""
        found: list[str] = []

        def is_clean() -> bool:
            found[:] = [
                *(f"process {pid}" for pid in _processes_of(self.run_dir)),
                *SHARED_MEMORY.leftovers(RunDir(self.run_dir, "shop").segment_prefix),
                *(str(path) for path in self.run_dir.glob("*")),
            ]
            return not found

        with suppress(AssertionError):
            until(is_clean, LEAVE_TIMEOUT_S, str)
        return found

    def kill_all(self) -> None:
        for process in (self.process, self.pool):
            if process.poll() is None:
                process.kill()
                process.wait()
        for pid in _processes_of(self.run_dir):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


DISTURBANCES: dict[str, Callable[[Trial], None] | None] = {
    "hup": Trial.hup,
    "kill-worker": Trial.kill_worker,
    "manager-term": Trial.terminate_manager,
    "manager-kill": Trial.kill_manager,
    "max-requests": None,
}
"""What is done in the middle, one after the other; None: the server was started with it."""


def run_trial(server: Server, directory: Path, requests: int, disturb: tuple[str, ...]) -> Figures:
    """Send `requests` to a server, disturb it meanwhile, end it, and count. Blocks until nothing runs any more."""
    figures = Figures(requests=requests)
    with _started(server, directory, recycles="max-requests" in disturb) as trial:
        trial.await_ready()
        trial.manager_pid()
        began = time.monotonic()
        answers = send_requests(trial.socket, requests, _schedule(trial, requests, disturb))
        figures.requests_per_s = int(requests / (time.monotonic() - began))
        _look_at_workers(trial, figures)
        trial.bus.drain(timeout_s=60)
        figures.managers = len(trial.managers | {trial.manager_pid()})
        manager_log = RunDir(trial.run_dir, "shop").log.read_text()
        trial.bus.close()
        figures.exit_code = trial.stop() or trial.stop_pool()
        _count(trial, answers, figures)
        figures.complaints = _complaints(trial, manager_log, disturb)
        figures.left = trial.left()
    return figures


def _schedule(trial: Trial, requests: int, disturb: tuple[str, ...]) -> Callable[[int], None]:
    """What to do before the request of each number: the disturbances are spread over the trial."""
    actions = [action for name in disturb if (action := DISTURBANCES[name]) is not None]
    when = {requests * (place + 1) // (len(actions) + 1): action for place, action in enumerate(actions)}

    def at(number: int) -> None:
        if number in when:
            when[number](trial)

    return at


def _look_at_workers(trial: Trial, figures: Figures) -> None:
    """One event for every worker: those that do not hear it would have to be started again."""
    heard = 0

    def all_hear() -> bool:  # Asked again: one may be leaving that has reached its number of requests.
        nonlocal heard
        trial.await_workers()
        event = Event(unique_id(), "value_changed", {"key": "none"})
        heard = len(trial.bus.notify_and_wait(event, timeout_s=HEARD_TIMEOUT_S).completers)
        return heard == WORKERS

    with suppress(AssertionError):
        until(all_hear, HEARD_TIMEOUT_S, str)
    figures.workers_missing = WORKERS - heard


def _count(trial: Trial, answers: Answers, figures: Figures) -> None:
    done = Counter(tuple(line.split()[:2]) for line in (trial.directory / "handled").read_text().splitlines())
    published = [*(("job", each) for each in answers.jobs), *(("report", each) for each in answers.reports)]
    lost = [pair for pair in published if not done[pair]]
    figures.events = len(published)
    figures.lost = len(lost)
    figures.twice = sum(count > 1 for count in done.values())
    figures.hanging, figures.failed, figures.broken = map(len, (answers.hanging, answers.failed, answers.broken))
    figures.stale_reads, figures.workers = len(answers.stale), len(answers.pids)
    latencies = sorted(answers.latencies_s)
    if len(latencies) > 1:
        figures.p99_ms = round(1000 * statistics.quantiles(latencies, n=100)[98], 1)
        figures.slowest_ms = round(1000 * latencies[-1], 1)
    for found in (map(str, lost), answers.hanging, answers.failed, answers.broken, answers.stale):
        figures.details += [str(each)[:300] for each in found][:3]


def _complaints(trial: Trial, manager_log: str, disturb: tuple[str, ...]) -> list[str]:
    found = [line for log in (trial.log, trial.pool_log) for line in log.read_text().splitlines()]
    found = [line for line in found if COMPLAINT.search(line) and not ABOUT_THE_MACHINE.search(line)]
    # The manager warns of what the trial does: a process that was killed, a signal that asks it to end.
    found += [line for line in manager_log.splitlines() if re.search("ERROR|CRITICAL|Traceback", line)]
    if "kill-worker" in disturb:
        found = [line for line in found if not SIGNS_OF_A_KILL.search(line)]
    return found


@contextmanager
def _started(server: Server, directory: Path, *, recycles: bool) -> Iterator[Trial]:
    trial = Trial(server, directory, recycles=recycles)
    try:
        yield trial
    finally:
        trial.bus.close()
        trial.kill_all()
        if trial.pool.stdout is not None:
            trial.pool.stdout.close()


def _environment(server: Server, directory: Path, run_dir: Path) -> dict[str, Any]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("EVENTBUS_MP_")}
    return {
        **kept,
        "PYTHONPATH": str(ROOT),
        "EVENTBUS_MP_RUN_DIR": str(run_dir),
        "EVENTBUS_MP_MANAGER_IDLE_S": "0.5",
        "TRIAL_DIRECTORY": str(directory),
        "TRIAL_SUBSCRIBES": server.subscribes,
    }


def _processes_of(run_dir: Path) -> Iterator[int]:
    """Every process with the environment of the trial's programs."""
    mark = f"EVENTBUS_MP_RUN_DIR={run_dir}\0".encode()
    for file in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):  # It has gone meanwhile, or is somebody else's.
            if mark in file.read_bytes():
                yield int(file.parent.name)
