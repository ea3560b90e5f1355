"""The demo's pipeline, from a tree of files to the totals.

    parent           file_found       pool workers              parent
    walks the tree ------------> measure (ast)      -----+
                            \\--> tokens (tokenize)  -----+--> collector: an inbox

Results carry the transaction id of their file. If a worker is killed after it published and before it settled, the bus
delivers its file again. `Totals` counts a repeated result once, so the sums are still exact.
"""

import os
import signal
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

from eventbus_mp.client.bus import EventBus
from eventbus_mp.client.inbox import Inbox
from eventbus_mp.demo.measure import Unmeasurable, count_tokens, measure
from eventbus_mp.demo.totals import MEASURE, TOKENS, DemoResult, SubscriberRow, Totals
from eventbus_mp.errors import EventBusError, Skip
from eventbus_mp.events import Event
from eventbus_mp.worker.pool import WorkerPool

__all__ = ["run_in_loop", "run_on_bus", "totals_of"]

COLLECTOR = "collector"
TOPICS = ("file_found", "file_measured", "file_tokenized", "file_skipped")
SILENCE_S_MAX = 120.0
"""If there is no result for this long, something is broken; no file takes this long."""

OnProgress = Callable[[int], None]


def run_in_loop(root: Path, files: list[Path], on_progress: OnProgress) -> DemoResult:
    """Call the same functions one after the other in this process: the run that the bus is compared with."""
    totals, started = Totals(), time.perf_counter()
    for path in map(str, files):
        try:
            totals.add_measured(measure(path))
        except Unmeasurable as error:
            totals.add_skipped(MEASURE, path, error.reason)
        try:
            totals.add_tokens(path, count_tokens(path))
        except Unmeasurable as error:
            totals.add_skipped(TOKENS, path, error.reason)
        on_progress(totals.outcomes)
    seconds = time.perf_counter() - started
    return DemoResult(str(root), 0, seconds, totals.outcomes, totals.outcomes / max(seconds, 1e-9), totals)


def run_on_bus(
    root: Path,
    files: list[Path],
    processes: int,
    on_progress: OnProgress,
    on_kill: Callable[[int], None] | None,
    trace: Callable[[EventBus], Callable[[], object]] | None = None,
    beside: Callable[[EventBus], AbstractContextManager[object]] = nullcontext,
) -> DemoResult:
    """Run the pipeline on a bus of its own; blocks until every file has its results.

    Args:
        root: The directory in which the files were found, for the report.
        files: The files.
        processes: How many workers.
        on_progress: Called with the number of results so far.
        on_kill: Kill one worker in mid-run and call this with its pid; None: kill no worker.
        trace: Has this process's part in the bus traced, and gives what each worker is to call for that; None: there
            are no traces.
        beside: What runs beside the pipeline, from before the first event until after the last one is collected.

    Raises:
        EventBusError: There was no result for two minutes, or the bus ended.
    """
    with _own_bus() as bus:
        pool = WorkerPool(bus, processes, initializer=trace(bus) if trace is not None else None)
        pool.on("file_found$", name=MEASURE)(partial(_measure_file, bus))
        pool.on("file_found$", name=TOKENS)(partial(_tokenize_file, bus))
        # Not before: what traces has to be there when the bus is first used.
        with beside(bus), bus.inbox(COLLECTOR, ["file_(measured|tokenized|skipped)$"]) as inbox, pool:
            started = time.perf_counter()
            bus.notify_many(_file_found(path) for path in files)
            kill = partial(_kill_one, pool, on_kill) if on_kill is not None else None
            totals, killed_pid = _collect(bus, inbox, 2 * len(files), on_progress, kill)
            _take_repeats(bus, inbox, totals)
            seconds = time.perf_counter() - started
            statistics = bus.statistics()
    rows = tuple(
        SubscriberRow(item.name, item.completed, item.skipped, item.redelivered) for item in statistics.subscribers
    )
    events = statistics.events_notified
    return DemoResult(
        str(root),
        processes,
        seconds,
        events,
        events / max(seconds, 1e-9),
        totals,
        rows,
        killed_pid=killed_pid,
    )


