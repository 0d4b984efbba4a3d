"""From low-bit model to packed model, its file, and its runs on DGL graphs."""

from .freeze import freeze
from .packed import PackedModel, kernel_graph, load
from .recorder import FreezeError

__all__ = ["FreezeError", "PackedModel", "freeze", "kernel_graph", "load"]
