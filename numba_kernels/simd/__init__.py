"""Portable SIMD: LLVM vectors as Numba values, or, with the JIT off, NumPy arrays."""

import numba

from .ops import *  # noqa: F403
from .ops import HAS_DOT_PRODUCT as HAS_DOT_PRODUCT

if numba.config.DISABLE_JIT:
    from .stand_ins import *  # noqa: F403
