"""What every store of segments promises. A new store is one more parameter of the fixture `store`."""

import ctypes
import errno
import threading
import weakref

import pytest

MIB = 1 << 20
PAGE = 4096
CHUNK = 64 * PAGE


@pytest.fixture
def name(store, prefix):
    """A segment of one MiB, not backed."""
    store.create(prefix + "1", MIB)
    return prefix + "1"


# --- names ---


def test_a_name_that_is_taken(store, name):
    store.attach(name)[0] = 7
    with pytest.raises(FileExistsError):
        store.create(name, MIB)
    assert store.attach(name)[0] == 7


@pytest.mark.parametrize("method", ["attach", "back", "read", "free_pages"])
@pytest.mark.parametrize("existed", [True, False])
def test_a_segment_that_is_not_there(store, prefix, method, existed):
    if existed:
        store.create(prefix + "1", MIB)
        store.remove(prefix + "1")
    with pytest.raises(FileNotFoundError):
        getattr(store, method)(prefix + "1", *(() if method == "attach" else (0, PAGE)))


def test_removing_what_is_not_there(store, prefix):
    store.remove(prefix + "1")
    store.create(prefix + "1", PAGE)
    store.remove(prefix + "1")
    store.remove(prefix + "1")
    assert store.leftovers(prefix) == []


def test_leftovers_are_sorted_and_begin_with_the_prefix(store, prefix):
    for end in ("b", "a", "[c]", "other"):
        store.create(prefix + end, PAGE)
    assert store.leftovers(prefix) == [prefix + end for end in ("[c]", "a", "b", "other")]
    assert store.leftovers(prefix + "o") == [prefix + "other"]
    assert store.leftovers(prefix + "[c]") == [prefix + "[c]"]
    assert store.leftovers(prefix + "*") == []


def test_a_name_can_be_used_again(store, name):
    old = store.attach(name)
    old[0] = 1
    store.remove(name)
    store.create(name, PAGE)
    new = store.attach(name)
    assert (len(new), new[0], len(old), old[0]) == (PAGE, 0, MIB, 1)


# --- views ---


def test_a_view_is_all_bytes_of_the_segment_and_begins_at_a_page(store, name):
    view = store.attach(name)
    assert (len(view), view.format, view.ndim, view.readonly, view.c_contiguous) == (MIB, "B", 1, False, True)
    assert ctypes.addressof(ctypes.c_char.from_buffer(view)) % PAGE == 0


def test_what_one_view_writes_all_others_show(store, name):
    first, second = store.attach(name), store.attach(name)
    first[100:105] = b"hello"
    assert (bytes(second[100:105]), store.read(name, 100, 5)) == (b"hello", b"hello")
    first.release()
    second[100:105] = b"HELLO"
    assert bytes(store.attach(name)[100:105]) == b"HELLO"


def test_a_view_outlives_the_name(store, name):
    part = store.attach(name)[10:20]
    part[:] = b"0123456789"
    store.remove(name)
    assert bytes(part) == b"0123456789"
    part[0] = 0
    assert part[0] == 0


def test_ctypes_may_export_a_part_of_a_view(store, name):
    """Leases are made of this: an array over a part, whose death somebody hears of."""
    ended: list[bool] = []
    view = store.attach(name)
    exporter = (ctypes.c_char * 10).from_buffer(view, 100)
    watch = weakref.ref(exporter, ended.append)
    part = memoryview(exporter).cast("B")[2:4]
    del exporter, view
    store.remove(name)
    part[:] = b"ab"
    assert (bytes(part), ended) == (b"ab", [])
    del part
    assert ended == [watch]


# --- backing ---


def test_a_new_segment_reads_as_zeros_and_takes_no_memory(store, make_segment, prefix, backed_bytes):
    number = make_segment(64 * MIB)
    assert store.read(f"{prefix}{number}", 63 * MIB, 100) == bytes(100)
    assert backed_bytes(number) == 0


def test_only_what_is_backed_takes_memory(store, make_segment, prefix, backed_bytes):
    number = make_segment(64 * MIB)
    store.back(f"{prefix}{number}", 2 * MIB, MIB)
    assert backed_bytes(number) == MIB
    store.back(f"{prefix}{number}", 2 * MIB + CHUNK, MIB)
    assert backed_bytes(number) == MIB + CHUNK


