"""Training and packed inference over DGL's distributed engine."""

from .inference import inference
from .one_host import OneHost
from .partition import Partition
from .start import initialize

__all__ = ["OneHost", "Partition", "inference", "initialize"]
