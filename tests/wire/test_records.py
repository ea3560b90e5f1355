"""Records are 36 bytes each and give back the numbers they were made of."""

import pytest

from eventbus_mp.messages import NOTIFIED, NOTIFIED_AWAITED
from eventbus_mp.wire import records
from eventbus_mp.wire.records import RECORD, RECORD_BYTES

U32, U64 = (1 << 32) - 1, (1 << 64) - 1


def test_a_record_has_36_bytes():
    assert RECORD_BYTES == 36


@pytest.mark.parametrize(("awaited", "kind"), [(False, NOTIFIED), (True, NOTIFIED_AWAITED)])
def test_a_notified_record_holds_the_largest_numbers(awaited, kind):
    raw = records.notified(U32, U32, U32, U32, U64, U64, awaited)
    assert RECORD.unpack(raw) == (kind, U32, U32, U32, U32, U64, U64)


@pytest.mark.parametrize("count", range(1, 20))
def test_whatever_follows_is_padded_to_whole_records(count):
    assert len(records.settled(1, 1, range(count))) % RECORD_BYTES == 0
    assert len(records.request(0, 1, b"x" * count)) % RECORD_BYTES == 0
    assert len(records.replied(records.REPLIED, 1, b"x" * count)) % RECORD_BYTES == 0
    assert len(records.delivered(1, 1, [bytes(RECORD_BYTES)] * count)) == (count + 1) * RECORD_BYTES


def test_one_settled_delivery_is_one_record():
    assert len(records.settled(1, 1, [5])) == RECORD_BYTES


def test_split_is_the_reverse_of_join():
    raws = [records.notified(1, 2, 3, 4, 5, number, False) for number in range(5)]
    assert records.split(b"".join(raws)) == raws
