"""Settings: ranges, variables, and what an argument wins over."""

import pytest

from eventbus_mp.config import TIME_UNITS_NS, BusConfig, check_bus_name
from eventbus_mp.errors import InvalidTopic, UsageError


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("memory_bytes_max", 0),
        ("memory_bytes_max", 1.5e9),
        ("credit_max", 0),
        ("credit_max", None),
        ("crashes_max", 0),
        ("crashes_max", True),
        ("crashes_max", "3"),
        ("notify_timeout_s", -1),
        ("notify_timeout_s", float("nan")),
        ("event_bytes_max", 1 << 32),
        ("ttl", -1),
        ("time_unit", "fortnight"),
        ("id_generator", 5),
        ("topics", "user_created"),
    ],
)
def test_a_value_out_of_range_is_named(field, value):
    with pytest.raises(UsageError, match=field):
        BusConfig(**{field: value})


@pytest.mark.parametrize("settings", [{"topics": ["a", ""]}, {"dead_letter_topic": "a\n"}])
def test_a_topic_that_cannot_be_is_refused_at_once(settings):
    with pytest.raises(InvalidTopic):
        BusConfig(**settings)


def test_topics_become_a_tuple():
    assert BusConfig(topics=["a", "b"]).topics == ("a", "b")


@pytest.mark.parametrize(
    ("field", "text", "value"),
    [
        ("topics", "a, b,", ("a", "b")),
        ("ttl", "600", 600),
        ("strict", "yes", True),
        ("strict", "0", False),
        ("notify_timeout_s", "1.5", 1.5),
        ("memory_bytes_max", "2097152", 2 << 20),
        ("dead_letter_topic", "dead", "dead"),
        ("time_unit", "second", "second"),
    ],
)
def test_variables(field, text, value):
    environment = {"EVENTBUS_MP_" + field.upper(): text}
    assert getattr(BusConfig.from_environment(environment), field) == value


def test_an_argument_wins_over_a_variable():
    assert BusConfig.from_environment({"EVENTBUS_MP_TTL": "nonsense"}, ttl=5).ttl == 5


@pytest.mark.parametrize(("name", "text"), [("TTL", "ten"), ("STRICT", "maybe"), ("ORPHAN_GRACE_S", "")])
def test_a_variable_that_is_no_value_is_named(name, text):
    with pytest.raises(UsageError, match=f"EVENTBUS_MP_{name}"):
        BusConfig.from_environment({f"EVENTBUS_MP_{name}": text})


def test_the_real_environment_is_the_default(monkeypatch):
    monkeypatch.setenv("EVENTBUS_MP_CRASHES_MAX", "7")
    assert BusConfig.from_environment().crashes_max == 7


def test_what_the_manager_lives_by_makes_the_same_config():
    config = BusConfig(credit_max=5, dead_letter_topic="dead", topics=["a"], memory_bytes_max=1 << 20)
    assert BusConfig(**config.bus_wide()).bus_wide() == config.bus_wide()


@pytest.mark.parametrize("name", ["a", "shop-2.test", "_x", "9", "x" * 64])
def test_bus_names(name):
    assert check_bus_name(name) == name


@pytest.mark.parametrize("name", ["", ".", "..", "-x", "a/b", "a b", "ä", "x" * 65, None, "a\n"])
def test_what_names_no_bus(name):
    with pytest.raises(UsageError, match="bus name"):
        check_bus_name(name)


def test_units():
    assert TIME_UNITS_NS["second"] == 10**9
