"""The figures of all runs, as JSON, as plain text, and as the tables of README.md."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.tables import markdown_table, text_table
from eventbus_mp.bench.measure import Measurement
from eventbus_mp.bench.topologies import Topology

__all__ = ["Report", "Result"]

CPU_HEADS = ("CPU s: producers", "server", "consumers")
PERCENTILES = ("p50", "p99", "p99.9")


@dataclass(frozen=True)
class Result:
    """All runs of one peer in one topology."""

    topology: Topology
    peer: str
    runs: tuple[Measurement, ...]

    @property
    def median(self) -> Measurement:
        """The run in the middle, whole; of an even number the slower one of the two in the middle."""
        if self.topology.is_latency:
            return sorted(self.runs, key=lambda run: run.latencies_us[0])[len(self.runs) // 2]
        return sorted(self.runs, key=lambda run: run.events_per_s)[(len(self.runs) - 1) // 2]

    @property
    def overhead_us(self) -> float:
        """What a task of a pool cost beside its own time, in the time of one worker."""
        run, layout = self.median, self.topology.layout
        return run.elapsed_s / run.events * layout.processes_each * 1e6 - layout.task_ns / 1e3

    @property
    def efficiency(self) -> float:
        """The time that a pool's tasks take on workers that never wait, over the time they took."""
        run, layout = self.median, self.topology.layout
        return run.events * layout.task_ns / 1e9 / layout.processes_each / run.elapsed_s

    def ratios(self, bus: Result) -> list[float]:
        """The bus's figure divided by this peer's: over 1 is better in throughput, under 1 in latency."""
        mine, its = self.median, bus.median
        if self.topology.is_latency:
            return [a / b for a, b in zip(its.latencies_us, mine.latencies_us, strict=True)]
        return [its.events_per_s / mine.events_per_s]


