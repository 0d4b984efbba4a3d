"""What instructions on float32 rows share."""

from __future__ import annotations

import numpy as np

from .. import simd
from ..jit import kernel


@kernel
def factor_of(address, row):
    """The row's factor, 1 where there are none."""
    return simd.f32_at(address)[row] if address != 0 else np.float32(1.0)


@kernel
def clear_from(row, columns):
    """Zeros from ``columns`` to the next multiple of sixteen."""
    for c in range(columns, (columns + 15) // 16 * 16):
        row[c] = np.float32(0.0)
