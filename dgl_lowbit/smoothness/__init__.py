"""Smoothness of embeddings over a graph, and multipliers that bound its change."""

from .energy import dirichlet_energy
from .multiplier import DifferentialMultiplier

__all__ = ["DifferentialMultiplier", "dirichlet_energy"]
