"""`eventbus-mp dead-letters`: what failed, why, and once more."""

from collections.abc import Callable
from pathlib import Path

import pytest

from eventbus_mp import Event, EventBus, Inbox
from tests.cli.shell import json_output, output, run


@pytest.fixture
def letters(make_bus: Callable[..., EventBus]) -> Inbox:
    """Two dead letters of `billing`, and one of `audit`; what is sent again succeeds."""
    bus = make_bus(topics=["a", "b", "dead"], dead_letter_topic="dead")
    inbox = bus.inbox("letters", ["dead"])
    failed = set()

    def fail_once(event: Event) -> None:
        if event.id not in failed:
            failed.add(event.id)
            raise ValueError(f"no such card: {event.data}")

    bus.on("a", name="billing")(fail_once)
    bus.on("b", name="audit")(fail_once)
    bus.notify_many([Event("one", "a", 1), Event(2, "a", 2), Event("three", "b", 3)])
    bus.drain("[ab]", timeout_s=60)
    assert len(bus.dead_letters()) == 3
    return inbox


@pytest.mark.usefixtures("letters")
def test_they_are_listed_and_shown(run_dir: Path) -> None:
    heads, *rows = output(run_dir, "dead-letters", "ls", "test").splitlines()
    assert heads.split() == ["topic", "id", "subscriber", "failed", "attempts", "why"]
    assert [row.split()[:3] for row in rows] == [
        ["a", "'one'", "billing"],
        ["a", "2", "billing"],
        ["b", "'three'", "audit"],
    ]
    assert rows[0].endswith("ValueError: no such card: 1")
    assert [row["id"] for row in json_output(run_dir, "dead-letters", "ls", "test")] == ["one", 2, "three"]
    assert "perhaps there are more" in output(run_dir, "dead-letters", "ls", "test", "--limit", 1)
    shown = output(run_dir, "dead-letters", "show", "test", "a", "2", "--int")
    assert "subscriber     billing\n" in shown
    assert "raise ValueError" in shown
    assert shown.endswith("data           int\n2\n")
    whole = json_output(run_dir, "dead-letters", "show", "test", "a", "one")
    assert (whole["event"]["data"], whole["letters"][0]["error"]) == (1, "ValueError")
    shown_alike = output(run_dir, "show", "test", "dead", "one").replace("'dead'", "'a'")
    assert output(run_dir, "dead-letters", "show", "test", "a", "one").endswith(shown_alike)
    missing = run(run_dir, "dead-letters", "show", "test", "a", "2")
    assert (missing.returncode, missing.stdout) == (4, "")
    assert "no dead letter of topic 'a' has the id '2'" in missing.stderr


@pytest.mark.usefixtures("letters")
def test_they_are_sent_again(run_dir: Path) -> None:
    assert output(run_dir, "dead-letters", "redeliver", "test", "a", "one") == "1 dead letter sent again\n"
    assert run(run_dir, "dead-letters", "redeliver", "test", "a", "one").returncode == 4
    assert run(run_dir, "dead-letters", "redeliver", "test").returncode == 2
    assert run(run_dir, "dead-letters", "redeliver", "test", "--all", "--subscriber", "nobody").returncode == 4
    assert json_output(run_dir, "dead-letters", "redeliver", "test", "b")["sent"] == 1
    assert output(run_dir, "dead-letters", "redeliver", "test", "--all") == "1 dead letter sent again\n"
    assert output(run_dir, "dead-letters", "ls", "test") == "no dead letter\n"
    assert output(run_dir, "drain", "test", "--timeout", "60") == ""
