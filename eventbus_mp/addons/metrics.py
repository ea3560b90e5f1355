"""A bus as metrics for Prometheus, and counters of the events that went over it.

    from prometheus_client import REGISTRY, start_http_server
    from eventbus_mp.addons.metrics import BusCollector

    REGISTRY.register(BusCollector("shop"))
    start_http_server(9_100)

All numbers are the manager's, which is asked once for each scrape. So there is one process to scrape, whatever the
number of processes that use the bus, and nothing of prometheus_client's multiprocess mode is needed: no files, and no
gauges of processes that have gone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from eventbus_mp import BusConfig, EventBus, EventBusError, Snapshot, SubscriberSnapshot, TopicSnapshot, UsageError
from eventbus_mp.addons.observer import Observer

try:
    from prometheus_client import CollectorRegistry
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
    from prometheus_client.exposition import choose_encoder
except ImportError as cause:
    raise UsageError(
        "eventbus_mp.addons.metrics needs the package prometheus-client, which is not installed; "
        "type: pip install 'eventbus-mp[metrics]'"
    ) from cause

__all__ = ["OTHER", "TOPICS_MAX", "BusCollector", "Hits", "exposition", "families"]

TOPICS_MAX = 500
"""How many topics have samples of their own: the first ones that were registered. So it is with subscribers."""
OTHER = "_other"
"""What all others are counted as."""
SCRAPE_TIMEOUT_S = 1.0
FIRST_BUCKET, LAST_BUCKET = 13, 32
"""The buckets of handling times are powers of two, from 8 us to 4.3 s, in nanoseconds."""


class BusCollector:
    """A collector for `CollectorRegistry.register`: the metrics of one or more buses.

    Making and registering it connects to nothing. A scrape asks each bus, which takes a second at most; a bus that does
    not run or does not answer in that time has the sample `eventbus_up 0` and no other, and no scrape fails. Give one
    collector all buses of a registry: what two collectors have under one name is there twice.

    Args:
        buses: Names, or handles, of which only the names and the settings are used.
        config: The settings; None: those of a handle, or from `EVENTBUS_MP_*` variables.

    Raises:
        UsageError: No bus is given.
    """

    def __init__(self, *buses: str | EventBus, config: BusConfig | None = None) -> None:
        if not buses:
            raise UsageError("BusCollector(): give the name of a bus, or several")
        self._observers = [Observer(bus, config=config, timeout_s=SCRAPE_TIMEOUT_S) for bus in buses]

    def describe(self) -> list[Metric]:
        """Nothing: a registry that asked for more at this moment would connect."""
        return []

    def collect(self) -> Iterator[Metric]:
        """The metrics of this moment. Blocks for one round trip for each bus, and never raises `EventBusError`."""
        return families([(observer.name, _looked(observer)) for observer in self._observers])

    def close(self) -> None:
        """Leave the buses; the next scrape connects again."""
        for observer in self._observers:
            observer.close()


def _looked(observer: Observer) -> Snapshot | None:
    try:
        return observer.ask(EventBus.snapshot)
    except EventBusError:
        return None  # `eventbus_up` says so.


def exposition(bus: str, now: Snapshot | None, accept: str = "") -> tuple[bytes, str]:
    """The metrics of one bus as text, and its content type.

    Args:
        bus: The bus's name.
        now: Its snapshot; None: it cannot be asked.
        accept: The header of this name that the scraper sent: it chooses between the two formats.
    """
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Once(lambda: families([(bus, now)])))  # type: ignore[arg-type, unused-ignore]
    encode, content_type = choose_encoder(accept)
    return encode(registry), content_type


class _Once:
    """A collector of what is known already."""

    def __init__(self, collect: Callable[[], Iterator[Metric]]) -> None:
        self.collect = collect

    def describe(self) -> list[Metric]:
        return []


# --- from snapshots to families ---


class _Family(NamedTuple):
    """One family of metrics, and how its samples are made from what it is about."""

    kind: type[CounterMetricFamily] | type[GaugeMetricFamily]
    name: str
    text: str
    value: Callable[[Any], float | None]


_OF_TOPICS = (
    _Family(CounterMetricFamily, "eventbus_events_notified", "Events that have reached the manager.", lambda t: t[0]),
    _Family(CounterMetricFamily, "eventbus_events_dropped", "Events that nobody was subscribed to.", lambda t: t[1]),
    _Family(GaugeMetricFamily, "eventbus_events_unsettled", "Events that somebody has to settle.", lambda t: t[2]),
    _Family(
        GaugeMetricFamily, "eventbus_oldest_unsettled_seconds", "Age of the oldest unsettled event.", lambda t: t[3]
    ),
)
_OF_SUBSCRIBERS = (
    _Family(GaugeMetricFamily, "eventbus_deliveries_queued", "Deliveries that wait for a process.", lambda s: s.queued),
    _Family(
        GaugeMetricFamily, "eventbus_deliveries_in_hand", "Deliveries that a process holds.", lambda s: s.in_flight
    ),
    _Family(
        CounterMetricFamily, "eventbus_redeliveries", "Deliveries that were sent once more.", lambda s: s.redelivered
    ),
)
_OF_BUSES = (
    _Family(
        CounterMetricFamily,
        "eventbus_manager_takeovers",
        "How often a standby has become the manager.",
        lambda now: now.manager.takeovers,
    ),
    _Family(
        GaugeMetricFamily,
        "eventbus_manager_uptime_seconds",
        "How long the bus has been running.",
        lambda now: now.manager.uptime_s,
    ),
)


def families(looks: Iterable[tuple[str, Snapshot | None]]) -> Iterator[Metric]:
    """The families of metrics of some buses, each with its snapshot; None: the bus cannot be asked."""
    looks = list(looks)
    running = [(bus, now) for bus, now in looks if now is not None]
    yield _family(
        _Family(GaugeMetricFamily, "eventbus_up", "Whether the bus answers.", lambda now: int(now is not None)),
        ("bus",),
        [((bus,), now) for bus, now in looks],
    )
    topics = [((bus, name), row) for bus, now in running for name, row in _topics(now.topics)]
    for family in _OF_TOPICS:
        yield _family(family, ("bus", "topic"), topics)
    subscribers = [((bus, name), row) for bus, now in running for name, row in _subscribers(now.subscribers)]
    yield _deliveries(subscribers)
    for family in _OF_SUBSCRIBERS:
        yield _family(family, ("bus", "subscriber"), subscribers)
    yield _handling(subscribers)
    yield from _of_memory_and_processes(running)
    for family in _OF_BUSES:
        yield _family(family, ("bus",), [((bus,), now) for bus, now in running])


def _family(family: _Family, labels: Sequence[str], rows: Iterable[tuple[tuple[str, ...], Any]]) -> Metric:
    metric = family.kind(family.name, family.text, labels=labels)
    for values, row in rows:
        value = family.value(row)
        if value is not None:
            metric.add_metric(values, value)
    return metric


def _topics(topics: Sequence[TopicSnapshot]) -> Iterator[tuple[str, tuple[int, int, int, float]]]:
    """(name, (notified, dropped, unsettled, age)) of each of the first topics, and of all others together."""
    for item in topics[:TOPICS_MAX]:
        yield item.name, (item.notified, item.dropped, item.unsettled, item.oldest_age_s or 0.0)
    rest = topics[TOPICS_MAX:]
    if rest:
        yield (
            OTHER,
            (
                sum(item.notified for item in rest),
                sum(item.dropped for item in rest),
                sum(item.unsettled for item in rest),
                max(item.oldest_age_s or 0.0 for item in rest),
            ),
        )


class _Counts:
    """The counts of the subscribers of one name, whatever their configs: a config may be an id."""

    def __init__(self) -> None:
        self.queued = self.in_flight = self.completed = self.skipped = self.redelivered = 0
        self.handling: list[int] = []

    def add(self, item: SubscriberSnapshot) -> None:
        self.queued += item.queued
        self.in_flight += item.in_flight
        self.completed += item.completed
        self.skipped += item.skipped
        self.redelivered += item.redelivered
        ours = self.handling or [0] * len(item.handling_log2_ns)
        self.handling = [mine + count for mine, count in zip(ours, item.handling_log2_ns, strict=True)]


def _subscribers(subscribers: Iterable[SubscriberSnapshot]) -> Iterable[tuple[str, _Counts]]:
    by_name: dict[str, _Counts] = {}
    for item in subscribers:
        name = item.name if item.name in by_name or len(by_name) < TOPICS_MAX else OTHER
        by_name.setdefault(name, _Counts()).add(item)
    return by_name.items()


def _deliveries(subscribers: Iterable[tuple[tuple[str, ...], _Counts]]) -> Metric:
    metric = CounterMetricFamily(
        "eventbus_deliveries", "Deliveries that are settled.", labels=("bus", "subscriber", "outcome")
    )
    for (bus, name), row in subscribers:
        metric.add_metric((bus, name, "completed"), row.completed)
        metric.add_metric((bus, name, "skipped"), row.skipped)
    return metric


def _handling(subscribers: Iterable[tuple[tuple[str, ...], _Counts]]) -> Metric:
    """Without a sum, which the manager does not keep."""
    metric = HistogramMetricFamily(
        "eventbus_handling_seconds", "How long handlers take for an event.", labels=("bus", "subscriber")
    )
    for values, row in subscribers:
        counts = row.handling
        buckets = [(str(2**at / 1e9), float(sum(counts[: at + 1]))) for at in range(FIRST_BUCKET, LAST_BUCKET)]
        metric.add_metric(values, [*buckets, ("+Inf", float(sum(counts)))], sum_value=None)
    return metric


def _of_memory_and_processes(running: Iterable[tuple[str, Snapshot]]) -> Iterator[Metric]:
    memory = GaugeMetricFamily("eventbus_memory_bytes", "The bus's memory for events.", labels=("bus", "state"))
    processes = GaugeMetricFamily("eventbus_processes", "Processes of the bus.", labels=("bus", "role"))
    for bus, now in running:
        for state in ("max", "used", "leased", "spilled", "of_the_gone"):
            memory.add_metric((bus, state), getattr(now.memory, f"bytes_{state}"))
        for role in ("client", "worker", "manager", "standby"):
            processes.add_metric((bus, role), sum(item.role == role for item in now.processes))
    yield memory
    yield processes


# --- counters ---


class Hits:
    """How many events have reached the bus, for each topic and in all, since it started or since `reset`.

    They are the manager's counts: nothing is subscribed, and it makes no difference when this was made. Events that
    were published while nobody was subscribed to their topic need not reach the bus, and are not counted. After the bus
    has ended and started again, all begin at 0. Each call blocks for one round trip.

    Args:
        bus: A handle of the bus.
    """

    def __init__(self, bus: EventBus) -> None:
        self._bus = bus
        self._incarnation = ""
        self._reset_at: dict[str, int] = {}

    def of(self, topic: str) -> int:
        """The events of one topic; 0 if it is not registered.

        Raises:
            EventBusError: The bus cannot be asked.
        """
        return self.by_topic().get(topic, 0)

    def by_topic(self) -> dict[str, int]:
        """Topic -> its events; raises as `of`."""
        return {name: count - self._reset_at.get(name, 0) for name, count in self._counts().items()}

    def total(self) -> int:
        """The events of all topics; raises as `of`."""
        return sum(self.by_topic().values())

    def reset(self, topic: str | None = None) -> None:
        """Count from 0 on, for one topic or, with None, for all. Other `Hits` of the bus go on; raises as `of`."""
        counts = self._counts()
        self._reset_at |= counts if topic is None else {topic: counts.get(topic, 0)}

    def _counts(self) -> dict[str, int]:
        now = self._bus.snapshot()
        counts = {item.name: item.notified for item in now.topics}
        if now.manager.incarnation != self._incarnation:
            self._incarnation, self._reset_at = now.manager.incarnation, {}
        for name, count in self._reset_at.items():
            if counts.get(name, 0) < count:  # It was unregistered, and is a new topic of the same name.
                self._reset_at[name] = 0
        return counts
