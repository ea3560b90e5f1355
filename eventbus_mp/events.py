"""Event and EventShadow: what users publish, and what their listeners get."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Generic, NamedTuple

from eventbus_mp.arguments import as_text
from eventbus_mp.errors import InvalidTopic, UsageError
from eventbus_mp.event_fields import checked_headers, checked_identity, checked_transaction_id, plain_field
from eventbus_mp.ids import EventId

if TYPE_CHECKING:
    from typing_extensions import TypeVar  # Type checkers bring it along; it is not installed with this package.

    Data_co = TypeVar("Data_co", default=Any, covariant=True)
else:
    from typing import TypeVar

    Data_co = TypeVar("Data_co", covariant=True)

__all__ = [
    "FORMAT",
    "EncodedData",
    "Event",
    "EventShadow",
    "Place",
    "check_topic",
    "fetched_event",
    "shadow_at",
]

new_object = object.__new__
"""Makes an object without calling its class, which takes twice as long."""

TOPIC_LENGTH_MAX = 255
ID_BYTES_MAX = 1024
NOT_READ: Any = object()
"""Stands for a field of a fetched event until somebody asks for it."""
ENVELOPE_FIELDS = ("transaction_id", "initialized_at", "occurred_at", "source", "ttl", "headers")
NO_ENVELOPE = (None,) * 5
"""The fields of an envelope, but for its headers, when none of them is given."""
FORMAT = 2
"""The way in which this version encodes data; `EncodedData.format` says it."""


def check_topic(topic: str) -> str:
    """Return `topic` as a str, of no subclass, if it can name a topic.

    Raises:
        InvalidTopic: It is not a str of 1 to 255 characters, has a control character, or is not valid unicode.
    """
    name = as_text(topic)
    if name is None:
        raise InvalidTopic(f"topic {topic!r} is a {type(topic).__name__}, not a str")
    topic = name
    if not 1 <= len(topic) <= TOPIC_LENGTH_MAX:
        raise InvalidTopic(f"topic {topic[:40]!r} has {len(topic)} characters; 1 to {TOPIC_LENGTH_MAX} are allowed")
    if not topic.isprintable() and any(ord(char) < 32 or 127 <= ord(char) < 160 for char in topic):
        raise InvalidTopic(f"topic {topic!r} has a control character")
    try:
        topic.encode()
    except UnicodeEncodeError as cause:
        raise InvalidTopic(f"topic {topic!r} is not valid unicode text") from cause
    return topic


class EncodedData(NamedTuple):
    """An event's data as it is encoded: to store it, or to send it on, without decoding it.

    It can be published again with `Event.from_encoded`, where the types in the data need not be known.
    """

    data: bytes | memoryview
    """Msgpack."""
    buffers: tuple[memoryview, ...]
    """The memory of arrays and memoryviews, which is kept beside the data. Those of a fetched event are one piece, in
    which each begins at a multiple of 64."""
    format: int = FORMAT


class Event(Generic[Data_co]):
    """What happened: an id, a topic, the data, and where and when it came from.

    Type checkers know its data: `def bill(event: Event[Paid])`, where `Event` alone is one with any data. Nothing of
    that is looked at when the program runs: the data of a fetched event is what was published.

    An event is a value: its fields cannot be set, and events with equal fields are equal. Making one only checks the
    types of its fields; `EventBus.notify` encodes it. A fetched event decodes each field when it is first used.

    Args:
        id: Names the event within its topic: a text of 1 to 1024 bytes of UTF-8, or an integer of 64 bits, signed.
        topic: A registered topic.
        data: What docs/reference/data.md lists, None included.
        transaction_id: Ties together the events of one piece of work; a text or an integer, as `id`.
        initialized_at: When the work began, in the bus's `time_unit`.
        occurred_at: When it was done, in the bus's `time_unit`.
        source: Who made the event.
        ttl: How long after `occurred_at` the event may still be delivered, in the bus's `time_unit`; None: for ever.
        headers: Texts by name, for whatever carries events on (a trace's context, say); 8 KiB of UTF-8 in all. None
            and an empty dict are the same.

    Raises:
        UsageError: `id` or `topic` is missing or has the wrong type; or `ttl` is given without `occurred_at`,
            or one of these two is not an int; or `headers` are not texts, or too long.
        DecodeError: From reading a field of a fetched event: its type is not registered in this process, or another
            program wrote over the event's memory.
    """

    __slots__ = ("_data", "_envelope", "_id", "_marks", "_payload", "_topic")
    # Of a fetched event, its bytes, and where their parts begin. An event of `from_encoded` has its encoded data here.
    # A field that nobody has used yet is `NOT_READ`.
    _payload: memoryview | bytes | EncodedData | None
    _marks: tuple[int, int, int, int]
    # Set by memory/payload.py, which is above this module; the public name `Event` comes from there.
    # Each gives a field that is `NOT_READ`.
    _load_id: ClassVar[Callable[[Any], EventId]]
    _load_data: ClassVar[Callable[[Any], Any]]
    _load_envelope: ClassVar[Callable[[Any], tuple[Any, ...] | None]]
    _load_encoded: ClassVar[Callable[[Any], EncodedData]]
    """The data, encoded, whatever event this is."""

    def __init__(
        self,
        id: EventId,
        topic: str,
        data: Data_co,
        *,
        transaction_id: EventId | None = None,
        initialized_at: int | None = None,
        occurred_at: int | None = None,
        source: str | None = None,
        ttl: int | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        if type(id) is not str or not id or type(topic) is not str or not topic:
            id, topic = checked_identity(id, topic)
        self._id = id
        self._topic = topic
        self._data = data
        self._payload = None
        self._envelope: Any = None
        if (
            transaction_id is None
            and initialized_at is None
            and occurred_at is None
            and source is None
            and ttl is None
            and headers is None
        ):
            return
        if transaction_id is not None and type(transaction_id) is not str:
            transaction_id = checked_transaction_id(id, transaction_id)
        if initialized_at is not None and type(initialized_at) is not int:
            initialized_at = plain_field(initialized_at)
        if occurred_at is not None and type(occurred_at) is not int:
            occurred_at = plain_field(occurred_at)
        if source is not None and type(source) is not str:
            source = plain_field(source)
        if ttl is not None and type(ttl) is not int:
            ttl = plain_field(ttl)
        if ttl is not None and occurred_at is None:
            raise UsageError(f"Event(id={id!r}, ttl={ttl!r}): a ttl counts from occurred_at, which is missing")
        if ttl is not None and (type(ttl) is not int or type(occurred_at) is not int):
            raise UsageError(f"Event(id={id!r}, ttl={ttl!r}, occurred_at={occurred_at!r}): both are whole numbers")
        self._envelope = (transaction_id, initialized_at, occurred_at, source, ttl)
        checked = checked_headers(id, headers) if headers is not None else None
        if checked:
            self._envelope += (checked,)

    @classmethod
    def from_encoded(
        cls,
        id: EventId,
        topic: str,
        encoded: EncodedData,
        *,
        transaction_id: EventId | None = None,
        initialized_at: int | None = None,
        occurred_at: int | None = None,
        source: str | None = None,
        ttl: int | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Event[Any]:
        """An event whose data is encoded already, as `Event.encoded` of another one gave it.

        Publishing it copies the bytes as they are: nothing is decoded, and the types in the data need not be known to
        this process. They are not checked either; a reader of bytes that no event had gets a `DecodeError`.

        Args:
            id: As of `Event`.
            topic: As of `Event`.
            encoded: (data, buffers, format), all of them bytes or memoryviews.
            transaction_id, initialized_at, occurred_at, source, ttl, headers: As of `Event`.

        Raises:
            UsageError: As of `Event`; or `encoded` is not of that form, or of another format than this version's.
        """
        checked = _checked_encoded(encoded)
        event: Event[Any] = new_object(Event)
        # By name and not by calling the class, which would make a dict of these first: half of the time.
        Event.__init__(
            event,
            id,
            topic,
            NOT_READ,
            transaction_id=transaction_id,
            initialized_at=initialized_at,
            occurred_at=occurred_at,
            source=source,
            ttl=ttl,
            headers=headers,
        )
        event._payload = checked
        return event

    @property
    def id(self) -> EventId:
        value = self._id
        if value is NOT_READ:
            value = self._id = self._load_id()
        return value

    @property
    def topic(self) -> str:
        return self._topic

    @property
    def data(self) -> Data_co:
        value: Any = self._data
        if value is NOT_READ:
            value = self._data = self._load_data()
        return value  # type: ignore[no-any-return]

    @property
    def encoded(self) -> EncodedData:
        """The data as it is encoded, and the buffers beside it; nothing is decoded.

        Of a large fetched event they are read-only views: they keep its memory in use as long as they live. An event
        that was made in this process is encoded now; its buffers are your own memory.

        Raises:
            EncodeError: The data cannot travel.
        """
        return self._load_encoded()

    def _field(self, index: int) -> Any:
        values = self._envelope
        if values is NOT_READ:
            values = self._envelope = self._load_envelope()
        return values[index] if values is not None else None

    @property
    def transaction_id(self) -> EventId | None:
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
    def headers(self) -> Mapping[str, str] | None:
        """Read-only; None if there are none."""
        values = self._envelope
        if values is NOT_READ:
            values = self._envelope = self._load_envelope()
        return MappingProxyType(values[5]) if values is not None and len(values) > 5 else None

    @property
    def duration(self) -> int:
        """`occurred_at - initialized_at`, in the bus's `time_unit`; 0 if either is missing."""
        if self.initialized_at is None or self.occurred_at is None:
            return 0
        return self.occurred_at - self.initialized_at

    def with_headers(self, headers: Mapping[str, str] | None) -> Event[Data_co]:
        """The same event with these headers in place of its own: its data is shared, and nothing is decoded.

        Raises:
            UsageError: They are not texts by name, or too long.
        """
        event: Event[Data_co] = new_object(Event)
        event._id, event._topic, event._data = self.id, self._topic, self._data
        event._payload = self.encoded if self._payload is not None else None
        values = self._envelope
        if values is NOT_READ:
            values = self._envelope = self._load_envelope()
        rest = values[:5] if values is not None else NO_ENVELOPE
        checked = checked_headers(event._id, headers) if headers else None
        if checked:
            event._envelope = (*rest, checked)
        else:
            event._envelope = None if rest == NO_ENVELOPE else rest
        return event

    def copy(self) -> Event[Data_co]:
        """The same event, detached from the bus's memory: it keeps no memory of the bus in use.

        The copy of a fetched event decodes its arrays and memoryviews again, over memory of its own. An event that was
        made in this process uses none of the bus's memory; its copy shares the data.
        """
        payload = self._payload
        if payload is None or isinstance(payload, EncodedData):
            return _rebuild_event(*self._key())
        return fetched_event(self._topic, bytes(payload), self._marks)

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
            self._plain_headers(),
        )

    def _plain_headers(self) -> dict[str, str] | None:
        headers = self.headers
        return dict(headers) if headers is not None else None

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


