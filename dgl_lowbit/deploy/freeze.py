"""Low-bit model to packed model."""

from __future__ import annotations

import inspect

import dgl
import dgl.nn
from torch import nn

from .. import nn as lowbit_nn
from .._version import __version__
from ..nn.arguments import Role
from ..quant import NotCalibratedError, Quantizer
from ..quant.evaluation import evaluating
from .packed import PackedModel
from .partial import PartlyPacked
from .recorder import FreezeError, Recorder
from .trace import Walk, walk_inside


def freeze(
    model: nn.Module | list, graph: dgl.DGLGraph | None = None, *, partial: bool = False
) -> PackedModel | PartlyPacked:
    """The packed form of a trained or calibrated low-bit model; one way.

    The model's ``forward`` is traced symbolically (``torch.fx``), its low-bit layers whole. It may be ordinary Python
    over graphs, blocks and features: calls of low-bit layers, activations, norms, dropout, readouts, arithmetic, loops
    over a ``ModuleList``, dicts by node type.

    Parameters
    ----------
    model : torch.nn.Module or list
        From :func:`dgl_lowbit.quantize`; it is left as it is. A list stands for a model whose forward cannot be traced:
        its stages, modules that are called one after another, with the graph where they take one.
    graph : DGLGraph, optional
        Of a model for heterogeneous graphs: one with the node and edge types that it will run on.
    partial : bool
        Where the model cannot be frozen whole, freeze those of its layers that can be, and leave the rest to torch and
        DGL in float32. Default: refuse it.

    Returns
    -------
    PackedModel or PartlyPacked
        Takes the arguments of ``model.forward``.

    Warns
    -----
    FloatModuleWarning
        With ``partial``, where parts run in float32: names them.

    Raises
    ------
    FreezeError
        Names the layer or line that has no packed form, or the quantisers without a range.
    ValueError
        When ``model`` is not a module or holds no low-bit layer.
    """
    if isinstance(model, (list, tuple)) and all(isinstance(stage, nn.Module) for stage in model):
        model = Stages(model)
    if isinstance(model, dgl.nn.HeteroGraphConv):
        model = ByType(model)
    if not isinstance(model, nn.Module):
        raise ValueError(f"freeze expects a torch.nn.Module or a list of them, got {type(model).__name__}.")
    types = None if graph is None else list(graph.canonical_etypes)
    layers = {name: m for name, m in model.named_modules() if isinstance(m, lowbit_nn.LowBitLayer) and m.is_low_bit}
    if not layers:
        raise ValueError("the model holds no low-bit layer; call dgl_lowbit.quantize(model) and calibrate or train.")
    if partial:
        try:
            return freeze(model, graph)
        except FreezeError as error:
            return _freeze_layers(model, layers, str(error))
    _refuse_hooks(model)
    recorder = Recorder(walk_inside)
    try:
        with evaluating(model):
            if isinstance(model, lowbit_nn.LowBitLayer):
                outputs = _record_layer_alone(recorder, model)
            else:
                outputs = Walk(recorder, model, types=types).outputs
                _refuse_choices(recorder, model, types)
            plan = recorder.plan(outputs)
    except NotCalibratedError as error:
        raise FreezeError(f"{_uncalibrated(model)}: {error}") from error
    bits = {name: layer.config.to_dict() for name, layer in layers.items() if layer.config}
    info = {"dgl_lowbit": __version__, "model": type(model).__name__, "layers": bits}
    if recorder.float_parts:
        info["float32"] = recorder.float_parts
    return PackedModel(plan, info)


class ByType(nn.Module):
    """A HeteroGraphConv by itself."""

    def __init__(self, convolution):
        super().__init__()
        self.convolution = convolution

    def forward(self, g, inputs):
        return self.convolution(g, inputs)


class Stages(nn.Module):
    """Modules called one after another, each with the graph if its forward takes one."""

    def __init__(self, stages):
        super().__init__()
        self.stages = nn.ModuleList(stages)

    def forward(self, graph, feat):
        h = feat
        for stage in self.stages:
            names = inspect.signature(stage.forward).parameters
            h = stage(graph, h) if next(iter(names), None) in ("graph", "g") else stage(h)
        return h


def _freeze_layers(model, layers, reason):
    packed, failed = {}, {"forward": reason}
    for name, layer in layers.items():
        try:
            packed[name] = freeze(layer)
        except FreezeError as error:
            failed[name] = str(error).replace("the model (", f"{name} (", 1)
    if not packed:
        raise FreezeError(f"no layer of the model can be frozen: {reason}")
    return PartlyPacked(model, packed, failed)


def _refuse_hooks(model):
    for name, module in model.named_modules():
        hooks = [*module._forward_hooks.values(), *module._forward_pre_hooks.values()]
        # A smoothness bound's step is part of the plan.
        if any(hook is not module._modules.get("smoothness") for hook in hooks):
            raise FreezeError(
                f"{name or 'the model'} ({type(module).__name__}) has forward hooks, which a packed model does not "
                "run; remove them before freezing."
            )


def _refuse_choices(recorder, model, types):
    """A trace with an argument given hides what ``forward`` does where it is None: both must compute the same."""
    optional = [entry for entry in recorder.inputs if entry["optional"]]
    for entry in optional:
        without = Recorder(walk_inside)
        Walk(without, model, absent=entry["name"], types=types)
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
        name: recorder.input(name, layer.arguments[name].value, parameter.default is None)
        for name, parameter in signature.parameters.items()
        if layer.arguments[name] is not Role.CHOICE
    }
    return recorder.layer("", layer, signature.bind(**values))
