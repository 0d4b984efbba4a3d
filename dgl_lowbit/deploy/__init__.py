"""From low-bit model to packed model, its file, and its runs on DGL graphs."""

from numba_kernels.files import replace_file
from numba_kernels.runtime import get_num_threads, launching

from .checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from .freeze import freeze
from .packed import PackedModel, kernel_graph, load
from .partial import PartlyPacked
from .recorder import FreezeError

__all__ = [
    "CheckpointError",
    "FreezeError",
    "PackedModel",
    "PartlyPacked",
    "freeze",
    "get_num_threads",
    "kernel_graph",
    "launching",
    "load",
    "load_checkpoint",
    "replace_file",
    "save_checkpoint",
]
