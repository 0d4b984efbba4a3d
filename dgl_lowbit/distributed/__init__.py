"""Packed models over several machines: each worker computes the nodes of its partition, and sends codes to others."""

from .inference import inference
from .partition import Partition
from .workers import WorkerError

__all__ = ["Partition", "WorkerError", "inference"]
