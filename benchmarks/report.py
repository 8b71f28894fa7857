"""How measurements are shown: medians with their spread, in tables of markdown."""

import statistics
from collections.abc import Sequence


def median_and_spread(values: Sequence[float], digits: int = 1) -> str:
    """The median and, in brackets, the middle half of the values: 82.4 (80.1-85.0)."""
    if len(values) == 1:
        return f"{values[0]:.{digits}f}"
    first, middle, third = statistics.quantiles(values, n=4, method="inclusive")
    return f"{middle:.{digits}f} ({first:.{digits}f}-{third:.{digits}f})"


def table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A markdown table, padded so that it also reads well as plain text."""
    widths = [max(len(cell) for cell in column) for column in zip(headings, *rows, strict=True)]

    def line(cells: Sequence[str]) -> str:
        return f"| {' | '.join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True))} |"

    return "\n".join([line(headings), line(["-" * width for width in widths]), *(line(row) for row in rows)])
