"""The event log: bounded in bytes; and the ring of records, in which an event is found by its id's CRC."""

import random

import pytest

from eventbus_mp.core.event_batch import Topic
from eventbus_mp.core.event_log import ENTRY_BYTES, EventLog, RecordRing, places_of_id, topics_of
from eventbus_mp.geometry import RECORD_BYTES
from eventbus_mp.protocol.history_kinds import HistoryKind
from eventbus_mp.protocol.records import RECORD, pack_notified

TOPIC = Topic(7, "a")


def record(sequence: int, id_crc: int, topic: int = 7) -> bytes:
    return pack_notified(topic, 1, 64, 64, 0, sequence, False, id_crc)


def sequences(found: list[bytes]) -> list[int]:
    return [RECORD.unpack(packed)[-1] for packed in found]


def test_the_oldest_entries_are_forgotten() -> None:
    log = EventLog(200 * ENTRY_BYTES)
    for number in range(250):
        log.append((number, HistoryKind.NOTIFIED, number, 1, [TOPIC], 1, None, None))
    assert [entry[0] for entry in log.entries()] == list(range(150, 250))


def test_the_topics_of_an_entry() -> None:
    other = Topic(8, "b")
    assert topics_of([TOPIC], 0b11) == [TOPIC]
    assert topics_of([TOPIC, other, TOPIC], 0b101) == [TOPIC]
    assert topics_of([TOPIC, other, TOPIC], 0b111) == [TOPIC, other]
    assert topics_of((), 0) == []


def test_the_record_that_ended_last_is_found_first() -> None:
    ring = RecordRing(1 << 12)
    ring.add(record(1, 5) + record(2, 6))
    ring.add(record(3, 5, topic=8))
    ring.add(record(4, 5))
    assert sequences(ring.find(7, 5, 10)) == [4, 1]
    assert sequences(ring.find(7, 5, 1)) == [4]
    assert ring.find(7, 9, 10) == []


def test_four_bytes_that_are_the_same_in_other_fields_are_no_id() -> None:
    ring = RecordRing(1 << 12)
    ring.add(RECORD.pack(1, 7, 5, 5, 5, 6, 5 << 32 | 5, 5 << 32 | 5))
    assert ring.find(7, 5, 10) == []
    assert len(ring.find(7, 6, 10)) == 1
    assert ring.find(7, 0, 10) == []


@pytest.mark.parametrize("seed", range(10))
def test_a_ring_has_the_latest_records_whatever_the_batches(seed: int) -> None:
    print("seed", seed)
    random_numbers = random.Random(seed)
    capacity = 50
    ring, model = RecordRing(capacity * RECORD_BYTES + 7), [0] * 0
    sequence = 0
    for _ in range(100):
        count = random_numbers.randint(1, capacity)
        ring.add(b"".join(record(sequence + index, (sequence + index) % 3) for index in range(count)))
        model += range(sequence, sequence + count)
        sequence += count
        for id_crc in range(3):
            expected = [number for number in reversed(model[-capacity:]) if number % 3 == id_crc]
            assert sequences(ring.find(7, id_crc, 1_000)) == expected


def test_places_are_found_in_a_batch_from_the_last_to_the_first() -> None:
    packed = b"".join(record(number, number % 2) for number in range(5))
    assert list(places_of_id(packed, 0, len(packed), 1)) == [3 * RECORD_BYTES, RECORD_BYTES]
