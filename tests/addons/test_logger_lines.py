"""The lines of the logger: bounded, on one line, harmless, and each value what it is."""

import datetime
import decimal
import enum
import json
import re
import uuid
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eventbus_mp.addons.logger.lines import for_record, json_line, text_line
from eventbus_mp.addons.logger.plain import error_text, plain

ANYTHING = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.binary()),
    lambda inner: st.one_of(st.lists(inner), st.dictionaries(st.text(), inner), st.tuples(inner, inner)),
)
TEXT = st.text(st.characters(), min_size=1, max_size=300)  # lone surrogates and control characters as well


class Colour(enum.Enum):
    RED = 1


@dataclass
class Card:
    owner: str
    number: str


class Hostile:
    def __repr__(self) -> str:
        raise AssertionError("it was asked")

    __str__ = __repr__


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        ({"topic": "order", "event_id": "4711"}, "order 4711"),
        ({"topic": "order", "event_id": 12}, "order 12"),
        (
            {"topic": "order", "event_id": "1", "transaction_id": "t1", "source": "shop", "duration_ms": 12.0},
            "order 1 tx=t1 source=shop 12 ms",
        ),
        ({"topic": "order", "event_id": "1", "data": {"total": 2.5}}, 'order 1 data={"total": 2.5}'),
        ({"topic": "a b", "event_id": "1 tx=2"}, '"a b" "1 tx=2"'),
        ({"topic": "a", "event_id": 'say "so"'}, 'a "say \\"so\\""'),
        ({"topic": "a", "event_id": "one\ntwo"}, 'a "one\\ntwo"'),
        ({"topic": "a", "event_id": "\x1b[31mred"}, 'a "\\u001b[31mred"'),
        ({"topic": "a", "event_id": "\u202eabc\u2028\x7f"}, 'a "\\u202eabc\\u2028\\x7f"'),
        ({"topic": "a", "event_id": "\ud800"}, 'a "\\ud800"'),
        ({"topic": "a", "event_id": ""}, 'a ""'),
        ({"topic": "größe", "event_id": "日本"}, "größe 日本"),
        ({"topic": "a", "event_id": "1", "data": "x\n\x1b[2J\u2028"}, 'a 1 data="x\\n\\u001b[2J\\u2028"'),
        ({"topic": "a", "event_id": "1", "omitted": 3}, "a 1 omitted=3"),
    ],
)
def test_a_line(fields: dict[str, Any], line: str) -> None:
    assert text_line("", fields, 2048) == line
    assert text_line("notified", fields, 2048) == f"notified {line}"


@settings(max_examples=30)
@given(topic=TEXT, event_id=TEXT, source=TEXT, data=ANYTHING, bytes_max=st.integers(256, 4096))
def test_whatever_is_in_it(topic: str, event_id: str, source: str, data: Any, bytes_max: int) -> None:
    fields = {"topic": topic, "event_id": event_id, "source": source, "data": plain(data, bytes_max)}
    line = text_line("", fields, bytes_max)
    assert line.isprintable()
    assert len(line.encode()) <= bytes_max
    line = json_line(20, fields, bytes_max)
    assert line.isprintable()
    assert len(line.encode()) <= bytes_max
    found = json.loads(line)
    assert set(found) - {"truncated"} == {"time", "level", "topic", "event_id", "source", "data"}
    assert all(value.isprintable() for value in for_record(fields, bytes_max).values() if isinstance(value, str))


def test_json() -> None:
    found = json.loads(json_line(30, {"topic": "a", "event_id": "1\n2", "data": [1, None]}, 2048))
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", found.pop("time"))
    assert found == {"level": "WARNING", "topic": "a", "event_id": "1\n2", "data": [1, None]}
    found = json.loads(json_line(30, {"topic": "a", "event_id": "1", "data": ["x" * 200] * 20}, 512))
    assert found["truncated"]
    assert found["data"].startswith('["xxx')


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ((1, 2), [1, 2]),
        (b"\x00\x01", "<bytes of 2 bytes>"),
        (memoryview(bytes(7)), "<memoryview of 7 bytes>"),
        (float("nan"), "nan"),
        (1 << 60, 1 << 60),
        (datetime.date(2026, 1, 2), "2026-01-02"),
        (decimal.Decimal("1.50"), "1.50"),
        (uuid.UUID(int=1), "00000000-0000-0000-0000-000000000001"),
        (Colour.RED, "Colour.RED"),
        (np.zeros((3, 4)), "<ndarray float64 [3, 4]>"),
        (Card("ann", "4111"), {"$type": "Card", "owner": "ann", "number": "4111"}),
        (Hostile(), f"<{__name__}.Hostile>"),
        ({Hostile(): 1}, {f"<{__name__}.Hostile>": 1}),
        ({1: {None: 2}}, {"1": {"None": 2}}),
        ({1}, [1]),
    ],
)
def test_values_that_json_has_not(value: Any, shown: Any) -> None:
    assert plain(value, 1_000) == shown
    json.dumps(shown)


def test_much_is_cut_and_depth_as_well() -> None:
    assert len(json.dumps(plain(["x" * 50] * 1_000_000, 1_000))) < 1_200
    assert len(json.dumps(plain({f"key {number}": number for number in range(10_000)}, 1_000))) < 1_400
    assert plain(1 << 100_000, 1_000) == "<int of 100,001 bits>"
    assert plain("x" * 5_000, 10) == "x" * 10 + "..."
    deep: Any = 1
    for _ in range(100_000):
        deep = [deep]
    assert json.dumps(plain(deep, 1_000)) == "[" * 8 + '"..."' + "]" * 8
    assert plain(list(range(100)), 20) == [*range(8), "... 92 more"]


def test_what_is_secret() -> None:
    data = {"user": {"Password": "x", "name": "ann"}, "cards": [Card("ann", "4111")], 7: 8}
    assert plain(data, 1_000, {"password", "number"}) == {
        "user": {"Password": "[redacted]", "name": "ann"},
        "cards": [{"$type": "Card", "owner": "ann", "number": "[redacted]"}],
        "7": 8,
    }


def test_an_error_without_a_text() -> None:
    class Mute(Exception):
        def __str__(self) -> str:
            raise ValueError

    assert error_text(KeyError("x")) == "KeyError: 'x'"
    assert error_text(Mute()) == "Mute: its text cannot be made: ValueError"
