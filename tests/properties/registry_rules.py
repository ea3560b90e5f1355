"""The rules of the machine that are about the registry: topics, subscribers, and who hosts and requires them."""

import re

from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from eventbus_mp.protocol.requests import (
    SCOPES,
    Direct,
    RegisterTopic,
    RequireSubscribers,
    ResolveTopic,
    StopHosting,
    Subscribe,
    UnregisterTopic,
    Unsubscribe,
)
from tests.properties.memory_rules import EVENT_BYTES, MemoryRules, pick
from tests.properties.model import ModelSubscriber, ModelTopic

TOPICS = ("a", "ab", "b", "dead")
PATTERNS = (["a"], ["a$"], ["b", "ab"], [".*"], ["dead"], ["nothing"])
SUBSCRIBERS = (("s1", b"", ""), ("s1", b"config", ""), ("s2", b"", ""), ("s3", b"", ""), ("s1", b"", "B"))
KEYS = (*SUBSCRIBERS, ("s4", b"", ""))


NO_BOUND = 0, 0, "block"
BOUNDS = (NO_BOUND, NO_BOUND, (2, 0, "skip"), (3, 0, "block"), (0, 2 * EVENT_BYTES, "skip"), (3, 200, "block"))


class RegistryRules(MemoryRules):
    """What changes who gets which events."""

    def note_topic(self, name):
        number, _, _ = self.ask(ResolveTopic, name)
        self.model.topics[name] = ModelTopic(name, number)

    @rule(name=st.sampled_from(TOPICS))
    def register(self, name):
        assert self.ask(RegisterTopic, name) == (name not in self.model.topics)
        if name not in self.model.topics:
            self.note_topic(name)

    @precondition(lambda self: self.calls % 4 == 0)
    @rule(name=st.sampled_from(TOPICS))
    def unregister(self, name):
        assert self.ask(UnregisterTopic, name) == (name in self.model.topics)
        if name in self.model.topics:
            self.model.forget_topic(name)
        self.settle_up()

    @rule(
        which=pick,
        who=pick,
        patterns=st.sampled_from(PATTERNS),
        credit=st.integers(0, 3),
        broadcast=st.booleans(),
        threads=st.integers(1, 3),
        scope=st.sampled_from(SCOPES),
        forwards=st.booleans(),
        bound=st.sampled_from(BOUNDS),
    )
    def subscribe(self, which, who, patterns, credit, broadcast, threads, scope="host", forwards=False, bound=NO_BOUND):
        link = self.links[which % len(self.links)]
        name, config, host = key = SUBSCRIBERS[who % len(SUBSCRIBERS)]
        if any(re.match(pattern, "dead") for pattern in patterns):
            bound = NO_BOUND  # The model does not know in which order there are dead letters.
        subscriber = self.model.subscribers.get(key)
        if subscriber is not None and link in subscriber.hosts:
            forwards = link in subscriber.forwarders  # It does one or the other.
        forwards = forwards or bool(host)
        fields = name, config, patterns, credit, broadcast, threads, scope, host, forwards, *bound
        number = self.ask(Subscribe, *fields, link=link)
        if subscriber is None:
            assert number not in self.by_number, "a subscriber number was used twice"
            subscriber = self.model.subscribers[key] = ModelSubscriber(key, number, broadcast)
            self.by_number[number] = subscriber
        assert subscriber.number == number
        subscriber.patterns, subscriber.scope, subscriber.bound = patterns, scope, bound
        self.model.orphans.pop(subscriber, None)
        if link not in subscriber.hosts:
            subscriber.hosts.append(link)
            subscriber.forwarders |= {link} if forwards else set()
            self.model.held[link, number] = []
        self.settle_up()

    @precondition(lambda self: self.calls % 3 == 0)
    @rule(who=pick)
    def unsubscribe(self, who):
        key = SUBSCRIBERS[who % len(SUBSCRIBERS)]
        subscriber = self.model.subscribers.get(key)
        assert self.ask(Unsubscribe, *key) == (subscriber is not None)
        if subscriber is not None:
            self.model.unsubscribe(subscriber)
            self.drop_empty_hands(subscriber)
        self.settle_up()

    @rule(which=pick, ends=st.booleans())
    def stop_hosting(self, which, ends):
        if not self.model.held:
            return
        link, number = list(self.model.held)[which % len(self.model.held)]
        assert self.ask(StopHosting, number, ends, link=link) is True
        subscriber = self.by_number[number]
        self.model.drop_host(subscriber, link, lambda delivery: "returned", self.now_ns)
        if ends and not subscriber.hosts and subscriber in self.model.subscribers.values():
            self.model.unsubscribe(subscriber)
        self.model.give_up_orphans(self.now_ns)
        self.settle_up()

    @precondition(lambda self: self.calls % 3 == 0)
    @rule(which=pick, keys=st.sets(st.sampled_from(KEYS), max_size=3), imported=st.booleans())
    def direct(self, which, keys, imported):
        link = self.links[which % len(self.links)]
        self.ask(Direct, [list(key) for key in keys], imported, link=link)
        self.directions[link] = tuple(keys), imported
        self.settle_up()

    @rule(which=pick, name=st.sampled_from(TOPICS), names=st.sets(st.sampled_from(["s1", "s2", "s1@B"]), min_size=1))
    def require(self, which, name, names):
        link = self.links[which % len(self.links)]
        topic = self.model.topics.get(name)
        number, missing, room = self.ask(RequireSubscribers, name, sorted(names), link=link)
        present = self.model.names_of(topic.number) if topic else set()
        assert missing == sorted(names - present)
        assert number == (0 if missing or not topic else topic.number)
        if number:
            self.check_room(name, room)
        if self.required.get(link, (None,))[0] != names:
            self.required[link] = names, set()
        if number:
            self.required[link][1].add(number)
        self.settle_up()
