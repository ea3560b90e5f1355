"""From the figures of journals to families of metrics."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from eventbus_mp.addons.journal.figures import BUCKETS, Figures
from eventbus_mp.addons.metrics.families import Family, family_of

__all__ = ["journal_families"]

LABELS = ("bus", "journal")
FIRST_BUCKET = 17
"""The buckets of commits are powers of two, from 131 us to 17 s, in nanoseconds."""

_OF_JOURNALS = (
    Family(
        GaugeMetricFamily,
        "eventbus_journal_up",
        "Whether the journal's process runs and does not hang.",
        lambda journal: int(journal.is_running),
    ),
    Family(CounterMetricFamily, "eventbus_journal_stored", "Events that were stored.", lambda journal: journal.stored),
    Family(
        CounterMetricFamily,
        "eventbus_journal_duplicates",
        "Events that came again and were there already.",
        lambda journal: journal.duplicates,
    ),
    Family(
        CounterMetricFamily,
        "eventbus_journal_rejected",
        "Events that the store cannot hold, and that were set aside.",
        lambda journal: journal.rejected,
    ),
    Family(
        GaugeMetricFamily,
        "eventbus_journal_position",
        "The last position of the store.",
        lambda journal: journal.position,
    ),
    Family(
        GaugeMetricFamily,
        "eventbus_journal_lag_seconds",
        "Age of what waits to be stored, at most; of what has reached the journal.",
        lambda journal: journal.lag_s,
    ),
    Family(
        GaugeMetricFamily,
        "eventbus_journal_failing_seconds",
        "For how long the store has not taken events; 0: it does.",
        lambda journal: journal.failing_s,
    ),
    Family(
        GaugeMetricFamily,
        "eventbus_journal_spooled",
        "Events in the spool that are not in the store yet.",
        lambda journal: journal.spooled,
    ),
    Family(
        GaugeMetricFamily,
        "eventbus_journal_bytes",
        "Room that the store takes, with its indexes and logs.",
        lambda journal: journal.store_bytes,
    ),
)


def journal_families(journals: Iterable[Figures]) -> Iterator[Metric]:
    """The families of metrics of some journals; none if there is no journal."""
    rows = [((figures.bus, figures.name), figures) for figures in journals]
    if not rows:
        return
    for family in _OF_JOURNALS:
        yield family_of(family, LABELS, rows)
    yield _commits(rows)


def _commits(rows: Iterable[tuple[tuple[str, str], Figures]]) -> Metric:
    metric = HistogramMetricFamily("eventbus_journal_commit_seconds", "How long storing a batch takes.", labels=LABELS)
    for values, figures in rows:
        counts = figures.commit_log2_ns
        bounds = range(FIRST_BUCKET, BUCKETS - 1)
        buckets = [(str(2**at / 1e9), float(sum(counts[: at + 1]))) for at in bounds]
        metric.add_metric(values, [*buckets, ("+Inf", float(sum(counts)))], sum_value=figures.commit_ns / 1e9)
    return metric
