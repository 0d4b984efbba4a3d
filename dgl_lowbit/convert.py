"""Float model to low-bit model, and ranges from data without training."""

from __future__ import annotations

import copy
import warnings

import torch
from torch import nn

from . import nn as lowbit_nn
from .config import QuantConfig
from .quant import Quantizer

_LAYERS: dict[type, type] = {}


class FloatModuleWarning(UserWarning):
    """Some modules with parameters were left in float32."""


def register_layer(low_bit_class: type) -> type:
    """Class decorator: let :func:`quantize` replace ``low_bit_class.float_class`` by this class.

    The class derives from :class:`dgl_lowbit.nn.LowBitLayer` and from its ``float_class``, and adds no
    constructor state beyond the quantisers.
    """
    _LAYERS[low_bit_class.float_class] = low_bit_class
    return low_bit_class


for _layer in (lowbit_nn.Linear, lowbit_nn.GraphConv, lowbit_nn.SAGEConv):
    register_layer(_layer)


def quantize(model: nn.Module, config: QuantConfig | None = None) -> nn.Module:
    """A low-bit copy of ``model``: its DGL convolutions and linear layers become low-bit subclasses of themselves.

    Weights, names, hooks, training mode and the class of everything else are kept; ``model`` is left as it is.
    Layers are matched by their exact class, so subclasses with a forward of their own stay in float.

    Parameters
    ----------
    model : torch.nn.Module
        Any module that holds ``dgl.nn`` convolutions or ``torch.nn.Linear``, or is one.
    config : QuantConfig, optional
        Default: 8 bits.

    Returns
    -------
    torch.nn.Module
        Ready to be calibrated or trained.

    Raises
    ------
    ValueError
        When ``model`` is not a module, is low-bit already, or holds nothing that can be made low-bit.

    Warns
    -----
    FloatModuleWarning
        Names the modules with parameters that were left in float32.

    Examples
    --------
    >>> import dgl.nn
    >>> model = nn.ModuleList([dgl.nn.GraphConv(8, 4), dgl.nn.SAGEConv(4, 2, "mean")])
    >>> [type(layer).__module__ for layer in quantize(model, QuantConfig(2))]
    ['dgl_lowbit.nn.graphconv', 'dgl_lowbit.nn.sageconv']
    """
    config = QuantConfig() if config is None else config
    if not isinstance(model, nn.Module):
        raise ValueError(f"quantize expects a torch.nn.Module, got {type(model).__name__}.")
    if not isinstance(config, QuantConfig):
        raise ValueError(f"config must be a QuantConfig, got {type(config).__name__}; try QuantConfig(bits=2).")
    for name, module in model.named_modules():
        if isinstance(module, lowbit_nn.LowBitLayer) and module.is_low_bit:
            raise ValueError(f"{name or 'the model'} is low-bit already; quantize the float model instead.")

    model = copy.deepcopy(model)
    converted, left = [], []
    _convert(model, "", config, converted, left)
    if not converted:
        raise ValueError(f"{type(model).__name__} holds no layer that can be made low-bit; these can: {convertible()}.")
    if left:
        warnings.warn(f"left in float32: {', '.join(left)}.", FloatModuleWarning, stacklevel=2)
    return model


def convertible() -> str:
    """Names of the layers :func:`quantize` makes low-bit, comma-separated."""
    return ", ".join(sorted({cls.__name__ for cls in _LAYERS.values()} | {"DeepGraphConv", "SMPConv"}))


def _convert(module, name, config, converted, left):
    low_bit_class = _LAYERS.get(type(module))
    if low_bit_class is not None:
        module.__class__ = low_bit_class
    if isinstance(module, lowbit_nn.LowBitLayer):
        module.configure(config)
        converted.append(name)
        return
    # DGL layers not known here use their submodules in ways of their own: leave them whole.
    whole = type(module).__module__.startswith("dgl.nn.")
    if next(module.parameters(recurse=whole), None) is not None:
        left.append(f"{name or 'the model'} ({type(module).__name__})")
    if not whole:
        for child_name, child in module.named_children():
            _convert(child, f"{name}.{child_name}" if name else child_name, config, converted, left)


@torch.no_grad()
def calibrate(model: nn.Module, *args, **kwargs) -> nn.Module:
    """Set every range from one evaluation pass over data, in layer order, without training.

    Each quantiser searches its range on the tensor it meets, downstream of the quantisers before it
    (arXiv:2308.14949, error-minimising initial ranges).

    Parameters
    ----------
    model : torch.nn.Module
        Low-bit model; its ranges are overwritten, its training mode is kept.
    *args, **kwargs
        What the model is called with: ``graph, feat``.

    Returns
    -------
    torch.nn.Module
        ``model``.

    Raises
    ------
    ValueError
        When the model has no quantisers.
    """
    quantizers = [module for module in model.modules() if isinstance(module, Quantizer)]
    if not quantizers:
        raise ValueError("the model has no quantisers to calibrate; call dgl_lowbit.quantize(model) first.")
    was_training = {module: module.training for module in model.modules()}
    model.eval()
    try:
        for quantizer in quantizers:
            quantizer.observing = True
        model(*args, **kwargs)
    finally:
        for quantizer in quantizers:
            quantizer.observing = False
        for module, mode in was_training.items():
            module.training = mode
    return model
