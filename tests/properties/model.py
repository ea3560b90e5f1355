"""The naive model: every delivery walks `DELIVERY_TRANSITIONS` on its own, and everything is found by looking through
everything. It decides nothing that the core is free to decide (who gets what): it learns that from the effects."""

import re

from eventbus_mp.core.transitions import COMPLETED, DELIVERY_TRANSITIONS, QUEUED, SENT, SKIPPED


class ModelDelivery:
    """One event for one subscriber."""

    def __init__(self, event, subscriber):
        self.event, self.subscriber = event, subscriber
        self.state, self.crashes, self.returned, self.taken = QUEUED, 0, False, False
        self.tries, self.due_ns = 0, 0

    @property
    def settled(self):
        return self.state in (COMPLETED, SKIPPED)

    def step(self, what):
        self.state, _ = DELIVERY_TRANSITIONS[self.state][what]


class ModelEvent:
    def __init__(self, sequence, topic, subscribers, span, bucket_end_ns=0, dead_letter=False, imported=False):
        self.sequence, self.topic, self.span, self.dead_letter = sequence, topic, span, dead_letter
        self.imported = imported
        self.deliveries = [ModelDelivery(self, subscriber) for subscriber in subscribers]
        self.bucket_end_ns = bucket_end_ns
        self.expired = self.dead_lettered = self.again = False
        self.receivers = subscribers
        self.failed, self.origin, self.nbytes = None, topic, 64

    @property
    def settled(self):
        return all(delivery.settled for delivery in self.deliveries)

    def watcher(self):
        def keys(*states):
            return {item.subscriber.key for item in self.deliveries if item.state in states}

        everybody = keys(QUEUED, SENT, COMPLETED, SKIPPED)
        return {"subscribers": everybody, "completers": keys(COMPLETED), "skippers": keys(SKIPPED)}


class ModelTopic:
    def __init__(self, name, number):
        self.name, self.number = name, number


class ModelSubscriber:
    def __init__(self, key, number, broadcast):
        self.key, self.number, self.broadcast = key, number, broadcast
        self.patterns, self.hosts, self.bound = [], [], (0, 0, "block")
        self.scope, self.forwarders = "host", set()
        """`forwarders` are those of its hosts that run no handler, but take its events to another host."""

    @property
    def shown(self):
        return "@".join(part for part in (self.key[0], self.key[2]) if part)

    def wants(self, topic):
        return any(re.match(pattern, topic) for pattern in self.patterns)


