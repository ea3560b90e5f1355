"""Requests: what a process asks of the manager or gives notice of.

A class here is all that a request needs to travel: its number and the types of its fields are the wire form, and both
sides check them (protocol/decoders.py). What it does is its handler, in core/requests/.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from types import GenericAlias, UnionType
from typing import Any, ClassVar, TypeVar, get_type_hints

from eventbus_mp.protocol.struct_types import Struct

FieldType = type | UnionType | GenericAlias
"""The type of a field that travels: one of msgpack's, several of them (`str | None`), or a list, whose elements are
checked as well."""


class Request(Struct):
    """Something that a process asks, and that is answered once: with a reply, or with an error by `Refuse`.

    `link` and `request` are filled in by the receiving side; the other fields travel, in their order.
    """

    link: int
    request: int
    NUMBER: ClassVar[int]
    """What it is on the wire; see `numbered`."""
    ANSWERED: ClassVar[bool] = True
    """Whether there is ever an answer; if not, nobody must wait for one."""


class Notice(Request):
    """Something that a process says, and that is never answered, whatever comes of it."""

    ANSWERED: ClassVar[bool] = False


AnyRequest = TypeVar("AnyRequest", bound=Request)

REQUESTS: dict[int, type[Request]] = {}
"""Everything that a process can ask, by number."""


def numbered(number: int) -> Callable[[type[AnyRequest]], type[AnyRequest]]:
    """A decorator that gives a request its number on the wire: for a new one, the next that is free.

    Raises:
        ValueError: Another request has it.
    """

    def register(kind: type[AnyRequest]) -> type[AnyRequest]:
        if number in REQUESTS:
            other = REQUESTS[number].__name__
            raise ValueError(f"{kind.__name__}: {other} has number {number}; {max(REQUESTS) + 1} is free")
        kind.NUMBER = number
        REQUESTS[number] = kind
        return kind

    return register


@cache
def field_types(number: int) -> dict[str, FieldType]:
    """The fields of the request with this number that travel, by name."""
    kind = REQUESTS[number]
    types = get_type_hints(kind)
    return {field: types[field] for field in _travelling(kind)}


def said_types(kind: type[Request]) -> dict[str, str]:
    """The types of these fields as they are written above, for errors and for the version of the protocol."""
    return {field: text.replace(" | ", " or ") for field, text in _travelling(kind).items()}


def _travelling(kind: type[Request]) -> dict[str, str]:
    return {field: text for field, text in kind.FIELDS.items() if field not in Request.FIELDS}


def fits(value: object, expected: FieldType) -> bool:
    """Whether a value is of the type that a field must have."""
    if isinstance(expected, GenericAlias):
        (element,) = expected.__args__
        return isinstance(value, list) and (element is Any or all(fits(item, element) for item in value))
    return isinstance(value, expected)


@numbered(0)
class RegisterTopic(Request):
    """Have a topic of this name -> whether it is new"""

    name: str


@numbered(21)
class RegisterTopics(Request):
    """Have topics of all these names or, if one of them cannot name a topic, of none -> the names that are new"""

    names: list[str]


@numbered(1)
class UnregisterTopic(Request):
    """Forget the topic; its events that wait are skipped -> whether it was there"""

    name: str


@numbered(2)
class ListTopics(Request):
    """-> the names of all topics, sorted"""


@numbered(3)
class ResolveTopic(Request):
    """What is the number of this topic, is anybody subscribed, and how many events may be sent before it is asked
    again? -> [number or 0, subscribed, room]

    The room is None if no subscriber has a bound for which producers wait. If one has none left, it is a list of what
    is in the way, [name, config, host, events, events_max, bytes, bytes_max]; `AwaitRoom` is answered later.
    """

    name: str


@numbered(45)
class AwaitRoom(Request):
    """Answered when a topic's subscribers have room -> as `ResolveTopic`"""

    name: str


@numbered(22)
class RequireSubscribers(Request):
    """What is the number of this topic, if subscribers of all these names get its events? -> [number or 0, those that
    do not, room as of `ResolveTopic`]. If there is a number, this process hears when it is no longer so
    (`client_events.TopicStale`)."""

    topic: str
    names: list[str]


@numbered(4)
class NameTopic(Request):
    """What is the name of this topic number? -> name or None"""

    topic: int


@numbered(5)
class Subscribe(Request):
    """Host a subscriber in this process, with its patterns replaced -> subscriber number"""

    name: str
    config: bytes
    patterns: list[Any]
    """What is not a text, or does not compile, is refused as a pattern, and does not close the link."""
    credit: int
    """How many unsettled shadows it may have; 0: as many as make some milliseconds of work
    (`core.entities.Endpoint`)."""
    broadcast: bool
    threads: int
    """How many deliveries its handler works on at once."""
    scope: str
    """One of `SCOPES`; the newest of its processes has the word, as for the patterns."""
    host: str
    """The host that its handlers are on; empty: this one. One of another host is served by processes that forward."""
    forwards: bool
    """This process runs no handler: it takes the events to another host. Its crash accuses none of them."""
    backlog_max: int
    """How many unsettled events it may have in all its processes; 0: any number. The newest process has the word for
    this and the next two, as for the patterns."""
    backlog_bytes_max: int
    when_full: str
    """One of `core.backlog.WHEN_FULL`."""


