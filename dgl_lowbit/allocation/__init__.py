"""Bits of components and layers under a budget of bytes."""

from .allocate import allocate
from .cost import MEASURES, cost

__all__ = ["MEASURES", "allocate", "cost"]
