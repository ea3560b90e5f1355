"""Fetching events: in place while this process has the delivery in flight, under a lease otherwise."""

from __future__ import annotations

from typing import Any

from eventbus_mp.client.connection import Connection
from eventbus_mp.client.reporter import Reporter
from eventbus_mp.events import ID_BYTES_MAX, Event, EventShadow, Place
from eventbus_mp.memory.layout import HEADER_BYTES
from eventbus_mp.memory.leases import LeaseBook
from eventbus_mp.memory.mappings import COPIED_BYTES_MAX, Mappings
from eventbus_mp.memory.payload import read_event, read_id
from eventbus_mp.protocol.messages import Record
from eventbus_mp.protocol.records import RECORD
from eventbus_mp.protocol.requests import LeaseEvent, ListEvents, NameTopic

__all__ = ["EventFetcher"]


class EventFetcher:
    """Args:
    connection: For questions to the manager.
    mappings: Where segments are mapped.
    leases: Where views that outlive their delivery are noted.
    reporter: Through which ended views are released.
    """

    def __init__(self, connection: Connection, mappings: Mappings, leases: LeaseBook, reporter: Reporter) -> None:
        self._connection = connection
        self._mappings = mappings
        self._leases = leases
        self._reporter = reporter
        self._holds = connection.protocol.holds
        self._topic_names: dict[int, str] = {}

    def topic_name(self, number: int) -> str:
        """The topic's name; one round trip the first time. A topic that is gone is called by its number."""
        name = self._topic_names.get(number)
        if name is None:
            name = self._connection.request(NameTopic, number)
            if name is None:
                return f"(unregistered topic {number})"
            self._topic_names[number] = name
        return name

    def delivered_event(self, record: Record) -> Event | None:
        """The event of a delivery that this process holds: nobody recycles its memory meanwhile."""
        _, topic, segment, offset, length, _, _, sequence = record
        name = self._topic_names.get(topic) or self.topic_name(topic)
        if length <= COPIED_BYTES_MAX:
            return read_event(bytes(self._mappings[segment][offset : offset + length]), sequence, name)
        view = self._mappings.of(segment, length)
        return read_event(self._leases.view(view, _place(record), reported=False), sequence, name)

    def delivered_shadow(self, record: Record) -> EventShadow | None:
        """The shadow of a delivery that this process holds."""
        _, topic, segment, offset, length, _, _, sequence = record
        name = self._topic_names.get(topic) or self.topic_name(topic)
        view = self._mappings[segment] if length <= COPIED_BYTES_MAX else self._mappings.of(segment, length)
        head = bytes(view[offset : offset + min(length, HEADER_BYTES + ID_BYTES_MAX)])
        event_id = read_id(head, sequence)
        return None if event_id is None else EventShadow(name, event_id, _place(record))

    def fetch(self, place: Place) -> Event | None:
        """The event at `place`, or None when it is settled."""
        if self._holds(place.sequence):
            event = self.delivered_event((0, *place[:4], 0, 0, place.sequence))
            if self._holds(place.sequence):
                return event
            # Another thread settled it meanwhile. It may have reported the outcome without a lease for our view.
            del event
        self._reporter.release_ended()
        if not self._connection.request(LeaseEvent, place.topic, place.offset, place.length, place.sequence):
            return None
        name = self.topic_name(place.topic)
        try:
            view = self._mappings.of(place.segment, place.length)
        except OSError as error:
            # The manager has noted a lease that no view will end.
            self._release(place)
            if isinstance(error, FileNotFoundError):
                return None
            raise
        if place.length > COPIED_BYTES_MAX:
            # The view holds the lease that the manager has just noted, and gives it back with its end.
            return read_event(self._leases.view(view, place, reported=True), place.sequence, name)
        payload = bytes(view[place.offset : place.offset + place.length])
        self._release(place)
        return read_event(payload, place.sequence, name)

    def _release(self, place: Place) -> None:
        self._connection.call(self._connection.protocol.release, place.sequence)

    def find(self, topic: str, event_id: str) -> Place | None:
        """The newest unsettled event of this topic and id: a search through the topic's unsettled events."""
        packed = self._connection.request(ListEvents, topic, False)
        for record in reversed(list(RECORD.iter_unpack(packed))):
            place = _place(record)
            if self.id_at(place) == event_id:
                return place
        return None

    def id_at(self, place: Place) -> str | None:
        """The id of the event at `place`; None when its memory is in other hands by now.

        Nothing keeps the memory meanwhile: the header is compared after the copy, too, and layout.py says why that
        is enough.
        """
        head = place.segment, place.offset, min(place.length, HEADER_BYTES + ID_BYTES_MAX)
        try:
            event_id = read_id(self._mappings.read(*head), place.sequence)
            again = read_id(self._mappings.read(*head), place.sequence)
        except FileNotFoundError:
            return None
        return event_id if again == event_id else None

    def watched(self, topic: str) -> list[tuple[str, Any]]:
        """(id, watcher as it travels) of every unsettled event of a topic, oldest first."""
        found = []
        for event in self._connection.request(ListEvents, topic, True):
            event_id = self.id_at(_place(RECORD.unpack(event["record"])))
            if event_id is not None:
                found.append((event_id, event["watcher"]))
        return found


def _place(record: Record) -> Place:
    return Place(record[1], record[2], record[3], record[4], record[7])
