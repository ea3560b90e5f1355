"""What only the heap store has: a capacity that the test sets, and names of its own."""

import errno
import os
import sys
import threading

import pytest

from eventbus_mp.memory.heap import HeapStore

MIB = 1 << 20


def test_a_capacity_is_shared_by_all_segments():
    store = HeapStore(4 * MIB)
    for name in "ab":
        store.create(name, 16 * MIB)
        store.back(name, 0, 2 * MIB)
    assert store.free_bytes() == 0
    with pytest.raises(OSError, match="No space left") as caught:
        store.back("a", 8 * MIB, 1)
    assert caught.value.errno == errno.ENOSPC
    store.back("a", 0, 2 * MIB)  # Is backed, so it needs nothing.
    store.free_pages("b", 0, MIB)
    store.back("a", 2 * MIB, MIB)
    assert store.free_bytes() == 0


def test_a_removed_segment_counts_until_its_last_view_is_gone():
    """As in shared memory: a mapping keeps the memory."""
    store = HeapStore(2 * MIB)
    store.create("a", 2 * MIB)
    store.back("a", 0, 2 * MIB)
    part = store.attach("a")[:10]
    store.remove("a")
    assert store.free_bytes() == 0
    del part
    assert store.free_bytes() == 2 * MIB


def test_without_a_capacity_there_is_always_room():
    store = HeapStore()
    store.create("a", 64 * MIB)
    store.back("a", 0, 64 * MIB)
    assert store.free_bytes() == sys.maxsize - 64 * MIB


def test_two_stores_know_nothing_of_each_other():
    first, second = HeapStore(), HeapStore()
    first.create("a", MIB)
    assert second.leftovers("") == []
    with pytest.raises(FileNotFoundError):
        second.attach("a")


def test_a_forked_child_has_a_copy():
    store = HeapStore()
    store.create("a", MIB)
    view = store.attach("a")
    view[0] = 1
    child = os.fork()
    if not child:
        seen, view[0] = view[0], 2
        os._exit(seen)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 1
    assert view[0] == 1


def test_threads_never_back_more_than_there_is():
    store = HeapStore(MIB)
    store.create("a", 64 * MIB)
    gained = []

    def work(index):
        for number in range(100):
            try:
                store.back("a", (index * 100 + number) * 4096, 4096)
            except OSError:
                continue
            gained.append(1)

    threads = [threading.Thread(target=work, args=(index,)) for index in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(gained) == MIB // 4096
    assert store.free_bytes() == 0
