"""Rules about followers: whatever happens, and however far one falls behind, it ends with the true registry."""

from hypothesis.stateful import rule

from eventbus_mp.protocol.effects import Reply
from eventbus_mp.protocol.messages import LinkLost
from eventbus_mp.protocol.requests import FollowChanges, StopFollowing
from tests.properties.memory_rules import pick
from tests.properties.registry_rules import RegistryRules


class Mirror:
    """What a follower knows."""

    def __init__(self):
        self.topics, self.subscribers, self.is_complete = set(), {}, False
        self.request = None
        """What it asked and was not answered."""

    def learn(self, rows):
        for kind, topic, facts in rows:
            key = (facts["name"], facts["config"], facts["host"]) if facts else None
            if kind == "reset":
                self.topics, self.subscribers, self.is_complete = set(), {}, False
            elif kind == "complete":
                self.is_complete = True
            elif kind == "topic_registered":
                assert topic not in self.topics
                self.topics.add(topic)
            elif kind == "topic_unregistered":
                self.topics.remove(topic)
            elif kind == "subscribed":
                before = self.subscribers.get(key)
                now = facts["patterns"], facts["scope"], bool(facts["home_pids"])
                assert before != now or not self.is_complete, "nothing has changed"
                self.subscribers[key] = now
            else:
                assert kind == "unsubscribed"
                del self.subscribers[key]


class FollowerRules(RegistryRules):
    @rule(which=pick, number=pick)
    def follow(self, which, number):
        """It asks once, and may be far behind when it asks again."""
        link = self.links[which % len(self.links)]
        mirror = self.mirrors.setdefault((link, number % 2), Mirror())
        if mirror.request is None:
            mirror.request = next(self.requests)
            self.feed(FollowChanges(link, mirror.request, number % 2))

    @rule(which=pick)
    def catch_up(self, which):
        """It asks until there is nothing more: now it knows everything."""
        if not self.mirrors:
            return
        place = list(self.mirrors)[which % len(self.mirrors)]
        mirror = self.mirrors[place]
        while mirror.request is None:
            mirror.request = next(self.requests)
            self.feed(FollowChanges(place[0], mirror.request, place[1]))
        assert mirror.is_complete
        assert mirror.topics == set(self.model.topics)
        expected = {
            key: (item.patterns, item.scope, bool(set(item.hosts) - item.forwarders))
            for key, item in self.model.subscribers.items()
        }
        assert mirror.subscribers == expected

    @rule(which=pick)
    def stop_following(self, which):
        if self.mirrors:
            place = list(self.mirrors)[which % len(self.mirrors)]
            del self.mirrors[place]
            self.feed(StopFollowing(place[0], 0, place[1]))

    def feed(self, message):
        super().feed(message)
        if type(message) is LinkLost:
            self.mirrors = {place: mirror for place, mirror in self.mirrors.items() if place[0] != message.link}
        waiting = {(place[0], mirror.request): mirror for place, mirror in self.mirrors.items()}
        others = []
        for effect in self.effects:
            mirror = waiting.get((effect.link, effect.request)) if type(effect) is Reply else None
            if mirror is None:
                others.append(effect)
            else:
                mirror.request = None
                mirror.learn(effect.value)
        self.effects = others
