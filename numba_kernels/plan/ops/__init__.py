"""The operations of plans, by what they work on; importing this registers them all."""

from . import attend, call, combine, finish, graphs, heads, linear, neighbours, quantize, readout, views  # noqa: F401
from .registry import OPERATIONS, Operation

__all__ = ["OPERATIONS", "Operation"]
