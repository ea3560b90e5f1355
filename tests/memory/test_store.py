"""What every store of segments does: shared memory and the memory of one process keep the same contract."""

import ctypes
import errno
import os
import weakref

import pytest

from eventbus_mp.memory import shm
from eventbus_mp.memory.heap import HeapStore
from eventbus_mp.memory.store import SegmentStore

MIB = 1 << 20


@pytest.fixture(params=["shm", "heap"])
def store(request: pytest.FixtureRequest, prefix: str) -> SegmentStore:
    return shm if request.param == "shm" else HeapStore()


@pytest.fixture
def name(store: SegmentStore, prefix: str) -> str:
    """A segment of a MiB, none of which is backed."""
    store.create(prefix + "1", MIB)
    return prefix + "1"


def test_what_is_written_is_read(store: SegmentStore, name: str) -> None:
    store.back(name, 0, MIB)
    store.attach(name)[100:105] = b"hello"
    assert bytes(store.attach(name)[100:105]) == store.read(name, 100, 5) == b"hello"
    assert len(store.attach(name)) == MIB


def test_what_is_not_backed_reads_as_zeros(store: SegmentStore, name: str) -> None:
    assert store.read(name, 5000, 10) == bytes(10)


def test_a_name_that_is_taken(store: SegmentStore, name: str) -> None:
    with pytest.raises(FileExistsError):
        store.create(name, MIB)


def test_a_segment_that_is_gone(store: SegmentStore, name: str) -> None:
    store.remove(name)
    store.remove(name)
    for call in (store.attach, lambda name: store.read(name, 0, 1), lambda name: store.back(name, 0, 1)):
        with pytest.raises(FileNotFoundError):
            call(name)
    with pytest.raises(FileNotFoundError):
        store.free_pages(name, 0, 4096)


def test_a_view_outlives_the_name(store: SegmentStore, name: str) -> None:
    store.back(name, 0, 4096)
    part = store.attach(name)[10:20]
    part[:] = b"0123456789"
    store.remove(name)
    assert bytes(part) == b"0123456789"


def test_a_name_can_be_used_again(store: SegmentStore, name: str) -> None:
    store.back(name, 0, 4096)
    store.attach(name)[0] = 9
    store.remove(name)
    store.create(name, MIB)
    assert store.read(name, 0, 1) == b"\0"


def test_backing_twice_keeps_what_is_there(store: SegmentStore, name: str) -> None:
    store.back(name, 0, MIB)
    view = store.attach(name)
    view[0] = 9
    store.back(name, 0, MIB)
    assert view[0] == 9


def test_freed_pages_read_as_zeros_and_are_backed_again(store: SegmentStore, name: str) -> None:
    store.back(name, 0, MIB)
    view = store.attach(name)
    view[:8192] = b"x" * 8192
    store.free_pages(name, 4096, 4096)
    assert store.read(name, 0, 8192) == b"x" * 4096 + bytes(4096)
    store.back(name, 4096, 4096)
    view[4096] = 1
    assert store.read(name, 4096, 1) == b"\1"


def test_leftovers_are_sorted_and_only_of_the_prefix(store: SegmentStore, prefix: str) -> None:
    for end in ("b2", "a1", "c"):
        store.create(prefix + end, 4096)
    assert store.leftovers(prefix) == [prefix + end for end in ("a1", "b2", "c")]
    assert store.leftovers(prefix + "b") == [prefix + "b2"]


def test_a_view_can_export_through_ctypes(store: SegmentStore, name: str) -> None:
    """As leases do: the array's death is the end of the last view that was derived from it."""
    store.back(name, 0, MIB)
    array = (ctypes.c_char * 100).from_buffer(store.attach(name), 50)
    died: list[bool] = []
    watch = weakref.ref(array, lambda _: died.append(True))
    part = memoryview(array).cast("B")[10:20].toreadonly()
    del array
    assert not died
    del part
    assert died
    assert watch() is None


def test_free_bytes_shrinks_by_what_is_backed() -> None:
    store = HeapStore(capacity_bytes=2 * MIB)
    store.create("a", 2 * MIB)
    store.create("b", 2 * MIB)
    store.back("a", 0, MIB)
    store.back("a", 0, MIB)
    assert store.free_bytes() == MIB
    with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)) as caught:
        store.back("b", 0, 2 * MIB)
    assert caught.value.errno == errno.ENOSPC
    store.back("b", 0, MIB)
    assert store.free_bytes() == 0
    store.free_pages("a", 0, MIB)
    store.remove("b")
    assert store.free_bytes() == 2 * MIB
