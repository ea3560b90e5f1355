"""The only module that imports rich, the optional library for output on a terminal.

Only the command line and the demo import this module. If rich is not installed, the import raises a `UsageError` that
says what to install.
"""

import sys
from collections.abc import Sequence

from eventbus_mp.extras import not_installed

try:
    from rich import box
    from rich.console import Console
    from rich.progress import BarColumn, ProgressColumn, Task, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as RichProgress
    from rich.table import Table
    from rich.text import Text
except ImportError as cause:
    raise not_installed("this command", "rich", "cli") from cause

__all__ = [
    "BarColumn",
    "Console",
    "ProgressColumn",
    "RichProgress",
    "Table",
    "Task",
    "Text",
    "TextColumn",
    "TimeRemainingColumn",
    "box",
    "print_table",
    "printable",
]

GAP = 2
BROKEN_COLUMNS = 16
"""To how many columns a text is broken at most: a name in narrower pieces cannot be read."""
UNBROKEN_COLUMNS = 100_000
"""The width of what is not a terminal: a program that reads lines wants each row on one."""


def print_table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table to standard output. Columns of numbers are aligned right and stay whole.

    On a terminal, other columns are broken where it ends, and heads are bold unless `NO_COLOR` is set. If it is too
    narrow even so, lines go on in the next one: nothing is left out. Elsewhere a row is one line, however long.
    """
    out = Console(file=sys.stdout, highlight=False)
    least = [max(len(head), *(len(row[at]) for row in rows)) for at, head in enumerate(heads)]
    is_number = [all(row[at][:1].isdigit() or row[at] == "-" for row in rows) for at in range(len(heads))]
    if out.is_terminal:
        narrow = [
            width if number else min(width, BROKEN_COLUMNS) for width, number in zip(least, is_number, strict=True)
        ]
        out.width = max(out.width, sum(narrow) + GAP * len(heads))
    else:
        out.width = UNBROKEN_COLUMNS
    table = Table(box=None, pad_edge=False, header_style="" if out.no_color else "bold", padding=(0, GAP, 0, 0))
    for head, width, number in zip(heads, least, is_number, strict=True):
        table.add_column(
            head,
            justify="right" if number else "left",
            no_wrap=number,
            overflow="fold",
            min_width=width if number else min(width, BROKEN_COLUMNS),
        )
    for row in rows:
        table.add_row(*(Text(printable(cell, out)) for cell in row))
    with out.capture() as captured:
        out.print(table)
    for line in captured.get().splitlines():
        print(line.rstrip())


def printable(text: str, console: Console) -> str:
    """`text` on one line: control characters, and what the output cannot encode, become escapes.

    File names may hold newlines, terminal escapes, or bytes that are not UTF-8 (lone surrogates in Python).
    """
    escaped = "".join(char if char.isprintable() else _escape(char) for char in text)
    return escaped.encode(console.encoding, "backslashreplace").decode(console.encoding)


def _escape(char: str) -> str:
    return char.encode("unicode_escape").decode("ascii")
