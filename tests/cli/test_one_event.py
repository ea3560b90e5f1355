"""The commands about one event: show, story, explain; and which of two ids is meant."""

import dataclasses
import datetime
import os
from pathlib import Path

import pytest

from eventbus_mp import Event, EventBus, register_type
from tests.cli.shell import json_output, output, run


@register_type
@dataclasses.dataclass
class Order:
    number: int
    total: float


def test_an_event_with_its_data(bus: EventBus, run_dir: Path) -> None:
    bus.inbox("audit", ["a"])
    at = datetime.datetime(2026, 1, 2, 3, 4)
    data = {"order": Order(1, 2.5), "at": at, "raw": memoryview(b"x" * 5_000), "kinds": {1}, 7: b"\xff", "pair": (1, 2)}
    bus.notify(Event("one", "a", data, transaction_id=5, source="test", headers={"trace": "0af7"}))
    shown = output(run_dir, "show", "test", "a", "one")
    assert "id             'one'\n" in shown
    assert "transaction_id 5\n" in shown
    assert "header         trace: '0af7'\n" in shown
    name = f"{Order.__module__}.Order"
    assert f"<{name}, not registered here: {{'number': 1, 'total': 2.5}}>" in shown
    assert "datetime.datetime(2026, 1, 2, 3, 4)" in shown
    assert "<memoryview of 5,000 bytes: b'xxx" in shown
    event = json_output(run_dir, "show", "test", "a", "one")
    assert (event["topic"], event["id"], event["headers"]) == ("a", "one", {"trace": "0af7"})
    items = {str(key): item for key, item in event["data"]["items"]}
    assert items["order"] == {"$type": name, "registered": False, "body": {"number": 1, "total": 2.5}}
    assert items["7"] == {"$type": "bytes", "base64": "/w=="}
    assert items["kinds"] == {"$type": "set", "items": [1]}
    assert items["pair"] == {"$type": "tuple", "items": [1, 2]}
    assert items["at"] == {"$type": "datetime.datetime", "repr": repr(at)}
    assert bus.watcher(("a", "one")) is not None  # still unsettled


def test_text_and_integer_are_two_ids(bus: EventBus, run_dir: Path) -> None:
    bus.inbox("audit", ["a"])
    bus.notify_many([Event("7", "a", "the text"), Event(7, "a", "the integer"), Event(-8, "a", "another")])
    assert json_output(run_dir, "show", "test", "a", "7")["data"] == "the text"
    assert json_output(run_dir, "show", "test", "a", "7", "--int")["data"] == "the integer"
    assert "'another'" in output(run_dir, "show", "test", "a", "--int", "--", "-8")
    assert "event 7 of topic 'a': unsettled" in output(run_dir, "explain", "test", "a", "7", "--int")
    missed = run(run_dir, "show", "test", "a", "--", "-8")
    assert (missed.returncode, missed.stdout) == (4, "")
    assert missed.stderr == "eventbus-mp: no event '-8' of topic 'a' is unsettled; there is -8: add --int\n"
    wrong = run(run_dir, "story", "test", "a", "seven", "--int")
    assert wrong.returncode == 2
    assert "--int: 'seven' is not an integer" in wrong.stderr


def test_the_story_of_an_event(bus: EventBus, run_dir: Path) -> None:
    inbox = bus.inbox("audit", ["a"])
    bus.notify(Event("one", "a", 1))
    shadow = inbox.get(10)
    assert shadow is not None
    inbox.complete(shadow)
    bus.drain()
    day, *lines = output(run_dir, "story", "test", "a", "one").splitlines()
    assert datetime.date.fromisoformat(day)
    assert [line[17:] for line in lines] == [
        f"notified by process {os.getpid()}",
        f"sent to audit, process {os.getpid()}",
        "completed by audit",
        "settled",
    ]
    kinds = [entry["kind"] for entry in json_output(run_dir, "story", "test", "a", "one")["entries"]]
    assert kinds == ["settled", "completed", "sent", "notified"]
    settled = run(run_dir, "show", "test", "a", "one")
    assert (settled.returncode, settled.stderr) == (
        4,
        "eventbus-mp: no event 'one' of topic 'a' is unsettled any more\n",
    )


@pytest.mark.parametrize("command", ["show", "story", "explain"])
def test_an_event_that_is_not_there(command: str, bus: EventBus, run_dir: Path) -> None:
    bus.topics()
    unknown = run(run_dir, command, "test", "a", "two")
    assert (unknown.returncode, unknown.stdout) == (4, "")
    assert "no event 'two' of topic 'a' is " in unknown.stderr
    assert "topic 'cc' is not registered" in run(run_dir, command, "test", "cc", "two").stderr


def test_explain_says_who_has_an_event(bus: EventBus, run_dir: Path) -> None:
    inbox = bus.inbox("billing", ["a"])
    bus.notify(Event("one", "a", 1))
    assert inbox.get(10) is not None
    explained = output(run_dir, "explain", "test", "a", "one")
    assert "event 'one' of topic 'a': unsettled" in explained
    assert f"- billing: process {os.getpid()}" in explained
    assert "test_explain_says_who_has_an_event" in explained
    assert json_output(run_dir, "explain", "test", "a", "one")["id"] == "one"
