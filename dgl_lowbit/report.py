"""Tables for the terminal and for Markdown."""

from __future__ import annotations

import statistics

from numba_kernels.commands import table, table_head, table_row

__all__ = ["mean_std", "table", "table_head", "table_row"]


def mean_std(values, percent: bool = True) -> str:
    """Mean, and ± the population standard deviation where there is more than one value.

    >>> mean_std([0.80, 0.82]), mean_std([0.5])
    ('81.0 ± 1.0', '50.0')
    """
    values = [100 * v for v in values] if percent else list(values)
    mean = f"{statistics.mean(values):.1f}"
    return mean if len(values) == 1 else f"{mean} ± {statistics.pstdev(values):.1f}"
