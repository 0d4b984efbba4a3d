"""The operations of plans, by what they work on; importing this registers them all."""

from . import (  # noqa: F401
    ahead,
    attend,
    call,
    combine,
    finish,
    graphs,
    heads,
    linear,
    neighbours,
    quantize,
    readout,
    views,
)
from .registry import OPERATIONS, Operation

__all__ = ["OPERATIONS", "Operation"]
