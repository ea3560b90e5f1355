"""What the processes of a chaos run do: publish, handle and mark events, and send dead letters again."""

from __future__ import annotations

import logging
import os
import pickle
import random
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from eventbus_mp import Event, EventBus, EventShadow, NotSubscribed, Retry, UsageError
from tests.faults.books import Book
from tests.helpers import pause

__all__ = [
    "LASTING",
    "LETTERS",
    "LETTER_TOPIC",
    "Fails",
    "Stage",
    "come_and_go",
    "consume",
    "host",
    "ignore",
    "mark_some",
    "produce",
    "send_again",
]

TOPICS = ("t0", "t1", "t2", "t3")
LETTER_TOPIC = "dead"
LASTING = {"all": ["t."], "even": ["t0", "t2"], "one": ["t1$"], "frail": ["t3"]}
"""Subscribers that are always there, by the hosts below; each host serves one of them. Those of "frail" fail now and
then. An event becomes a dead letter once, so nobody else may fail with one of its topic, or be unsubscribed."""
LETTERS = "letters"
"""The subscriber of the dead letter topic."""
PASSING = ("t[0-2]", "t[01]")
SIZES = (0, 10, 200, 3_000, 20_000, 300_000)
CRASHES_MAX = 1_000
"""Nobody is given up for crashes that are not its events' fault."""


class Fails(Exception):
    """What a handler raises that is to make a dead letter."""


class Stage:
    """Where it all happens: the bus, and files that all processes of the run know.

    Args:
        folder: Where books and run directory go; empty.
        check_invariants: Whether the manager checks itself after each message.
    """

    def __init__(self, folder: Path, *, check_invariants: bool) -> None:
        self.folder = folder
        self.books = folder / "books"
        self.run_dir = folder / "run"
        self.stop_file = folder / "stop"
        """Nobody publishes any more once this is there."""
        self.end_file = folder / "end"
        """Everybody leaves once this is there."""
        self.complaints = folder / "complaints"
        self._check_invariants = check_invariants

    def bus(self) -> EventBus:
        return EventBus(
            "chaos",
            (*TOPICS, LETTER_TOPIC),
            run_dir=str(self.run_dir),
            memory_bytes_max=32 << 20,
            crashes_max=CRASHES_MAX,
            dead_letter_topic=LETTER_TOPIC,
            orphan_grace_s=10,
            notify_timeout_s=300,
            request_timeout_s=120,
            manager_idle_s=1,
            check_invariants=self._check_invariants,
        )

    def complain(self, text: str) -> None:
        with self.complaints.open("a") as file:
            file.write(text + "\n")

    def show(self, topic: str, shadows: list[EventShadow]) -> None:
        """Let the processes of its subscribers know these events, which they may not have got."""
        file = self.folder / f"shown.{topic}.{os.getpid()}"
        file.write_bytes(pickle.dumps(shadows))
        file.rename(self.folder / f"shown.{topic}")

    def shown(self, topic: str) -> list[EventShadow]:
        file = self.folder / f"shown.{topic}"
        found: list[EventShadow] = pickle.loads(file.read_bytes()) if file.exists() else []
        return found


# --- publishing ---


