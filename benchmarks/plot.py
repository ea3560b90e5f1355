"""The figures as a picture: one panel for each topology, one bar for each peer. Needs matplotlib."""

from __future__ import annotations

from typing import Any

from benchmarks.report import Report, Result

__all__ = ["draw"]

COLUMNS = 3
PANEL_WIDTH, BAR_HEIGHT, PANEL_MARGIN = 5.2, 0.24, 0.9
BUS_COLOUR, PEER_COLOUR, TAIL_COLOUR = "#c0392b", "#7f8c9b", "#d5dae0"


def draw(report: Report, path: str) -> None:
    """Write a PNG."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    names = list(dict.fromkeys(result.topology.name for result in report.results))
    panels = [[result for result in report.results if result.topology.name == name] for name in names]
    panels = [panel for panel in panels if panel]
    rows = -(-len(panels) // COLUMNS)
    bars = max(len(panel) for panel in panels)
    size = (COLUMNS * PANEL_WIDTH, rows * (bars * BAR_HEIGHT + PANEL_MARGIN))
    figure, axes = pyplot.subplots(rows, COLUMNS, figsize=size, squeeze=False, layout="constrained")
    for place in axes.flat:
        place.set_axis_off()
    for place, panel in zip(axes.flat, panels, strict=False):
        place.set_axis_on()
        _draw_panel(place, panel)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def _draw_panel(axes: Any, panel: list[Result]) -> None:
    topology = panel[0].topology
    names = [result.peer for result in panel]
    colours = [BUS_COLOUR if name.startswith("bus") else PEER_COLOUR for name in names]
    if topology.is_latency:
        values = [result.median.latencies_us[0] for result in panel]
        tails = [result.median.latencies_us[1] for result in panel]
        axes.barh(names, tails, color=TAIL_COLOUR)
        unit = "us, p50 and p99 (pale); less is better"
    elif topology.is_pool:
        values, unit = [result.efficiency * 100 for result in panel], "% of the ideal"
    else:
        values, unit = [result.median.events_per_s for result in panel], "events/s"
    drawn = axes.barh(names, values, color=colours)
    if not topology.is_pool:
        axes.set_xscale("log")
        axes.xaxis.set_minor_formatter("")
    axes.bar_label(drawn, [f"{value:,.0f}" for value in values], padding=3, fontsize=7)
    axes.margins(x=0.25)  # the labels have to fit
    axes.invert_yaxis()
    axes.set_title(f"{topology.name}: {unit}", fontsize=9)
    axes.tick_params(labelsize=7)
