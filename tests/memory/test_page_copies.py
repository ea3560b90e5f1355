"""Copies of pages, put in the place of what they copy."""

import ctypes
import mmap
import resource
import threading

import pytest

from eventbus_mp.memory.page_copies import PageCopies

PAGE = mmap.PAGESIZE
LENGTH = 16 * PAGE


@pytest.fixture
def shared():
    """Shared memory whose every page is filled with its number."""
    memory = mmap.mmap(-1, LENGTH)
    for page in range(16):
        memory[page * PAGE : (page + 1) * PAGE] = bytes([page]) * PAGE
    return memory


def shown(memory, offset, length):
    return (ctypes.c_char * length).from_buffer(memory, offset), length


@pytest.fixture
def other(shared, fork):
    """Another process, which overwrites all of the memory when it is told to."""

    def work(to_parent):
        while to_parent.recv():
            shared[:] = b"\xff" * LENGTH
            to_parent.send("done")

    child = fork(work)
    yield lambda: (child.tell(True), child.hear())
    child.tell(False)
    assert child.wait() == 0


@pytest.mark.parametrize(
    ("offset", "length"), [(0, 1), (PAGE - 1, 2), (PAGE, PAGE), (PAGE + 100, 3 * PAGE), (LENGTH - 1, 1), (0, LENGTH)]
)
def test_what_is_shown_stays(shared, other, offset, length):
    before = shared[offset : offset + length]
    view = memoryview(shared)[offset : offset + length]
    PageCopies([shown(shared, offset, length)]).put_in_place()
    other()
    assert bytes(view) == before
    first, last = offset // PAGE, (offset + length - 1) // PAGE
    rest = [page for page in range(16) if not first <= page <= last]
    assert all(shared[page * PAGE] == 0xFF for page in rest), "other pages are shared as before"


def test_several_on_one_page_and_on_neighbours(shared, other):
    parts = [(10, 20), (15, 100), (PAGE - 5, 10), (2 * PAGE, 5), (9 * PAGE, PAGE)]
    before = [shared[at : at + length] for at, length in parts]
    copies = PageCopies([shown(shared, *part) for part in parts])
    assert [length for _, length, _ in copies._copies] == [3 * PAGE, PAGE], "what touches is one range"
    copies.put_in_place()
    other()
    assert [shared[at : at + length] for at, length in parts] == before


def test_what_is_dropped_changes_nothing(shared, other):
    PageCopies([shown(shared, 0, LENGTH)]).drop()
    other()
    assert shared[:] == b"\xff" * LENGTH


def test_copies_can_be_written_to_and_unmapped(shared):
    PageCopies([shown(shared, PAGE, PAGE)]).put_in_place()
    shared[PAGE] = 77
    assert shared[PAGE] == 77
    shared.close()


def test_a_reader_never_sees_anything_else(shared):
    view = memoryview(shared)
    wanted, seen, ready, over = bytes(view), set(), threading.Event(), threading.Event()

    def read():
        while not over.is_set():
            seen.add(bytes(view))
            ready.set()

    thread = threading.Thread(target=read)
    thread.start()
    assert ready.wait(20)
    for _ in range(200):
        PageCopies([shown(shared, 0, LENGTH)]).put_in_place()
    over.set()
    thread.join()
    assert seen == {wanted}


def test_no_memory_for_a_copy(shared, other, fork):
    large = mmap.mmap(-1, 1 << 28)

    def work(to_parent):
        resource.setrlimit(resource.RLIMIT_AS, (1 << 28, resource.RLIM_INFINITY))
        with pytest.raises(OSError, match="Cannot allocate memory"):
            PageCopies([shown(shared, 0, PAGE), shown(large, 0, 1 << 28)])

    assert fork(work).wait() == 0
    other()
    assert shared[0] == 0xFF
