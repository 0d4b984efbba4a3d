"""A bound on what one layer changes of the similarity of neighbours, and how it acts."""

from __future__ import annotations

from typing import Any, NamedTuple

import dgl
import torch

from ..quant.recompute import Remembered, is_recomputing
from ..quant.state import OptionalState
from .energy import collapse_gauge, dirichlet_energy
from .multiplier import DifferentialMultiplier

# Keeps the bound of features without any energy positive.
_TINY = 1e-12
ACTS = ("step", "projection", "fixed", "loss", "gradient")


class Relation(NamedTuple):
    """Edges of one type, with features of their ends before a layer and after it: tensors, or pairs of them."""

    graph: Any
    before: Any
    after: Any

    def change(self):
        """What the layer changed, in the same form."""
        if isinstance(self.after, tuple):
            return tuple(after - before for after, before in zip(self.after, self.before))
        return self.after - self.before


class SmoothnessControl(OptionalState):
    r"""Bounds tr(ΔᵀLΔ) of one layer, Δ = F_k − F_{k−1} (arXiv:2308.14949), by a multiplier λ.

    The bound is α|E|, or with ``relative`` α tr(FᵀLF) of the layer's input. λ acts in one of these ways:

    - ``"step"``: the layer returns :math:`F + (\hat F - F) / (1 + \lambda)`, where F̂ is what it computed. λ ascends in
      every forward in training mode, and is a constant at inference.
    - ``"projection"``: the same step with the least λ that holds the bound, found in every forward in training mode.
    - ``"fixed"``: the same step with λ as it starts, for comparison.
    - ``"loss"``: the layer is left as it is; :attr:`penalty` is to be added to the loss, and :meth:`ascend` called.
    - ``"gradient"``: the layer itself descends on the bound, see :class:`dgl_lowbit.nn.SMPConv`; λ ascends as in step.

    Parameters
    ----------
    threshold : float
        α > 0.
    relative : bool
        Whether α multiplies the energy of the layer's input instead of the number of edges.
    acts : {"step", "projection", "fixed", "loss", "gradient"}
    lr, damping, initial, maximum
        Of the :class:`DifferentialMultiplier`.
    relations : list of str
        Names of the edge types with a bound each. Default: one.

    Attributes
    ----------
    multiplier : DifferentialMultiplier
    value, bound, energy, gauge : torch.Tensor
        What was last measured: tr(ΔᵀLΔ), its bound, tr(FᵀLF) and :func:`collapse_gauge` of the output; float32, one
        entry a relation, saved with the state.

    Raises
    ------
    ValueError
        For a threshold that is not positive, or an unknown way to act.
    """

    value: torch.Tensor
    bound: torch.Tensor
    energy: torch.Tensor
    gauge: torch.Tensor

    def __init__(
        self,
        threshold,
        relative=False,
        acts="step",
        lr=0.1,
        damping=0.0,
        initial=1e-3,
        maximum=1000.0,
        relations=("edges",),
    ):
        super().__init__()
        if not threshold > 0:
            raise ValueError(f"threshold must be positive, got {threshold!r}.")
        if acts not in ACTS:
            raise ValueError(f"acts must be one of {', '.join(ACTS)}, got {acts!r}.")
        self.threshold, self.relative, self.acts, self.relations = float(threshold), relative, acts, list(relations)
        count = len(self.relations)
        self.multiplier = DifferentialMultiplier(
            lr, initial, maximum, damping=damping, proportional=acts == "step", count=count
        )
        for name in ("value", "bound", "energy", "gauge"):
            self.register_buffer(name, torch.zeros(count))
        if acts == "projection":  # what holds the bound of every process
            self.multiplier.merged = {"multiplier": "max"}
        self.watching = None  # "measure" or "settle": what an evaluation pass is for
        self._penalty = None
        self._remembered = Remembered()  # forces of the latest forwards in training

    @property
    def in_forward(self) -> bool:
        """Whether the layer returns a step towards what it computed."""
        return self.acts in ("step", "projection", "fixed")

    @property
    def penalty(self):
        """λ g + (c/2) g² of the last forward, differentiable; None where nothing was bounded or it acts elsewhere."""
        return self._penalty

    # -- the step ---------------------------------------------------------------------------------------
    @property
    def step_size(self) -> float:
        """1 / (1 + Σ λ) over the relations; 1 where the control does not act in the forward."""
        return self._step_under(self.multiplier.force.sum().item())

    def _step_under(self, force):
        return 1 / (1 + force) if self.in_forward else 1.0

    def force_on(self, before: torch.Tensor) -> float:
        """Σ λ as a forward from ``before`` meets it: the first forward's, where checkpointing computes it again."""
        first = self._remembered.of(before) if is_recomputing() else None
        return self.multiplier.force.sum().item() if first is None else first

    def step_towards(self, graph, before, target) -> float:
        """The step a layer is to take from ``before`` to ``target`` on a homogeneous graph, after watching it."""
        return self.watch({0: Relation(graph, before, target)}) if self.is_watching else self.step_size

    # -- measuring --------------------------------------------------------------------------------------
    @property
    def is_watching(self) -> bool:
        """Whether forwards are measured: in training, and in passes made to measure."""
        return self.training or self.watching is not None

    def watch(self, relations: dict[int, Relation]) -> float:
        """Measure a forward whose relations, by number, have as ``after`` what the layer computed; returns its step.

        In training mode the multipliers ascend for the next forward (or the penalty is made), and least ones are set
        for this one where they project, as they are when settling.
        """
        if not relations:
            return self.step_size
        start = next(iter(relations.values())).before
        start = start[0] if isinstance(start, tuple) else start
        if is_recomputing() and self.acts != "loss":
            return self._step_under(self.force_on(start))
        values = {}
        with torch.set_grad_enabled(self.acts == "loss" and self.training and torch.is_grad_enabled()):
            for number, relation in relations.items():
                values[number] = dirichlet_energy(relation.graph, relation.change())
        step = self._measure(start, relations, {number: value.detach() for number, value in values.items()})
        if self.acts == "loss" and self.training:
            gap = {n: value / self.bound[n] - 1 for n, value in values.items()}
            multiplier, damping = self.multiplier.multiplier, self.multiplier.damping
            self._penalty = sum(
                multiplier[n] * g + 0.5 * damping * g.clamp(0, self.multiplier.largest_step) ** 2
                for n, g in gap.items()
            )
        return step

    @torch.no_grad()
    def _measure(self, start, relations, values):
        numbers = list(relations)
        for number, relation in relations.items():
            energy = dirichlet_energy(relation.graph, relation.before)
            scale = energy if self.relative else relation.graph.num_edges()
            self.energy[number] = energy
            self.bound[number] = max(float(self.threshold * scale), _TINY)
            after = relation.after[1] if isinstance(relation.after, tuple) else relation.after
            self.gauge[number] = collapse_gauge(relation.graph, after)
        whole = torch.stack([values[n] for n in numbers]).to(self.value)
        if self.watching == "settle" or (self.acts == "projection" and self.training):
            self._project((whole / self.bound[numbers]).sqrt() - 1, numbers)
        force = self.multiplier.force.sum().item()
        self._remembered.add(start, force)
        step = self._step_under(force)
        self.value.copy_(self.bound)  # relations without edges here leave their multipliers alone
        self.value[numbers] = whole * step**2  # tr(ΔᵀLΔ) of a step s along Δ is s² of the whole
        if self.training and self.watching is None and self.acts in ("step", "gradient"):
            self.ascend()
        else:
            self.multiplier.violation.copy_(self.value / self.bound.clamp_min(_TINY) - 1)
        return step

    def _project(self, needed, numbers):
        """Set the least multipliers with which all bounds hold: the largest that one of them needs."""
        multiplier = self.multiplier.multiplier.zero_()
        self.multiplier.violation.zero_()  # of the force, what is beyond the multiplier
        place = int(needed.argmax())
        multiplier[numbers[place]] = needed[place].clamp_min(0)

    def ascend(self) -> None:
        """One step of the multipliers on what was measured last."""
        self._penalty = None
        if bool((self.bound > 0).any()):
            self.multiplier.step(self.value, self.bound.clamp_min(_TINY))

    # -- attached to a layer ----------------------------------------------------------------------------
    def forward(self, layer, args, kwargs, output):
        """The forward hook of the layer this is attached to, called as ``layer(graph, feat, …)``.

        Of several heads it bounds what they make side by side, of an output with attention the first part.
        """
        if isinstance(output, tuple):
            return self.forward(layer, args, kwargs, output[0]), *output[1:]
        graph, feat = [*args, *kwargs.values()][:2]
        if isinstance(feat, dgl.DGLGraph):
            graph, feat = feat, graph
        if isinstance(output, dict):
            return self._over_types(graph, feat, output)
        before, shape = _destination(graph, feat), output.shape
        if output.dim() > before.dim() == 2:
            output = output.flatten(1)
        if before.shape != output.shape:
            return output.view(shape)
        step = self.step_size
        if self.is_watching and (graph.is_block or graph.num_src_nodes() == graph.num_dst_nodes()):
            step = self._watch_relations(graph.is_block, {0: (graph, before, before, output, output)})
        mixed = _mix(step, before, output)
        quantizers = getattr(layer, "quantizers", {})
        return (quantizers["states"](mixed).to(mixed.dtype) if "states" in quantizers else mixed).view(shape)

    def _over_types(self, graph, feats, outputs):
        """Of a layer over node types: a bound for each edge type both of whose ends it computes, and one step."""
        befores = {}
        for ntype, output in outputs.items():
            given = feats[1] if isinstance(feats, tuple) else feats
            before = given.get(ntype)
            if before is not None and graph.is_block and not isinstance(feats, tuple):
                before = before[: graph.num_dst_nodes(ntype)]
            if before is not None and before.shape == output.shape:
                befores[ntype] = before
        step = self.step_size
        if self.is_watching:
            relations = {}
            for source, edge, target in graph.canonical_etypes:
                named = [n for n, key in enumerate(self.relations) if key in (edge, str((source, edge, target)))]
                if named and source in befores and target in befores:
                    part, ends = graph[source, edge, target], (befores[source], befores[target])
                    relations[named[0]] = (part, *ends, outputs[source], outputs[target])
            step = self._watch_relations(graph.is_block, relations)
        return {t: _mix(step, befores[t], output) if t in befores else output for t, output in outputs.items()}

    def _watch_relations(self, is_block, relations):
        watched = {}
        for number, (graph, before_src, before_dst, after_src, after_dst) in relations.items():
            if is_block:
                graph = _among_computed(graph, len(before_src))
            if graph.num_edges():
                watched[number] = Relation(graph, (before_src, before_dst), (after_src, after_dst))
        return self.watch(watched)

    def extra_repr(self):
        return f"threshold={self.threshold}, relative={self.relative}, acts={self.acts!r}"


def _mix(step, before, target):
    return target if step == 1 else (1 - step) * before + step * target


def _destination(graph, feat):
    """Features of the nodes a layer computes."""
    if isinstance(feat, tuple):
        return feat[1]
    return feat[: graph.num_dst_nodes()] if graph.is_block else feat


def _among_computed(block, num_sources):
    """The edges of a block whose sources, the first ``num_sources`` of them, are computed too."""
    source, target = block.edges()
    inside = source < num_sources
    nodes = {"source": num_sources, "target": block.num_dst_nodes()}
    ends = source[inside], target[inside]
    return dgl.heterograph({("source", "edge", "target"): ends}, num_nodes_dict=nodes, device=block.device)
