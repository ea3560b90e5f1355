"""Settings: ranges, variables, and what an argument wins over."""

import os
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from eventbus_mp import EventBus
from eventbus_mp.config import TIME_UNITS_NS, BusConfig, Setting, check_bus_name, settings_table
from eventbus_mp.errors import InvalidTopic, UsageError

SETTINGS_PAGE = Path(__file__).parent.parent / "docs" / "reference" / "settings.md"


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
        ("time_unit", []),
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
    topics: Any = ["a", "b"]
    assert BusConfig(topics=topics).topics == ("a", "b")


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


@pytest.mark.parametrize("text", ["", "  "])
def test_a_variable_that_is_set_and_empty_is_unset(text):
    """As docker compose writes one that has no value."""
    names = [field.name.upper() for field in fields(BusConfig)]
    assert BusConfig.from_environment({f"EVENTBUS_MP_{name}": text for name in names}) == BusConfig()
    assert BusConfig(run_dir="") == BusConfig()


@pytest.mark.parametrize(("name", "text"), [("TTL", "ten"), ("STRICT", "maybe"), ("ORPHAN_GRACE_S", "x")])
def test_a_variable_that_is_no_value_is_named(name, text):
    with pytest.raises(UsageError, match=f"EVENTBUS_MP_{name}"):
        BusConfig.from_environment({f"EVENTBUS_MP_{name}": text})


def test_the_real_environment_is_the_default(monkeypatch):
    monkeypatch.setenv("EVENTBUS_MP_CRASHES_MAX", "7")
    assert BusConfig.from_environment().crashes_max == 7


@pytest.mark.parametrize(
    ("name", "nearest"), [("linger_s", "manager_idle_s"), ("credits_max", "credit_max"), ("nonsense", "reconnect")]
)
def test_an_unknown_setting_is_named_with_the_nearest_one(name, nearest):
    settings: dict[str, Any] = {name: 1}
    with pytest.raises(UsageError, match=f"there is no setting '{name}'; the nearest name is '{nearest}'"):
        EventBus("never-used", **settings)
    with pytest.raises(TypeError, match=name):
        BusConfig(**settings)


def test_every_field_is_declared_as_a_setting():
    for item in fields(BusConfig):
        declared = item.metadata["setting"]
        assert isinstance(declared, Setting)
        assert declared.doc.endswith(".")
        # A default is a value that its own check lets pass, and that a variable can be read into.
        assert declared.kind.check(item.name, item.default) == item.default
        assert declared.kind.parse is not None or item.name == "id_generator"


def test_what_is_bus_wide_is_what_the_fields_say():
    declared = {item.name for item in fields(BusConfig) if item.metadata["setting"].bus_wide}
    assert set(BusConfig().bus_wide()) == declared
    assert {"memory_bytes_max", "credit_max"} <= declared


def test_the_page_of_settings_has_this_table():
    """`EVENTBUS_REWRITE=1 pytest tests/test_config.py` writes it anew."""
    text, table = SETTINGS_PAGE.read_text(), settings_table()
    begin = text.index("| setting |")
    end = text.rindex("|\n") + 2
    if os.environ.get("EVENTBUS_REWRITE"):
        SETTINGS_PAGE.write_text(text[:begin] + table + text[end:])
    else:
        assert text[begin:end] == table, "write it anew: EVENTBUS_REWRITE=1 pytest tests/test_config.py"


def test_the_table_shows_defaults_and_ranges():
    rows = {line.split("`")[1]: line for line in settings_table().splitlines()[2:]}
    assert list(rows) == [item.name for item in fields(BusConfig)]
    assert "| `EVENTBUS_MP_CREDIT_MAX` | 4,096 | 1 to 2^20 | the bus |" in rows["credit_max"]
    assert "| none | 19 characters that sort by time |" in rows["id_generator"]
    assert "| `false` | `true` or `false` | the process |" in rows["strict"]
    assert "| 30 | 0.001 to 86,400 |" in rows["request_timeout_s"]


def test_what_the_manager_lives_by_makes_the_same_config():
    config = BusConfig(credit_max=5, dead_letter_topic="dead", topics=("a",), memory_bytes_max=1 << 20)
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
