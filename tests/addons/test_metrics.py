"""A bus as metrics: the families, what a scrape meets, the board and the alerts, and the counters of events."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import CollectorRegistry, Gauge, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from eventbus_mp import BusConfig, Event, EventBus, UsageError
from eventbus_mp.addons.journal import Journal
from eventbus_mp.addons.journal.figures import BUCKETS, Figures, FiguresFile, read_figures
from eventbus_mp.addons.metrics import OTHER, TOPICS_MAX, BusCollector, Hits, exposition, families
from eventbus_mp.addons.metrics.journal import journal_families

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "metrics"
Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


@pytest.fixture
def collector(run_dir: Path) -> Iterator[BusCollector]:
    made = BusCollector("test", config=BusConfig(run_dir=str(run_dir)))
    yield made
    made.close()


def scraped(*collectors: BusCollector) -> Samples:
    """What a scrape gives, as Prometheus reads it, for whom an empty label is none."""
    registry = CollectorRegistry()
    for collector in collectors:
        registry.register(collector)
    text = generate_latest(registry).decode()
    return {
        (sample.name, tuple(sorted(label for label in sample.labels.items() if label[1]))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(samples: Samples, name: str, **labels: str) -> float:
    return samples[name, tuple(sorted({"bus": "test", **labels}.items()))]


def test_the_families(bus: EventBus, collector: BusCollector) -> None:
    @bus.on("a", name="worker")
    def work(event: Event[Any]) -> None:
        pass

    held = bus.inbox("audit", ["a"], credit=1)
    bus.notify_many(Event(number, "a", number) for number in range(3))
    held.skip(held.get(10))
    assert held.get(10) is not None
    bus.notify(Event("x", "b", 1))
    bus.statistics()  # What nobody was subscribed to is reported.
    while value(now := scraped(collector), "eventbus_deliveries_total", subscriber="worker", outcome="completed") < 3:
        assert now
    assert value(now, "eventbus_up") == 1
    assert value(now, "eventbus_events_notified_total", topic="a") == 3
    assert value(now, "eventbus_events_dropped_total", topic="b") == 1
    assert value(now, "eventbus_events_unsettled", topic="a") == 2
    assert value(now, "eventbus_oldest_unsettled_seconds", topic="a") > 0
    assert value(now, "eventbus_oldest_unsettled_seconds", topic="b") == 0
    assert value(now, "eventbus_deliveries_total", subscriber="audit", outcome="skipped") == 1
    assert value(now, "eventbus_deliveries_queued", subscriber="audit") == 1
    assert value(now, "eventbus_deliveries_in_hand", subscriber="audit") == 1
    assert value(now, "eventbus_redeliveries_total", subscriber="audit") == 0
    assert value(now, "eventbus_handling_seconds_bucket", subscriber="worker", le="+Inf") == 3
    assert value(now, "eventbus_memory_bytes", state="used") > 0
    assert value(now, "eventbus_processes", role="manager") == 1
    assert value(now, "eventbus_manager_takeovers_total") == 0


def test_registering_connects_to_nothing_and_an_absent_bus_is_down(run_dir: Path) -> None:
    collector = BusCollector("test", config=BusConfig(run_dir=str(run_dir)))
    assert {family.name for family in collector.describe()} >= {"eventbus_up", "eventbus_events_notified"}
    assert scraped(collector) == {("eventbus_up", (("bus", "test"),)): 0.0}
    assert not run_dir.exists()


def test_a_bus_that_comes_and_goes(make_bus: Callable[..., EventBus], collector: BusCollector) -> None:
    for _ in range(2):
        bus = make_bus(topics=["a"])
        bus.topics()
        assert value(scraped(collector), "eventbus_up") == 1
        bus.shutdown()
        assert value(scraped(collector), "eventbus_up") == 0


def test_a_scrape_during_a_takeover(bus: EventBus, collector: BusCollector, wait_for_end: Callable[..., None]) -> None:
    bus.inbox("audit", ["a"])
    bus.notify(Event(1, "a", 1))
    scraped(collector)
    pid = bus.snapshot().manager.pid
    os.kill(pid, signal.SIGKILL)
    now = scraped(collector)
    assert value(now, "eventbus_events_unsettled", topic="a") == 1
    wait_for_end(pid)
    assert value(scraped(collector), "eventbus_manager_takeovers_total") == 1


def test_a_manager_that_does_not_answer_costs_a_scrape_its_time_and_no_more(
    bus: EventBus, collector: BusCollector
) -> None:
    pid = bus.snapshot().manager.pid
    scraped(collector)
    os.kill(pid, signal.SIGSTOP)
    try:
        assert scraped(collector) == {("eventbus_up", (("bus", "test"),)): 0.0}
    finally:
        os.kill(pid, signal.SIGCONT)
    assert value(scraped(collector), "eventbus_up") == 1


def test_several_buses_and_several_collectors(make_bus: Callable[..., EventBus]) -> None:
    buses = [make_bus(name, topics=["a"]) for name in ("test", "other")]
    for bus in buses:
        bus.topics()
    both, alone = BusCollector(*buses), BusCollector(buses[0])
    now = scraped(both)
    assert [now["eventbus_up", (("bus", name),)] for name in ("test", "other")] == [1, 1]
    text = generate_latest(_registry(both)).decode()
    names = re.findall(r"^# TYPE (\S+)", text, re.MULTILINE)
    assert len(names) == len(set(names)), "a family of two buses is one family"
    assert value(scraped(alone), "eventbus_up") == 1  # In a registry of its own.
    both.close()
    alone.close()


def test_a_registry_has_each_name_once(bus: EventBus, collector: BusCollector) -> None:
    """Or a scraper would refuse the whole text."""
    registry = _registry(collector)
    with pytest.raises(ValueError, match="Duplicated timeseries"):
        registry.register(BusCollector(bus))
    with pytest.raises(ValueError, match="Duplicated timeseries"):
        Gauge("eventbus_up", "Of somebody else.", registry=registry)
    bus.topics()
    text = generate_latest(registry.restricted_registry(["eventbus_up"])).decode()
    assert text.splitlines()[-1] == 'eventbus_up{bus="test"} 1.0'
    registry.unregister(collector)
    registry.register(BusCollector(bus))


def _registry(collector: BusCollector) -> CollectorRegistry:
    registry = CollectorRegistry()
    registry.register(collector)
    return registry


def test_topics_beyond_the_bound_are_counted_together(bus: EventBus) -> None:
    now = bus.snapshot()
    topic = replace(now.topics[0], notified=2, unsettled=1, oldest_age_s=3.0)
    many = tuple(replace(topic, name=f"topic_{number}") for number in range(TOPICS_MAX + 10))
    text = exposition("test", replace(now, topics=many))[0].decode()
    assert f'eventbus_events_notified_total{{bus="test",topic="{OTHER}"}} 20.0' in text
    assert f'eventbus_oldest_unsettled_seconds{{bus="test",topic="{OTHER}"}} 3.0' in text
    assert text.count("eventbus_events_unsettled{") == TOPICS_MAX + 1


def test_many_topics_are_not_asked_for_at_each_of_many_scrapes(
    make_bus: Callable[..., EventBus], collector: BusCollector, monkeypatch: pytest.MonkeyPatch
) -> None:
    bus = make_bus(topics=[f"topic_{number}" for number in range(TOPICS_MAX + 10)])
    inbox = bus.inbox("audit", ["topic"], credit=1)
    assert value(scraped(collector), "eventbus_events_notified_total", topic="topic_1") == 0
    monkeypatch.setattr("eventbus_mp.addons.metrics.collector.SHARE", 0)
    bus.notify(Event("one", "topic_1", 1))
    bus.statistics()
    while value(now := scraped(collector), "eventbus_events_notified_total", topic="topic_1") != 1:
        assert value(now, "eventbus_deliveries_in_hand", subscriber="audit") == 1, "all else is of now"
    inbox.close()
    bus.shutdown()
    make_bus(topics=["topic_1"]).topics()
    assert value(scraped(collector), "eventbus_events_notified_total", topic="topic_1") == 0, "this is another bus"


def test_subscribers_of_one_name_are_one_and_no_id_is_a_label(bus: EventBus) -> None:
    for _ in range(3):
        bus.subscribe((print, {"order": 4711}), ["a"], broadcast=True)
    bus.inbox('evil"\n}name', ["a"])
    bus.notify(Event("an-id", "a", 1, source="a-source"))
    text = exposition("test", bus.snapshot())[0].decode()
    assert "4711" not in text
    assert "an-id" not in text
    assert "a-source" not in text
    assert list(text_string_to_metric_families(text))


def test_the_two_formats(bus: EventBus) -> None:
    now = bus.snapshot()
    plain, kind = exposition("test", now)
    assert (kind.startswith("text/plain"), b"# EOF" in plain) == (True, False)
    open_metrics, kind = exposition("test", now, "application/openmetrics-text; version=1.0.0")
    assert (kind.startswith("application/openmetrics-text"), open_metrics.endswith(b"# EOF\n")) == (True, True)
    assert [line for line in exposition("test", None)[0].splitlines() if not line.startswith(b"#")] == [
        b'eventbus_up{bus="test"} 0.0'
    ]


def test_prometheus_multiprocess_mode_changes_nothing(bus: EventBus, run_dir: Path, tmp_path: Path) -> None:
    bus.topics()
    code = (
        "import sys; from prometheus_client import CollectorRegistry, Gauge, generate_latest\n"
        "from eventbus_mp import BusConfig\n"
        "from eventbus_mp.addons.metrics import BusCollector\n"
        "registry = CollectorRegistry(); collector = BusCollector('test', config=BusConfig(run_dir=sys.argv[1]))\n"
        "registry.register(collector); print(generate_latest(registry).decode()); collector.close()"
    )
    folder = tmp_path / "multiproc"
    folder.mkdir()
    environment = os.environ | {"PROMETHEUS_MULTIPROC_DIR": str(folder)}
    done = subprocess.run(
        [sys.executable, "-c", code, str(run_dir)],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
        env=environment,
    )
    assert 'eventbus_up{bus="test"} 1.0' in done.stdout, done.stderr
    assert list(folder.iterdir()) == []


def test_no_bus_is_a_mistake() -> None:
    with pytest.raises(UsageError, match="give the name of a bus"):
        BusCollector()


# --- journals ---


def test_the_families_of_a_journal(bus: EventBus, run_dir: Path, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'test.db'}"
    collector = BusCollector(bus, journals=[url])
    assert not any("journal" in name for name, _ in scraped(collector)), "there is none yet"
    with Journal(bus, url, name="audit"):
        bus.notify_many(Event(number, "a", number) for number in range(100))
        bus.notify(Event("bad", "a", None, occurred_at=1 << 70))
        bus.drain()
        while journal_value(now := scraped(collector), "stored_total") + journal_value(now, "rejected_total") < 101:
            assert journal_value(now, "up") == 1
        assert journal_value(now, "stored_total") == 100
        assert journal_value(now, "duplicates_total") == 0
        assert journal_value(now, "rejected_total") == 1
        assert journal_value(now, "commit_seconds_count") >= 1
        assert journal_value(now, "commit_seconds_sum") > 0
        assert journal_value(now, "failing_seconds") == 0
        assert journal_value(now, "spooled") == 0
        assert journal_value(now, "lag_seconds") >= 0
        bus.shutdown()
        # The figures are the journal's own, and need no bus.
        assert journal_value(scraped(collector), "stored_total") == 100
    assert journal_value(scraped(collector), "up") == 0
    collector.close()


def journal_value(samples: Samples, name: str, **labels: str) -> float:
    return value(samples, f"eventbus_journal_{name}", journal="audit", **labels)


def test_commits_are_in_the_bucket_of_their_time(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'test.db'}"
    counts = [0] * BUCKETS
    counts[0] = counts[20] = counts[-1] = 1  # None, half a millisecond to one, and very long.
    file = FiguresFile(url, Figures("test", "audit", 1, commits=3, commit_log2_ns=tuple(counts), commit_ns=7 * 10**9))
    text = exposition("test", None, journals=[url, f"{url}.no"])[0].decode()
    file.close()
    found = dict(re.findall(r'commit_seconds_bucket{.*le="(.*?)"} (.*)', text))
    assert (found[str(2**17 / 1e9)], found[str(2**20 / 1e9)], found["+Inf"]) == ("1.0", "2.0", "3.0")
    assert len(list(text_string_to_metric_families(text))) > 9


def test_a_scrape_opens_no_store(bus: EventBus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"sqlite:///{tmp_path / 'test.db'}"
    with Journal(bus, url):
        pass
    (tmp_path / "test.db").unlink()
    assert read_figures(url) is not None
    assert b"eventbus_journal_up" in exposition("test", None, journals=[url])[0]


# --- the files beside it ---


def _metric_names() -> set[str]:
    """Every name of a sample, also of families that have none without a bus."""
    names = set()
    for family in (*families([("test", None)]), *journal_families([Figures("test", "journal", 1)])):
        names |= {f"{family.name}{end}" for end in ("", "_total", "_bucket", "_count", "_sum")}
    return names


def test_the_board_shows_metrics_that_there_are() -> None:
    board = json.loads((FOLDER / "grafana-dashboard.json").read_text())
    expressions = [target["expr"] for panel in board["panels"] for target in panel.get("targets", [])]
    assert len(expressions) >= 10
    for expression in expressions:
        assert set(re.findall(r"\beventbus_\w+", expression)) <= _metric_names(), expression
    assert {variable["name"] for variable in board["templating"]["list"]} == {"datasource", "bus"}
    ids = [panel["id"] for panel in board["panels"]]
    assert len(ids) == len(set(ids))


def test_the_alerts_are_about_metrics_that_there_are() -> None:
    groups = yaml.safe_load((FOLDER / "alert-rules.yml").read_text())["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    assert {"EventBusDown", "EventBusMemoryFull", "EventBusStuck"} <= {rule["alert"] for rule in rules}
    for rule in rules:
        assert set(re.findall(r"\beventbus_\w+", rule["expr"])) <= _metric_names(), rule
        assert {"summary", "description"} <= set(rule["annotations"])
        assert re.fullmatch(r"\d+[smh]", rule["for"])


# --- counters ---


def test_hits_of_a_topic_in_sum_and_from_a_reset_on(bus: EventBus) -> None:
    bus.inbox("audit", ["a"])
    bus.notify_many(Event(number, "a", number) for number in range(3))
    hits, other = Hits(bus), Hits(bus)
    assert (hits.of("a"), hits.of("b"), hits.of("c"), hits.total()) == (3, 0, 0, 3)
    hits.reset("a")
    bus.notify(Event(3, "a", 3))
    assert (hits.by_topic(), other.by_topic()) == ({"a": 1, "b": 0}, {"a": 4, "b": 0})
    hits.reset()
    assert (hits.total(), other.total()) == (0, 4)
    bus.unregister_topic("a")
    bus.register_topic("a")
    bus.notify(Event(4, "a", 4))
    assert hits.of("a") == 1


def test_hits_begin_anew_with_the_bus(bus: EventBus, kill_bus: Callable[[], None]) -> None:
    bus.inbox("audit", ["a"])
    bus.notify(Event(0, "a", 0))
    hits = Hits(bus)
    hits.reset()
    kill_bus()
    bus.inbox("another", ["a"])
    bus.notify_many([Event(1, "a", 1), Event(2, "a", 2)])
    assert hits.of("a") == 2
