"""Gradual pruning of input columns, channels and edges while a model is trained."""

from __future__ import annotations

import copy
import math

import dgl
import torch
from torch import nn

from ..quant.evaluation import evaluating, forget
from ..quant.reconstruction import tensors_of
from .columns import SelectedColumns
from .gates import Gate, detach
from .given import check, features_of, small_example
from .graphs import EdgeGate
from .importance import fisher_scores, random_scores
from .layers import dead_parts, narrow
from .ties import FEATURES, Ties


class Pruner:
    r"""Prunes a float model while it is trained: columns of its features, hidden channels, edges of its graph.

    The way of CGP (arXiv:2207.08629): from epoch ``start`` on, every few epochs, what matters least is switched off,
    until at ``stop`` a share s has left, s (1 − (1 − t)³) of it after a part t of the time. Each time a further part of
    what is alive, ``regrow`` and falling to 0 by a cosine, may change places with what was switched off before, whose
    weights are kept as they were. :meth:`squeeze` then cuts out what is left: a smaller model of the same classes, that
    is quantised, trained, frozen and run as any other.

    What matters is told by Fisher information, the expected square of what the log-likelihood changes with a gate
    before it, summed over nodes,

    .. math:: s_c = \sum_n \mathrm{E}_{y \sim p} (x_{nc} \frac{\partial \log p(y)}{\partial x_{nc}})^2,

    with labels y drawn from the model's own predictions: to second order twice the KL divergence between what it
    predicts with and without, node by node. It needs no labels, and no scores that start at random. An edge's gate is
    its weight. Channels are judged on the edges that are alive; edges, dead ones as well, on the whole graph, in which
    dead ones weigh 0: to judge living ones among themselves kept worse ones (Amazon Computers, half of the edges).

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
        check(model, self.shares, start, stop, every, regrow, criterion)
        self.model, self.graph_whole = model, graph
        self.start, self.stop, self.every, self.regrow = start, stop, every, regrow
        self.criterion, self.seed = criterion, seed
        self._held, self._held_of = [], None  # weights of dead channels, and of which masks
        self._example = graph, features_of(graph, feat)
        self.gates: dict[str, Gate] = {}
        self.ties, self._spaces, self.edges = None, {}, None
        try:
            self._attach(features, channels, edges)
        except BaseException:
            self.detach()
            raise

    def _attach(self, features, channels, edges):
        is_narrowed = features is not None or channels is not None
        example = small_example(*self._example) if is_narrowed else ()
        if is_narrowed:
            self.ties = Ties(self.model, *example)
            self._spaces = self._to_prune(features, channels)
        if edges is not None:
            self.edges = EdgeGate(self.model, self.graph_whole, edges)
        if not is_narrowed:
            return
        pruned = torch.cat(list(self._spaces.values()))
        for name, (layer, known) in self.ties.layers.items():
            # A norm goes on with what dead channels would be, or its statistics were of zeros when one comes back.
            if not known.channelwise and torch.isin(self.ties.ins[name], pruned).any():
                self.gates[name] = Gate(known.features, known.columns)
                self.gates[name].attach(layer)
        self._try(*example)

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
            whole, small = self._copy(), self.squeeze()
            with evaluating(whole):
                gated = whole(graph, feat)
            with evaluating(small):
                cut = small(graph, feat)
            pairs = zip(tensors_of(gated), tensors_of(cut))
            is_same = all(torch.allclose(a, b, rtol=1e-3, atol=1e-4 * (1 + float(a.abs().max()))) for a, b in pairs)
            reason = "it computes something else without some of its channels"
        except Exception as error:  # of the model's code, which may be any
            is_same, reason = False, f"without some of its channels it raises {type(error).__name__}: {error}"
        self._set(torch.empty(0, dtype=torch.long))
        if not is_same:
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
        part = (epoch - self.start) / (self.stop - self.start) if self.stop > self.start else 1.0
        done = 1 - (1 - part) ** 3
        swapped = self.regrow * 0.5 * (1 + math.cos(math.pi * part))
        scores, of_edges = self._scores(epoch, example or self._example)
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
            return random_scores(count, self.edges, torch.Generator().manual_seed(self.seed))
        drawn = torch.Generator().manual_seed(self.seed * 100_003 + epoch)
        groups = {name: (gate, self.ties.ins[name]) for name, gate in self.gates.items()}
        return fisher_scores(self.model, example, groups, self.edges, count, drawn)

    def loss(self) -> float:
        """Nothing is added to the loss; what the weights of dead channels are is remembered."""
        # Masks are set here, and where a state is loaded, with other weights.
        masks = [(gate.mask, gate.mask._version) for gate in self.gates.values()]
        if not _are_same(masks, self._held_of):
            dead = self._dead()
            self._held, self._held_of = [], masks
            for name, (layer, known) in self.ties.layers.items() if self.ties else ():
                parts = [torch.isin(table[name], dead).nonzero().flatten() for table in (self.ties.ins, self.ties.outs)]
                for parameter, dim, places in dead_parts(layer, known, *parts):
                    places = places.to(parameter.device)
                    self._held.append((parameter, dim, places, parameter.detach().index_select(dim, places)))
        return 0.0

    @torch.no_grad()
    def step(self) -> None:
        """After a step of the optimiser: weights of dead channels, which decay would shrink, are as they were."""
        for parameter, dim, places, values in self._held:
            parameter.index_copy_(dim, places, values)

    # -- after it ---------------------------------------------------------------------------------------
    def squeeze(self) -> nn.Module:
        """A copy of the model without what is dead, and without gates; the model itself stays as it is.

        Where columns of the features left, it has a child ``columns``, a :class:`SelectedColumns`, and takes features
        whole or with the columns it reads. Edges that left are not part of it: it is called with :attr:`graph`.
        """
        small, dead = self._copy(), self._dead()
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

    def _copy(self):
        """The model with its gates, which keeps nothing that it has computed."""
        shared = {} if self.edges is None else {id(graph): graph for graph in (self.edges.graph, self.edges.kept)}
        copied = copy.deepcopy(self.model, shared)
        forget(copied)
        return copied

    def detach(self) -> None:
        """Take the gates off the model, which then is as wide as before."""
        _strip(self.model)
        self.gates, self.edges, self._spaces = {}, None, {}


def _strip(model):
    for module in model.modules():
        detach(module, "gate")
    detach(model, "edges")


def _are_same(masks, others):
    return others is not None and all(a is b and m == n for (a, m), (b, n) in zip(masks, others))


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
