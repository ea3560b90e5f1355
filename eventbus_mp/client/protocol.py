"""ClientProtocol: a process's side of its link to the manager, without I/O.

No lock, no descriptor, no clock: bytes go in, events come out, and what has to be sent is collected. (The idea, and the
names `receive_data` and `data_to_send`, are those of h11 and websockets.) A shell round it owns the pipes and decides
who calls when:

    received:  protocol.receive_data(data), then `while event := protocol.next_event()`: act on it
    to send:   any of the calls below, then transport.write(protocol.data_to_send())

Calls that make something to send keep one order, the order of the calls, so the shell holds its write lock from the
call until the write. The reading side (`receive_data`, `next_event`) may run in another thread at the same time: it
touches nothing that the writing side does in more than one step.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Iterable
from itertools import count, groupby
from operator import itemgetter
from typing import Any

from eventbus_mp import errors
from eventbus_mp.client.endpoint import ClientEndpoint, ranges
from eventbus_mp.client.span_orders import SpanOrders
from eventbus_mp.client.subscription import Subscription
from eventbus_mp.errors import EventBusError
from eventbus_mp.events import Place
from eventbus_mp.geometry import SEQUENCE_LINK_SHIFT
from eventbus_mp.protocol import records
from eventbus_mp.protocol.client_events import (
    BusEnded,
    ClientEvent,
    Delivered,
    ManagerChanged,
    Recalled,
    Replied,
    SpanGranted,
)
from eventbus_mp.protocol.decoders import ClientDecoder, encode_request, unpack
from eventbus_mp.protocol.reasons import ReasonNumbers
from eventbus_mp.protocol.requests import (
    CancelWait,
    NameReason,
    ReportFailure,
    ReportState,
    Request,
    RequireSubscribers,
    Subscribe,
)
from eventbus_mp.statistics import SubscriberKey

__all__ = ["NEED_LOCK", "Allowed", "ClientProtocol"]

NEED_LOCK = (SpanGranted, ManagerChanged)
"""Events that are to be taken, and answered, with the write lock held."""


class Allowed:
    """How many events of a topic may be sent before it is resolved again."""

    __slots__ = ("left", "number")

    def __init__(self, number: int, left: int) -> None:
        self.number = number
        self.left = left


class ClientProtocol:
    """All that a process and the manager say to each other, once they are connected.

    Args:
        link: This process's number, from the handshake.
        memory_bytes_max: The bus's payload memory.
        manager_pid: The manager that greeted this process.
    """

    def __init__(self, link: int, memory_bytes_max: int, manager_pid: int = 0) -> None:
        self.manager_pid = manager_pid
        """The manager that serves this link now."""
        self.is_shut_down = False
        """The manager has said that somebody has shut the bus down."""
        self.sequence = link << SEQUENCE_LINK_SHIFT
        """The sequence number of the latest event that this process has notified."""
        self.topics: dict[str, int] = {}
        """Numbers of topics that had a subscriber when the manager was asked. It says when one has no longer."""
        self.allowed: dict[str, Allowed] = {}
        """Topics of which a subscriber has a bound, and that are not among `topics`."""
        self.orders = SpanOrders(memory_bytes_max)
        self._endpoints: dict[int, ClientEndpoint] = {}
        """By subscriber number."""
        self.endpoints: tuple[ClientEndpoint, ...] = ()
        """All that this process hosts. Replaced, never changed: other threads go through it meanwhile."""
        self._subscribing: dict[int, tuple[SubscriberKey, bytes]] = {}
        """Number of a `Subscribe` that is not answered yet -> whose endpoint its answer makes."""
        self._requiring: dict[int, str] = {}
        """Number of a `RequireSubscribers` that is not answered yet -> its topic."""
        self._decoder = ClientDecoder()
        self.arrived: deque[ClientEvent] = deque()
        """Decoded, and not yet given out by `next_event`. Other modules only look at it."""
        self.outgoing: list[bytes] = []
        """Records that `data_to_send` gives out."""
        self._reasons = ReasonNumbers()
        self._request_numbers = count(1)
        self._expected: set[int] = set()
        """Requests whose reply somebody will take. A manager that has taken over may reply a second time."""
        self._replies: dict[int, Replied] = {}
        self._when_replied: dict[int, Callable[[], None]] = {}

    # --- bytes in, events out ---

    def receive_data(self, data: bytes) -> None:
        """Take in what one read of the pipe brought; `next_event` gives out what is complete.

        Raises:
            ProtocolError: It is not what a manager of this version sends.
        """
        self.arrived.extend(self._decoder.feed(data))

    def next_event(self) -> ClientEvent | None:
        """The next thing that the manager said; None: nothing more is complete.

        Deliveries have been put into their endpoint, and replies are there to be taken, when their event is given out.
        The other events ask something of the shell: `TopicStale` belongs to `forget_stale`. After `Recalled`, which
        has been obeyed, outcomes are to be reported. `SpanGranted` belongs to `orders.granted`, `ManagerChanged` to
        `resync`: for these two see `NEED_LOCK`.
        """
        if not self.arrived:
            return None
        event = self.arrived.popleft()
        if type(event) is Delivered:
            self._deliver(event)
        elif type(event) is Replied:
            self._take_in_reply(event)
        elif type(event) is Recalled:
            endpoint = self._endpoints.get(event.subscriber)
            if endpoint is not None:
                endpoint.give_back(event.keep)
        elif type(event) is ManagerChanged:
            self.manager_pid = event.pid
        elif type(event) is BusEnded:
            self.is_shut_down = True
        return event

    @property
    def next_manager_pid(self) -> int:
        """The pid of the manager that has taken over, if `next_event` says so next; 0: it does not."""
        event = self.arrived[0] if self.arrived else None
        return event.pid if type(event) is ManagerChanged else 0

    def data_to_send(self) -> bytes:
        """What the calls since the last time have to say to the manager, in their order."""
        data = b"".join(self.outgoing)
        self.outgoing.clear()
        return data

    # --- requests and replies ---

    def request(self, kind: type[Request], *fields: Any) -> int:
        """Ask something: the number by which `take_reply` finds the answer.

        Raises:
            UsageError: A field is of a wrong type or too large.
        """
        assert kind.ANSWERED, f"{kind.__name__} is never answered: make it a notice"
        number = next(self._request_numbers)
        self.outgoing.append(encode_request(kind(0, number, *fields)))
        self._expected.add(number)
        return number

    def notice(self, kind: type[Request], *fields: Any) -> None:
        """Say something that is not answered.

        Raises:
            UsageError: A field is of a wrong type or too large.
        """
        assert not kind.ANSWERED, f"{kind.__name__} is answered: make it a request"
        self.outgoing.append(encode_request(kind(0, 0, *fields)))

    def expect_reply(self, number: int) -> None:
        """Keep the reply of this number: the final watcher of an event that was notified as awaited."""
        self._expected.add(number)

    def has_reply(self, number: int) -> bool:
        """Whether `take_reply` has something to return."""
        return number in self._replies

    def arrived_replies(self) -> Iterable[int]:
        """The numbers that `take_reply` has something to return for."""
        return self._replies.keys()

    def take_reply(self, number: int) -> Any:
        """The answer to a request.

        Raises:
            EventBusError: The manager refused; the class is the one it named.
        """
        reply = self._replies.pop(number)
        self._expected.discard(number)
        self._when_replied.pop(number, None)
        value = unpack(reply.body)
        if reply.refused:
            name, text = value
            raise getattr(errors, name, EventBusError)(text)
        return value

    def when_replied(self, number: int, call: Callable[[], None]) -> None:
        """Call this, in the thread that reads for all, when the reply of this number comes in; not if it has."""
        self._when_replied[number] = call

    def forget_reply(self, number: int) -> None:
        """Nobody will take this reply any more."""
        self._when_replied.pop(number, None)
        self._expected.discard(number)
        self._replies.pop(number, None)
        self._requiring.pop(number, None)

    def cancel_wait(self, number: int) -> None:
        """Nobody waits any more for this `Drain`, or awaited event, which the manager would answer some day."""
        self.forget_reply(number)
        self.notice(CancelWait, number)

    # --- events ---

    def notify(
        self,
        topic: int,
        segment: int,
        offset: int,
        length: int,
        *,
        deadline_ns: int = 0,
        awaited: bool = False,
        id_crc: int = 0,
    ) -> int:
        """An event of `length` bytes was written at `offset` of `segment`: its sequence number.

        The payload's header has that number as well, so the shell asks `next_sequence` first. `Publisher` packs the
        record of a plain event itself, which saves 0.5 us of 3.4; tests compare the two.
        """
        sequence = self.sequence
        if awaited:
            self.expect_reply(sequence)
        packed = records.pack_notified(topic, segment, offset, length, deadline_ns, sequence, awaited, id_crc)
        self.outgoing.append(packed)
        return sequence

    def require(self, topic: str, names: list[str]) -> int:
        """Ask for the number of a topic whose events all these subscribers get: the request's number.

        From the moment that the reply comes in, the topic is among `topics`, so a `TopicStale` behind it finds it.
        """
        number = self.request(RequireSubscribers, topic, names)
        self._requiring[number] = topic
        return number

    def forget_required(self) -> None:
        """Other subscribers are required from now on: nothing that was asked or answered counts any more."""
        self.topics.clear()
        self.allowed.clear()
        self._requiring.clear()

    def allow(self, name: str, number: int, room: object) -> None:
        """A topic has this number, and so many events may be sent before it is asked again; None: any number."""
        if room is None:
            self.allowed.pop(name, None)
            self.topics[name] = number
        else:
            self.topics.pop(name, None)
            self.allowed[name] = Allowed(number, room if isinstance(room, int) else 0)  # else: it is full just now.

    def forget_topic(self, name: str) -> None:
        """Its number is to be asked for again."""
        self.topics.pop(name, None)
        self.allowed.pop(name, None)

    def next_sequence(self) -> int:
        """The number of the event that is notified next; each one is notified, and in this order."""
        self.sequence += 1
        return self.sequence

    def forget_stale(self, topic: int) -> list[str]:
        """The manager said that this topic number is out of date: the names that are to be resolved again."""
        names = [name for name, number in list(self.topics.items()) if number == topic]
        names += [name for name, allowed in list(self.allowed.items()) if allowed.number == topic]
        for name in names:
            self.forget_topic(name)
        return names

    # --- spans and leases ---

    def order_spans(
        self, arena: Hashable, span_length: int, urgency: int, number: int = 1, subscriber: int = 0, topic: int = 0
    ) -> None:
        """Order spans for an arena; `urgency` is one of the `SPAN_*` values of protocol/messages.py.

        Inside a handler, its subscriber and the topic that it publishes to are said as well.
        """
        self.outgoing.append(self.orders.place(arena, span_length, urgency, number, subscriber, topic))

    def cancel_spans(self, span_length: int) -> None:
        """Nobody waits any more for spans of this length."""
        self.outgoing.append(self.orders.cancel(span_length))

    def seal(self, segment: int, offset: int) -> None:
        """Nothing more is written into the span at this place; unwritten, it is given back."""
        self.outgoing.append(records.pack_span_sealed(segment, offset))

    def lease(self, place: Place) -> None:
        """This process keeps a view into an event beyond its delivery."""
        self.outgoing.append(records.pack_span_leased(*place))

    def release(self, sequence: int) -> None:
        """A view that the manager knows of is gone."""
        self.outgoing.append(records.pack_span_released(sequence))

    # --- endpoints ---

    def subscribe(
        self,
        key: SubscriberKey,
        config_bytes: bytes,
        how: Subscription,
    ) -> int:
        """Ask to host a subscriber: the request's number, whose reply is the subscriber's.

        The endpoint is there from the moment that the reply comes in, before the first delivery behind it does.
        """
        number = self.request(
            Subscribe,
            key.name,
            config_bytes,
            list(how.patterns),
            how.credit,
            how.broadcast,
            how.threads,
            how.scope,
            key.host or "",
            how.forwards,
            *how.bound,
        )
        self._subscribing[number] = key, config_bytes
        return number

    def endpoint(self, subscriber: int) -> ClientEndpoint | None:
        """The endpoint of a subscriber, by its number, if this process hosts it."""
        return self._endpoints.get(subscriber)

    def find(self, key: SubscriberKey, config_bytes: bytes) -> ClientEndpoint | None:
        """The endpoint of a subscriber, if this process hosts it."""
        for endpoint in self.endpoints:
            ours = endpoint.key
            if ours.name == key.name and endpoint.config_bytes == config_bytes and ours.host == key.host:
                return endpoint
        return None

    def forget(self, endpoint: ClientEndpoint) -> None:
        """This process no longer hosts it; a thread that waits for its deliveries hears that none will come."""
        self._endpoints.pop(endpoint.number, None)
        self.endpoints = tuple(self._endpoints.values())
        endpoint.is_over = True
        endpoint.announce()

    def _deliver(self, event: Delivered) -> None:
        endpoint = self._endpoints.get(event.subscriber)
        if endpoint is not None:  # else: this process has just left it.
            endpoint.arrive(event.packed, event.attempt)

    def _take_in_reply(self, reply: Replied) -> None:
        subscribing = self._subscribing.pop(reply.request, None)
        if subscribing is not None and not reply.refused:
            # Also if nobody waits for the reply any more: deliveries follow it, and the next call that asks finds them.
            number = unpack(reply.body)
            if number not in self._endpoints:
                self._endpoints[number] = ClientEndpoint(number, *subscribing)
                self.endpoints = tuple(self._endpoints.values())
        topic = self._requiring.pop(reply.request, None)
        if topic is not None and not reply.refused:
            number, _, room = unpack(reply.body)
            if number:
                self.allow(topic, number, room)
        if reply.request in self._expected:
            self._replies[reply.request] = reply
            if self._when_replied and (call := self._when_replied.pop(reply.request, None)) is not None:
                call()

    def settle(self, endpoint: ClientEndpoint, outcome: int, sequences: list[int]) -> None:
        """Deliveries ended this way; `ClientEndpoint.take_outcomes` has them."""
        if not endpoint.reasons and not endpoint.delays_ns and not endpoint.failures:
            self._settle(endpoint, outcome, sequences, 0, 0)
            return
        reasons, delays_ns = endpoint.reasons, endpoint.delays_ns
        ways = [(reasons.pop(sequence, ""), delays_ns.pop(sequence, 0)) for sequence in sequences]
        for (reason, delay_ns), group in groupby(zip(ways, sequences, strict=True), itemgetter(0)):
            alike = [sequence for _, sequence in group]
            for sequence in alike if endpoint.failures else ():
                failure = endpoint.failures.pop(sequence, None)
                if failure is not None:
                    self.notice(ReportFailure, endpoint.number, sequence, *failure)
            self._settle(endpoint, outcome, alike, self._number_of(reason), delay_ns)

    def _settle(self, endpoint: ClientEndpoint, outcome: int, sequences: list[int], reason: int, delay_ns: int) -> None:
        number, cost_ns = endpoint.number, endpoint.cost_ns
        for first, following in ranges(sequences):
            packed = records.pack_settled(number, outcome, first, following, cost_ns, reason, delay_ns)
            self.outgoing.append(packed)

    def _number_of(self, reason: str) -> int:
        """The number that a reason travels as; the manager hears first what it stands for, if it does not know."""
        number, text = self._reasons.number_of(reason)
        if text is not None:
            self.notice(NameReason, number, text)
        return number

    def keep(self, endpoint: ClientEndpoint, sequences: list[int]) -> None:
        """These deliveries were taken, and are settled later; `ClientEndpoint.take_kept` has them."""
        for first, following in ranges(sequences):
            self.outgoing.append(records.pack_taken(endpoint.number, first, following))

    # --- a takeover ---

    def resync(self, spans: Iterable[tuple[int, int]]) -> None:
        """Tell the manager that has taken over what arrived from the one before; it sends the rest again.

        Nothing may be reported between the moment that the endpoints are looked at and the write, or the new manager
        would take what is missing here for lost: the write lock covers both.

        Args:
            spans: (segment, offset) of the spans that this process may still write.
        """
        self.forget_required()  # What is answered now may be out of date, and the word of it may have been lost.
        self.orders.forget()
        held = [[endpoint.number, endpoint.outstanding()] for endpoint in self.endpoints]
        self.notice(ReportState, self.manager_pid, held, [list(span) for span in spans])
