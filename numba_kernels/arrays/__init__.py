"""Functions of n-dimensional arrays that plans may call between launches of kernels, in NumPy.

They are named after torch's, take what those take and agree with them in shapes, dtypes (float32, int64, bool) and
results; those of graphs are named after DGL's. Importing this registers them all.
"""

from . import (  # noqa: F401
    activations,
    cells,
    checks,
    convolutions,
    edges,
    elementwise,
    indexing,
    norms,
    products,
    reductions,
    shapes,
)
from .checks import CHECKS
from .registry import FUNCTIONS, ArrayFunction, as_array

__all__ = ["CHECKS", "FUNCTIONS", "ArrayFunction", "as_array"]
