"""The event log is bounded, and gives one event's lines in order."""

from eventbus_mp.core.event_log import ENTRIES_MAX, EventLog


def test_lines_of_one_event_oldest_first():
    event_log = EventLog()
    event_log.record(1_000_000_000, "notified", 5, 0b11111)
    event_log.record(2_500_000_000, "sent", 5, 0b1100)
    assert event_log.of(7) == ["1.000000 notified", "2.500000 sent"]
    assert event_log.of(9) == ["1.000000 notified"]
    assert event_log.of(10) == event_log.of(4) == []


def test_old_batches_are_forgotten():
    event_log = EventLog()
    for number in range(ENTRIES_MAX + 1):
        event_log.record(0, "batch", number, 1)
    assert event_log.of(0) == []
    assert event_log.of(1) == event_log.of(ENTRIES_MAX) == ["0.000000 batch"]
