"""docs/explanation/from-elixir-addons.md: each piece of code runs, each command parses, each path is answered."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from eventbus_mp import Event, EventBus, UsageError
from eventbus_mp.addons.journal import open_store
from eventbus_mp.addons.logger import EventLogger
from eventbus_mp.addons.web import WebApp
from eventbus_mp.cli import _parser
from tests.addons.web.serving import ask, served
from tests.helpers import until

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "explanation" / "from-elixir-addons.md").read_text()
FENCED = re.compile(r"^```python\n(.*?)^```$", re.M | re.S)
[BLOCK] = FENCED.findall(PAGE)
SPANS = [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", FENCED.sub("", PAGE))]
"""What the page has between backticks, in its order."""

OURS = re.compile(r"(bus|store|other|Journal|EventLogger|WebApp|Hits|BusCollector)\b.*\)")
CODE = [span for span in SPANS if OURS.fullmatch(span)]
COMMANDS = [span for span in SPANS if span.startswith("eventbus-mp ")]
VARIABLES = [span for span in SPANS if span.startswith("EVENTBUS_MP_")]
PATHS = [span for span in SPANS if re.fullmatch(r"/\S*", span)]


@pytest.fixture
def names(tmp_path: Path, run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """What the block of the page leaves, another store, and an event that nobody settles."""
    monkeypatch.chdir(tmp_path)
    for name, value in {"RUN_DIR": run_dir, "MANAGER_IDLE_S": 0.2, "MEMORY_BYTES_MAX": 16 << 20}.items():
        monkeypatch.setenv(f"EVENTBUS_MP_{name}", str(value))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.setattr("logging.basicConfig", lambda **_: None)
    found: dict[str, Any] = {}
    exec(compile(BLOCK, "the block of the page", "exec"), found)
    bus: EventBus = found["bus"]
    with bus, found["store"], open_store(f"sqlite:///{tmp_path / 'other.db'}", writes=True) as other:
        assert other.take_lock()
        inbox = bus.inbox("billing", ["order_paid"])
        bus.notify(Event("125", "order_paid", {"total": 13}))
        try:
            yield {**found, "other": other}
        finally:
            inbox.close()
            bus.shutdown()


def test_the_code_runs(names: dict[str, Any]) -> None:
    assert names["event_of"](names["entry"].row).data == {"total": 12}
    found = {code: eval(code, names) for code in CODE}
    found["Journal(bus).start()"].stop()
    found |= {code: eval(code, names) for code in SPANS if code.startswith("bus.snapshot().")}
    assert len(found) > 35
    assert found['store.find("order_paid", "124")'] == names["entry"]
    assert found['store.page(Selection(transaction_id="t7"), 20)'] == [names["entry"]]
    assert found["store.page(Selection(after=entry.position), 20)"] == []
    assert found["store.count_per_topic(Selection(since_ns=0))"] == {"order_paid": 1}
    assert found["other.append([entry.row])"].stored == 1
    assert found['other.delete("order_paid", "124")'] is True
    assert found['bus.fetch_event(("order_paid", "125"))'].data == {"total": 13}
    assert list(found['bus.watchers("order_paid")']) == ["125"]
    # The first was counted while a journal ran.
    assert (found['Hits(bus).of("order_paid")'], found["Hits(bus).total()"]) == (2, 2)


def test_each_command_is_one() -> None:
    assert len(COMMANDS) > 12
    for command in COMMANDS:
        options = _parser().parse_args(shlex.split(command)[1:])
        assert getattr(options, "bus", "shop") == "shop", command


def test_each_path_is_answered(names: dict[str, Any]) -> None:
    page = WebApp(names["bus"])
    with served(page, page) as port:
        answers = {path: ask(port, path, "HEAD" if path == "/sse" else "GET") for path in PATHS if path != "/event_bus"}
        refused = ask(port, "/topics", "OPTIONS", Origin="http://elsewhere.example")
    assert {path: answer.status for path, answer in answers.items()} == dict.fromkeys(answers, 200)
    topic = "/topics/order_paid"
    envelopes = {"/topics": "topics", topic: "topic", f"{topic}/events": "events", f"{topic}/events/125": "event"}
    envelopes["/subscribers"] = "subscribers"
    assert [key for path, key in envelopes.items() if key not in answers[path].json] == []
    assert (refused.status, "access-control-allow-origin" in refused.headers) == (403, False)


def test_each_variable_is_read(bus: EventBus, monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(VARIABLES) == 4
    for name in VARIABLES:
        with monkeypatch.context() as context:
            context.setenv(name, "(")
            with pytest.raises(UsageError, match=r"\("):
                EventLogger(bus)


def test_the_lines_of_the_page_are_those_of_the_logger(names: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", "eventbus_mp.events"):
        for light in (False, True):
            with EventLogger(names["bus"], light=light) as logger:
                names["bus"].notify(Event("124", "order_paid", {"total": 12}, transaction_id="t7"))
                until(lambda: logger.counts.written)
    assert [f"`{line}`" for line in caplog.messages if f"`{line}`" not in PAGE] == []
    assert len(caplog.messages) == 2
