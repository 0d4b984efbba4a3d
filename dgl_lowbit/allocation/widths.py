"""A model at the widths that its components may have."""

from __future__ import annotations

import glob
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from ..calibration import calibrate
from ..config import QuantConfig
from ..convert import FloatModuleWarning, quantize
from ..quant.sparse import SparseFeatures, mostly_zero
from .cost import Costs, bits_of, components_of, measured


def quantized_at(
    widths: Iterable[int], model: nn.Module, config: QuantConfig, args: tuple, kwargs: dict
) -> dict[int, nn.Module]:
    """Low-bit copies of a float model, by the ``bits`` that they have in the place of the config's.

    Raises
    ------
    ValueError
        Where other bits make other components, and as :func:`dgl_lowbit.quantize`.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FloatModuleWarning)
        copies = {width: quantize(model, replace(config, bits=width), *args, **kwargs) for width in widths}
    first, *others = map(components_of, copies.values())
    if any(components != first for components in others):
        raise ValueError(
            "what the model's layers code hangs on their bits, as where states have bits of their own; choose bits "
            "with QuantConfig(states=32), and give states their bits in the config that comes of it."
        )
    return copies


def costs_of(copies: Mapping[int, nn.Module], args: tuple, kwargs: dict) -> tuple[Costs, tuple[tuple, dict]]:
    """What copies of :func:`quantized_at` cost, and a call that they take, with bags of words as their non-zeros.

    Kept are the bits of components that the config gives bits of their own. That of the last copy is calibrated.

    Raises
    ------
    ValueError
        Where no component is left.
    """
    model = list(copies.values())[-1]
    call = _calibrated(model, args, kwargs)
    costs = measured(model, *call)
    for name, part in costs.components.items():
        if any(bits_of(low_bit, part) != width for width, low_bit in copies.items()):
            costs.kept[name] = bits_of(model, part)
    if not costs.free:
        raise ValueError("the config gives every component bits of its own; leave those out that are to be chosen.")
    return costs, call


def with_bits(config: QuantConfig, bits: Mapping[str, int]) -> QuantConfig:
    """``config`` with the bits of each component by name."""
    chosen = {glob.escape(name): width for name, width in bits.items()}
    return replace(config, overrides={**dict(config.overrides), **chosen})


def _calibrated(model, args, kwargs):
    """Calibrate, on bags of words as their non-zeros where the model takes them; the call is returned."""
    sparse = tuple(SparseFeatures.from_dense(x) if _is_sparse(x) else x for x in args)
    try:
        calibrate(model, *sparse, **kwargs)
        return sparse, kwargs
    except Exception:  # whatever a model does with features that it cannot do with these
        if all(a is b for a, b in zip(sparse, args)):
            raise
    calibrate(model, *args, **kwargs)
    return args, kwargs


def _is_sparse(x: Any) -> bool:
    return isinstance(x, torch.Tensor) and x.is_floating_point() and x.dim() == 2 and mostly_zero(x)