@contextmanager
def _own_bus() -> Iterator[EventBus]:
    bus = EventBus(f"demo-{os.getpid()}", topics=TOPICS, manager_idle_s=0.0)
    try:
        yield bus
    finally:
        bus.shutdown()


def _collect(
    bus: EventBus, inbox: Inbox, wanted: int, on_progress: OnProgress, kill: Callable[[], int] | None
) -> tuple[Totals, int | None]:
    totals, killed_pid = Totals(), None
    while totals.outcomes < wanted:
        _take_results(bus, inbox, totals)
        on_progress(totals.outcomes)
        if kill is not None and killed_pid is None and totals.outcomes >= wanted // 3:
            killed_pid = kill()
    return totals, killed_pid


def _take_results(bus: EventBus, inbox: Inbox, totals: Totals) -> None:
    shadows = inbox.get_many(256, SILENCE_S_MAX)
    if not shadows:
        raise EventBusError(
            f"no result for {SILENCE_S_MAX:g} s after the first {totals.outcomes}; "
            "a worker hangs, or none can be started"
        )
    for shadow in shadows:
        event = bus.fetch_event(shadow)
        assert event is not None, f"{shadow} is not settled and cannot be fetched"
        _add(totals, event)
        inbox.complete(shadow)


def _take_repeats(bus: EventBus, inbox: Inbox, totals: Totals) -> None:
    """Take and settle the results that come twice, which change nothing.

    If a worker is killed after it published a result and before it settled the file, another one publishes the result
    again, and perhaps as the last one of all.
    """
    bus.drain("file_found$", timeout_s=SILENCE_S_MAX)
    while _unsettled(bus):
        _take_results(bus, inbox, totals)


def _unsettled(bus: EventBus) -> int:
    """How many results the collector has not settled; others may have some of their own."""
    return sum(item.queued + item.sent for item in bus.statistics().subscribers if item.name == COLLECTOR)


def totals_of(events: Iterable[Event]) -> Totals:
    """The totals of all results among these events, which may be stored ones."""
    totals = Totals()
    for event in events:
        if event.topic != "file_found":
            _add(totals, event)
    return totals


def _kill_one(pool: WorkerPool, on_kill: Callable[[int], None]) -> int:
    pid = pool.pids[0]
    os.kill(pid, signal.SIGKILL)
    on_kill(pid)
    return pid


def _add(totals: Totals, event: Event) -> None:
    data = event.data
    path = os.fsdecode(data["path"])
    if event.topic == "file_measured":
        data["path"] = path
        totals.add_measured(data)
    elif event.topic == "file_tokenized":
        totals.add_tokens(path, data["tokens"])
    else:
        totals.add_skipped(data["step"], path, data["reason"])


# --- what runs in the workers ---


def _file_found(path: Path) -> Event:
    # A file's name is bytes, and not all of them are text.
    name = os.fsencode(path)
    event_id = f"{path.stem.encode(errors='replace').decode()[:80]}-{zlib.crc32(name):08x}"
    return Event(event_id, "file_found", {"path": name}, transaction_id=event_id, source="demo")


def _measure_file(bus: EventBus, event: Event) -> None:
    found = _work(bus, event, MEASURE, measure)
    _publish(bus, event, "file_measured", {**found, "path": event.data["path"]})


def _tokenize_file(bus: EventBus, event: Event) -> None:
    tokens = _work(bus, event, TOKENS, count_tokens)
    _publish(bus, event, "file_tokenized", {"path": event.data["path"], "tokens": tokens})


def _work(bus: EventBus, event: Event, step: str, work: Callable[[str], Any]) -> Any:
    """Do one step. If a file cannot be measured, publish that, and skip the event with the reason."""
    try:
        return work(os.fsdecode(event.data["path"]))
    except Unmeasurable as error:
        data = {"path": event.data["path"], "step": step, "reason": error.reason}
        # The other step publishes an event of this topic as well: with one id, they would be one event to a journal.
        _publish(bus, event, "file_skipped", data, event_id=f"{event.id}-{step}")
        raise Skip(error.reason) from None


def _publish(
    bus: EventBus, event: Event, topic: str, data: dict[str, Any], *, event_id: str | int | None = None
) -> None:
    assert event.transaction_id is not None
    bus.notify(Event(event_id or event.id, topic, data, transaction_id=event.transaction_id, source="demo"))
