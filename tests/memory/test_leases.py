"""A lease lasts as long as anything that was derived from its view, and the manager hears of those that it must."""

import gc
import sys
import threading

import pytest

from eventbus_mp.errors import UsageError
from eventbus_mp.events import Place
from eventbus_mp.memory.leases import LeaseBook
from eventbus_mp.memory.mappings import Mappings

MIB = 1 << 20


@pytest.fixture
def mapping(prefix, store, make_segment):
    view = Mappings(prefix, store)[make_segment(MIB)]
    view[1000:1010] = b"0123456789"
    yield view
    view.release()


def place(sequence=5, offset=1000, length=10):
    return Place(1, 1, offset, length, sequence)


def test_a_view_is_read_only_and_in_place(mapping):
    view = LeaseBook().view(mapping, place(), reported=False)
    assert (bytes(view), view.readonly) == (b"0123456789", True)
    mapping[1000] = ord("x")
    assert view[0] == ord("x")


def test_a_lease_lasts_as_long_as_any_slice_of_a_slice(mapping):
    book = LeaseBook()
    view = book.view(mapping, place(), reported=True)
    part = view[2:8].cast("B")[1:3]
    del view
    assert book.collect_ended() == []
    assert bytes(part) == b"34"
    del part
    assert book.collect_ended() == [place()]
    assert not book.open
    assert book.collect_ended() == []


def test_a_lease_that_the_manager_does_not_know_of_is_not_given_back(mapping):
    book = LeaseBook()
    view = book.view(mapping, place(), reported=False)
    del view
    assert book.collect_ended() == []
    assert not book.open


def test_what_outlives_its_delivery_is_reported_once(mapping):
    book = LeaseBook()
    view = book.view(mapping, place(), reported=False)
    assert book.outliving([5]) == [place()]
    assert book.outliving([5]) == []
    assert book.outliving([6]) == []
    del view
    assert book.collect_ended() == [place()]


def test_what_is_gone_before_its_delivery_is_settled_is_not_reported(mapping):
    book = LeaseBook()
    view = book.view(mapping, place(), reported=False)
    del view
    assert book.outliving([5]) == []


def test_two_views_of_one_event_are_two_leases(mapping):
    book = LeaseBook()
    views = [book.view(mapping, place(), reported=True) for _ in range(2)]
    views.pop()
    assert book.collect_ended() == [place()]
    views.pop()
    assert book.collect_ended() == [place()]


@pytest.mark.parametrize("length", [64, 128, 1 << 14, (1 << 14) + 64, MIB - 64, MIB])
def test_a_view_at_the_end_of_its_segment(mapping, length):
    """Where its exporter cannot be rounded up to a power of two."""
    mapping[MIB - length : MIB - length + 2] = b"ab"
    mapping[MIB - 1] = ord("z")
    view = LeaseBook().view(mapping, place(offset=MIB - length, length=length), reported=False)
    assert (len(view), bytes(view[:2]), view[-1]) == (length, b"ab", ord("z"))


@pytest.mark.parametrize(("offset", "length"), [(MIB - 64, 128), (MIB, 64), (2 * MIB, 64), (-64, 64)])
def test_a_place_outside_of_its_segment(mapping, offset, length):
    book = LeaseBook()
    with pytest.raises(ValueError, match=r"Buffer size too small|offset cannot be negative"):
        book.view(mapping, place(offset=offset, length=length), reported=False)
    assert not book.open
    assert book.collect_ended() == []


def test_a_view_outlives_its_segment(mapping, store, prefix):
    book = LeaseBook()
    view = book.view(mapping, place(), reported=True)
    store.remove(f"{prefix}1")
    assert bytes(view) == b"0123456789"


def test_a_read_within_a_call_of_the_book_is_refused_and_its_lease_given_back(mapping):
    """As of a signal handler. The manager has noted a lease that was asked for, so it has to hear of its end."""
    book = LeaseBook()
    for reported in (False, True):
        with book._lock.held(), pytest.raises(UsageError, match="in the middle of another of its calls"):
            book.view(mapping, place(), reported=reported)
    gc.collect()  # The errors' tracebacks refer to the exporters.
    assert book.collect_ended() == [place()]
    assert not book.open
    assert not book.ended


def test_nothing_of_ours_runs_when_a_view_ends(mapping):
    """A signal handler would run in it, and what that raises, Ctrl-C for example, would be printed and ignored."""
    book, called = LeaseBook(), []
    view = book.view(mapping, place(), reported=True)
    sys.setprofile(lambda frame, event, _: called.append(frame.f_code.co_name) if event == "call" else None)
    del view
    sys.setprofile(None)
    assert called == []
    assert book.collect_ended() == [place()]


def test_threads_that_read_and_collect_at_once(mapping):
    book, collected = LeaseBook(), []

    def read():
        for _ in range(500):
            book.view(mapping, place(), reported=True)
            collected.extend(book.collect_ended())

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    collected.extend(book.collect_ended())
    assert len(collected) == 2000
    assert not book.open
