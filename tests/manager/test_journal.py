"""The journal: what was written down is read again, in order, up to the last read that was carried out."""

import os
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eventbus_mp.manager import journal
from eventbus_mp.manager.journal import Entry, EntryKind, Journal, Position
from eventbus_mp.runtime.pipe import READ_BYTES


@pytest.fixture
def ends() -> Iterator[tuple[int, int]]:
    """A pipe: (to read, to write); reading does not block."""
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    yield reader, writer
    for fd in (reader, writer):
        os.close(fd)


def copy_of(found: Journal) -> Journal:
    """What a process that was forked when the journal was new has of it."""
    other = Journal.__new__(Journal)
    other.__dict__.update(found.__dict__)
    return other


def test_entries_come_back_in_order(ends: tuple[int, int]) -> None:
    reader, writer = ends
    found = Journal()
    successor, position = copy_of(found), found.position
    found.append(EntryKind.LINK_OPENED, 7, 1234, 10)
    os.write(writer, b"x" * 40)
    assert found.read(reader, 7, 20) == b"x" * 40
    assert found.read(reader, 7, 30) is None
    found.append(EntryKind.TIME_PASSED, 0, 0, 40)
    found.append(EntryKind.LINK_LOST, 7, 1, 50)
    assert list(successor.replay(position)) == [
        Entry(EntryKind.LINK_OPENED, 7, 1234, 10, b""),
        Entry(EntryKind.READ, 7, 0, 20, b"x" * 40),
        Entry(EntryKind.TIME_PASSED, 0, 0, 40, b""),
        Entry(EntryKind.LINK_LOST, 7, 1, 50, b""),
    ]
    successor.append(EntryKind.TIME_PASSED, 0, 0, 60)
    assert len(list(copy_of(found).replay(position))) == 5


def test_the_end_of_file_is_no_entry(ends: tuple[int, int]) -> None:
    found = Journal()
    position = found.position
    reader, writer = os.pipe()
    os.close(writer)
    assert found.read(reader, 1, 1) == b""
    os.close(reader)
    assert list(copy_of(found).replay(position)) == []


def test_a_read_that_was_only_written_down_is_still_in_the_pipe(
    ends: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    reader, writer = ends
    found = Journal()
    successor, position = copy_of(found), found.position
    os.write(writer, b"a" * 40)
    found.read(reader, 1, 1)
    os.write(writer, b"b" * 40)

    class Killed(Exception):
        """Stands for the end of the process."""

    def die(*args: object) -> None:
        raise Killed

    monkeypatch.setattr("eventbus_mp.manager.journal.os.readv", die)
    with pytest.raises(Killed):
        found.read(reader, 1, 2)
    monkeypatch.undo()
    assert [entry.data for entry in successor.replay(position)] == [b"a" * 40]
    assert successor.read(reader, 1, 3) == b"b" * 40
    assert [entry.data for entry in copy_of(found).replay(position)] == [b"a" * 40, b"b" * 40]


def test_a_read_that_ends_with_the_marker_by_chance_was_read_if_something_follows_it(ends: tuple[int, int]) -> None:
    """A few bytes can be the beginning of any marker."""
    reader, writer = ends
    found = Journal()
    position = found.position
    for length in range(1, 8):
        piece = journal._UNREAD[:length]
        os.write(writer, piece)
        assert found.read(reader, 1, length) == piece
    found.append(EntryKind.TIME_PASSED, 0, 0, 9)
    assert [(entry.kind, entry.now_ns, len(entry.data)) for entry in copy_of(found).replay(position)] == [
        *((EntryKind.READ, length, length) for length in range(1, 8)),
        (EntryKind.TIME_PASSED, 9, 0),
    ]


def test_what_the_managers_agree_on_is_shared_and_survives_a_new_generation() -> None:
    found = Journal()
    other = copy_of(found)
    assert (other.successor_pid, other.takeovers) == (0, 0)
    found.successor_pid, found.takeovers = 4_000_000, 3
    found.restart()
    found.append(EntryKind.LINK_LOST, 1, 0, 1)
    assert (other.successor_pid, other.takeovers) == (4_000_000, 3)


def test_a_new_generation_begins_empty(ends: tuple[int, int]) -> None:
    found = Journal()
    found.append(EntryKind.TIME_PASSED, 0, 0, 1)
    successor, position = copy_of(found), found.position
    assert position == Position(0, position.offset)
    found.restart()
    assert list(copy_of(successor).replay(position)) == []
    found.append(EntryKind.TIME_PASSED, 0, 0, 2)
    assert [entry.now_ns for entry in successor.replay(position)] == [2]


def test_it_is_full_before_a_read_could_go_over_the_end(ends: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "JOURNAL_BYTES", 5 * READ_BYTES)
    reader, writer = ends
    found, reads = Journal(), 0
    while not found.is_full:
        os.write(writer, b"x" * READ_BYTES)
        data = found.read(reader, 1, 1)
        assert data is not None
        assert len(data) == READ_BYTES
        reads += 1
    assert 2 <= reads <= 4


@settings(max_examples=50, deadline=None)
@given(st.lists(st.binary(min_size=8, max_size=300), max_size=20), st.integers(0, 20))
def test_whatever_was_read_comes_back(pieces: list[bytes], restarted_after: int) -> None:
    reader, writer = os.pipe()
    found = Journal()
    position = found.position
    for number, piece in enumerate(pieces):
        os.write(writer, piece)
        assert found.read(reader, number, number) == piece
        if number == restarted_after:
            position = found.position
            found.restart()
    os.close(reader)
    os.close(writer)
    expected = pieces[restarted_after + 1 :] if restarted_after < len(pieces) else pieces
    assert [entry.data for entry in copy_of(found).replay(position)] == expected