SCOPES = ("host", "cluster", "local")
"""Who shares a subscriber's events, where several hosts are joined: the processes of each host, so that each host gets
all of them; the processes of all hosts; or the processes of this one, and no event comes from another host."""


@numbered(6)
class Unsubscribe(Request):
    """Take the subscriber away from every process -> whether it was there"""

    name: str
    config: bytes
    host: str


@numbered(7)
class StopHosting(Request):
    """This process no longer serves the subscriber, and what it holds comes back -> whether it hosted it"""

    subscriber: int
    ends: bool
    """Whether that ends the subscription, with all that waits, if no other process serves it."""


@numbered(24)
class Demand(Request):
    """Have up to `count` deliveries of this subscriber that are not taken yet -> None, when all of them that can be
    sent now have been"""

    subscriber: int
    count: int


@numbered(8)
class ListSubscribers(Request):
    """-> [{name, config, host, patterns, scope, pids, home_pids}] of the subscribers that get the topic's events, or
    (None) of all; `home_pids` are those of the processes that do not forward"""

    topic: str | None


@numbered(9)
class MarkEvents(Request):
    """Settle deliveries that this process need not hold -> None; refused for the first that cannot be, when all others
    are settled"""

    name: str
    config: bytes
    host: str
    outcome: int
    reason: str
    events: list[int]
    """topic, sequence, topic, sequence, ..."""


@numbered(43)
class FollowChanges(Request):
    """Answered when topics or subscribers have changed -> rows [kind, topic, subscriber], those that this follower has
    not heard; the subscriber is one of `ListSubscribers`

    The kinds are those of `client.changes.Change`. First it hears of all that there is.
    """

    follower: int
    """A number of this process's own; a new one begins."""


@numbered(44)
class StopFollowing(Notice):
    """This follower asks no more."""

    follower: int


@numbered(36)
class SettleRanges(Request):
    """Settle deliveries of this subscriber by their numbers, wherever they are -> None. Those that are settled, or that
    it never had, are passed over"""

    name: str
    config: bytes
    host: str
    outcome: int
    reason: str
    ranges: list[int]
    """first sequence, count, first sequence, count, ..."""


@numbered(35)
class Direct(Notice):
    """The events that this process publishes from now on, until it says this again, go to these subscribers only,
    whatever their patterns; those that are not subscribed at the moment get none."""

    keys: list[Any]
    """[name, config, host] of each; empty: to all that want them, as if this had never been said."""
    imported: bool
    """They come from another host: they go to subscribers of this one only, but not to those whose scope is "local",
    and never to another host."""


@numbered(10)
class NameReason(Notice):
    """What a number in settled records of this process stands for from now on, as the reason for a skip."""

    number: int
    text: str


@numbered(30)
class ReportFailure(Notice):
    """What went wrong with a delivery that this process holds, and is about to report as failed or to be retried."""

    subscriber: int
    sequence: int
    tries: int
    """How often this process has tried."""
    error: str
    """The name of the exception's class."""
    text: str
    traceback: str
    """The end of it."""


@numbered(31)
class ListDeadLetters(Request):
    """Unsettled dead letters, the oldest first -> [{number, record, name, config, host, reason, error, text, traceback,
    attempts, first_ns, last_ns}]; the times are those of the monotonic clock, 0: not known"""

    after: int
    """Only those behind the one with this number; 0: from the first."""
    limit: int


@numbered(32)
class Redeliver(Request):
    """Send the event of this dead letter, or (0) of all, again to the subscriber that failed, and settle the dead
    letter -> how many were sent"""

    sequence: int


@numbered(11)
class WatchEvent(Request):
    """-> watcher, {subscribers, completers, skippers: [[name, config, host]]}, or None if the event is settled"""

    topic: int
    sequence: int


@numbered(12)
class ListEvents(Request):
    """The unsettled events of a topic behind a sequence number, in the order of these numbers -> [{record, watcher}]"""

    topic: str
    after: int
    """0: from the first."""
    limit: int
    """How many at most; up to `geometry.EVENTS_PAGE_MAX`."""


@numbered(13)
class LeaseEvent(Request):
    """Keep an unsettled event's payload readable for this process -> whether it is there"""

    topic: int
    offset: int
    length: int
    sequence: int


@numbered(14)
class GetSnapshot(Request):
    """-> a dictionary of dictionaries with about the names of `snapshot.Snapshot`; `facts` is what the manager knows of
    itself"""

    topics_max: int
    """How many topics are listed, those with the most unsettled events; -1: all, in the order of registration."""


