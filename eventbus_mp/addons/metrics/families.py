"""From snapshots of buses to families of metrics."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from eventbus_mp import Snapshot, SubscriberSnapshot, TopicSnapshot

__all__ = ["OTHER", "TOPICS_MAX", "Family", "families", "family_of"]

TOPICS_MAX = 500
"""How many topics have samples of their own: the first ones that were registered. So it is with subscribers."""
OTHER = "_other"
"""What all others are counted as."""
FIRST_BUCKET, LAST_BUCKET = 13, 32
"""The buckets of handling times are powers of two, from 8 us to 4.3 s, in nanoseconds."""


SUBSCRIBER_LABELS = ("bus", "subscriber", "host")


class Family(NamedTuple):
    """One family of metrics, and how its samples are made from what it is about."""

    kind: type[CounterMetricFamily] | type[GaugeMetricFamily]
    name: str
    text: str
    value: Callable[[Any], float | None]


_OF_TOPICS = (
    Family(CounterMetricFamily, "eventbus_events_notified", "Events that have reached the manager.", lambda t: t[0]),
    Family(CounterMetricFamily, "eventbus_events_dropped", "Events that nobody was subscribed to.", lambda t: t[1]),
    Family(GaugeMetricFamily, "eventbus_events_unsettled", "Events that somebody has to settle.", lambda t: t[2]),
    Family(
        GaugeMetricFamily, "eventbus_oldest_unsettled_seconds", "Age of the oldest unsettled event.", lambda t: t[3]
    ),
)
_OF_SUBSCRIBERS = (
    Family(GaugeMetricFamily, "eventbus_deliveries_queued", "Deliveries that wait for a process.", lambda s: s.queued),
    Family(GaugeMetricFamily, "eventbus_deliveries_in_hand", "Deliveries that a process holds.", lambda s: s.in_flight),
    Family(
        CounterMetricFamily, "eventbus_redeliveries", "Deliveries that were sent once more.", lambda s: s.redelivered
    ),
)
_OF_BUSES = (
    Family(
        CounterMetricFamily,
        "eventbus_manager_takeovers",
        "How often a standby has become the manager.",
        lambda now: now.manager.takeovers,
    ),
    Family(
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
    yield family_of(
        Family(GaugeMetricFamily, "eventbus_up", "Whether the bus answers.", lambda now: int(now is not None)),
        ("bus",),
        [((bus,), now) for bus, now in looks],
    )
    topics = [((bus, name), row) for bus, now in running for name, row in _topics(now.topics)]
    for family in _OF_TOPICS:
        yield family_of(family, ("bus", "topic"), topics)
    subscribers = [((bus, *key), row) for bus, now in running for key, row in _subscribers(now.subscribers)]
    yield _deliveries(subscribers)
    for family in _OF_SUBSCRIBERS:
        yield family_of(family, SUBSCRIBER_LABELS, subscribers)
    yield _handling(subscribers)
    yield from _of_memory_and_processes(running)
    for family in _OF_BUSES:
        yield family_of(family, ("bus",), [((bus,), now) for bus, now in running])


def family_of(family: Family, labels: Sequence[str], rows: Iterable[tuple[tuple[str, ...], Any]]) -> Metric:
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


def _subscribers(subscribers: Iterable[SubscriberSnapshot]) -> Iterable[tuple[tuple[str, str], _Counts]]:
    """By name and host, which is empty for those of this one."""
    by_key: dict[tuple[str, str], _Counts] = {}
    for item in subscribers:
        key = item.name, item.host or ""
        by_key.setdefault(key if key in by_key or len(by_key) < TOPICS_MAX else (OTHER, ""), _Counts()).add(item)
    return by_key.items()


def _deliveries(subscribers: Iterable[tuple[tuple[str, ...], _Counts]]) -> Metric:
    metric = CounterMetricFamily(
        "eventbus_deliveries", "Deliveries that are settled.", labels=(*SUBSCRIBER_LABELS, "outcome")
    )
    for values, row in subscribers:
        metric.add_metric((*values, "completed"), row.completed)
        metric.add_metric((*values, "skipped"), row.skipped)
    return metric


def _handling(subscribers: Iterable[tuple[tuple[str, ...], _Counts]]) -> Metric:
    """Without a sum, which the manager does not keep."""
    metric = HistogramMetricFamily(
        "eventbus_handling_seconds", "How long handlers take for an event.", labels=SUBSCRIBER_LABELS
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
