"""Packed-integer kernels for low-bit graph neural networks on CPUs; needs NumPy, Numba and safetensors only."""

from .functional import dequantize, gemm, quantize, spmm
from .graph import Graph, GraphError
from .model import ModelFileError, PackedModel, load
from .packing import pack, unpack
from .plan import Plan, PlanError
from .run.matrices import Codes, Grid, Weight
from .run.runtime import get_num_threads
from .warming import warm_up

__all__ = [
    "Codes",
    "Graph",
    "GraphError",
    "Grid",
    "ModelFileError",
    "PackedModel",
    "Plan",
    "PlanError",
    "Weight",
    "dequantize",
    "gemm",
    "get_num_threads",
    "load",
    "pack",
    "quantize",
    "spmm",
    "unpack",
    "warm_up",
]
