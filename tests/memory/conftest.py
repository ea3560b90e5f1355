"""All stores of segments; what a test leaves in one is removed at its end."""

import itertools
import os

import pytest

from eventbus_mp.geometry import CHUNK_BYTES
from eventbus_mp.memory.heap import HeapStore
from eventbus_mp.memory.shm import SHARED_MEMORY, SHM_DIR, SharedMemoryStore

HEAP_CAPACITY = 64 * 1024 * 1024


class FileStore(SharedMemoryStore):
    """The segments of `SharedMemoryStore` that lie in files."""

    def __init__(self, directory):
        self.directory = directory

    def create(self, name, length, directory=None):
        super().create(name, length, directory or str(self.directory))


@pytest.fixture(params=["shared memory", "files", "heap"])
def store(request, tmp_path):
    if request.param == "heap":
        yield HeapStore(HEAP_CAPACITY)
        return
    directory = tmp_path / "files"
    directory.mkdir()
    yield SHARED_MEMORY if request.param == "shared memory" else FileStore(directory)
    assert not list(directory.iterdir()), "files are left"


@pytest.fixture
def prefix(store):
    """The beginning of the names of the test's segments."""
    name = f"ebmp-test{os.getpid()}-{os.urandom(4).hex()}-"
    yield name
    for left in store.leftovers(name):
        store.remove(left)


@pytest.fixture
def make_segment(store, prefix):
    """Makes numbered segments of a length; returns the number."""
    numbers = itertools.count(1)

    def make(length):
        number = next(numbers)
        store.create(f"{prefix}{number}", length)
        return number

    return make


@pytest.fixture
def backed_bytes(store, prefix):
    """How many bytes of a numbered segment are backed; in the heap, of all segments together."""

    def count(number):
        if not isinstance(store, HeapStore):
            return (SHM_DIR / f"{prefix}{number}").stat().st_blocks * 512
        return HEAP_CAPACITY - store.free_bytes()

    return count


@pytest.fixture
def more_than_there_is(store):
    """More bytes than the store has even when it is empty, in whole chunks.

    The kernel refuses that at once. It would try to give what is merely more than is free, and the machine could run
    out of memory.
    """
    if isinstance(store, HeapStore):
        return HEAP_CAPACITY + CHUNK_BYTES
    status = os.statvfs(SHM_DIR if store is SHARED_MEMORY else store.directory)
    if not status.f_blocks:
        pytest.skip("this file system has no size")
    length = status.f_blocks * status.f_frsize + 64 * 1024 * 1024
    return length - length % CHUNK_BYTES
