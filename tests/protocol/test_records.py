"""Records are 40 bytes each and give back the numbers they were made of."""

import select

import pytest

from eventbus_mp.geometry import RECORD_BYTES
from eventbus_mp.protocol import records
from eventbus_mp.protocol.records import RECORD

U32, U64 = (1 << 32) - 1, (1 << 64) - 1


@pytest.mark.parametrize(
    ("deadline_ns", "awaited", "kind"), [(0, False, 1), (0, True, 2), (U64, False, 3), (U64, True, 4)]
)
def test_a_notified_record_holds_the_largest_numbers(deadline_ns, awaited, kind):
    raw = records.pack_notified(U32, U32, U32, U32, deadline_ns, U64, awaited)
    assert RECORD.unpack(raw) == (kind, U32, U32, U32, U32, 0, deadline_ns, U64)
    assert raw[records.KIND_BYTE] in records.NOTIFIED_KINDS


@pytest.mark.parametrize("count", range(1, 20))
def test_whatever_follows_is_padded_to_whole_records(count):
    assert len(records.pack_request(0, 1, b"x" * count)) % RECORD_BYTES == 0
    assert len(records.pack_replied(records.REPLIED, 1, b"x" * count)[0]) % RECORD_BYTES == 0
    assert [len(frame) for frame in records.pack_delivered(1, 1, bytes(RECORD_BYTES) * count)] == [
        (count + 1) * RECORD_BYTES
    ]


@pytest.mark.parametrize("count", [100, 101, 102, 202, 203, 5000])
def test_no_frame_of_the_manager_is_over_what_a_pipe_takes_whole(count):
    packed = b"".join(records.pack_notified(1, 1, 1, 1, 0, number, False) for number in range(count))
    frames = records.pack_delivered(1, 1, packed)
    assert b"".join(frame[RECORD_BYTES:] for frame in frames) == packed
    frames += records.pack_replied(records.REPLIED, 1, packed)
    assert max(map(len, frames)) <= select.PIPE_BUF


def test_a_settled_range_is_one_record():
    assert RECORD.unpack(records.pack_settled(1, 2, U64, U32)) == (records.SETTLED, 2, 1, 0, U32, 0, 0, U64)
