"""The figures of all runs, as JSON and as plain-text tables."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.measure import Measurement
from benchmarks.topologies import Topology

__all__ = ["Result", "as_json", "as_text"]

CPU_HEADS = ("CPU s: producer", "server", "consumers")


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
            return sorted(self.runs, key=lambda run: run.latency_p50_us)[len(self.runs) // 2]
        return sorted(self.runs, key=lambda run: run.events_per_s)[(len(self.runs) - 1) // 2]

    def ratios(self, bus: Result) -> dict[str, float]:
        """The bus's figure divided by this peer's: over 1 is better in throughput, under 1 in latency."""
        mine, its = self.median, bus.median
        if self.topology.is_latency:
            return {
                "latency_p50": its.latency_p50_us / mine.latency_p50_us,
                "latency_p99": its.latency_p99_us / mine.latency_p99_us,
            }
        return {"events_per_s": its.events_per_s / mine.events_per_s}


def as_json(results: Sequence[Result], bus: str, skipped: dict[str, str]) -> dict[str, Any]:
    """For machines. `bus` is the name of the peer that the others are compared with."""
    return {
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "skipped": skipped,
        "results": [_entry(result, _baseline(results, result, bus)) for result in results],
    }


def as_text(results: Sequence[Result], bus: str, skipped: dict[str, str]) -> str:
    """For people: one table for throughput, one for latency."""
    lines = [f"Python {platform.python_version()}, {os.cpu_count()} cores"]
    lines += [f"skipped: {peer}: {reason}" for peer, reason in skipped.items()]
    throughput = [result for result in results if not result.topology.is_latency]
    if throughput:
        rows = [_throughput_row(result, _baseline(results, result, bus)) for result in throughput]
        heads = ["topology", "peer", "events/s", "deliveries/s", "bus/peer", *CPU_HEADS]
        lines += ["", "Throughput: more is better", *_table(heads, rows)]
    latency = [result for result in results if result.topology.is_latency]
    if latency:
        rows = [_latency_row(result, _baseline(results, result, bus)) for result in latency]
        heads = ["topology", "peer", "p50 us", "p99 us", "bus/peer: p50", "p99", *CPU_HEADS]
        lines += ["", "Latency: less is better", *_table(heads, rows)]
    return "\n".join(lines)


def _baseline(results: Iterable[Result], result: Result, bus: str) -> Result | None:
    return next((other for other in results if other.topology == result.topology and other.peer == bus), None)


def _entry(result: Result, bus: Result | None) -> dict[str, Any]:
    run = result.median
    figures: dict[str, Any] = {
        "topology": result.topology.name,
        "peer": result.peer,
        "events": run.events,
        "deliveries": run.deliveries,
        "elapsed_s": run.elapsed_s,
        "events_per_s": run.events_per_s,
        "deliveries_per_s": run.deliveries_per_s,
        "cpu_s": run.cpu_s,
        "bus_to_peer": result.ratios(bus) if bus is not None else None,
        "events_per_s_of_runs": [each.events_per_s for each in result.runs],
    }
    if result.topology.is_latency:
        figures["latency_p50_us"] = run.latency_p50_us
        figures["latency_p99_us"] = run.latency_p99_us
        figures["latency_p50_us_of_runs"] = [each.latency_p50_us for each in result.runs]
        figures["latency_p99_us_of_runs"] = [each.latency_p99_us for each in result.runs]
    return figures


def _throughput_row(result: Result, bus: Result | None) -> list[str]:
    run = result.median
    ratio = f"{result.ratios(bus)['events_per_s']:.2f}" if bus is not None else ""
    rates = [f"{run.events_per_s:,.0f}", f"{run.deliveries_per_s:,.0f}"]
    return [result.topology.name, result.peer, *rates, ratio, *_cpu(run)]


def _latency_row(result: Result, bus: Result | None) -> list[str]:
    run = result.median
    ratios = [f"{ratio:.2f}" for ratio in result.ratios(bus).values()] if bus is not None else ["", ""]
    percentiles = [f"{run.latency_p50_us:.0f}", f"{run.latency_p99_us:.0f}"]
    return [result.topology.name, result.peer, *percentiles, *ratios, *_cpu(run)]


def _cpu(run: Measurement) -> list[str]:
    """Of the producer, of what stands between (none: a dash), and of each consumer."""
    consumers = [seconds for name, seconds in run.cpu_s.items() if name.startswith("consumer")]
    servers = [seconds for name, seconds in run.cpu_s.items() if not name.startswith(("producer", "consumer"))]
    return [
        f"{run.cpu_s['producer']:.2f}",
        f"{sum(servers):.2f}" if servers else "-",
        " ".join(f"{seconds:.2f}" for seconds in consumers),
    ]


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[column]) for row in (heads, *rows)) for column in range(len(heads))]
    lines = []
    for row in (heads, *rows):
        names = [cell.ljust(width) for cell, width in zip(row[:2], widths[:2], strict=True)]
        figures = [cell.rjust(width) for cell, width in zip(row[2:], widths[2:], strict=True)]
        lines.append("  ".join(names + figures).rstrip())
    return lines
