"""The nouns that users hold: Event, EventShadow, SubscriberKey, Subscriber, Watcher, the statistics."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from eventbus_mp.errors import InvalidTopic, UsageError

__all__ = ["Event", "EventShadow", "check_topic"]

TOPIC_LENGTH_MAX = 255
ID_BYTES_MAX = 1024
NOT_READ: Any = object()
"""Stands for a field of a fetched event until somebody asks for it."""
ENVELOPE_FIELDS = ("transaction_id", "initialized_at", "occurred_at", "source", "ttl")


def check_topic(topic: str) -> str:
    """`topic`, when it can name a topic.

    Raises:
        InvalidTopic: It is not 1 to 255 characters, or has a control character.
    """
    if not isinstance(topic, str):
        raise InvalidTopic(f"topic {topic!r} is a {type(topic).__name__}, not a str")
    if not 1 <= len(topic) <= TOPIC_LENGTH_MAX:
        raise InvalidTopic(f"topic {topic[:40]!r} has {len(topic)} characters; 1 to {TOPIC_LENGTH_MAX} are allowed")
    if not topic.isprintable() and any(ord(char) < 32 or 127 <= ord(char) < 160 for char in topic):
        raise InvalidTopic(f"topic {topic!r} has a control character")
    try:
        topic.encode()
    except UnicodeEncodeError as cause:
        raise InvalidTopic(f"topic {topic!r} is not valid unicode text") from cause
    return topic


class Event:
    """What happened: an id, a topic, the data, and where and when it came from.

    Times are integers in the bus's `time_unit`. An event that was fetched decodes its data on first use of `data`.
    An event is a value: its fields cannot be set.

    `raw` is, of a fetched event, its data as it was encoded: the msgpack, read-only, without the memory of arrays and
    memoryviews, which lies beside it. It is None of an event that was made here.

    Args:
        id: Names the event within its topic; 1 to 1024 bytes of UTF-8.
        topic: A registered topic.
        data: Anything that msgpack and the bus's ext types carry; not None.
        transaction_id: Ties together the events of one piece of work.
        initialized_at: When the work began.
        occurred_at: When it was done.
        source: Who made it.
        ttl: How long after `occurred_at` it is worth delivering.

    Raises:
        UsageError: id, topic or data is missing or of the wrong type, or `ttl` comes without `occurred_at`.
    """

    __slots__ = ("_data", "_envelope", "_id", "_load", "_marks", "_payload", "topic")
    # Of a fetched event: its bytes, where their parts begin, and what takes a field out of them. Fields that nobody
    # asked for yet are `NOT_READ`.
    _payload: memoryview | bytes | None
    _marks: tuple[int, int, int, int]
    _load: Callable[[Event, str], Any]

    def __init__(
        self,
        id: str,
        topic: str,
        data: Any,
        *,
        transaction_id: str | None = None,
        initialized_at: int | None = None,
        occurred_at: int | None = None,
        source: str | None = None,
        ttl: int | None = None,
    ) -> None:
        if type(id) is not str or not id or type(topic) is not str or not topic or data is None:
            raise UsageError(_what_is_missing(id, topic))
        self._id = id
        self.topic = topic
        self._data = data
        self._payload = None
        self._envelope: Any = None
        if transaction_id is None and initialized_at is None and occurred_at is None and source is None and ttl is None:
            return
        if ttl is not None and occurred_at is None:
            raise UsageError(f"Event(id={id!r}, ttl={ttl!r}): a ttl counts from occurred_at, which is missing")
        if ttl is not None and (type(ttl) is not int or type(occurred_at) is not int):
            raise UsageError(f"Event(id={id!r}, ttl={ttl!r}, occurred_at={occurred_at!r}): both are whole numbers")
        self._envelope = (transaction_id, initialized_at, occurred_at, source, ttl)

    @property
    def id(self) -> str:
        value = self._id
        if value is NOT_READ:
            value = self._id = self._load(self, "id")
        return value

    @property
    def data(self) -> Any:
        value = self._data
        if value is NOT_READ:
            value = self._data = self._load(self, "data")
        return value

    @property
    def raw(self) -> memoryview | None:
        return memoryview(self._load(self, "raw")) if self._payload is not None else None

    def _field(self, index: int) -> Any:
        values = self._envelope
        if values is NOT_READ:
            values = self._envelope = self._load(self, "envelope")
        return values[index] if values is not None else None

    @property
    def transaction_id(self) -> str | None:
        return self._field(0)  # type: ignore[no-any-return]

    @property
    def initialized_at(self) -> int | None:
        return self._field(1)  # type: ignore[no-any-return]

    @property
    def occurred_at(self) -> int | None:
        return self._field(2)  # type: ignore[no-any-return]

    @property
    def source(self) -> str | None:
        return self._field(3)  # type: ignore[no-any-return]

    @property
    def ttl(self) -> int | None:
        return self._field(4)  # type: ignore[no-any-return]

    @property
    def duration(self) -> int:
        """`occurred_at - initialized_at` in the bus's time unit; 0 when either is missing."""
        if self.initialized_at is None or self.occurred_at is None:
            return 0
        return self.occurred_at - self.initialized_at

    def copy(self) -> Event:
        """The same event, detached from the bus's memory: it pins nothing and outlives everything.

        Its arrays and memoryviews are decoded anew, over memory of its own. An event that was not fetched has none of
        the bus's; its copy shares the data.
        """
        if self._payload is None:
            return self._made_here()
        event = Event.__new__(Event)
        event.topic = self.topic
        event._payload = bytes(self._payload)
        event._marks, event._load = self._marks, self._load
        event._id = event._data = event._envelope = NOT_READ
        return event

    def _made_here(self) -> Event:
        """The same fields as an event that was not fetched."""
        return _rebuild_event(*self._key())

    def _key(self) -> tuple[Any, ...]:
        return (
            self.id,
            self.topic,
            self.data,
            self.transaction_id,
            self.initialized_at,
            self.occurred_at,
            self.source,
            self.ttl,
        )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Event) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash((self.topic, self.id))

    def __repr__(self) -> str:
        return (
            f"Event(id={self.id!r}, topic={self.topic!r}, data={_short(self.data)}, "
            f"transaction_id={self.transaction_id!r}, source={self.source!r}, ttl={self.ttl!r})"
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild_event, (*self._key(),)


def _what_is_missing(id: Any, topic: Any) -> str:
    if type(id) is not str or not id:
        return f"Event(id={id!r}): an event needs an id, a str that is not empty"
    if type(topic) is not str or not topic:
        return f"Event(id={id!r}, topic={topic!r}): an event needs a topic, a str that is not empty"
    return f"Event(id={id!r}, topic={topic!r}): an event needs data that is not None"


def _rebuild_event(id: str, topic: str, data: Any, *rest: Any) -> Event:
    return Event(id, topic, data, **dict(zip(ENVELOPE_FIELDS, rest, strict=True)))


def _short(value: Any, length: int = 60) -> str:
    text = repr(value)
    return text if len(text) <= length else text[: length - 3] + "..."


class EventShadow:
    """(topic, id) of an event, with the place of its payload hidden inside; what listeners get.

    It unpacks and compares as the pair: `topic, id = shadow`. A shadow outlives its event: fetching a settled one
    gives None.
    """

    __slots__ = ("_at", "id", "topic")
    _at: tuple[int, int, int, int, int] | None
    """The fields of its `Place`; a plain tuple costs a fifth of a named one."""

    def __init__(self, topic: str, id: str, place: Place | None = None) -> None:
        self.topic = topic
        self.id = id
        self._at = place

    @property
    def _place(self) -> Place | None:
        return Place(*self._at) if self._at is not None else None

    def __iter__(self) -> Iterator[str]:
        yield self.topic
        yield self.id

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> str:
        return (self.topic, self.id)[index]

    def __eq__(self, other: object) -> bool:
        if isinstance(other, EventShadow):
            return self.topic == other.topic and self.id == other.id
        return (self.topic, self.id) == other

    def __hash__(self) -> int:
        return hash((self.topic, self.id))

    def __repr__(self) -> str:
        return f"EventShadow({self.topic!r}, {self.id!r})"


class Place(NamedTuple):
    """Where a payload lies: hidden in a shadow."""

    topic: int
    segment: int
    offset: int
    length: int
    sequence: int
