"""Bits of components and layers under a budget of bytes."""

from .allocate import allocate
from .cost import MEASURES, cost
from .learned import LearnedBits

__all__ = ["MEASURES", "LearnedBits", "allocate", "cost"]
