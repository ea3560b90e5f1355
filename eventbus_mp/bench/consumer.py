"""A consumer process, the same for every peer: it looks at what it decodes, counts, and tells when it is ready."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from multiprocessing.connection import Connection

from eventbus_mp.bench.child import READY, Child, enter
from eventbus_mp.bench.interface import ConsumerTicket, Layout, Take
from eventbus_mp.bench.payloads import Data, check_marks, check_pattern
from eventbus_mp.bench.task import burn

__all__ = ["Consumer", "Tally", "run"]


@dataclass
class Tally:
    """What one consumer process did."""

    events: int = 0
    numbers: int = 0
    """The sum of all `n`: shows that each event came, and once."""
    latencies_ns: list[int] = field(default_factory=list)

    def count(self, data: Data) -> None:
        self.events += 1
        self.numbers += data["n"]

    def time(self, data: Data) -> None:
        self.latencies_ns.append(time.monotonic_ns() - data["sent_ns"])
        self.count(data)

    def inspect(self, data: Data) -> None:
        """See that the array is there: its ends each time, all of it once."""
        check_marks(data["array"], data["n"])
        if not self.events:
            check_pattern(data["array"], data["n"])
        self.count(data)


class Consumer(Child):
    """The benchmark's handle of one."""

    def __init__(self, ticket: ConsumerTicket, layout: Layout, timed: bool) -> None:
        super().__init__(run, ticket, layout, timed)

    def stop(self) -> Tally:
        tally = super().stop()
        assert isinstance(tally, Tally)
        return tally


def run(control: Connection, ticket: ConsumerTicket, layout: Layout, timed: bool) -> None:
    """The consumer process itself."""
    stopping = enter(control)
    tally = Tally()
    ticket.consume(_take(tally, layout, timed), lambda: control.send(READY), stopping)
    control.send(tally)
    stopping.wait()  # Until then the benchmark may have something to say.


def _take(tally: Tally, layout: Layout, timed: bool) -> Take:
    take = tally.inspect if layout.array_bytes else tally.time if timed else tally.count
    if not layout.task_ns:
        return take

    def work(data: Data) -> None:
        burn(layout.task_ns)
        take(data)

    return work
