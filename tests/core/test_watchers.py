"""What the watcher of an event says, as it travels."""

from eventbus_mp.core.allocator.spans import Span
from eventbus_mp.core.entities import SubscriberState
from eventbus_mp.core.event_batch import EventBatch, Route, Topic
from eventbus_mp.core.watchers import EMPTY_WATCHER, describe


def test_a_watcher_names_subscribers_completers_and_skippers():
    hosts = enumerate(["B", "", ""], 1)
    subscribers = [SubscriberState(number, f"s{number}", b"", broadcast=False, host=host) for number, host in hosts]
    batch = EventBatch(1, Route(tuple(subscribers)), Span(1, 0, 1, 1, backed=True))
    batch.add(b"", [Topic(1, "a")], 2)
    batch.unsettled = [0b01, 0b11, 0b01]
    batch.completed = [0b10, 0b00, 0b00]
    everybody = first, _, last = [["s1", b"", "B"], ["s2", b"", ""], ["s3", b"", ""]]
    assert describe(batch, 0b10) == {"subscribers": everybody, "completers": [first], "skippers": [last]}
    assert describe(batch, 0b01) == {**EMPTY_WATCHER, "subscribers": everybody}
