"""Portable SIMD: LLVM vectors as Numba values, or, with the JIT off, NumPy arrays."""

import numba

from .features import DOT_PRODUCT as DOT_PRODUCT
from .ops import *  # noqa: F403
from .products import FORMS, dot_quads, dot_small_quads, form_of, tile_product  # noqa: F401
from .quads import *  # noqa: F403
from .rounding import *  # noqa: F403

if numba.config.DISABLE_JIT:
    from .stand_ins import *  # noqa: F403