def test_backing_again_keeps_the_bytes(store, name):
    store.back(name, 0, MIB)
    view = store.attach(name)
    view[:3] = b"abc"
    store.back(name, 0, MIB)
    assert bytes(view[:3]) == b"abc"


def test_more_than_there_is_changes_nothing(store, make_segment, prefix, backed_bytes, more_than_there_is):
    number = make_segment(more_than_there_is + MIB)
    name = f"{prefix}{number}"
    store.back(name, 0, PAGE)
    view = store.attach(name)
    view[0] = 9
    with pytest.raises(OSError, match="No space left") as caught:
        store.back(name, 0, more_than_there_is)
    assert caught.value.errno == errno.ENOSPC
    assert (view[0], backed_bytes(number)) == (9, PAGE)
    store.back(name, 0, CHUNK)
    assert backed_bytes(number) == CHUNK
    view.release()  # The error's traceback refers to it.


@pytest.mark.parametrize(("offset", "length"), [(0, MIB + 1), (MIB, PAGE), (MIB - PAGE, 2 * PAGE), (-PAGE, PAGE)])
def test_backing_outside_of_the_segment(store, name, offset, length):
    with pytest.raises(ValueError, match="not inside segment"):
        store.back(name, offset, length)
    assert len(store.attach(name)) == MIB


# --- reading and freeing ---


def test_a_read_ends_with_the_segment(store, name):
    store.attach(name)[MIB - 3 :] = b"abc"
    assert store.read(name, MIB - 2, 100) == b"bc"
    assert store.read(name, MIB, 100) == b""
    assert store.read(name, 5 * MIB, 100) == b""
    assert store.read(name, 0, 0) == b""


def test_a_read_before_the_segment(store, name):
    with pytest.raises(OSError, match="Invalid argument"):
        store.read(name, -1, 10)


def test_a_read_is_a_copy(store, name):
    view = store.attach(name)
    view[0] = 1
    copy = store.read(name, 0, 1)
    view[0] = 2
    assert copy == b"\1"


def test_freed_pages_read_as_zeros_in_every_view(store, make_segment, prefix, backed_bytes):
    number = make_segment(MIB)
    name = f"{prefix}{number}"
    store.back(name, 0, MIB)
    view = store.attach(name)
    view[:] = b"x" * MIB
    store.free_pages(name, CHUNK, CHUNK)
    assert backed_bytes(number) == MIB - CHUNK
    assert bytes(view[CHUNK : 2 * CHUNK]) == bytes(CHUNK)
    assert (view[CHUNK - 1], view[2 * CHUNK]) == (ord("x"), ord("x"))
    store.back(name, CHUNK, CHUNK)
    assert (backed_bytes(number), view[CHUNK]) == (MIB, 0)


def test_freeing_pages_that_were_never_backed(store, name):
    store.free_pages(name, 0, MIB)
    assert store.read(name, 0, 10) == bytes(10)


def test_freeing_outside_of_the_segment(store, name):
    with pytest.raises(ValueError, match=r"."):
        store.free_pages(name, MIB - PAGE, 2 * PAGE)


def test_free_bytes_is_a_number(store):
    assert store.free_bytes() > 0


# --- threads ---


def test_one_thread_of_many_makes_a_segment(store, prefix):
    made = []

    def work():
        for number in range(50):
            try:
                store.create(f"{prefix}{number}", PAGE)
            except FileExistsError:
                continue
            made.append(number)

    in_threads([work] * 4)
    assert sorted(made) == list(range(50))
    assert len(store.leftovers(prefix)) == 50


def test_threads_that_use_one_segment_while_it_is_removed(store, prefix):
    written = []

    def work(index):
        for number in range(50):
            try:
                store.back(f"{prefix}{number}", index * CHUNK, CHUNK)
                view = store.attach(f"{prefix}{number}")
            except FileNotFoundError:
                continue
            view[index * CHUNK] = index + 1
            store.remove(f"{prefix}{number}")
            written.append(view[index * CHUNK] == index + 1)

    for number in range(50):
        store.create(f"{prefix}{number}", MIB)
    in_threads([lambda index=index: work(index) for index in range(4)])
    assert len(written) >= 50
    assert all(written)
    assert store.leftovers(prefix) == []


def in_threads(works):
    """Run all at once; an error in one fails the test, because warnings are errors."""
    threads = [threading.Thread(target=work) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