@numbered(26)
class Introduce(Notice):
    """What kind of process this is; one that does not say it is a client."""

    role: str
    """One of `ROLES`."""


ROLES = ("client", "worker")


@numbered(27)
class ReportDropped(Notice):
    """Events that this process did not send, because nobody is subscribed to their topic."""

    topics: list[str]
    counts: list[int]
    """Of each topic."""


@numbered(15)
class Drain(Request):
    """Answered when no topic that the pattern matches has an unsettled event -> None"""

    pattern: str


@numbered(16)
class CancelWait(Notice):
    """Forget an earlier `Drain`, `AwaitRoom` or awaited event of this link, by its request number."""

    waiting: int


@numbered(28)
class ExplainEvent(Request):
    """-> {asking_pid, age_ns, deliveries, views}: who has not settled an event and why, and who has views into it"""

    sequence: int


@numbered(29)
class ListStuck(Request):
    """-> {asking_pid, deliveries}: unsettled deliveries of events that are at least so old, the oldest first"""

    older_ns: int
    limit: int
    topic: str | None
    """Only of this topic; None: of all."""


@numbered(25)
class FindEvents(Request):
    """-> the joined records of a topic's events whose ids have this CRC, the newest first, and only some of them; with
    `settled`, those of settled events as well, as far back as the manager remembers"""

    topic: str
    id_crc: int
    settled: bool


@numbered(17)
class GetHistory(Request):
    """-> {entries, counts, before, now_ns}: a page of the event log, the newest entry first. An entry is [now_ns, kind,
    events, topics, pid, subscriber, config, host, detail]; `counts` are events by kind, of all pages."""

    sequence: int
    """Of one event; 0: of all."""
    topic: str | None
    subscriber: str | None
    kind: int
    """A `HistoryKind`; 0: of any."""
    since_ns: int
    """How long ago, at most; 0: as far back as there is."""
    limit: int
    before: list[int]
    """What an answer had in `before`; empty: from the newest on."""


@numbered(20)
class ReportState(Notice):
    """What has arrived here from a manager that died; what has not is sent again."""

    manager: int
    """The pid of the manager that asked: it may be dead by now, and its successor asks again."""
    held: list[Any]
    """[subscriber, [first sequence, count, first sequence, count, ...]] of what is not yet reported as settled."""
    spans: list[list[int]]
    """[segment, offset] of the spans that this process may still write."""


@numbered(18)
class ShutDown(Request):
    """Stop the manager for everybody -> None, just before it goes."""


@numbered(23)
class Observe(Notice):
    """This process only looks: the bus does not live on for it."""


@numbered(33)
class RecallObeyed(Notice):
    """A subscriber's deliveries that were called back have been handed back, but for those that were begun."""

    subscriber: int


@numbered(19)
class Goodbye(Notice):
    """This process leaves in good order; its end of file is not a crash."""


@numbered(34)
class CutOff(Request):
    """The process of link `victim` is about to be killed, because a handler took too long -> whether it is connected

    It is asked once for each call that did. When the process is gone, only what these calls had counts as crashed, with
    this reason, if it is still held; the others that the process held come back uncounted.
    """

    victim: int
    subscriber: int
    sequence: int
    """The event; 0: a batch, so any event that the process has of this subscriber may be the one."""
    reason: str


@numbered(37)
class OpenReceipts(Request):
    """Have the receipts of this name in this process, as the only one -> [number, receipts_max, kept]"""

    name: str


@numbered(38)
class ListReceipts(Request):
    """A page of what is kept under a name that this process has opened: parts of it, behind the first `skip` ->
    [[sequences, unsettled, widths, tags]]

    Both are ranges, [first, count, first, count, ...]. The tags of all sequences lie behind each other, and `widths`
    has a byte for each."""

    box: int
    skip: int


@numbered(39)
class Tag(Notice):
    """The events that this process sends next have these tags; it is written together with them."""

    box: int
    first: int
    """The sequence of the first one; the others follow it."""
    widths: bytes
    """How long each tag is."""
    tags: bytes
    """All of them, one behind the other."""
    dropped: int
    """The last so many are not sent, because nobody is subscribed to them."""


@numbered(40)
class TakeReceipts(Request):
    """Which events of this name are settled that this process was not told of? -> [[subscribers, places of the
    completers among them, ranges]]; a subscriber is [name, config, host]"""

    box: int
    limit: int
    """How many events at most."""
    waits: bool
    """Answered when there are some, and not before."""


@numbered(41)
class ConfirmReceipts(Notice):
    """Forget these settled events; their process knows what became of them."""

    box: int
    ranges: list[int]
    """[first, count, first, count, ...]"""


@numbered(42)
class CloseReceipts(Notice):
    """This process no longer has the name; what is kept stays for the next one that opens it."""

    box: int
