"""The story is bounded and tells one event's lines in order."""

from eventbus_mp.core.story import ENTRIES_MAX, Story


def test_lines_of_one_event_oldest_first():
    story = Story()
    story.tell(1_000_000_000, "notified", 5, 0b11111)
    story.tell(2_500_000_000, "sent", 5, 0b1100)
    assert story.of(7) == ["1.000000 notified", "2.500000 sent"]
    assert story.of(9) == ["1.000000 notified"]
    assert story.of(10) == story.of(4) == []


def test_old_batches_are_forgotten():
    story = Story()
    for number in range(ENTRIES_MAX + 1):
        story.tell(0, "batch", number, 1)
    assert story.of(0) == []
    assert story.of(1) == story.of(ENTRIES_MAX) == ["0.000000 batch"]
