"""Rows of text in columns."""

from __future__ import annotations

from collections.abc import Sequence


def table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Lay rows out in columns as wide as their widest cell.

    Args:
        headings: One for each column.
        rows: Cells; empty ones are shown as ``-``.
    """
    lines = [[cell or "-" for cell in row] for row in (headings, *rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(headings))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )
