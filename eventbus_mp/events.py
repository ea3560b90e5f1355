"""Event and EventShadow: what users publish, and what their listeners get."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from eventbus_mp.errors import InvalidTopic, UsageError

__all__ = ["Event", "EventShadow", "Place", "check_topic", "fetched_event"]

new_object = object.__new__
"""Makes an object without calling its class, which takes twice as long."""

TOPIC_LENGTH_MAX = 255
ID_BYTES_MAX = 1024
NOT_READ: Any = object()
"""Stands for a field of a fetched event until somebody asks for it."""
ENVELOPE_FIELDS = ("transaction_id", "initialized_at", "occurred_at", "source", "ttl")


def check_topic(topic: str) -> str:
    """Return `topic` if it can name a topic.

    Raises:
        InvalidTopic: It is not a str of 1 to 255 characters, has a control character, or is not valid unicode.
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

    An event is a value: its fields cannot be set, and events with equal fields are equal. Making one only checks the
    types of its fields; `EventBus.notify` encodes it. A fetched event decodes each field when it is first used.

    Args:
        id: Names the event within its topic; 1 to 1024 bytes of UTF-8.
        topic: A registered topic.
        data: Anything that msgpack and the bus's ext types can carry, except None.
        transaction_id: Ties together the events of one piece of work.
        initialized_at: When the work began, in the bus's `time_unit`.
        occurred_at: When it was done, in the bus's `time_unit`.
        source: Who made the event.
        ttl: How long after `occurred_at` the event may still be delivered, in the bus's `time_unit`; None: for ever.

    Raises:
        UsageError: `id`, `topic` or `data` is missing or has the wrong type; or `ttl` is given without `occurred_at`,
            or one of these two is not an int.
        DecodeError: From reading a field of a fetched event: its type is not registered in this process, or another
            program wrote over the event's memory.
    """

    __slots__ = ("_data", "_envelope", "_id", "_load", "_marks", "_payload", "_topic")
    # These three belong to a fetched event: its bytes, where their parts begin, and the function that decodes one
    # field of them. A field that nobody has used yet is `NOT_READ`.
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
        self._topic = topic
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
    def topic(self) -> str:
        return self._topic

    @property
    def data(self) -> Any:
        value = self._data
        if value is NOT_READ:
            value = self._data = self._load(self, "data")
        return value

    @property
    def raw(self) -> memoryview | None:
        """The encoded data of a fetched event, read-only; None for an event that was made in this process.

        It is the msgpack without the memory of arrays and memoryviews, which lies beside it.
        """
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
        """`occurred_at - initialized_at`, in the bus's `time_unit`; 0 if either is missing."""
        if self.initialized_at is None or self.occurred_at is None:
            return 0
        return self.occurred_at - self.initialized_at

    def copy(self) -> Event:
        """The same event, detached from the bus's memory: it keeps no memory of the bus in use.

        The copy of a fetched event decodes its arrays and memoryviews again, over memory of its own. An event that was
        made in this process uses none of the bus's memory; its copy shares the data.
        """
        if self._payload is None:
            return self._made_here()
        return fetched_event(self._topic, bytes(self._payload), self._marks, self._load)

    def _made_here(self) -> Event:
        """The same fields as an event that was not fetched."""
        return _rebuild_event(*self._key())

    def _key(self) -> tuple[Any, ...]:
        return (
            self.id,
            self._topic,
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
        return hash((self._topic, self.id))

    def __repr__(self) -> str:
        return (
            f"Event(id={self.id!r}, topic={self.topic!r}, data={_short(self.data)}, "
            f"transaction_id={self.transaction_id!r}, source={self.source!r}, ttl={self.ttl!r})"
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild_event, (*self._key(),)


def fetched_event(
    topic: str,
    payload: memoryview | bytes,
    marks: tuple[int, int, int, int],
    load: Callable[[Event, str], Any],
) -> Event:
    """An event over its encoded bytes; `load` decodes the field that it is asked for. Nothing is decoded here."""
    event = new_object(Event)
    event._topic = topic
    event._payload = payload
    event._marks = marks
    event._load = load
    event._id = event._data = event._envelope = NOT_READ
    return event


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
    """The pair (topic, id) of an event, with the place of its payload hidden inside; this is what listeners get.

    It unpacks, compares and hashes as the pair: `topic, id = shadow`. It is a value: its fields cannot be set. A shadow
    outlives its event: fetching a settled event gives None.
    """

    __slots__ = ("_at", "_id", "_topic")
    _at: tuple[int, int, int, int, int] | None
    """The fields of its `Place`; a plain tuple costs a fifth of a named one."""

    def __init__(self, topic: str, id: str, place: Place | None = None) -> None:
        self._topic = topic
        self._id = id
        self._at = place

    @property
    def topic(self) -> str:
        return self._topic

    @property
    def id(self) -> str:
        return self._id

    @property
    def _place(self) -> Place | None:
        return Place(*self._at) if self._at is not None else None

    def __iter__(self) -> Iterator[str]:
        yield self._topic
        yield self._id

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> str:
        return (self._topic, self._id)[index]

    def __eq__(self, other: object) -> bool:
        if isinstance(other, EventShadow):
            return self._topic == other._topic and self._id == other._id
        return (self._topic, self._id) == other

    def __hash__(self) -> int:
        return hash((self._topic, self._id))

    def __repr__(self) -> str:
        return f"EventShadow({self._topic!r}, {self._id!r})"


class Place(NamedTuple):
    """Where a payload lies; hidden in a shadow."""

    topic: int
    segment: int
    offset: int
    length: int
    sequence: int
