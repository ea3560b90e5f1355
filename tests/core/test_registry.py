"""Topics, patterns, routes; numbers that are never used twice."""

import pytest

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
