"""A process's endpoint: what arrived, what is in flight, what is settled; several threads use it at once."""

import sys
import threading
from collections.abc import Iterator

import pytest

from eventbus_mp import SubscriberKey
from eventbus_mp.client.endpoint import ClientEndpoint, flat_ranges, ranges
from eventbus_mp.protocol.messages import Outcome
from eventbus_mp.protocol.records import RECORD

PENDING = 100_000


@pytest.fixture
def endpoint() -> ClientEndpoint:
    return ClientEndpoint(1, SubscriberKey("one"), b"")


def packed(*sequences: int) -> bytes:
    return b"".join(RECORD.pack(1, 1, 1, 0, 64, 0, 0, sequence) for sequence in sequences)


@pytest.fixture
def eager_threads() -> Iterator[None]:
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


def test_a_delivery_moves_from_pending_to_in_flight_to_settled(endpoint: ClientEndpoint) -> None:
    arrivals = []
    endpoint.on_arrival = lambda: arrivals.append(len(endpoint.pending))
    endpoint.arrive(packed(5, 6, 7))
    assert arrivals == [3]
    record = endpoint.take()
    assert record is not None
    assert record[7] == 5
    assert list(endpoint.in_flight) == [5]
    assert endpoint.outstanding() == [5, 3]
    assert endpoint.settle(5, Outcome.COMPLETED)
    assert not endpoint.settle(5, Outcome.SKIPPED), "it was settled before"
    assert endpoint.outstanding() == [5, 3], "until it is reported"
    assert list(endpoint.take_outcomes()) == [(Outcome.COMPLETED, [5])]
    assert endpoint.outstanding() == [6, 2]
    assert not endpoint.has_outcomes


def test_nothing_to_take(endpoint: ClientEndpoint) -> None:
    assert endpoint.take() is None


def test_what_is_not_settled_is_returned(endpoint: ClientEndpoint) -> None:
    endpoint.arrive(packed(1, 2, 3))
    endpoint.take()
    endpoint.return_unstarted()
    assert endpoint.is_over
    assert [(outcome, sorted(found)) for outcome, found in endpoint.take_outcomes()] == [(Outcome.RETURNED, [1, 2, 3])]


def test_what_a_handler_runs_is_outstanding(endpoint: ClientEndpoint) -> None:
    endpoint.arrive(packed(9))
    endpoint.current = endpoint.pending.popleft()
    assert endpoint.outstanding() == [9, 1]


@pytest.mark.parametrize(
    ("numbers", "expected"),
    [
        ([], []),
        ([4], [(4, 1)]),
        ([4, 5, 6], [(4, 3)]),
        ([4, 6, 7, 3], [(4, 1), (6, 2), (3, 1)]),
    ],
)
def test_ranges(numbers: list[int], expected: list[tuple[int, int]]) -> None:
    assert ranges(numbers) == expected


def test_flat_ranges_are_sorted_and_have_no_doubles() -> None:
    assert flat_ranges([7, 3, 4, 7, 5]) == [3, 3, 7, 1]


@pytest.mark.usefixtures("eager_threads")
def test_returning_while_another_thread_takes(endpoint: ClientEndpoint) -> None:
    """As `unsubscribe` does while the listener thread is at it: each delivery is returned or taken."""
    endpoint.arrive(packed(*range(PENDING)))
    taken: list[int] = []
    taking = threading.Event()

    def take() -> None:
        while endpoint.pending and (record := endpoint.take()) is not None:
            endpoint.in_flight.pop(record[7], None)
            taken.append(record[7])
            taking.set()

    thread = threading.Thread(target=take)
    thread.start()
    assert taking.wait(20)
    endpoint.return_unstarted()
    thread.join(20)
    assert 0 < len(taken) < PENDING
    assert not endpoint.pending
