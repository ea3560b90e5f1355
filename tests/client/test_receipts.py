"""Receipts, in a bus of one thread: what is told, to whom, and what the next one that opens a name finds."""

from collections.abc import Callable, Iterable

import pytest

from eventbus_mp import BusClosed, BusFull, Event, EventBus, Receipt, Receipts, Skip, UsageError
from eventbus_mp.client.receipt_book import ReceiptBook
from eventbus_mp.testing.inprocess import InProcessBus

Handle = Callable[..., EventBus]


def tags_of(receipts: Iterable[Receipt]) -> list[bytes]:
    return [tag for receipt in receipts for tag in receipt.tags]


def taken(receipts: Receipts, count: int) -> list[bytes]:
    """The tags of the next `count` events, sorted."""
    found: list[bytes] = []
    while len(found) < count:
        told = receipts.get(timeout_s=20)
        assert told, f"{len(found)} of {count} were told"
        found += tags_of(told)
    return sorted(found)


def events(count: int, topic: str = "a") -> list[Event]:
    return [Event(str(number), topic, number) for number in range(count)]


@pytest.fixture
def world() -> InProcessBus:
    return InProcessBus(receipts_max=100)


@pytest.fixture
def bus(handle: Handle) -> EventBus:
    bus = handle()

    @bus.on("a", name="bill")
    def bill(event: Event) -> None:
        if event.data % 2:
            raise Skip("it is odd")

    return bus


def test_events_that_were_settled_alike_are_told_together(bus: EventBus) -> None:
    bus.on("a", name="audit")(lambda event: None)
    receipts = bus.receipts("orders")
    shadows = receipts.notify_many(events(6), tags=[b"t%d" % number for number in range(6)])
    assert [shadow.id for shadow in shadows] == ["0", "1", "2", "3", "4", "5"]
    told: dict[tuple[str, ...], set[bytes]] = {}
    while sum(map(len, told.values())) < 6:
        for receipt in receipts.get(timeout_s=20):
            assert {key.name for key in receipt.watcher.subscribers} == {"bill", "audit"}
            assert not receipt.watcher.waiting
            told.setdefault(tuple(key.name for key in receipt.watcher.skippers), set()).update(receipt.tags)
    assert told == {(): {b"t0", b"t2", b"t4"}, ("bill",): {b"t1", b"t3", b"t5"}}
    assert receipts.get(timeout_s=0) == [], "each is told once to one process"


def test_an_id_is_a_tag(bus: EventBus) -> None:
    receipts = bus.receipts("orders")
    receipts.notify_many(event for event in events(2))
    assert taken(receipts, 2) == [b"0", b"1"]
    with pytest.raises(UsageError, match="has 65 bytes; a tag has 1 to 64"):
        receipts.notify_many([Event("x" * 65, "a", 0)])
    receipts.notify_many([Event(7, "a", 0)])
    assert len(taken(receipts, 1)[0]) == 9


def test_what_nobody_gets_is_settled_by_nobody(bus: EventBus) -> None:
    """Whether its process knows that, or only the bus does."""
    receipts = bus.receipts("orders")
    mixed = [Event("1", "b", 0), Event("2", "a", 0), Event("3", "b", 0), Event("4", "a", 0)]
    shadows = receipts.notify_many(mixed)
    assert [shadow.dropped for shadow in shadows] == [True, False, True, False]
    fates: dict[bytes, int] = {}
    while len(fates) < 4:
        for receipt in receipts.get(timeout_s=20):
            fates |= dict.fromkeys(receipt.tags, len(receipt.watcher.subscribers))
    assert fates == {b"1": 0, b"2": 1, b"3": 0, b"4": 1}
    bus.unsubscribe("bill")
    receipts.notify_many(events(3))
    assert taken(receipts, 3) == [b"0", b"1", b"2"]


def test_the_next_process_is_told_what_was_not_confirmed_and_knows_what_is_left(handle: Handle, bus: EventBus) -> None:
    receipts = bus.receipts("orders")
    inbox = handle().inbox("slow", ["b"])
    receipts.notify_many(events(300, "b")[:40], tags=[b"b%02d" % number for number in range(40)])
    receipts.notify_many(events(4))
    told = taken(receipts, 4)
    receipts.confirm(told[:2])
    receipts.confirm([b"unknown", *told[:2]])
    inbox.complete_many(inbox.get_many(10))
    assert taken(receipts, 10) == [b"b%02d" % number for number in range(10)]
    receipts.close()
    with handle().receipts("orders") as again:
        assert again.left == tuple(b"b%02d" % number for number in range(10, 40))
        assert taken(again, 12) == [*told[2:], *(b"b%02d" % number for number in range(10))]
        inbox.complete_many(inbox.get_many(30))
        assert taken(again, 30) == list(again.left)
        again.confirm([*told, *(b"b%02d" % number for number in range(40))])
    with bus.receipts("orders") as nothing:
        assert (nothing.left, nothing.get(timeout_s=0)) == ((), [])
    inbox.close()


