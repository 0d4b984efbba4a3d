"""Training and inference over DGL's distributed engine."""

from .one_host import OneHost
from .start import initialize

__all__ = ["OneHost", "initialize"]
