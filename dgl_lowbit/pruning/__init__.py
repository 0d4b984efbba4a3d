"""Pruning: input columns, channels and edges that leave a model while it is trained, and then its file and kernels."""

from .columns import SelectedColumns
from .graphs import OtherGraphWarning
from .pruner import Pruner

__all__ = ["OtherGraphWarning", "Pruner", "SelectedColumns"]
