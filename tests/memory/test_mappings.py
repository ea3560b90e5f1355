"""Mappings are kept, but not too many of them, and not those of segments that are one event."""

import sys
import threading

import pytest

from eventbus_mp.memory import mappings
from eventbus_mp.memory.mappings import Mappings

MIB = 1 << 20


@pytest.fixture
def found(prefix, store):
    found = Mappings(prefix, store)
    yield found
    found.clear()


@pytest.fixture
def switching_often():
    """Threads take turns as often as they can."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


def test_a_segment_is_mapped_once(found, make_segment):
    number = make_segment(MIB)
    assert found[number] is found[number]
    assert found.of(number, MIB) is found[number]


def test_a_segment_that_is_gone(found):
    with pytest.raises(FileNotFoundError):
        found[7]
    with pytest.raises(FileNotFoundError):
        found.of(7, 100)


def test_the_oldest_mapping_goes_first(found, make_segment, monkeypatch):
    monkeypatch.setattr(mappings, "MAPPINGS_MAX", 3)
    for number in [make_segment(4096) for _ in range(5)]:
        found[number][0] = number
    assert sorted(found) == [3, 4, 5]
    assert found[1][0] == 1
    assert sorted(found) == [1, 4, 5]


def test_a_segment_that_is_one_event_is_not_kept(found, make_segment):
    own, shared = make_segment(MIB), make_segment(MIB)
    found.of(own, MIB // 2 + 1)[0] = 7
    found.of(shared, MIB // 2)[0] = 8
    assert list(found) == [shared]
    assert found.of(own, MIB)[0] == 7


def test_it_reads_and_backs_by_number_without_a_mapping(found, make_segment, backed_bytes):
    number = make_segment(MIB)
    found.back(number, 4096, 8192)
    assert (found.read(number, 0, 10), backed_bytes(number), list(found)) == (bytes(10), 8192, [])


def test_threads_that_map_more_than_is_kept(found, monkeypatch, switching_often):
    monkeypatch.setattr(mappings, "MAPPINGS_MAX", 2)
    failures = []

    def keep(first):
        try:
            for step in range(10_000):
                found._keep(first + step % 3, memoryview(b""))
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=keep, args=(10 * index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert 1 <= len(found) <= 2 + len(threads)
