"""Rows of text, set out as a table; the first columns are names, the others figures."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["markdown_table", "text_table"]

NAMES = 2


def text_table(heads: Sequence[str], rows: Sequence[Sequence[str]], names: int = NAMES) -> list[str]:
    """For a terminal."""
    widths = [max(len(row[column]) for row in (heads, *rows)) for column in range(len(heads))]
    lines = []
    for row in (heads, *rows):
        cells = zip(row, widths, range(len(row)), strict=True)
        lines.append(
            "  ".join(
                (cell.ljust(width) if column < names else cell.rjust(width)) for cell, width, column in cells
            ).rstrip()
        )
    return lines


def markdown_table(heads: Sequence[str], rows: Sequence[Sequence[str]], names: int = NAMES) -> list[str]:
    """For a page."""
    rule = ["---" if column < names else "--:" for column in range(len(heads))]
    return [f"| {' | '.join(row)} |" for row in (heads, rule, *rows)]
