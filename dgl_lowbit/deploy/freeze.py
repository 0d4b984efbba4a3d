"""Low-bit model to packed model."""

from __future__ import annotations

import inspect

from torch import nn

from .. import nn as lowbit_nn
from .._version import __version__
from ..quant import NotCalibratedError, Quantizer
from .packed import PackedModel
from .recorder import FreezeError, Recorder
from .trace import ARGUMENT_KINDS, Walk


def freeze(model: nn.Module) -> PackedModel:
    """The packed form of a trained or calibrated low-bit model; one way.

    The model's ``forward`` is traced symbolically (``torch.fx``), its low-bit layers whole. It may be ordinary Python
    over graphs, blocks and features: calls of low-bit layers, ReLU, dropout, sums and differences, multiples, loops
    over a ``ModuleList``.

    Parameters
    ----------
    model : torch.nn.Module
        From :func:`dgl_lowbit.quantize`; it is left as it is.

    Returns
    -------
    PackedModel
        Takes the arguments of ``model.forward``.

    Raises
    ------
    FreezeError
        Names the layer or line that has no packed form, or the quantisers without a range.
    ValueError
        When ``model`` is not a module or holds no low-bit layer.
    """
    if not isinstance(model, nn.Module):
        raise ValueError(f"freeze expects a torch.nn.Module, got {type(model).__name__}.")
    layers = {name: m for name, m in model.named_modules() if isinstance(m, lowbit_nn.LowBitLayer) and m.is_low_bit}
    if not layers:
        raise ValueError("the model holds no low-bit layer; call dgl_lowbit.quantize(model) and calibrate or train.")
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        _refuse_hooks(model)
        recorder = Recorder()
        if isinstance(model, lowbit_nn.LowBitLayer):
            outputs = _record_layer_alone(recorder, model)
        else:
            outputs = Walk(recorder, model).outputs
            _refuse_choices(recorder, model)
        returns_tuple = isinstance(outputs, (tuple, list))
        plan = recorder.plan(list(outputs) if returns_tuple else [outputs], returns_tuple)
    except NotCalibratedError as error:
        raise FreezeError(f"{_uncalibrated(model)}: {error}") from error
    finally:
        for module, mode in modes.items():
            module.training = mode
    bits = {name: layer.config.to_dict() for name, layer in layers.items()}
    return PackedModel(plan, info={"dgl_lowbit": __version__, "model": type(model).__name__, "layers": bits})


def _refuse_hooks(model):
    for name, module in model.named_modules():
        hooks = [*module._forward_hooks.values(), *module._forward_pre_hooks.values()]
        # A smoothness bound's step is part of the plan.
        if any(hook is not module._modules.get("smoothness") for hook in hooks):
            raise FreezeError(
                f"{name or 'the model'} ({type(module).__name__}) has forward hooks, which a packed model does not "
                "run; remove them before freezing."
            )


def _refuse_choices(recorder, model):
    """A trace with an argument given hides what ``forward`` does where it is None: both must compute the same."""
    optional = [entry for entry in recorder.inputs if entry["optional"]]
    for entry in optional:
        without = Recorder()
        Walk(without, model, absent=entry["name"])
        ops = [{**op, "in": [None if v == entry["value"] else v for v in op["in"]]} for op in recorder.ops]
        if ops != without.ops:
            raise FreezeError(
                f"{type(model).__name__}.forward takes another course where {entry['name']} is None, which a trace "
                "cannot follow; give the model a forward without that choice."
            )


def _uncalibrated(model):
    names = [
        name
        for name, module in model.named_modules()
        if isinstance(module, Quantizer) and not module.format.is_float and not module.calibrated
    ]
    shown = ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
    return f"{shown or 'a quantiser'} cannot be frozen"


def _record_layer_alone(recorder, layer):
    signature = inspect.signature(layer.forward)
    values = {
        name: recorder.input(name, ARGUMENT_KINDS.get(name, "features"), parameter.default is None)
        for name, parameter in signature.parameters.items()
        if name != "weight"
    }
    return recorder.layer("", layer, signature.bind(**values))