class Model:
    def __init__(self, crashes_max, orphan_grace_ns, dead_letter_topic):
        self.crashes_max, self.orphan_grace_ns, self.dead_letter_topic = crashes_max, orphan_grace_ns, dead_letter_topic
        self.topics = {}
        self.subscribers = {}
        self.events = []
        self.held = {}
        """(link, subscriber) -> deliveries that the process holds, whether others settled them or not."""
        self.demands = {}
        """(link, subscriber) -> how many it has asked for and was not sent."""
        self.orphans = {}

    # --- what to look through ---

    def unsettled(self, topic=None):
        return [event for event in self.events if not event.settled and topic in (None, event.topic)]

    def delivery(self, sequence, number):
        """A subscriber gets a sequence once: as the event, or as its dead letter; or again, when it has settled it."""
        found = None
        for event in self.events:
            for delivery in event.deliveries:
                if (event.sequence, delivery.subscriber.number) == (sequence, number):
                    found = delivery if found is None or not delivery.settled else found
        return found

    def waiting(self, subscriber):
        return [
            item
            for event in self.events
            for item in event.deliveries
            if item.subscriber is subscriber and item.state == QUEUED
        ]

    def names_of(self, number):
        """The names of the subscribers of a topic; none if it is gone."""
        return {item.shown for topic in self.topics.values() if topic.number == number for item in self.route(topic)}

    def ready(self, subscriber):
        """What waits, and neither for its time nor for a process that has a delivery with the same number."""
        held = [
            item.event.sequence for key, items in self.held.items() if key[1] == subscriber.number for item in items
        ]
        return [item for item in self.waiting(subscriber) if not item.due_ns and item.event.sequence not in held]

    def route(self, topic, keys=(), imported=False):
        everybody = self.subscribers.values()
        found = [item for item in everybody if (item.key in keys if keys else item.wants(topic.name))]
        return [item for item in found if not imported or not (item.key[2] or item.scope == "local")]

    def pinned_spans(self):
        """Every span that somebody may still read because of an event."""
        spans = {event.span for event in self.unsettled()}
        return spans | {item.event.span for held in self.held.values() for item in held}

    # --- what happens ---

    def dead_letter(self, event, subscriber):
        topic = self.topics.get(self.dead_letter_topic)
        if topic is None or event.dead_letter or event.dead_lettered or event.topic is topic:
            return
        others = [item for item in self.route(topic) if item not in event.receivers]
        others = [item for item in others if not (event.imported and item.key[2])]
        if others:
            event.dead_lettered = True
            letter = ModelEvent(event.sequence, topic, others, event.span, dead_letter=True, imported=event.imported)
            letter.receivers, letter.failed, letter.origin = event.receivers, subscriber, event.topic
            self.events.append(letter)

    def redeliver(self, letter):
        """Send it again to the subscriber that failed; whether that could be."""
        subscriber = self.subscribers.get(letter.failed.key)
        if subscriber is None or self.topics.get(letter.origin.name) is not letter.origin:
            return False
        if self.is_full(subscriber, letter.nbytes):
            return False
        event = ModelEvent(letter.sequence, letter.origin, [subscriber], letter.span, imported=letter.imported)
        event.receivers, event.again = [*letter.receivers, subscriber], True
        event.deliveries[0].returned = True
        self.events.append(event)
        for delivery in letter.deliveries:
            delivery.step("completed")
        return True

    def retry(self, delivery, due_ns):
        """A process wants it tried again, at once or later."""
        if delivery.settled:
            return
        self.come_back(delivery, "retried")
        if not delivery.settled:
            delivery.tries += 1
            delivery.due_ns = due_ns

    def come_back(self, delivery, what):
        """What a process held and did not settle."""
        if delivery.settled:
            return
        delivery.returned = True
        delivery.step(what)
        event = delivery.event
        if event.expired or self.topics.get(event.topic.name) is not event.topic:
            delivery.step("expired")
        elif what == "holder_crashed":
            delivery.crashes += 1
            if delivery.crashes >= self.crashes_max:
                self.dead_letter(event, delivery.subscriber)
                delivery.step("given_up")

    def skip_waiting(self, subscriber):
        for delivery in self.waiting(subscriber):
            if not subscriber.broadcast:  # What waited for one process that never comes back is not a failure.
                self.dead_letter(delivery.event, subscriber)
            delivery.step("given_up")

    def drop_host(self, subscriber, link, what_of, now_ns):
        self.demands.pop((link, subscriber.number), None)
        forwards = link in subscriber.forwarders
        for delivery in self.held.pop((link, subscriber.number), []):
            self.come_back(delivery, "returned" if forwards else what_of(delivery))
        if link in subscriber.hosts:
            subscriber.hosts.remove(link)
        subscriber.forwarders.discard(link)
        if self.subscribers.get(subscriber.key) is not subscriber:
            self.skip_waiting(subscriber)
        elif not subscriber.hosts:
            self.orphans[subscriber] = now_ns + (0 if subscriber.broadcast else self.orphan_grace_ns)

    def give_up_orphans(self, now_ns):
        for subscriber in [item for item, due in self.orphans.items() if due <= now_ns]:
            del self.orphans[subscriber]
            self.unsubscribe(subscriber)

    def backlog(self, subscriber):
        return [
            item
            for event in self.events
            for item in event.deliveries
            if item.subscriber is subscriber and not item.settled
        ]

    def is_full(self, subscriber, more=0):
        """Whether it has as much as it may have; or would have more than that with so many bytes more."""
        events_max, bytes_max, when_full = subscriber.bound
        backlog = self.backlog(subscriber)
        nbytes = sum(item.event.nbytes for item in backlog)
        if when_full == "block":
            return bool((events_max and len(backlog) >= events_max) or (bytes_max and nbytes >= bytes_max))
        return bool((events_max and len(backlog) >= events_max) or (bytes_max and nbytes + more > bytes_max))

    def in_the_way(self, topic):
        blocking = [item for item in self.route(topic) if item.bound[2] == "block" and any(item.bound[:2])]
        return [item for item in blocking if self.is_full(item)]

    def notified(self, event):
        """An event has arrived: some skip it at once."""
        full = [item for item in event.deliveries if item.subscriber.bound[2] == "skip"]
        full = [item for item in full if self.is_full(item.subscriber, event.nbytes)]
        self.events.append(event)
        for delivery in full:
            delivery.step("given_up")

    def unsubscribe(self, subscriber):
        del self.subscribers[subscriber.key]
        self.orphans.pop(subscriber, None)
        subscriber.hosts.clear()
        self.skip_waiting(subscriber)

    def forget_topic(self, name):
        topic = self.topics.pop(name)
        for event in self.unsettled(topic):
            for delivery in event.deliveries:
                if delivery.state == QUEUED:
                    delivery.step("given_up")

    def expire(self, now_ns):
        for event in self.unsettled():
            if event.bucket_end_ns and event.bucket_end_ns <= now_ns:
                event.expired = True
                for delivery in event.deliveries:
                    delivery.step("expired")
        for delivery in [item for event in self.events for item in event.deliveries if item.due_ns <= now_ns]:
            delivery.due_ns = 0
        self.give_up_orphans(now_ns)
