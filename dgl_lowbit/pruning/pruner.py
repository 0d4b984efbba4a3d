"""Gradual pruning of input columns, channels and edges while a model is trained."""

from __future__ import annotations

import copy
import math

import dgl
import torch
import torch.nn.functional as F
from torch import nn

from ..quant.evaluation import evaluating
from .columns import SelectedColumns
from .gates import Gate, detach
from .graphs import EdgeGate
from .layers import dead_parts, layers_of, narrow
from .ties import FEATURES, Ties

CRITERIA = ("fisher", "random")
# Nodes of the graph on which it is tried which channels are tied; labels drawn for a score.
_TRIED_NODES, _DRAWN = 256, 4


class Pruner:
    r"""Prunes a float model while it is trained: columns of its features, hidden channels, edges of its graph.

    The way of CGP (arXiv:2207.08629): from epoch ``start`` on, every few epochs, what matters least is switched off,
    until at ``stop`` a share s has left, s (1 − (1 − t)³) of it after a part t of the time. Each time a further part of
    what is alive, ``regrow`` and falling to 0 by a cosine, may change places with what was switched off before, whose
    weights are kept as they were. :meth:`squeeze` then cuts out what is left: a smaller model of the same classes, that
    is quantised, trained, frozen and run as any other.

    What matters is told by Fisher information, the expected square of what the log-likelihood changes with a gate
    before it, summed over nodes,

    .. math:: s_c = \sum_n \mathrm{E}_{y \sim p} \Big(x_{nc} \frac{\partial \log p(y)}{\partial x_{nc}}\Big)^2,

    with labels y drawn from the model's own predictions: twice what the predictions' KL divergence changes by, to second
    order, without labels and without scores that start at random. Of an edge the gate is its weight.

    Which channels are tied is found by trying: with residuals, concatenations (``JumpingKnowledge``) and batch norms
    between them, channels that are read together leave together, those of ``GATConv`` as whole heads. Channels that the
    model returns, that come mixed (``LayerNorm``) or that a layer reads which cannot be cut stay. Gates stand before
    what reads a channel, so that a squeezed model computes what the gated one does.

    Gates are children of the layers they stand before, so that their state is part of the model's ``state_dict``.

    Parameters
    ----------
    model : torch.nn.Module
        Float, called as ``model(graph, feat)``; gates are attached to it.
    graph : DGLGraph
        Of one edge type, with ``ndata["feat"]`` (N, D) unless ``feat`` is given.
    feat : torch.Tensor, optional
        (N, D) float.
    features, channels, edges : float, optional
        The share that is to leave, above 0 and below 1, of the columns of the features, of the channels of each hidden
        layer (of layers that are tied, together), of the edges. Loops stay, as does one in-edge of every node. Default:
        None, all stay. Edges are those of this graph: on others, see :class:`OtherGraphWarning`.
    start, stop, every : int
        Epochs at which pruning starts and ends, and between two of its steps.
    regrow : float
        The largest part of what is alive that may change places in a step.
    criterion : {"fisher", "random"}
        What matters: random pruning is what others are to be held against.
    seed : int
        Of drawn labels and of random pruning.

    Raises
    ------
    ValueError
        When nothing is to be pruned or can be; for shares and epochs that are none; when the model is low-bit
        already, has a pruner, or does not compute the same once it is cut, as one whose code has widths built in.

    Notes
    -----
    Zeros scattered over weights of 2 bits would save neither bytes nor time; weights are not pruned one by one.

    Examples
    --------
    >>> import dgl.nn
    >>> from dgl_lowbit.experiments.data import load_graph
    >>> graph = dgl.add_self_loop(load_graph("planted", 0))
    >>> model = nn.Sequential(nn.Linear(graph.ndata["feat"].shape[1], 8), nn.ReLU(), nn.Linear(8, 4))
    >>> class Net(nn.Module):
    ...     def __init__(self): super().__init__(); self.body = model
    ...     def forward(self, graph, feat): return self.body(feat)
    >>> pruner = Pruner(Net(), graph, channels=0.5, start=0, stop=2, every=1)
    >>> for epoch in range(3): pruner.advance(epoch)
    >>> [tuple(layer.weight.shape) for layer in pruner.squeeze().body if isinstance(layer, nn.Linear)][1]
    (4, 4)
    """

    def __init__(
        self, model, graph, *, feat=None, features=None, channels=None, edges=None,
        start=10, stop=100, every=10, regrow=0.1, criterion="fisher", seed=0,
    ):  # fmt: skip
        self.shares = {"features": features, "channels": channels, "edges": edges}
        _check(model, self.shares, start, stop, every, regrow, criterion)
        self.model, self.graph_whole = model, graph
        self.start, self.stop, self.every, self.regrow = start, stop, every, regrow
        self.criterion, self.seed, self._held = criterion, seed, None
        feat = _features(graph, feat)
        self.gates: dict[str, Gate] = {}
        self.edges = None if edges is None else EdgeGate(model, graph, edges)
        if features is not None or channels is not None:
            self.ties = Ties(model, *_small(graph, feat))
            self._spaces = self._to_prune(features, channels)
            pruned = torch.cat(list(self._spaces.values()))
            for name, (layer, known) in self.ties.layers.items():
                if torch.isin(self.ties.ins[name], pruned).any():
                    self.gates[name] = Gate(known.features, known.columns)
                    self.gates[name].attach(layer)
            self._try(*_small(graph, feat))
        else:
            self.ties, self._spaces = None, {}

    def _to_prune(self, features, channels):
        ties, spaces = self.ties, {}
        if features is not None:
            if FEATURES not in ties.spaces:
                raise ValueError(
                    f"columns of the features cannot leave: {ties.reasons.get(FEATURES, 'no layer reads')}."
                )
            spaces[FEATURES] = ties.spaces[FEATURES]
        if channels is not None:
            spaces.update({name: groups for name, groups in ties.spaces.items() if name != FEATURES})
            if not set(spaces) - {FEATURES}:
                reasons = [f"of {name} {reason}" for name, reason in ties.reasons.items() if name != FEATURES]
                raise ValueError(f"no channels can leave: {'; '.join(reasons) or 'no layer reads what another makes'}.")
        return spaces

    @torch.no_grad()
    def _try(self, graph, feat):
        """Whether the model, cut, computes what it does with gates."""
        dead = torch.cat([groups[::2] for groups in self._spaces.values() if len(groups) > 1] or [torch.empty(0)])
        self._set(dead.long())
        try:
            with evaluating(self.model):
                gated = self.model(graph, feat)
            small = self.squeeze()
            with evaluating(small):
                cut = small(graph, feat)
            is_same = torch.allclose(gated, cut, rtol=1e-3, atol=1e-4 * (1 + float(gated.abs().max())))
            reason = "it computes something else without some of its channels"
        except (RuntimeError, dgl.DGLError, ValueError, IndexError) as error:
            is_same, reason = False, f"without some of its channels it raises {error}"
        self._set(torch.empty(0, dtype=torch.long))
        if not is_same:
            self.detach()
            raise ValueError(
                f"{type(self.model).__name__} has widths built into its own code or parameters: {reason}. Take them "
                "from shapes, or leave channels=None."
            )

    # -- what is alive ----------------------------------------------------------------------------------
    def _dead(self):
        """Groups that are switched off, ascending."""
        dead = [self.ties.ins[name][gate.mask.cpu() == 0] for name, gate in self.gates.items()]
        return torch.cat(dead).unique() if dead else torch.empty(0, dtype=torch.long)

    def _set(self, dead):
        for name, gate in self.gates.items():
            gate.mask.copy_((~torch.isin(self.ties.ins[name], dead)).float())
        self._held = None

    @property
    def graph(self) -> dgl.DGLGraph:
        """The graph that a squeezed model is trained on and run with: of edges that are alive, with all nodes' data."""
        return self.graph_whole if self.edges is None else self.edges.kept

    def pruned(self, graph: dgl.DGLGraph) -> dgl.DGLGraph:
        """``graph`` without the edges that left; another than was learned on as it is, with an OtherGraphWarning."""
        return graph if self.edges is None else self.edges.of(graph)

    def report(self) -> list[dict]:
        """A row for each kind that is pruned: ``of`` "features", names of layers or "edges", ``alive``, ``total``."""
        dead, rows = self._dead(), []
        for name, groups in self._spaces.items():
            rows.append({"of": name, "alive": int((~torch.isin(groups, dead)).sum()), "total": len(groups)})
        if self.edges is not None:
            rows.append({"of": "edges", "alive": int(self.edges.mask.sum()), "total": len(self.edges.mask)})
        return rows

    def settings(self) -> dict:
        """What it was made with, in plain values."""
        names = ("start", "stop", "every", "regrow", "criterion", "seed")
        return {**self.shares, **{name: getattr(self, name) for name in names}}

    # -- in training ------------------------------------------------------------------------------------
    def is_done(self, epoch: int) -> bool:
        """Whether after so many epochs, the first counting 0, everything has left that is to."""
        return epoch >= self.stop

    def advance(self, epoch: int, *example) -> None:
        """Before an epoch: switch off, and on again, what is due then.

        Parameters
        ----------
        epoch : int
            From 0 on.
        *example
            What the model is called with. Default: the graph and its features.

        Raises
        ------
        ValueError
            When the model returns something else than logits, (N, classes).
        """
        is_due = self.start <= epoch <= self.stop and ((epoch - self.start) % self.every == 0 or epoch == self.stop)
        if not is_due:
            return
        part = (epoch - self.start) / max(self.stop - self.start, 1)
        done = 1 - (1 - part) ** 3
        swapped = self.regrow * 0.5 * (1 + math.cos(math.pi * part))
        scores, of_edges = self._scores(epoch, example or (self.graph_whole, self.graph_whole.ndata["feat"]))
        before, dead = self._dead(), []
        for name, groups in self._spaces.items():
            share = self.shares[FEATURES if name == FEATURES else "channels"]
            was = ~torch.isin(groups, before)
            alive = _chosen(scores[groups], was, len(groups) - round(share * done * len(groups)), swapped)
            dead.append(groups[~alive])
        self._set(torch.cat(dead) if dead else torch.empty(0, dtype=torch.long))
        if self.edges is not None:
            mask, of_edges = self.edges.mask, self.edges.protected(of_edges)
            total = len(mask) - round(self.shares["edges"] * done * len(mask))
            mask.copy_(_chosen(of_edges, mask.clone(), max(total, self.edges.least), swapped))

    def _scores(self, epoch, example):
        """What groups, and edges, matter; the same for the same state and epoch."""
        count = len(self.ties.fixed) if self.ties else 0
        if self.criterion == "random":
            drawn = torch.Generator().manual_seed(self.seed)
            of_groups = torch.rand(count, generator=drawn)
            if self.edges is None:
                return of_groups, None
            return of_groups, torch.rand(len(self.edges.mask), generator=drawn).to(self.edges.mask.device)
        drawn = torch.Generator().manual_seed(self.seed * 100_003 + epoch)
        hooks = self.edges.watch() if self.edges is not None else []
        for gate in self.gates.values():
            gate.watched = []
        try:
            with evaluating(self.model), torch.enable_grad():
                logits = self.model(*example)
            return self._fisher(logits, drawn, count)
        finally:
            for hook in hooks:
                hook.remove()
            for gate in [*self.gates.values(), *([self.edges] if self.edges is not None else [])]:
                gate.watched = None

    def _fisher(self, logits, drawn, count):
        if not isinstance(logits, torch.Tensor) or logits.dim() != 2:
            raise ValueError(
                "what matters is told by predictions: the model must return logits, (N, classes); "
                "or use criterion='random'."
            )
        passed = [(name, gate, *one) for name, gate in self.gates.items() for one in gate.watched]
        weights = self.edges.watched if self.edges is not None else []
        tensors = [out for _, _, _, out, _ in passed] + list(weights)
        scores = torch.zeros(count)
        of_edges = torch.zeros(len(self.edges.mask), device=logits.device) if self.edges is not None else None
        for turn in range(_DRAWN):
            labels = torch.multinomial(logits.detach().softmax(1).cpu(), 1, generator=drawn).flatten()
            loss = F.cross_entropy(logits, labels.to(logits.device), reduction="sum")
            gradients = torch.autograd.grad(loss, tensors, retain_graph=turn + 1 < _DRAWN, allow_unused=True)
            for (name, gate, x, _, columns), gradient in zip(passed, gradients):
                if gradient is not None:
                    scores.index_add_(0, self.ties.ins[name], gate.shares(x, gradient, columns).cpu())
            for gradient in gradients[len(passed) :]:
                if gradient is not None:
                    of_edges += gradient**2
        return scores, of_edges

    def loss(self) -> float:
        """Nothing is added to the loss; what the weights of dead channels are is remembered."""
        if self._held is None:
            dead = self._dead()
            self._held = []
            for name, (layer, known) in self.ties.layers.items() if self.ties else ():
                parts = [torch.isin(table[name], dead).nonzero().flatten() for table in (self.ties.ins, self.ties.outs)]
                for parameter, dim, places in dead_parts(layer, known, *parts):
                    places = places.to(parameter.device)
                    self._held.append((parameter, dim, places, parameter.detach().index_select(dim, places)))
        return 0.0

    @torch.no_grad()
    def step(self) -> None:
        """After a step of the optimiser: weights of dead channels, which decay would shrink, are as they were."""
        for parameter, dim, places, values in self._held or ():
            parameter.index_copy_(dim, places, values)

    # -- after it ---------------------------------------------------------------------------------------
    def squeeze(self) -> nn.Module:
        """A copy of the model without what is dead, and without gates; the model itself stays as it is.

        Where columns of the features left, it has a child ``columns``, a :class:`SelectedColumns`, and takes features
        whole or with the columns it reads. Edges that left are not part of it: it is called with :attr:`graph`.
        """
        small, dead = copy.deepcopy(self.model), self._dead()
        _strip(small)
        for name, (_, known) in self.ties.layers.items() if self.ties else ():
            kept = [(~torch.isin(table[name], dead)).nonzero().flatten() for table in (self.ties.ins, self.ties.outs)]
            narrow(small.get_submodule(name), known, *kept)
        if FEATURES in self._spaces:
            group = self.ties.outs[FEATURES]
            index = (~torch.isin(group, dead)).nonzero().flatten()
            if len(index) < len(group):
                device = next(small.parameters()).device
                SelectedColumns(index.to(device), len(group)).attach(small)
        return small

    def detach(self) -> None:
        """Take the gates off the model, which then is as wide as before."""
        _strip(self.model)
        self.gates, self.edges, self._spaces = {}, None, {}