def fetched_event(topic: str, payload: memoryview | bytes, marks: tuple[int, int, int, int]) -> Event:
    """An event over its encoded bytes. Nothing is decoded here."""
    event = new_object(Event)
    event._topic = topic
    event._payload = payload
    event._marks = marks
    event._id = event._data = event._envelope = NOT_READ
    return event


def _checked_encoded(encoded: Any) -> EncodedData:
    """`encoded` with read-only views for its buffers.

    Raises:
        UsageError: It is not of the form of `EncodedData`, or of another format.
    """
    if type(encoded) is EncodedData and type(encoded[0]) is bytes and encoded[1] == () and encoded[2] == FORMAT:
        return encoded  # What the rest would make of it.
    try:
        data, buffers, format = encoded
        views = tuple(_bytes_of(buffer) for buffer in buffers)
        data = data if type(data) is bytes else _bytes_of(data)
    except (TypeError, ValueError) as cause:
        raise UsageError(f"from_encoded({encoded!r:.80}): give (data, buffers, format), as of Event.encoded") from cause
    if format != FORMAT:
        raise UsageError(f"from_encoded: data of format {format!r} is not that of this version, {FORMAT}")
    return EncodedData(data, views, format)


def _bytes_of(buffer: Any) -> memoryview:
    return memoryview(buffer).cast("B").toreadonly()


