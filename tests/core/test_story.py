"""The story is bounded and tells one event's lines in order."""

from eventbus_mp.core.story import ENTRY_WEIGHT, REMEMBERED_MAX, Story


def test_lines_of_one_event_oldest_first():
    story = Story()
    story.tell_range(1_000_000_000, "notified", 5, 9)
    story.tell(2_500_000_000, "sent", [7, 8])
    assert story.of(7) == ["1.000000 notified", "2.500000 sent"]
    assert story.of(9) == ["1.000000 notified"]
    assert story.of(10) == []


def test_old_batches_are_forgotten():
    story = Story()
    story.tell(0, "first", [1])
    for _ in range(3):
        story.tell(0, "many", range(2, 2 + REMEMBERED_MAX // 2))
    assert story.of(1) == []
    assert story.of(2)


def test_batches_of_any_size_weigh_the_same_when_they_go():
    story = Story()
    for size in (0, 1, 3 * REMEMBERED_MAX, 5):
        for _ in range(2 * REMEMBERED_MAX // ENTRY_WEIGHT if size < 2 else 2):
            story.tell(0, "batch", range(size))
    for _ in range(10):
        story.tell(0, "late", [99])
    assert len(story.of(99)) == 10
    assert len(story._entries) <= REMEMBERED_MAX // ENTRY_WEIGHT
