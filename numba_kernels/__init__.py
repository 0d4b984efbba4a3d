"""Packed-integer kernels for low-bit graph neural networks on CPUs; needs NumPy and Numba only."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from ._version import __version__

if TYPE_CHECKING:
    from .codebook import Codewords, learned_codewords
    from .errors import LowBitError, ModelFileError
    from .estimate import Estimate
    from .fitting import fitted_grid
    from .functional import dequantize, gemm, quantize, spmm
    from .graph import Graph, GraphError
    from .model import PackedModel, load
    from .packing import pack, unpack
    from .plan import Plan, PlanError
    from .prepared import Prepared
    from .run.codes import Codes
    from .run.matrices import Grid, Weight
    from .run.runtime import get_num_threads
    from .run.states import StatesError
    from .warming import warm_up

__all__ = [
    "Codes",
    "Codewords",
    "Estimate",
    "Graph",
    "GraphError",
    "Grid",
    "LowBitError",
    "ModelFileError",
    "PackedModel",
    "Plan",
    "PlanError",
    "Prepared",
    "StatesError",
    "Weight",
    "__version__",
    "dequantize",
    "fitted_grid",
    "gemm",
    "get_num_threads",
    "learned_codewords",
    "load",
    "pack",
    "quantize",
    "spmm",
    "unpack",
    "warm_up",
]

# Loaded when first asked for, so that `numba_kernels.spec`, the number contract, can be read without Numba.
_HOMES = {
    "codebook": ("Codewords", "learned_codewords"),
    "errors": ("LowBitError", "ModelFileError"),
    "estimate": ("Estimate",),
    "fitting": ("fitted_grid",),
    "functional": ("dequantize", "gemm", "quantize", "spmm"),
    "graph": ("Graph", "GraphError"),
    "model": ("PackedModel", "load"),
    "packing": ("pack", "unpack"),
    "plan": ("Plan", "PlanError"),
    "prepared": ("Prepared",),
    "run.codes": ("Codes",),
    "run.matrices": ("Grid", "Weight"),
    "run.runtime": ("get_num_threads",),
    "run.states": ("StatesError",),
    "warming": ("warm_up",),
}
_HOME = {name: home for home, names in _HOMES.items() for name in names}
_MODULES = (
    "container",
    "errors",
    "files",
    "functional",
    "graph",
    "kernels",
    "layout",
    "model",
    "packing",
    "plan",
    "reference",
    "run",
    "simd",
)


def __getattr__(name):
    if name in _HOME:
        value = getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)
        globals()[name] = value
        return value
    if name in _MODULES:
        return importlib.import_module(f".{name}", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__():
    return sorted([*__all__, *_MODULES])
