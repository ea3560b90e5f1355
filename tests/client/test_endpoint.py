"""A subscription's queues, which several threads use."""

import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from eventbus_mp import BusConfig, SubscriberKey
from eventbus_mp.client.connection import Connection
from eventbus_mp.client.endpoint import ClientEndpoint
from eventbus_mp.memory.leases import LeaseBook
from eventbus_mp.protocol.client_events import Delivered
from eventbus_mp.protocol.records import RECORD

PENDING = 100_000


@pytest.fixture
def connection(run_dir: Path, wait_for_end: Callable[..., None]) -> Iterator[Connection]:
    connection = Connection("test", BusConfig(run_dir=str(run_dir), manager_idle_s=0.1))
    yield connection
    connection.close()
    wait_for_end(connection.manager_pid)


@pytest.fixture
def eager_threads() -> Iterator[None]:
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


@pytest.mark.usefixtures("eager_threads")
def test_handing_back_while_another_thread_takes(connection: Connection) -> None:
    """As `unsubscribe` does while the listener thread is at it: each delivery is handed back or taken."""
    subscription = ClientEndpoint(connection, LeaseBook(), 1, SubscriberKey("one"), b"")
    packed = [RECORD.pack(1, 1, 1, 0, 64, 0, 0, sequence) for sequence in range(PENDING)]
    subscription.arrive(Delivered(1, 1, b"".join(packed)))
    taken: list[int] = []
    taking = threading.Event()

    def take() -> None:
        while subscription.pending and (record := subscription.take()) is not None:
            subscription.in_flight.pop(record[7], None)
            taken.append(record[7])
            taking.set()

    thread = threading.Thread(target=take)
    thread.start()
    assert taking.wait(20)
    subscription.return_unstarted()
    thread.join(20)
    assert 0 < len(taken) < PENDING
    assert not subscription.pending


def test_waking_a_closed_connection_is_harmless(connection: Connection) -> None:
    """A signal's handler may do so: a worker that leaves by itself can be asked to stop at that moment."""
    connection.close()
    connection.wake()