def produce(stage: Stage, name: str, seed: int) -> None:
    """Publish until the stop file is there."""
    dice = random.Random(seed)
    bus, book = stage.bus(), Book(stage.books, name)
    number = 0
    while not stage.stop_file.exists():
        batch = []
        for _ in range(dice.choice((1, 1, 1, 5, 40))):
            data = dice.randbytes(8) * (dice.choice(SIZES) // 8 + 1)
            id: str | int = f"{name}-{number}" if number % 3 else zlib.crc32(name.encode()) << 31 | number
            batch.append(Event(id, dice.choice(TOPICS), data))
            number += 1
        for event in batch:
            book.add("tried", event.topic, event.id, event.data)
        shadows = [bus.notify(batch[0])] if len(batch) == 1 else bus.notify_many(batch)
        for event in batch:
            book.add("sent", event.topic, event.id, event.data)
        if dice.random() < 0.1:
            topic = dice.choice(shadows).topic
            stage.show(topic, [shadow for shadow in shadows if shadow.topic == topic][:5])
        if dice.random() < 0.3:
            pause(dice.random() * 0.01)
    bus.close()


# --- handling ---


def host(bus: EventBus, subscriber: str, handle: Callable[[Event], None], style: str) -> Callable[[], object]:
    """Have this process take the subscriber's events: what it has to call again and again, which takes a moment."""

    def outcome_of(event: Event) -> Exception | None:
        try:
            handle(event)
        except (Retry, Fails) as end:
            return end
        return None

    if style == "events":
        bus.on(*LASTING[subscriber], name=subscriber)(handle)
    elif style == "batches":
        on_batch = bus.on(*LASTING[subscriber], name=subscriber, batch=20, within_s=0.002)
        on_batch(lambda events: [outcome_of(event) for event in events])
    else:
        inbox = bus.inbox(subscriber, LASTING[subscriber])

        def pull() -> None:
            done = []
            for shadow, event in inbox.events(20, 0.05):
                end = outcome_of(event)
                if isinstance(end, Retry):
                    inbox.release(shadow, end.delay_s)
                else:
                    done.append(shadow)
            inbox.complete_many(done)

        return pull
    return lambda: pause(0.05)


def consume(stage: Stage, name: str, seed: int) -> None:
    """Host one lasting subscriber, with leases that outlive their events; now and then a passing one as well.

    Some hosts have a handler of events, some one of batches, and some an inbox. All of them want some events again, and
    mark some events that another process may have, or nobody yet. Those of "frail" fail with some.
    """
    dice = random.Random(seed)
    subscriber = name.partition("-")[0]
    bus, book = stage.bus(), Book(stage.books, name)
    logging.getLogger("eventbus_mp").addFilter(lambda record: not (record.exc_info and record.exc_info[0] is Fails))
    views: list[tuple[memoryview, int]] = []
    # An inbox has no word for it.
    style = dice.choice(("events", "batches") if subscriber == "frail" else ("events", "batches", "inbox"))

    def handle(event: Event) -> None:
        book.add("got", event.topic, event.id, event.data)
        if len(event.data) > 16_384 and dice.random() < 0.2:
            view = memoryview(event.encoded.data)
            views.append((view, zlib.crc32(view)))
        if len(views) > 3:
            view, checksum = views.pop(0)
            if zlib.crc32(view) != checksum:
                stage.complain(f"{name}: a view changed while it was held")
        if dice.random() < 0.001:
            pause(0.02)
        end: Exception | None = None
        if dice.random() < 0.01:
            end = Retry(delay_s=dice.choice((0, 0.001, 0.02)))
        elif subscriber == "frail" and dice.random() < 0.05:
            end = Fails()
        if end is not None:
            book.add("again", event.topic, event.id)
            raise end

    work = host(bus, subscriber, handle, style)
    while not stage.end_file.exists():
        work()
        if dice.random() < 0.1:
            come_and_go(bus, dice, name)
        if dice.random() < 0.2:
            mark_some(stage, bus, book, dice, subscriber)
    views.clear()
    bus.close()


def mark_some(stage: Stage, bus: EventBus, book: Book, dice: random.Random, subscriber: str) -> None:
    """Settle events of the subscriber, which this process hosts, wherever they are."""
    topic = {"all": dice.choice(TOPICS), "even": dice.choice(("t0", "t2")), "one": "t1", "frail": "t3"}[subscriber]
    shadows: list[EventShadow | tuple[str, str | int]] = []
    for shadow in stage.shown(topic):
        book.add("marked", *shadow)
        shadows.append(shadow if dice.random() < 0.5 else tuple(shadow))
    bus.mark_many(subscriber, shadows)


def come_and_go(bus: EventBus, dice: random.Random, name: str) -> None:
    """A subscriber and a topic that nobody relies on."""
    what = dice.randrange(4)
    if what == 0:
        bus.subscribe((ignore, {"of": name}), [dice.choice(PASSING)])
        bus.unsubscribe((ignore, {"of": name}))
    elif what == 1:
        bus.register_topic(f"passing {name}")
        bus.unregister_topic(f"passing {name}")
    elif what == 2:
        with bus.inbox(f"passing {name}", ["t2"]) as inbox:
            shadow = inbox.get(0.05)
            if shadow is not None:
                bus.fetch_event(shadow)
        bus.unsubscribe(f"passing {name}")
    else:
        bus.statistics()


def ignore(shadow: object, config: object) -> None:
    """Settles nothing; its deliveries are skipped when it is unsubscribed."""


# --- dead letters ---


def send_again(stage: Stage, name: str, seed: int) -> None:
    """Have what failed sent again: all of it, or one by its letter, its topic and id, or its shadow from the inbox.

    Letters of subscribers that are gone are completed.
    """
    dice = random.Random(seed)
    bus = stage.bus()
    inbox = bus.inbox(LETTERS, [LETTER_TOPIC])
    while not stage.end_file.exists():
        what = dice.randrange(4)
        letters = bus.dead_letters(limit=100) if what < 3 else []
        bus.mark_many(LETTERS, [letter.shadow for letter in letters if letter.subscriber.name not in LASTING])
        letters = [letter for letter in letters if letter.subscriber.name in LASTING]
        if what == 0:
            bus.redeliver()
        elif what == 1 and letters:
            bus.redeliver(dice.choice(letters))
        elif what == 2 and letters:
            with suppress(UsageError):  # Somebody else was faster.
                bus.redeliver(tuple(dice.choice(letters).shadow))
        elif what == 3:
            shadows = inbox.get_many(5, 0.02)
            for shadow in shadows:
                with suppress(NotSubscribed):
                    bus.redeliver(shadow)
            inbox.complete_many(shadows)
        pause(0.02)
    bus.close()
