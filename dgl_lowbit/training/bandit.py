"""A sampler of neighbours that learns which of them a node's sum needs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import dgl
import torch

from ..nn.neighbours import Neighbours, ids_of
from ..nn.watching import watching_sums

# What the logarithm of a weight changes by, at most, in one update.
_MOST = 1.0
# The least weight, of which the mean is 1: what became 0 would never be learned again.
_LEAST = 1e-6
# The column of edges that is drawn by.
_CHANCE = "_chance"


class BanditSampler(dgl.dataloading.BlockSampler):
    r"""Samples in-neighbours with probabilities that it learns from the messages of the last forward.

    For a node i with :math:`D_i` in-neighbours, each with a weight :math:`w_{ij}`, 1 at first, one is drawn with

    .. math:: p_{ij} = (1 - \gamma) \frac{w_{ij}}{\sum_u w_{iu}} + \frac{\gamma}{D_i},

    as many as the fan-out, without replacement; nodes of no more neighbours keep all. After a forward, a neighbour that
    sends :math:`m_j` is worth :math:`r_j = 2\, m_j \cdot \hat z - |m_j|^2`, :math:`\hat z` being the mean of what the
    others send: that is :math:`|\hat z|^2 - |m_j - \hat z|^2`, more the nearer the message is to what it stands for.
    Worth is taken as a part of the mean :math:`|m|^2` of the block, within ±1, less the mean of the node's neighbours,
    and weights become
    :math:`w_{ij} e^{η r_j}`, the exponent within ±1. All are 1 again after every ``reset`` updates, since messages
    change as the model learns.

    Thanos (arXiv:2103.01089) has this reward and the resets of Rexp3. It learns from neighbours that were drawn for the
    node alone; here all of its neighbours are judged whose messages the forward has computed, for whichever node they
    were drawn, and nothing needs to be divided by probabilities.

    The estimate, a mean of sampled messages that is not divided by probabilities either, is biased as theirs is: its
    error is smaller, and it leaves out neighbours whose messages differ from most. Where those are what counts, sample
    uniformly. Messages are the codes that low-bit layers sum (GraphConv, SAGEConv, GINConv and others, without edge
    weights or attention); inference is untouched.

    Parameters
    ----------
    fanouts : sequence of int
        In-neighbours of a node for each layer, the first layer's first.
    gamma : float
        γ, what part of the probability is spread evenly: above 0, up to 1.
    eta : float
        η, the rate of weights, above 0.
    reset : int, optional
        Updates after which weights are 1 again; None: never.
    **prefetch
        As of ``dgl.dataloading.BlockSampler``.

    Raises
    ------
    ValueError
        For other fan-outs, rates or resets.

    Notes
    -----
    Weights and probabilities take 8 bytes an edge and layer. With ``num_workers`` in :func:`dgl_lowbit.train` the
    workers of an epoch sample with the weights it began with. :func:`dgl_lowbit.fit` lets the float stage send codes,
    to be learned from. In a loop of your own::

        with sampler.learning(blocks):
            logits = model(blocks, feat)

    Examples
    --------
    >>> g = dgl.graph(([1, 2, 3, 4], [0, 0, 0, 0]))
    >>> sampler = BanditSampler([4], gamma=0.2)
    >>> _, _, blocks = sampler.sample_blocks(g, torch.tensor([0]))
    >>> sent = torch.tensor([[0.0], [1.0], [1.0], [1.0], [-3.0]])  # by node
    >>> sampler.update(blocks, [sent[blocks[0].srcdata[dgl.NID]]])
    >>> [round(p, 2) for p in sampler.probabilities(g, 0).tolist()]
    [0.26, 0.26, 0.26, 0.21]
    """

    def __init__(
        self, fanouts: Sequence[int], gamma: float = 0.2, eta: float = 1.0, reset: int | None = 2000, **prefetch: Any
    ):
        super().__init__(**prefetch)
        fanouts = [fanouts] if isinstance(fanouts, int) else list(fanouts)
        if not fanouts or not all(isinstance(k, int) and not isinstance(k, bool) and k >= 1 for k in fanouts):
            raise ValueError(f"fanouts are whole numbers from 1 on, one a layer, got {fanouts!r}.")
        if not 0 < gamma <= 1:
            raise ValueError(f"gamma is a part of the probability, above 0 and up to 1, got {gamma!r}.")
        if not 0 < eta < float("inf"):
            raise ValueError(f"eta, the rate of weights, must be above 0, got {eta!r}.")
        if reset is not None and (isinstance(reset, bool) or not isinstance(reset, int) or reset < 1):
            raise ValueError(f"reset is a number of updates from 1 on, or None, got {reset!r}.")
        self.fanouts, self.gamma, self.eta, self.reset = fanouts, float(gamma), float(eta), reset
        self._updates = 0
        self._neighbours: Neighbours | None = None
        self._weights = self._chances = torch.empty(len(fanouts), 0)  # chances: probabilities times degrees

    def sample_blocks(self, g, seed_nodes, exclude_eids=None):
        """Blocks for ``seed_nodes``, as of ``dgl.dataloading.BlockSampler``; each knows the ids of its nodes and edges.

        Raises
        ------
        ValueError
            For a graph of several types, or another than the first.
        """
        self._bind(g)
        nodes, blocks = seed_nodes, []
        for layer in reversed(range(len(self.fanouts))):
            weighted = g.local_var()
            weighted.edata[_CHANCE] = self._chances[layer]
            drawn = weighted.sample_neighbors(nodes, self.fanouts[layer], prob=_CHANCE, exclude_edges=exclude_eids)
            ids = drawn.edata[dgl.EID]
            block = dgl.to_block(drawn, nodes)
            block.edata[dgl.EID] = ids[block.edata[dgl.EID]]
            nodes = block.srcdata[dgl.NID]
            blocks.insert(0, block)
        return nodes, seed_nodes, blocks

    def probabilities(self, graph: dgl.DGLGraph, layer: int) -> torch.Tensor:
        """p of each edge, (E,) float32, of draws for ``layer``, from 0 on."""
        self._bind(graph)
        degrees = graph.in_degrees()[graph.edges(order="eid")[1].long()]
        return self._chances[layer] / degrees.to(self._chances)

    @contextmanager
    def learning(self, blocks: Sequence[dgl.DGLGraph]) -> Iterator[None]:
        """Learn from the forward that is made within, of a low-bit model on ``blocks``.

        Raises
        ------
        ValueError
            When a block is not one over which one layer summed codes.
        """
        with watching_sums() as sums:
            yield
        sent = [[part.sent for part in sums if part.graph is block] for block in blocks]
        if any(len(parts) != 1 for parts in sent):
            raise ValueError(
                f"a BanditSampler learns from one sum of codes over each block, got {[len(parts) for parts in sent]}; "
                "pass a low-bit model of blocks, whose layers sum messages of 8 bits or fewer without edge weights or "
                "attention, or use dgl.dataloading.NeighborSampler."
            )
        self.update(blocks, [part for (part,) in sent])

    def update(self, blocks: Sequence[dgl.DGLGraph], messages: Sequence[torch.Tensor]) -> None:
        """Learn from what the sources of ``blocks`` sent.

        Parameters
        ----------
        blocks : sequence of DGLGraph
            What :meth:`sample_blocks` made, one a layer.
        messages : sequence of torch.Tensor
            For each block what its sources send, (sources, …).

        Raises
        ------
        ValueError
            For another number of blocks or rows, before any graph was sampled, and for messages that are not finite.
        DGLError
            For blocks that do not know the ids of their nodes.
        """
        if self._neighbours is None:
            raise ValueError("nothing was sampled yet; update with blocks of sample_blocks.")
        if len(blocks) != len(self.fanouts) or len(messages) != len(blocks):
            raise ValueError(
                f"expected {len(self.fanouts)} blocks and messages, got {len(blocks)} and {len(messages)}."
            )
        for block, sent in zip(blocks, messages):
            if len(sent) != block.num_src_nodes():
                raise ValueError(f"expected messages of {block.num_src_nodes()} source nodes, got {len(sent)} rows.")
            if not torch.isfinite(sent).all():
                raise ValueError("messages must be finite; look at the features and at lr.")
        for layer, (block, sent) in enumerate(zip(blocks, messages)):
            self._learn(layer, *ids_of(block, "a BanditSampler"), sent.detach().float().flatten(1))
        self._updates += 1
        if self.reset is not None and self._updates % self.reset == 0:
            self._weights.fill_(1)
            self._chances.fill_(1)

    def state_dict(self) -> dict[str, Any]:
        """The weights, (layers, edges), and how many updates made them."""
        return {"weights": self._weights, "updates": self._updates}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what :meth:`state_dict` gave, on the same graph.

        Raises
        ------
        ValueError
            For another number of layers, or of edges than those sampled from.
        """
        weights = state["weights"]
        if weights.dim() != 2 or len(weights) != len(self.fanouts):
            raise ValueError(f"expected weights of {len(self.fanouts)} layers, got shape {tuple(weights.shape)}.")
        if self._neighbours is not None and weights.shape != self._weights.shape:
            raise ValueError(f"the weights are of {weights.shape[1]} edges, the graph has {self._weights.shape[1]}.")
        self._weights, self._updates = weights.to(self._weights.device, copy=True), int(state["updates"])
        self._chances = self._chances_of(self._weights)

    def _bind(self, graph):
        """Know the edges of ``graph``, or that they are as many as those known."""
        if len(graph.etypes) > 1 or len(graph.ntypes) > 1:
            raise ValueError(f"BanditSampler samples graphs of one node and edge type, got {graph.canonical_etypes}.")
        nodes, edges, learned = graph.num_nodes(), graph.num_edges(), self._weights.shape[1]
        known = learned if self._neighbours is None else len(self._neighbours.ids)
        if known not in (0, edges) or (self._neighbours is not None and nodes != self._neighbours.num_nodes):
            raise ValueError(
                f"this BanditSampler learns on a graph of {known} edges, got one of {nodes} nodes and {edges} edges; "
                "make one for each graph."
            )
        if self._neighbours is None:
            self._neighbours = Neighbours(graph)
            if learned != edges:
                self._weights = self._chances = torch.ones(len(self.fanouts), edges)
            self._weights, self._chances = (part.to(graph.device, copy=True) for part in (self._weights, self._chances))

    def _chances_of(self, weights):
        return (1 - self.gamma) * weights + self.gamma

    @torch.no_grad()
    def _learn(self, layer, sources, targets, sent):
        edges = self._neighbours.of(targets)
        met, _ = self._neighbours.split(edges, sources)
        worth = _worth(dgl.create_block((met.other, met.row), len(sources), len(targets)), sent)
        weights = self._weights[layer]
        weights[met.id] *= (self.eta * worth).clamp_(-_MOST, _MOST).exp_()
        sums = weights.new_zeros(len(targets)).index_add_(0, edges.row, weights[edges.id])
        counts = torch.bincount(edges.row, minlength=len(targets))
        of_mean = (counts / sums)[edges.row]  # the mean of a node's is 1
        weights[edges.id] = (weights[edges.id] * of_mean).clamp_min_(_LEAST)
        self._chances[layer, edges.id] = self._chances_of(weights[edges.id])


def _worth(block, sent):
    """How much nearer each edge's message is to the mean of its target's others than they are in the mean, (E,)."""
    numbers = block.in_degrees().float()
    square = sent.square().sum(1, keepdim=True)
    of_edge = dgl.ops.copy_u(block, square)
    others = dgl.ops.copy_v(block, (numbers - 1).clamp_min(1).unsqueeze(1))
    worth = 2 * (dgl.ops.u_dot_v(block, sent, dgl.ops.copy_u_sum(block, sent)) - of_edge) / others - of_edge
    worth = (worth / square.mean().clamp_min(torch.finfo(torch.float32).tiny)).clamp_(-1, 1)
    return (worth - dgl.ops.copy_v(block, dgl.ops.copy_e_mean(block, worth))).flatten()