def _strip(model):
    for module in model.modules():
        detach(module, "gate")
    detach(model, "edges")


def _chosen(scores, alive, count, swapped):
    """Which are alive next: of those that are, the ``count`` that score highest, but for a part that may change."""
    count = max(min(count, int(alive.sum())), 1)
    places = torch.where(alive, scores, -math.inf).argsort(descending=True, stable=True)[:count]
    exchanged = min(round(swapped * count), int((~alive).sum()))
    held = places[: count - exchanged]
    rest = scores.clone()
    rest[held] = -math.inf
    chosen = torch.zeros_like(alive)
    chosen[held] = True
    chosen[rest.argsort(descending=True, stable=True)[:exchanged]] = True
    return chosen


def _features(graph, feat):
    if not isinstance(graph, dgl.DGLGraph) or len(graph.canonical_etypes) != 1:
        raise ValueError("Pruner takes a DGLGraph of one edge type.")
    feat = graph.ndata.get("feat") if feat is None else feat
    if not isinstance(feat, torch.Tensor) or feat.dim() != 2 or not feat.is_floating_point():
        raise ValueError('the graph needs features, (N, D) floats, as ndata["feat"]; or pass them as feat=.')
    return feat


def _small(graph, feat):
    """Some nodes of a graph, and of features numbers that are all different."""
    count = min(graph.num_nodes(), _TRIED_NODES)
    part = dgl.add_self_loop(dgl.remove_self_loop(dgl.node_subgraph(graph, torch.arange(count, device=graph.device))))
    drawn = torch.Generator().manual_seed(0)
    return part, torch.rand(count, feat.shape[1], generator=drawn).to(feat)


