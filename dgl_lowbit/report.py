"""Tables for the terminal and for Markdown."""

from __future__ import annotations

import statistics


def mean_std(values, percent: bool = True) -> str:
    """Mean, and ± the population standard deviation where there is more than one value.

    >>> mean_std([0.80, 0.82]), mean_std([0.5])
    ('81.0 ± 1.0', '50.0')
    """
    values = [100 * v for v in values] if percent else list(values)
    mean = f"{statistics.mean(values):.1f}"
    return mean if len(values) == 1 else f"{mean} ± {statistics.pstdev(values):.1f}"


def table(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table with aligned columns: the first to the left, the others to the right.

    >>> print(table(["bits", "bytes"], [["INT2", "9"]]))
    | bits | bytes |
    |------|------:|
    | INT2 |     9 |
    """
    widths = [max(len(str(cell)) for cell in column) for column in zip(header, *rows)]

    def line(cells):
        first, *others = (str(cell) for cell in cells)
        padded = [first.ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(others, widths[1:]))]
        return "| " + " | ".join(padded) + " |"

    rule = "|" + "-" * (widths[0] + 2) + "|" + "".join("-" * (width + 1) + ":|" for width in widths[1:])
    return "\n".join([line(header), rule, *(line(row) for row in rows)])
