"""Topics, patterns, routes; numbers that are never used twice."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventbus_mp.core.entities import SubscriberState
from eventbus_mp.core.registry import Registry
from eventbus_mp.errors import InvalidPattern, InvalidTopic
from eventbus_mp.patterns import compile_pattern


def names(registry, topic):
    return [subscriber.name for subscriber in registry.topics[topic].route.subscribers]


def test_registering_twice_is_the_same_topic():
    registry = Registry()
    assert registry.register("a") is registry.register("a")


def test_a_topic_registered_again_has_its_number_and_nobody_else_gets_it():
    registry = Registry()
    topic = registry.register("a")
    first = topic.number
    registry.unregister("a")
    assert registry.register("b").number != first
    again = registry.register("a")
    assert (again.number, topic.is_gone, again.is_gone) == (first, True, False)
    assert registry.was_registered(first)
    assert not registry.was_registered(0)
    assert not registry.was_registered(99)


def test_unregistering_an_unknown_topic_changes_nothing():
    assert Registry().unregister("a") is None


def test_a_bad_name_is_refused():
    with pytest.raises(InvalidTopic, match="control character"):
        Registry().register("a\n")


def test_patterns_match_from_the_start_as_prefixes():
    registry = Registry()
    for topic in ("user_created", "user", "a_user_"):
        registry.register(topic)
    registry.subscribe("s", b"", ["user_"], False)
    assert [names(registry, topic) for topic in ("user_created", "user", "a_user_")] == [["s"], [], []]


def test_a_topic_that_comes_later_is_routed_too():
    registry = Registry()
    registry.subscribe("s", b"", ["a"], False)
    registry.register("ab")
    assert names(registry, "ab") == ["s"]


def test_subscribing_again_replaces_the_patterns():
    registry = Registry()
    registry.register("a")
    first = registry.subscribe("s", b"", ["a"], False)
    assert registry.subscribe("s", b"", ["b"], False) is first
    assert names(registry, "a") == []


def test_another_config_is_another_subscriber():
    registry = Registry()
    assert registry.subscribe("s", b"", ["a"], False) is not registry.subscribe("s", b"x", ["a"], False)


def test_a_pattern_that_does_not_compile_is_named_and_changes_nothing():
    registry = Registry()
    registry.register("a")
    registry.subscribe("s", b"", ["a"], False)
    with pytest.raises(InvalidPattern, match=r"'\('"):
        registry.subscribe("s", b"", ["b", "("], False)
    assert names(registry, "a") == ["s"]


@pytest.mark.parametrize("pattern", [None, 1, b"a", "[", "(?P<a>.)(?P<a>.)"])
def test_what_is_no_pattern(pattern):
    with pytest.raises(InvalidPattern):
        compile_pattern(pattern)


def test_an_unsubscribed_one_leaves_every_route_and_keeps_old_ones():
    registry = Registry()
    route = registry.register("a").route
    subscriber = registry.subscribe("s", b"", ["a"], False)
    kept = registry.topics["a"].route
    registry.unsubscribe(subscriber)
    assert not registry.is_subscribed(subscriber)
    assert (names(registry, "a"), route.subscribers, kept.subscribers) == ([], (), (subscriber,))
    registry.forget(subscriber)
    assert not registry.subscriber_by_number


NAMES = st.sampled_from(["a", "ab", "b", "ba"])
CALLS = st.one_of(
    st.tuples(st.just("register"), NAMES),
    st.tuples(st.just("unregister"), NAMES),
    st.tuples(st.just("subscribe"), st.sampled_from("xyz"), st.lists(st.sampled_from(["a", "b", "ab", ".*"]))),
    st.tuples(st.just("unsubscribe"), st.sampled_from("xyz")),
)


@given(st.lists(CALLS, max_size=30))
def test_a_route_is_who_wants_the_topic_oldest_first(calls):
    registry = Registry()
    for call, name, *rest in calls:
        if call == "subscribe":
            (patterns,) = rest
            registry.subscribe(name, b"", patterns, False)
        elif call == "unsubscribe":
            if (name, b"", "") in registry.subscribers:
                registry.unsubscribe(registry.subscribers[name, b"", ""])
        else:
            getattr(registry, call)(name)
        for topic in registry.topics.values():
            wanting = tuple(item for item in registry.subscribers.values() if item.wants(topic.name))
            assert topic.route.subscribers == wanting
            assert registry._routes[wanting] is topic.route


def test_a_subscriber_that_comes_costs_no_look_at_the_patterns_of_the_others(monkeypatch):
    registry = Registry()
    registry.register_all([f"topic {n}" for n in range(50)])
    for name in "abc":
        registry.subscribe(name, b"", [".*"], False)
    asked = []

    def note(subscriber, topic):
        asked.append(subscriber.name)
        return True

    monkeypatch.setattr(SubscriberState, "wants", note)
    registry.subscribe("d", b"", [".*"], False)
    assert asked == ["d"] * 50
    assert names(registry, "topic 7") == ["a", "b", "c", "d"]
