"""Smoothness of embeddings over a graph, and multipliers that bound its change."""

from .control import SmoothnessControl
from .energy import collapse_gauge, dirichlet_energy
from .multiplier import DifferentialMultiplier
from .regularizer import SmoothnessRegularizer

__all__ = [
    "DifferentialMultiplier",
    "SmoothnessControl",
    "SmoothnessRegularizer",
    "collapse_gauge",
    "dirichlet_energy",
]