def _check(model, shares, start, stop, every, regrow, criterion):
    if not isinstance(model, nn.Module):
        raise ValueError(f"Pruner takes a torch.nn.Module, got {type(model).__name__}.")
    given = {name: share for name, share in shares.items() if share is not None}
    if not given:
        raise ValueError("nothing is to be pruned; give features=, channels= or edges=, the shares that leave.")
    for name, share in given.items():
        if isinstance(share, bool) or not isinstance(share, (int, float)) or not 0 < share < 1:
            raise ValueError(f"{name} is the share that leaves, above 0 and below 1, got {share!r}.")
    for name, number, least in (("start", start, 0), ("stop", stop, start), ("every", every, 1)):
        if isinstance(number, bool) or not isinstance(number, int) or number < least:
            raise ValueError(f"{name} must be a whole number, at least {least}, got {number!r}.")
    if not 0 <= regrow < 1:
        raise ValueError(f"regrow is a share, from 0 to below 1, got {regrow!r}.")
    if criterion not in CRITERIA:
        raise ValueError(f"criterion must be one of {', '.join(CRITERIA)}, got {criterion!r}.")
    names = {name for name, module in model.named_modules() if isinstance(module, (Gate, EdgeGate))}
    if names:
        raise ValueError("the model has a pruner already; squeeze it, or detach that.")
    if any(getattr(module, "is_low_bit", False) for module in model.modules()):
        raise ValueError("the model is low-bit already; prune the float model, squeeze it, then quantize it.")
    next(layers_of(model), None)
