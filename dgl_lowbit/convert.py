"""Float model to low-bit model."""

from __future__ import annotations

import copy
import warnings

import dgl.nn
from torch import nn

from . import nn as lowbit_nn
from .config import QuantConfig, checked_config
from .nn.base import LAYERS
from .nn.example import check_example
from .nn.message_passing import Found, Hooked, discover, hook
from .nn.stored import decoded
from .nn.teacher import keep_float
from .nn.wrappers import check_model
from .quant.evaluation import evaluating


class FloatModuleWarning(UserWarning):
    """Products or sums of some modules were left in float32."""


# Without products or sums of their own: they run in float32 beside the low-bit layers, exactly.
_BESIDE = (nn.modules.batchnorm._BatchNorm, nn.LayerNorm, nn.PReLU)
# Modules of DGL that only call what they hold.
_CONTAINERS = (dgl.nn.HeteroGraphConv, dgl.nn.Sequential)
# Modules of DGL that pass no messages of their own.
_WITHOUT_MESSAGES = (*_CONTAINERS, dgl.nn.JumpingKnowledge)


def quantize(model: nn.Module, config: QuantConfig | None = None, *example, **kwargs) -> nn.Module:
    """A low-bit copy of ``model``: its DGL convolutions and linear layers become low-bit subclasses of themselves.

    Weights, names, hooks, training mode and the class of everything else are kept; ``model`` is left as it is, and
    referred to by the copy, which :func:`dgl_lowbit.teacher_loss` lets learn from it.
    Layers are matched by their exact class, so subclasses with a forward of their own keep it. A layer in several
    places stays one layer, and goes by the first of its names; layers of a kind that share their weights share the
    quantisers of these.

    What other modules pass over edges is made low-bit where DGL runs it, however it is written: ``update_all``,
    ``apply_edges``, functions of ``dgl.ops``, readouts, DGL's other layers. Their classes become subclasses of
    themselves under the same name. Each call has quantisers of its own, a
    :class:`~dgl_lowbit.nn.message_passing.Site`. They are made by a run of the example; without one :func:`calibrate`
    makes them, which then has to come before the optimiser is made.

    Parameters
    ----------
    model : torch.nn.Module
        Any module that holds ``dgl.nn`` convolutions or ``torch.nn.Linear``, or is one, or passes messages of its own.
    config : QuantConfig, optional
        Default: 8 bits.
    *example, **kwargs
        What the model is called with, such as ``graph, feat``. It is run once in float32 and evaluation mode; no
        ranges are taken from it.

    Returns
    -------
    torch.nn.Module
        Ready to be calibrated or trained.

    Raises
    ------
    TypeError
        When its ``forward`` does not take the example.
    ValueError
        When ``model`` is not a module or wraps one, is low-bit already, or holds nothing that can be made low-bit.

    Warns
    -----
    FloatModuleWarning
        Names the modules with parameters that were left in float32 and, where an example shows them, those whose sums
        over edges are: sums by reduce functions of the user's, products with sparse matrices.

    Examples
    --------
    >>> import dgl.nn
    >>> model = nn.ModuleList([dgl.nn.GraphConv(8, 4), dgl.nn.SAGEConv(4, 2, "mean")])
    >>> [type(layer).__module__ for layer in quantize(model, QuantConfig(2))]
    ['dgl_lowbit.nn.graphconv', 'dgl_lowbit.nn.sageconv']
    """
    check_model(model, "quantize")
    config = checked_config(config)
    if example or kwargs:
        check_example(model, quantize, example, kwargs)
    example, kwargs = decoded((example, kwargs))
    for name, module in model.named_modules():
        if isinstance(module, Hooked) or (isinstance(module, lowbit_nn.LowBitLayer) and module.is_low_bit):
            raise ValueError(f"{name or 'the model'} is low-bit already; quantize the float model instead.")

    float_model, model = model, copy.deepcopy(model)
    converted: dict[str, lowbit_nn.LowBitLayer] = {}
    left: list[str] = []
    _convert(model, "", converted, left, set())
    for name, module in model.named_modules():
        if isinstance(module, nn.TransformerEncoderLayer):  # else it reads weights past its layers in evaluation
            module.activation_relu_or_gelu = 0
        is_root = module is model and not isinstance(module, lowbit_nn.LowBitLayer)
        if is_root or _passes_messages(module):  # of the root it is known what it was called with
            hook(module, name, config)
    found = Found()
    if example or kwargs:
        with evaluating(model):
            try:
                found = discover(model, example, kwargs)
            except Exception as error:
                if hasattr(error, "add_note"):  # since Python 3.11
                    error.add_note("The example that quantize was given does not run through the model.")
                raise
    if not converted and not (found.sites if example or kwargs else _passes_messages(model)):
        raise ValueError(f"{type(model).__name__} holds no layer that can be made low-bit; these can: {convertible()}.")
    for module in converted.values():  # what a layer's operands are may hang on its config
        module.config = config
    layers = {name: _components(module) for name, module in converted.items()}
    configs = config.for_layers(layers, found.names())
    for name, module in converted.items():
        module.configure(configs[name])
    found.make_sites()
    _share_quantizers_of_tied_weights(converted.values())
    warn_of_float(left, found)
    keep_float(model, float_model)
    return model


