"""Bits of components and layers under a budget of bytes."""

from .allocate import allocate
from .cost import MEASURES, cost
from .groups import allocate_groups, hidden_bytes
from .learned import LearnedBits

__all__ = ["MEASURES", "LearnedBits", "allocate", "allocate_groups", "cost", "hidden_bytes"]