def test_one_process_at_a_time_has_a_name(handle: Handle, bus: EventBus) -> None:
    first = bus.receipts("orders")
    with pytest.raises(UsageError, match=r"receipts 'orders' are open in process \d+, and one at a time"):
        handle().receipts("orders")
    handle().receipts("others").close()
    first.close()
    first.close()
    handle().receipts("orders").close()


def test_a_name_takes_so_many_receipts_and_no_more(bus: EventBus) -> None:
    receipts = bus.receipts("orders")
    receipts.notify_many(events(98))
    with pytest.raises(BusFull, match=r"receipts 'orders' has 98 .* BusConfig.receipts_max=100; take them with get"):
        receipts.notify_many(events(3))
    receipts.notify_many(events(2), tags=[b"x", b"y"])
    receipts.confirm(taken(receipts, 100)[:3])
    with pytest.raises(BusFull):
        receipts.notify_many(events(4))
    receipts.notify_many(events(3))


def test_tags_that_are_no_tags_publish_nothing(bus: EventBus) -> None:
    receipts = bus.receipts("orders")
    for tags in ([b""], [b"x" * 65], ["text"], b"x"):
        with pytest.raises(UsageError, match="tags"):
            receipts.notify_many(events(1), tags=tags)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="2 events and 1 tags; give one for each event"):
        receipts.notify_many(events(2), tags=[b"x"])
    with pytest.raises(UsageError, match="confirm"):
        receipts.confirm(b"x")  # type: ignore[arg-type]
    assert receipts.get(timeout_s=0) == []
    assert bus.statistics().events_notified == 0
    receipts.notify_many(events(100))  # What was refused has taken no room.


def test_events_with_one_tag_are_confirmed_together(bus: EventBus) -> None:
    receipts = bus.receipts("orders")
    receipts.notify_many(events(3), tags=[b"x", b"y", b"x"])
    receipts.notify_many(events(1), tags=[b"x"])
    assert taken(receipts, 4) == [b"x", b"x", b"x", b"y"]
    receipts.confirm([b"x"])
    receipts.close()
    assert taken(bus.receipts("orders"), 1) == [b"y"]


def test_no_more_is_told_at_once_than_is_asked_for(bus: EventBus) -> None:
    receipts = bus.receipts("orders")
    receipts.notify_many(events(10, "b"))
    assert [len(tags_of(receipts.get(4))) for _ in range(3)] == [4, 4, 2]
    with pytest.raises(UsageError, match=r"get\(limit=0\)"):
        receipts.get(0)


def test_tags_of_any_length_in_any_number_of_calls(world: InProcessBus, bus: EventBus) -> None:
    """What is kept is joined to pages, and cut again."""
    receipts = bus.receipts("orders")
    inbox = bus.inbox("slow", ["b"])
    tags = [b"%d" % number * (1 + number % 5) for number in range(90)]
    for number in range(0, 90, 9):
        bus.notify_many(events(number % 4, "b"))  # Events without a tag are between those that have one.
        receipts.notify_many(events(9, "b"), tags=tags[number : number + 9])
    (box,) = world.core.state.boxes.by_name.values()
    assert len(box.pages) < 3
    receipts.close()
    assert bus.receipts("orders").left == tuple(tags)
    inbox.close()


def test_a_descriptor_is_readable_while_there_is_something_to_tell(bus: EventBus) -> None:
    from select import select

    receipts = bus.receipts("orders")
    fd = receipts.fileno()

    def is_readable() -> bool:
        bus.topics()
        return bool(select([fd], [], [], 0)[0])

    assert not is_readable()
    receipts.notify_many(events(3, "b"))
    assert is_readable()
    receipts.get(2)
    assert is_readable()
    receipts.get(2)
    assert not is_readable()
    receipts.close()
    with pytest.raises(BusClosed, match="receipts 'orders' were closed"):
        receipts.fileno()


def test_a_book_knows_the_tags_of_numbers_and_the_numbers_of_tags() -> None:
    book = ReceiptBook()
    tags = [b"%d" % number for number in range(700)]
    book.note(200, tags)
    assert book.tags_of(250, 600) == tags[50:650]
    assert book.tell(200, 700) == tags
    assert book.confirm(tags[600:] + tags[:3] + [b"x"]) == [(200, 3), (800, 100)]
    assert book.confirm(tags) == [(203, 597)]
    assert not book._pages
