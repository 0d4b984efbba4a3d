"""Low-bit model to packed model."""

from __future__ import annotations

import inspect

import dgl
from torch import nn

from numba_kernels import PlanError

from .. import nn as lowbit_nn
from .._version import __version__
from ..config import ARITHMETICS
from ..nn.message_passing import Site
from ..nn.message_passing.last_call import recall
from ..nn.stored import decoded
from ..nn.wrappers import check_model
from ..quant import NotCalibratedError, Quantizer
from ..quant.evaluation import evaluating
from .capture import capture, layer_calls, on_cpu
from .equal import check_equal
from .errors import FreezeError
from .integer import IntegerRecorder, arithmetic_of, computing_in
from .packed import PackedModel
from .partial import PartlyPacked
from .recorder import Recorder
from .translate import Translator, declare_inputs


def freeze(
    model: nn.Module | list, *example, partial: bool = False, arithmetic: str | None = None, **kwargs
) -> PackedModel | PartlyPacked:
    """The packed form of a trained or calibrated low-bit model; one way.

    The model runs once on an example, in evaluation mode, and what it computes is recorded: torch functions, DGL's
    message passing, low-bit layers whole. Everything that Python does in ``forward``, loops, conditions, dicts, frames
    of graphs, simply happens. A second run, on the example taken twice, tells which numbers follow from sizes; the
    packed model then serves graphs of every size, and is compared with the model on that second example.

    Parameters
    ----------
    model : torch.nn.Module or list
        From :func:`dgl_lowbit.quantize`, on any device; it is left as it is. A list stands for a model: its stages,
        modules that are called one after another, with the graph where they take one.
    *example, **kwargs
        What the model is called with: graphs, features and whatever else its ``forward`` takes. Arguments that are
        neither tensors nor graphs keep the example's values. Default: what the model was last called with.
    partial : bool
        Where the model cannot be frozen whole, freeze those of its layers that can be, and leave the rest to torch and
        DGL in float32. Default: refuse it.

    arithmetic : {"float", "integer"}, optional
        What stands between accumulators and the next codes, see :class:`dgl_lowbit.QuantConfig`. Another than the
        model's own serves models that were trained on grids known before the data. Default: the model's.

    Returns
    -------
    PackedModel or PartlyPacked
        Takes the arguments of ``model.forward``, and the graphs that modules keep, by the names of their attributes, as
        far as the model reads them.

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
    if not isinstance(model, nn.Module):
        raise ValueError(f"freeze expects a torch.nn.Module or a list of them, got {type(model).__name__}.")
    check_model(model, "freeze")
    if not _low_bit_layers(model) and not any(isinstance(module, Site) for module in model.modules()):
        raise ValueError("the model holds no low-bit layer; call dgl_lowbit.quantize(model) and calibrate or train.")
    _refuse_hooks(model)
    if arithmetic not in (None, *ARITHMETICS):
        raise ValueError(f"arithmetic must be one of {', '.join(ARITHMETICS)}, got {arithmetic!r}.")
    model, args, kwargs = on_cpu(model, *decoded(_example(model, example, kwargs)))
    layers = _low_bit_layers(model)
    with computing_in(arithmetic, layers):
        try:
            return _freeze_whole(model, layers, args, kwargs)
        except FreezeError as error:
            if not partial:
                raise
            partly = _freeze_layers(model, layers, args, kwargs, str(error))
    partly.warn()
    return partly


def _low_bit_layers(model):
    return {name: m for name, m in model.named_modules() if isinstance(m, lowbit_nn.LowBitLayer) and m.is_low_bit}


def _freeze_whole(model, layers, args, kwargs):
    arithmetic = arithmetic_of(layers)
    try:
        with evaluating(model):
            captured = capture(model, args, kwargs)
            plan, parts = _written(model, captured, IntegerRecorder() if arithmetic == "integer" else Recorder())
    except NotCalibratedError as error:
        raise FreezeError(f"{_uncalibrated(model)}: {error}") from error
    except PlanError as error:
        raise FreezeError(f"{type(model).__name__} cannot be frozen: {error}") from error
    bits = {name: layer.config.to_dict() for name, layer in layers.items() if layer.config}
    info = {"dgl_lowbit": __version__, "model": type(model).__name__, "layers": bits}
    if parts:
        info["float32"] = parts
    if arithmetic == "integer":
        info["arithmetic"] = arithmetic
    packed = PackedModel(plan, info)
    names = {entry["name"] for entry in plan.inputs}
    packed.defaults = {name: graph for name, graph in captured.kept.items() if name in names}
    check_equal(packed, captured)
    return packed


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


def _example(model, args, kwargs):
    """What to run the model on."""
    # A graph alone once said which types there are; what the model is called with says it too.
    call = recall(model.stages[0] if isinstance(model, Stages) else model)
    alone = len(args) + len(kwargs) == 1 and all(isinstance(value, dgl.DGLGraph) for value in (*args, *kwargs.values()))
    if (args or kwargs) and not (alone and (call or len(inspect.signature(model.forward).parameters) > 1)):
        return args, kwargs
    if call is None:
        if uncalibrated_quantizers(model):
            raise FreezeError(
                f"{_uncalibrated(model)}: it has not been calibrated; call dgl_lowbit.calibrate or train it first."
            )
        raise FreezeError(
            f"freeze needs an example of what {type(model).__name__} is called with, as it has not been called, or "
            "with tensors that are gone: freeze(model, graph, feat)."
        )
    return call


def _freeze_layers(model, layers, args, kwargs, reason):
    """Freeze those layers that can be, each on what it is called with when the model runs."""
    with evaluating(model):
        calls = layer_calls(model, args, kwargs)
    packed, failed = {}, {"forward": reason}
    for name, layer in layers.items():
        if any(name.startswith(f"{outer}.") for outer in packed):
            continue
        if name not in calls:
            failed[name] = "it is not called by itself"
            continue
        try:
            own = {inner: part for inner, part in layers.items() if inner == name or inner.startswith(f"{name}.")}
            args, kwargs = calls[name]
            if isinstance(layer, lowbit_nn.Linear):  # of rows, however many dimensions they stand in
                args = tuple(x.reshape(-1, x.shape[-1]) for x in args)
            packed[name] = _freeze_whole(layer, own, args, kwargs)
        except FreezeError as error:
            failed[name] = str(error).replace("the model (", f"{name} (", 1)
    if not packed:
        raise FreezeError(f"no layer of the model can be frozen: {reason}")
    return PartlyPacked(model, packed, failed)


def _written(model, captured, recorder):
    """The plan of what was captured, and what of it runs in float32."""
    translator = Translator(recorder, captured.recording)
    declare_inputs(translator, model, captured.arguments, captured.optional)
    if captured.is_of_one_size or not captured.takes_batches:
        translator.require_sizes(captured.is_of_one_size)
    translator.run()
    return recorder.plan(translator.outputs()), recorder.float_parts


def _refuse_hooks(model):
    for name, module in model.named_modules():
        hooks = [*module._forward_hooks.values(), *module._forward_pre_hooks.values()]
        # A smoothness bound's step is part of the plan, as are the columns that are read.
        known = [module._modules.get(name) for name in ("smoothness", "columns")]
        if not all(any(hook is own for own in known) for hook in hooks):
            raise FreezeError(
                f"{name or 'the model'} ({type(module).__name__}) has forward hooks, which a packed model does not "
                "run; remove them before freezing."
            )


def uncalibrated_quantizers(model: nn.Module) -> list[str]:
    """Names of the quantisers of ``model`` that have no range yet."""
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, Quantizer) and not module.format.is_float and not module.calibrated
    ]


def _uncalibrated(model):
    names = uncalibrated_quantizers(model)
    shown = ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
    return f"{shown or 'a quantiser'} cannot be frozen"
