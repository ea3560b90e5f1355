"""Rules about bounds: who waits for room is answered as soon as there is some, and never before."""

from hypothesis import strategies as st
from hypothesis.stateful import invariant, rule

from eventbus_mp.protocol.effects import Reply
from eventbus_mp.protocol.requests import AwaitRoom, CancelWait, ResolveTopic
from tests.properties.follower_rules import FollowerRules
from tests.properties.memory_rules import pick
from tests.properties.registry_rules import TOPICS


class BoundRules(FollowerRules):
    @rule(which=pick, name=st.sampled_from(TOPICS))
    def resolve(self, which, name):
        number, subscribed, room = self.ask(ResolveTopic, name, link=self.links[which % len(self.links)])
        topic = self.model.topics.get(name)
        assert (number, subscribed) == ((topic.number, bool(self.model.route(topic))) if topic else (0, False))
        self.check_room(name, room)
        self.settle_up()

    @rule(which=pick, name=st.sampled_from(TOPICS))
    def await_room(self, which, name):
        link, request = self.links[which % len(self.links)], next(self.requests)
        self.rooms[link, request] = name
        self.feed(AwaitRoom(link, request, name))
        self.settle_up()

    @rule(which=pick)
    def cancel_room(self, which):
        if self.rooms:
            link, request = list(self.rooms)[which % len(self.rooms)]
            del self.rooms[link, request]
            self.ask(CancelWait, request, link=link)
            self.settle_up()

    def feed(self, message):
        super().feed(message)
        answers = [item for item in self.effects if type(item) is Reply and (item.link, item.request) in self.rooms]
        self.effects = [item for item in self.effects if item not in answers]
        self.room_answers += [(self.rooms.pop((item.link, item.request)), item.value[2]) for item in answers]

    def settle_up(self):
        self.rooms = {place: name for place, name in self.rooms.items() if place[0] in self.links}
        for name, room in self.room_answers:
            assert not isinstance(room, list)
            self.check_room(name, room)
        self.room_answers.clear()
        super().settle_up()

    @invariant()
    def who_waits_has_a_reason(self):
        for name in self.rooms.values():
            assert self.model.in_the_way(self.model.topics[name])
