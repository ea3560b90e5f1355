"""Sums that are exact whatever comes twice, and in whatever order it comes."""

import json
import random
from typing import Any

import pytest

from eventbus_mp.demo.measure import Measurement
from eventbus_mp.demo.totals import (
    DIFFERENCES_MAX,
    MEASURE,
    TOKENS,
    DemoResult,
    FunctionRow,
    SkippedRow,
    SubscriberRow,
    Totals,
)


def measurement(path: str, *complexities: tuple[str, int, int], lines: int = 10, classes: int = 0) -> Measurement:
    return {
        "path": path,
        "lines": lines,
        "functions": len(complexities),
        "classes": classes,
        "complexities": [list(row) for row in complexities],
    }


A = measurement("a.py", ("f", 1, 3), ("g", 9, 5), lines=12, classes=2)
B = measurement("b.py", ("f", 4, 5), lines=30)


def totals(*measurements: Measurement) -> Totals:
    made = Totals()
    for result in measurements:
        made.add_measured(result)
    return made


def test_sums() -> None:
    made = totals(A, B)
    made.add_tokens("a.py", 100)
    made.add_tokens("b.py", 250)
    made.add_skipped(MEASURE, "bad.py", "SyntaxError: invalid syntax (line 3)")
    assert (made.files, made.lines, made.functions, made.classes) == (2, 42, 3, 2)
    assert (made.tokens, made.complexity, made.outcomes) == (350, 13, 5)
    assert made.skipped == [SkippedRow("bad.py", "measure", "SyntaxError: invalid syntax (line 3)")]


def test_nothing_yet() -> None:
    made = Totals()
    assert (made.files, made.tokens, made.complexity, made.top(), made.skipped) == (0, 0, 0, [], [])
    assert made.differences(Totals()) == []


def test_what_comes_twice_counts_once() -> None:
    made = Totals()
    assert [made.add_measured(A), made.add_measured(A)] == [True, False]
    assert [made.add_tokens("a.py", 100), made.add_tokens("a.py", 100)] == [True, False]
    assert [made.add_skipped(TOKENS, "b.py", "why"), made.add_skipped(TOKENS, "b.py", "why")] == [True, False]
    assert (made.files, made.lines, made.tokens, len(made.skipped)) == (1, 12, 100, 1)


def test_the_first_outcome_of_a_step_stands_and_steps_are_independent() -> None:
    made = Totals()
    assert made.add_skipped(MEASURE, "a.py", "why")
    assert not made.add_measured(A)
    assert made.add_tokens("a.py", 100)
    assert not made.add_skipped(TOKENS, "a.py", "why")
    assert (made.files, made.tokens, len(made.skipped)) == (0, 100, 1)
    assert made.has(MEASURE, "a.py")
    assert made.has(TOKENS, "a.py")
    assert not made.has(MEASURE, "b.py")


def test_an_unknown_step_is_an_error() -> None:
    with pytest.raises(ValueError, match="unknown step 'count'; the demo has measure, tokens"):
        Totals().add_skipped("count", "a.py", "why")


def test_top_is_the_worst_first_then_by_path_and_line() -> None:
    later = measurement("a.py", ("late", 9, 5), ("early", 2, 5), ("small", 1, 1))
    made = totals(B, later)
    assert made.top(3) == [
        FunctionRow("a.py", 2, "early", 5),
        FunctionRow("a.py", 9, "late", 5),
        FunctionRow("b.py", 4, "f", 5),
    ]
    assert len(made.top(99)) == 4


def test_as_dict_does_not_depend_on_the_order_or_on_repeats() -> None:
    steps: list[tuple[Any, ...]] = [("add_measured", A), ("add_measured", B), ("add_tokens", "a.py", 100)]
    steps += [
        ("add_tokens", "b.py", 250),
        ("add_skipped", MEASURE, "c.py", "x"),
        ("add_skipped", TOKENS, "c.py", "y"),
    ]
    seen = set()
    for seed in range(20):
        made = Totals()
        for name, *arguments in random.Random(seed).sample(steps * 2, len(steps) * 2):
            getattr(made, name)(*arguments)
        seen.add(json.dumps(made.as_dict()))
    assert len(seen) == 1


def test_as_dict_survives_json() -> None:
    made = totals(A, B).as_dict()
    assert json.loads(json.dumps(made)) == made
    assert made["top"][0] == {"path": "a.py", "line": 9, "name": "g", "complexity": 5}
    assert made["skipped"] == []


def test_errors_that_cancel_out_are_still_seen() -> None:
    made, other = Totals(), Totals()
    for path, mine, theirs in (("a.py", 100, 101), ("b.py", 250, 249)):
        made.add_tokens(path, mine)
        other.add_tokens(path, theirs)
    assert made.tokens == other.tokens
    assert made.as_dict() != other.as_dict()
    assert made.differences(other) == [
        "a.py: tokens: 100 here, 101 there",
        "b.py: tokens: 250 here, 249 there",
    ]


def test_differences_name_the_file_the_step_and_both_values() -> None:
    made, other = totals(A), totals(measurement("a.py", ("f", 1, 3), lines=12, classes=2))
    made.add_tokens("b.py", 250)
    other.add_skipped(TOKENS, "b.py", "TokenError: why")
    other.add_measured(B)
    assert made.differences(other) == [
        "a.py: measure: 12 lines, 2 functions, 2 classes, complexity 8 here, "
        "12 lines, 1 functions, 2 classes, complexity 3 there",
        "b.py: measure: missing here, 30 lines, 1 functions, 0 classes, complexity 5 there",
        "b.py: tokens: 250 here, TokenError: why there",
    ]


def test_differences_in_names_only_say_so() -> None:
    (line,) = totals(B).differences(totals(measurement("b.py", ("other", 4, 5), lines=30)))
    assert line.endswith("complexity 5 in both, but not of the same functions")


def test_differences_are_bounded() -> None:
    made = totals(*(measurement(f"{number:03}.py") for number in range(DIFFERENCES_MAX + 7)))
    lines = made.differences(Totals())
    assert len(lines) == DIFFERENCES_MAX + 1
    assert lines[-1] == "... and 7 more"


def test_as_json_holds_the_whole_result() -> None:
    subscribers = (SubscriberRow("measure", completed=2, skipped=1, redelivered=3),)
    result = DemoResult("/src", 2, 1.5, 30, 20.0, totals(A), subscribers, killed_pid=77, baseline_seconds=3.0)
    assert json.loads(result.as_json()) == {
        "path": "/src",
        "processes": 2,
        "seconds": 1.5,
        "baseline_seconds": 3.0,
        "speed_up": 2.0,
        "events": 30,
        "events_per_s": 20.0,
        "killed_pid": 77,
        "subscribers": [{"name": "measure", "completed": 2, "skipped": 1, "redelivered": 3}],
        "journal": None,
        "totals": totals(A).as_dict(),
    }


def test_what_was_not_measured_is_null() -> None:
    record = json.loads(DemoResult("/src", 0, 1.0, 0, 0.0, Totals()).as_json())
    assert (record["baseline_seconds"], record["speed_up"], record["killed_pid"]) == (None, None, None)
    assert DemoResult("/src", 2, 0.0, 0, 0.0, Totals(), baseline_seconds=1.0).speed_up is None


def test_json_takes_file_names_that_are_not_unicode() -> None:
    made = Totals()
    made.add_skipped(MEASURE, "bad\udcff.py", "why")
    text = DemoResult("/src", 0, 1.0, 0, 0.0, made).as_json()
    assert text.isascii()
    assert json.loads(text)["totals"]["skipped"][0]["path"] == "bad\udcff.py"
