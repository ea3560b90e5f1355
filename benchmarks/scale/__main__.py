"""`python -m benchmarks.scale`: what the bus costs as it grows."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from benchmarks.scale.growth import Row, arrival, backlog, endpoints, subscribers, topics
from benchmarks.scale.standing import connecting, idle, long_run
from benchmarks.tables import markdown_table, text_table

SIZES, QUICK_SIZES = [1, 4, 16, 64], [1, 4]
TITLES = {
    "backlog": "Cost of an event as the backlog grows; ratios to the smallest.",
    "arrival": "The manager's memory for an event that waits.",
    "topics": "Cost of an event as topics grow.",
    "endpoints": "Cost of an event as the processes that share a subscriber grow.",
    "subscribers": "Cost of a delivery as the subscribers of a topic grow.",
    "connecting": "Time to connect.",
    "idle": "The manager of an idle bus.",
    "long-run": "The manager's memory after many events.",
}


def main() -> int:
    arguments = _parse()
    tables: dict[str, list[Row]] = {}
    for name, rows in _cases(arguments).items():
        if arguments.only and name not in arguments.only:
            continue
        tables[name] = []
        for row in rows():
            sys.stderr.write(f"{name}: {', '.join(f'{head} {value:,.2f}' for head, value in row.items())}\n")
            tables[name].append(row)
    print(_as_tables(tables, markdown_table if arguments.markdown else text_table))
    if arguments.json:
        everything = {"python": platform.python_version(), "cores": os.cpu_count(), "tables": tables}
        Path(arguments.json).write_text(json.dumps(everything, indent=2) + "\n")
    return 0


def _cases(arguments: argparse.Namespace) -> dict[str, Callable[[], Iterator[Row]]]:
    quick, events = arguments.quick, arguments.events
    sizes = QUICK_SIZES if quick else SIZES
    backlogs = [size for size in (1_000, 10_000, 100_000, 1_000_000) if size <= arguments.backlog]
    return {
        "backlog": partial(backlog, backlogs, events),
        "arrival": partial(arrival, events // 2),
        "topics": partial(topics, [1, 10, 100, 1_000], events),
        "endpoints": partial(endpoints, sizes, events),
        "subscribers": partial(subscribers, sizes, events),
        "connecting": partial(connecting, 3 if quick else 9),
        "idle": partial(idle, [1, 8], 0.5 if quick else 5.0),
        "long-run": partial(long_run, arguments.long_run),
    }


def _as_tables(tables: dict[str, list[Row]], table: Callable[..., list[str]]) -> str:
    lines = [f"CPython {platform.python_version()}, {os.cpu_count()} cores."]
    for name, rows in tables.items():
        heads = list(rows[0])
        cells = [[_cell(head, row, rows[0]) for head in heads] for row in rows]
        lines += ["", TITLES[name], "", *table(heads, cells, names=1)]
    return "\n".join(lines)


def _cell(head: str, row: Row, first: Row) -> str:
    value = row[head]
    if isinstance(value, bool):
        return "yes" if value else "no"
    text = f"{value:,.0f}" if float(value).is_integer() or value >= 1_000 else f"{value:,.2f}"
    is_cost = head.endswith(" us") and row is not first and first[head]
    return f"{text} ({value / first[head]:.2f}x)" if is_cost else text


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale", description="What the bus costs as it grows.")
    add = parser.add_argument
    add("--quick", action="store_true", help="smaller sizes: seconds instead of minutes")
    add("--only", action="append", choices=list(TITLES), help="only this; repeat it for more")
    add("--events", type=int, metavar="N", help="events of one figure (50,000; quick: 5,000)")
    add("--backlog", type=int, metavar="N", help="the largest backlog (1,000,000; quick: 10,000)")
    add("--long-run", type=int, metavar="N", help="events of the long run (1,000,000; quick: 50,000)")
    add("--markdown", action="store_true", help="print the tables as README.md has them")
    add("--json", metavar="FILE", help="also write the figures to this file")
    arguments = parser.parse_args()
    arguments.events = arguments.events or (5_000 if arguments.quick else 50_000)
    arguments.backlog = arguments.backlog or (10_000 if arguments.quick else 1_000_000)
    arguments.long_run = arguments.long_run or (50_000 if arguments.quick else 1_000_000)
    return arguments


if __name__ == "__main__":
    sys.exit(main())
