"""From low-bit model to packed model, its file, and its runs on DGL graphs."""

from .checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from .freeze import freeze
from .packed import PackedModel, kernel_graph, load
from .recorder import FreezeError

__all__ = [
    "CheckpointError",
    "FreezeError",
    "PackedModel",
    "freeze",
    "kernel_graph",
    "load",
    "load_checkpoint",
    "save_checkpoint",
]
