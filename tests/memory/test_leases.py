"""Mappings are kept; leases end with the last view."""

import threading

import pytest

from eventbus_mp.events import Place
from eventbus_mp.memory import mappings, shm
from eventbus_mp.memory.leases import LeaseBook
from eventbus_mp.memory.mappings import Mappings

MIB = 1 << 20


@pytest.fixture
def mapping(prefix, make_segment):
    view = Mappings(prefix, shm)[make_segment(MIB)]
    view[1000:1010] = b"0123456789"
    yield view
    view.release()


def place(sequence=5, offset=1000, length=10):
    return Place(1, 1, offset, length, sequence)


def test_a_segment_is_mapped_once(prefix, make_segment):
    mappings, number = Mappings(prefix, shm), make_segment(MIB)
    assert mappings[number] is mappings[number]


def test_a_segment_that_is_gone(prefix):
    with pytest.raises(FileNotFoundError):
        Mappings(prefix, shm)[7]


def test_mappings_are_bounded(prefix, make_segment, monkeypatch):
    monkeypatch.setattr(mappings, "MAPPINGS_MAX", 3)
    found = Mappings(prefix, shm)
    for number in [make_segment(4096) for _ in range(5)]:
        found[number][0] = number
    assert sorted(found) == [3, 4, 5]
    assert found[1][0] == 1


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


def test_what_outlives_its_delivery_is_told_once(mapping):
    book = LeaseBook()
    view = book.view(mapping, place(), reported=False)
    assert book.outliving(5) == [place()]
    assert book.outliving(5) == []
    assert book.outliving(6) == []
    del view
    assert book.collect_ended() == [place()]


def test_what_is_gone_before_its_delivery_is_settled_is_not_told(mapping):
    book = LeaseBook()
    view = book.view(mapping, place(), reported=False)
    del view
    assert book.outliving(5) == []


def test_two_views_of_one_event_are_two_leases(mapping):
    book = LeaseBook()
    views = [book.view(mapping, place(), reported=True) for _ in range(2)]
    views.pop()
    assert book.collect_ended() == [place()]
    views.pop()
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
