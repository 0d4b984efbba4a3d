"""Training and packed inference over DGL's distributed engine."""

from .inference import inference
from .one_host import OneHost
from .partition import Partition
from .start import initialize
from .workers import WorkerError

__all__ = ["OneHost", "Partition", "WorkerError", "inference", "initialize"]