def _passes_messages(module):
    """Whether a module may pass messages of its own: not layers of ours, nor modules of torch, which know no graphs."""
    is_ours = isinstance(module, lowbit_nn.LowBitLayer) or type(module).__module__.startswith(f"{__package__}.")
    is_torch = type(module).__module__.startswith("torch.")
    return not is_ours and not is_torch and type(module) not in _WITHOUT_MESSAGES


def warn_of_float(left, found):
    """Name what stays in float32: products of the modules ``left``, and what is passed over edges."""
    parts = [f"left in float32: {', '.join(left)}."] if left else []
    if found.floats:
        sums = [f"{module.described}: {', '.join(sorted(what))}" for module, what in found.floats.items()]
        parts.append(f"passed over edges in float32: {'; '.join(sums)}.")
    if parts:
        warnings.warn(" ".join(parts), FloatModuleWarning, stacklevel=3)


def _components(module):
    return sorted({operand.component for operand in module.all_operands().values()})


def convertible() -> str:
    """Names of the layers :func:`quantize` makes low-bit, comma-separated."""
    return ", ".join(sorted({cls.__name__ for cls in LAYERS.values()} | {"DeepGraphConv", "SMPConv"}))


def _convert(module, name, converted, left, met):
    """Give the layers in ``module`` their low-bit classes; ``converted`` are they by name, ``left`` what is not one.

    A module in several places, in ``met`` from the second on, goes by its first name.
    """
    if module in met:
        return
    met.add(module)
    if type(module) in LAYERS:
        module.__class__ = LAYERS[type(module)]
    is_layer = isinstance(module, lowbit_nn.LowBitLayer)
    if is_layer:
        converted[name] = module
    # DGL layers not known here use their submodules in ways of their own: leave them whole.
    whole = type(module).__module__.startswith("dgl.nn.") and not isinstance(module, _CONTAINERS)
    if not is_layer and not isinstance(module, _BESIDE):
        if next(module.parameters(recurse=whole), None) is not None:
            left.append(f"{name or 'the model'} ({type(module).__name__})")
        if whole:
            return
    for child_name, child in module.named_children():
        if not is_layer or child_name in module.inner:
            _convert(child, f"{name}.{child_name}" if name else child_name, converted, left, met)


def _share_quantizers_of_tied_weights(layers):
    """Let layers of one kind whose weights are the same parameters have one quantiser for them: one set of codes."""
    owners: dict[tuple, lowbit_nn.LowBitLayer] = {}
    for layer in layers:
        weights = tuple(id(parameter) for _, parameter in _own_weights(layer))
        if not weights or not layer.is_low_bit:
            continue
        owner = owners.setdefault((type(layer), weights), layer)
        operands = owner.all_operands()
        for name, operand in layer.all_operands().items():
            if operand.component == "weights" and operands.get(name) == operand:
                ours, theirs = layer.quantizers[name], owner.quantizers[name]
                if ours.number_format() == theirs.number_format():
                    layer.quantizers[name] = theirs


def _own_weights(layer):
    return [(n, p) for n, p in layer.named_parameters() if p.dim() > 1 and not n.startswith("quantizers.")]
