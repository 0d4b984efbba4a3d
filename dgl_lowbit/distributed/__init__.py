"""Training and inference over DGL's distributed engine."""

from ..training.processes import LostProcessError, synchronize
from .one_host import OneHost
from .start import initialize

__all__ = ["LostProcessError", "OneHost", "initialize", "synchronize"]