def _rebuild_event(id: EventId, topic: str, data: Any, *rest: Any) -> Event:
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

    def __init__(self, topic: str, id: EventId, place: Place | None = None) -> None:
        self._topic = topic
        self._id = id
        self._at = place

    @property
    def topic(self) -> str:
        return self._topic

    @property
    def id(self) -> EventId:
        return self._id

    @property
    def dropped(self) -> bool:
        """Of a shadow that `notify` returned: nobody was subscribed to its topic, and nothing was published."""
        return self._at is None

    @property
    def _place(self) -> Place | None:
        return Place(*self._at) if self._at is not None else None

    def __iter__(self) -> Iterator[Any]:
        yield self._topic
        yield self._id

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> Any:
        return (self._topic, self._id)[index]

    def __eq__(self, other: object) -> bool:
        if isinstance(other, EventShadow):
            return self._topic == other._topic and self._id == other._id
        return (self._topic, self._id) == other

    def __hash__(self) -> int:
        return hash((self._topic, self._id))

    def __repr__(self) -> str:
        return f"EventShadow({self._topic!r}, {self._id!r})"


def shadow_at(topic: str, id: EventId, at: tuple[int, int, int, int, int]) -> EventShadow:
    """A shadow of an event at this place, in half the time that calling the class takes."""
    shadow = new_object(EventShadow)
    shadow._topic = topic
    shadow._id = id
    shadow._at = at
    return shadow


class Place(NamedTuple):
    """Where a payload lies; hidden in a shadow."""

    topic: int
    segment: int
    offset: int
    length: int
    sequence: int
