"""Smoothness bounds for the layers of any DGL model."""

from __future__ import annotations

import inspect

import dgl.nn
import torch
from torch import nn

from ..quant.evaluation import evaluating, observing
from .control import SmoothnessControl

_CHILD = "smoothness"


class SmoothnessRegularizer:
    r"""Bounds how much each layer of a DGL model changes the similarity of neighbours (arXiv:2308.14949).

    For every constrained layer k, tr(Δ_kᵀ L Δ_k) ≤ α|E| (or α tr(F_{k−1}ᵀ L F_{k−1})) with Δ_k = F_k − F_{k−1}, and a
    multiplier that is driven by the differential multiplier method. A :class:`SmoothnessControl` is attached to each
    layer as its child ``smoothness`` and as a forward hook; multipliers and what was measured are therefore part of
    the model's ``state_dict``, of copies, of :func:`dgl_lowbit.quantize` and of :func:`dgl_lowbit.freeze`, where λ is a
    constant. Constrained are DGL's layers whose output has the shape of their input; on blocks, the edges among the
    nodes a layer computes; heads count side by side. A ``HeteroGraphConv`` has a bound for each edge type.

    Parameters
    ----------
    model : torch.nn.Module
        Holds layers of ``dgl.nn`` (or low-bit subclasses).
    threshold : float
        α.
    relative : bool
        Whether bounds are relative to the energy of each layer's input.
    acts : {"step", "projection", "loss"}
        How the multipliers act, see :class:`SmoothnessControl`: in the forward (the way that saves deep stacks), or as
        a term of the loss.
    lr : float
        Rate of the multipliers.
    damping : float
        Of the modified differential multiplier method; 0 is the basic one.
    initial, maximum : float
        Where multipliers start and end.
    layers : list of str, optional
        Names of the layers to constrain. Default: every layer of ``dgl.nn`` with ``in_feats == out_feats`` where it
        says, every HeteroGraphConv, and no readouts.

    Raises
    ------
    ValueError
        When the model holds no such layer, a name is unknown or that of a module without a graph, or a layer has a
        bound already or is low-bit.

    Examples
    --------
    >>> import dgl, dgl.nn
    >>> g = dgl.add_self_loop(dgl.graph(([0, 1, 2], [1, 2, 0])))
    >>> model = nn.ModuleList([dgl.nn.GraphConv(4, 4), dgl.nn.GraphConv(4, 2)])
    >>> reg = SmoothnessRegularizer(model, threshold=0.01, acts="loss")
    >>> h = model[1](g, model[0](g, torch.rand(3, 4)))
    >>> loss = h.sum() + reg.loss()
    >>> loss.backward(); reg.step()
    >>> [row["layer"] for row in reg.report()]
    ['0']
    >>> reg.detach(); sorted(name for name, _ in model.named_buffers())
    []
    """

    def __init__(
        self, model, threshold, relative=False, acts="step", lr=0.1, damping=0.0, initial=1e-3, maximum=1000.0,
        layers=None,
    ):  # fmt: skip
        if acts not in ("step", "projection", "loss"):
            raise ValueError(f"acts must be 'step', 'projection' or 'loss', got {acts!r}.")
        self.model = model
        modules = dict(model.named_modules())
        unknown = sorted(set(layers or ()) - set(modules))
        if unknown:
            raise ValueError(f"the model has no layer {', '.join(unknown)}; it has {', '.join(filter(None, modules))}.")
        chosen = _constrainable(modules) if layers is None else list(layers)
        others = [name for name in chosen if len(inspect.signature(modules[name].forward).parameters) < 2]
        if others:
            raise ValueError(f"{', '.join(others)} takes no graph with its features; bound layers of dgl.nn.")
        if not chosen:
            raise ValueError(
                f"{type(model).__name__} holds no layer of dgl.nn with as many output as input features; name the "
                "layers to bound with layers=."
            )
        taken = [name for name in chosen if _CHILD in modules[name]._modules]
        if taken:
            raise ValueError(f"{', '.join(taken)} has a bound already; detach the regulariser that set it.")
        low_bit = [name for name in chosen if getattr(modules[name], "is_low_bit", False)]
        if low_bit:
            raise ValueError(f"{', '.join(low_bit)} is low-bit already; bound the float model, then quantize it.")
        for name in chosen:
            layer = modules[name]
            control = SmoothnessControl(
                threshold, relative, acts, lr, damping, initial, maximum, relations=_relations(layer)
            )
            reference = next(layer.parameters(), torch.empty(0))
            control.to(reference.device).train(layer.training)
            setattr(layer, _CHILD, control)
            layer.register_forward_hook(control, with_kwargs=True)

    @classmethod
    def attached(cls, model: nn.Module) -> SmoothnessRegularizer | None:
        """The regulariser of the bounds that are on ``model``, as after copying or quantising it; None if none are."""
        if not any(isinstance(module, SmoothnessControl) for module in model.modules()):
            return None
        regularizer = cls.__new__(cls)
        regularizer.model = model
        return regularizer

    @property
    def controls(self) -> dict[str, SmoothnessControl]:
        """Controls by the name of their layer, those of :class:`dgl_lowbit.nn.SMPConv` included."""
        named = self.model.named_modules()
        return {name.removesuffix(f".{_CHILD}"): m for name, m in named if isinstance(m, SmoothnessControl)}

    def loss(self) -> torch.Tensor | float:
        """Σ λ g + (c/2) max(0, g)² over the bounds that act in the loss, for the last forward; 0 without any."""
        penalties = [c.penalty for c in self.controls.values() if c.penalty is not None]
        return sum(penalties) if penalties else 0.0

    def step(self) -> None:
        """Ascend the multipliers that act in the loss; those that act in the forward have done so there."""
        for control in self.controls.values():
            if control.acts == "loss" and control.training:
                control.ascend()

    def measure(self, *args, **kwargs) -> list[dict]:
        """Run the model on ``args`` in evaluation mode, multipliers as they are, and return :meth:`report`."""
        return self._watch("measure", args, kwargs)

    def settle(self, *args, **kwargs) -> list[dict]:
        """Set the least multipliers with which every bound holds in evaluation on ``args``; returns :meth:`report`.

        Layer after layer in one pass, as ``calibrate`` sets ranges. For bounds that act in the forward.

        Raises
        ------
        ValueError
            When bounds act in the loss.
        """
        if not all(control.in_forward for control in self.controls.values()):
            raise ValueError("settle sets multipliers that act in the forward; these act in the loss.")
        return self._watch("settle", args, kwargs)

    @torch.no_grad()
    def _watch(self, what, args, kwargs):
        with evaluating(self.model), observing(self.controls.values(), watching=what):
            self.model(*args, **kwargs)
        return self.report()

    def report(self) -> list[dict]:
        """A row for each bound, as last measured: layer, relation, multiplier, slack, step, value, bound, violation
        (value / bound − 1), energy and collapse gauge."""
        rows = []
        for name, control in self.controls.items():
            for n, relation in enumerate(control.relations):
                multiplier = control.multiplier
                rows.append({
                    "layer": name, "relation": relation, "multiplier": multiplier.multiplier[n].item(),
                    "slack": multiplier.slack[n].item(), "step": control.step_size, "value": control.value[n].item(),
                    "bound": control.bound[n].item(), "violation": multiplier.violation[n].item(),
                    "energy": control.energy[n].item(), "gauge": control.gauge[n].item(),
                })  # fmt: skip
        return rows

    def detach(self) -> None:
        """Take the bounds off, leaving the model's layers as they were found."""
        for module in self.model.modules():
            control = module._modules.get(_CHILD)
            if isinstance(control, SmoothnessControl):
                del module._modules[_CHILD]
                for key, hook in list(module._forward_hooks.items()):
                    if hook is control:
                        del module._forward_hooks[key], module._forward_hooks_with_kwargs[key]


def _relations(layer):
    """Names of a layer's edge types: those of a HeteroGraphConv, or one."""
    return list(layer.mods) if isinstance(layer, dgl.nn.HeteroGraphConv) else ["edges"]


def _constrainable(modules):
    chosen = []
    for name, module in modules.items():
        if isinstance(module, dgl.nn.HeteroGraphConv) or (
            not any(name.startswith(f"{other}.mods.") for other in chosen) and _keeps_width(module)
        ):
            chosen.append(name)
    return chosen


def _keeps_width(module):
    is_convolution = any(cls.__module__.startswith("dgl.nn.pytorch.conv.") for cls in type(module).__mro__)
    inputs = getattr(module, "_in_feats", getattr(module, "_in_src_feats", None))
    return is_convolution and inputs == getattr(module, "_out_feats", None)
