"""A process's endpoint: what arrived, what is in flight, what is settled; several threads use it at once."""

import sys
import threading
from collections.abc import Iterator

import pytest

from eventbus_mp import SubscriberKey
from eventbus_mp.client.endpoint import ClientEndpoint, Slot, flat_ranges, ranges
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
    (record,) = endpoint.take_many(1)
    assert record[7] == 5
    assert list(endpoint.in_flight) == [5]
    assert endpoint.outstanding() == [5, 3]
    assert endpoint.settle(5, Outcome.COMPLETED)
    assert not endpoint.settle(5, Outcome.SKIPPED), "it was settled before"
    assert endpoint.outstanding() == [5, 3], "until it is reported"
    assert endpoint.take_outcomes() == [(Outcome.COMPLETED, [5])]
    assert endpoint.take_kept() == [], "it was settled before anybody was told that it was taken"
    assert endpoint.outstanding() == [6, 2]
    assert not endpoint.has_news


def test_nothing_to_take(endpoint: ClientEndpoint) -> None:
    assert endpoint.take_many(1) == []


def test_what_is_not_settled_is_returned(endpoint: ClientEndpoint) -> None:
    endpoint.arrive(packed(1, 2, 3))
    endpoint.take_many(1)
    endpoint.return_unstarted()
    assert endpoint.is_over
    assert [(outcome, sorted(found)) for outcome, found in endpoint.take_outcomes()] == [(Outcome.RETURNED, [1, 2, 3])]


def test_what_a_handler_runs_is_outstanding(endpoint: ClientEndpoint) -> None:
    endpoint.arrive(packed(7, 8, 9))
    for loop in ("one", "two"):
        slot = endpoint.slots[loop] = Slot()
        for record in endpoint.takes:
            slot.current = record
            break
    assert [record[7] for record in endpoint.pending] == [9]
    assert endpoint.outstanding() == [7, 3]


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
        while endpoint.pending and (records := endpoint.take_many(1)):
            endpoint.in_flight.pop(records[0][7], None)
            taken.append(records[0][7])
            taking.set()

    thread = threading.Thread(target=take)
    thread.start()
    assert taking.wait(20)
    endpoint.return_unstarted()
    thread.join(20)
    assert 0 < len(taken) < PENDING
    assert not endpoint.pending


def test_what_is_taken_and_kept_is_said_once(endpoint: ClientEndpoint) -> None:
    endpoint.arrive(packed(5, 6, 7))
    assert [record[7] for record in endpoint.take_many(2)] == [5, 6]
    assert [record[7] for record in endpoint.take_many(2)] == [7]
    endpoint.settle(6, Outcome.COMPLETED)
    assert endpoint.has_news
    assert endpoint.take_kept() == [5, 7]
    assert endpoint.take_kept() == []


def test_what_is_called_back_goes_from_the_end(endpoint: ClientEndpoint) -> None:
    endpoint.arrive(packed(1, 2, 3, 4))
    endpoint.demand = 5
    endpoint.give_back(2)
    endpoint.give_back(3)
    assert endpoint.take_outcomes() == [(Outcome.RETURNED, [3, 4])]
    assert [record[7] for record in endpoint.pending] == [1, 2]
    assert not endpoint.demand
