"""From low-bit model to packed model, its file, and its runs on DGL graphs."""

from numba_kernels.files import replace_file
from numba_kernels.run.runtime import get_num_threads, launching

from .compress import compress
from .errors import FreezeError
from .freeze import freeze
from .load import load
from .packed import PackedModel, kernel_graph
from .partial import PartlyPacked
from .store import FeatureStore

__all__ = [
    "FeatureStore",
    "FreezeError",
    "PackedModel",
    "PartlyPacked",
    "compress",
    "freeze",
    "get_num_threads",
    "kernel_graph",
    "launching",
    "load",
    "replace_file",
]