@dataclass(frozen=True)
class Report:
    """Everything that was measured.

    Args:
        buses: The names of the peers that the others are compared with; in each topology, with the first that ran.
        skipped: Peer or topology -> why it did not run.
        failed: Peer and topology -> what happened.
    """

    results: Sequence[Result]
    buses: Sequence[str]
    skipped: dict[str, str]
    failed: dict[str, str]

    def ratios(self, result: Result) -> list[float]:
        """Empty when the bus did not run in that topology."""
        others = {other.peer: other for other in self.results if other.topology == result.topology}
        return next((result.ratios(others[bus]) for bus in self.buses if bus in others), [])

    def as_json(self) -> dict[str, Any]:
        """For machines."""
        return {
            "python": platform.python_version(),
            "cores": os.cpu_count(),
            "skipped": self.skipped,
            "failed": self.failed,
            "results": [self._entry(result) for result in self.results],
        }

    def as_text(self) -> str:
        """For people."""
        return self._all_tables(text_table)

    def as_markdown(self) -> str:
        """For README.md."""
        return self._all_tables(markdown_table)

    def _all_tables(self, table: Callable[[Sequence[str], Sequence[Sequence[str]]], list[str]]) -> str:
        lines = [f"CPython {platform.python_version()}, {os.cpu_count()} cores."]
        lines += [f"Skipped: {name}: {reason}." for name, reason in self.skipped.items()]
        lines += [f"Failed: {run}: {reason}." for run, reason in self.failed.items()]
        for title, heads, row, chosen in (
            ("Throughput: more is better.", THROUGHPUT_HEADS, self._throughput_row, _is_throughput),
            ("Latency: less is better.", LATENCY_HEADS, self._latency_row, _is_latency),
            ("Tasks of 1 ms on two workers: more efficiency is better.", POOL_HEADS, self._pool_row, _is_pool),
        ):
            rows = [row(result) for result in self.results if chosen(result)]
            lines += ["", title, "", *table(heads, rows)] if rows else []
        rows = self._subscriber_rows()
        lines += (
            ["", "What an event costs, and each further subscriber.", "", *table(SUBSCRIBER_HEADS, rows)]
            if rows
            else []
        )
        return "\n".join(lines)

    def _entry(self, result: Result) -> dict[str, Any]:
        run = result.median
        figures: dict[str, Any] = {
            "topology": result.topology.name,
            "peer": result.peer,
            "events": run.events,
            "deliveries": run.deliveries,
            "array_bytes": result.topology.payload.array_bytes,
            "elapsed_s": run.elapsed_s,
            "events_per_s": run.events_per_s,
            "deliveries_per_s": run.deliveries_per_s,
            "cpu_s": run.cpu_s,
            "bus_to_peer": self.ratios(result),
            "events_per_s_of_runs": [each.events_per_s for each in result.runs],
        }
        if result.topology.is_latency:
            figures["latencies_us"] = dict(zip(PERCENTILES, run.latencies_us, strict=True))
            figures["latencies_us_of_runs"] = [each.latencies_us for each in result.runs]
        if result.topology.is_pool:
            figures["efficiency"] = result.efficiency
            figures["overhead_us"] = result.overhead_us
        return figures

    def _throughput_row(self, result: Result) -> list[str]:
        run = result.median
        rates = [f"{run.events_per_s:,.0f}", f"{run.deliveries_per_s:,.0f}"]
        return [result.topology.name, result.peer, *rates, *self._ratio_cells(result, 1), *_cpu(run)]

    def _latency_row(self, result: Result) -> list[str]:
        run = result.median
        percentiles = [f"{latency_us:,.0f}" for latency_us in run.latencies_us]
        rate = f"{run.events_per_s:,.0f}"
        return [result.topology.name, result.peer, rate, *percentiles, *self._ratio_cells(result, 3), *_cpu(run)]

    def _pool_row(self, result: Result) -> list[str]:
        figures = [f"{result.median.events_per_s:,.0f}", f"{result.efficiency:.1%}", f"{result.overhead_us:.0f}"]
        return [result.topology.name, result.peer, *figures, *self._ratio_cells(result, 1), *_cpu(result.median)]

    def _subscriber_rows(self) -> list[list[str]]:
        """Of each topology that ran with one subscriber and with four: what the three more cost."""
        cost_us = {(result.topology.name, result.peer): 1e6 / result.median.events_per_s for result in self.results}
        rows = []
        for (topology, peer), one_us in cost_us.items():
            four_us = cost_us.get((topology.replace("one-to-one", "one-to-four"), peer))
            if topology.startswith("one-to-one") and four_us is not None:
                further = f"{(four_us - one_us) / 3:,.1f}"
                rows.append(
                    [
                        topology.removeprefix("one-to-one").lstrip("-") or "small",
                        peer,
                        f"{one_us:,.1f}",
                        f"{four_us:,.1f}",
                        further,
                    ]
                )
        return rows

    def _ratio_cells(self, result: Result, count: int) -> list[str]:
        return [f"{ratio:.2f}" for ratio in self.ratios(result)] or [""] * count


THROUGHPUT_HEADS = ("topology", "peer", "events/s", "deliveries/s", "bus/peer", *CPU_HEADS)
LATENCY_HEADS = (
    *("topology", "peer", "events/s", *(f"{name} us" for name in PERCENTILES)),
    *("bus/peer: p50", "p99", "p99.9", *CPU_HEADS),
)
SUBSCRIBER_HEADS = ("data", "peer", "us, one subscriber", "us, four", "us, each further one")
POOL_HEADS = ("topology", "peer", "tasks/s", "efficiency", "overhead us a task", "bus/peer", *CPU_HEADS)


def _is_latency(result: Result) -> bool:
    return result.topology.is_latency


def _is_pool(result: Result) -> bool:
    return result.topology.is_pool


def _is_throughput(result: Result) -> bool:
    return not _is_latency(result) and not _is_pool(result)


def _cpu(run: Measurement) -> list[str]:
    """Of the producers, of what stands between (none: a dash), and of each consumer."""
    producers = [seconds for name, seconds in run.cpu_s.items() if name.startswith("producer")]
    consumers = [seconds for name, seconds in run.cpu_s.items() if name.startswith("consumer")]
    servers = [seconds for name, seconds in run.cpu_s.items() if not name.startswith(("producer", "consumer"))]
    return [
        f"{sum(producers):.2f}",
        f"{sum(servers):.2f}" if servers else "-",
        " ".join(f"{seconds:.2f}" for seconds in consumers),
    ]
