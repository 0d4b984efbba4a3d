"""Packed-integer kernels for low-bit graph neural networks on CPUs; needs NumPy, Numba and safetensors only."""

from .graph import Graph, GraphError
from .model import ModelFileError, PackedModel, load
from .packing import pack, unpack
from .plan import Plan, PlanError
from .runtime import get_num_threads

__all__ = [
    "Graph",
    "GraphError",
    "ModelFileError",
    "PackedModel",
    "Plan",
    "PlanError",
    "get_num_threads",
    "load",
    "pack",
    "unpack",
]
