"""Smoothness-aware message propagation."""

from __future__ import annotations

import torch
from dgl import DGLError
from torch import nn

from ..smoothness import DifferentialMultiplier, dirichlet_energy
from .base import LowBitLayer, Operand, check_features, check_graph
from .ops import Quantized, TorchOps


class SMPConv(LowBitLayer):
    r"""Smoothness-aware message propagation, K steps without weights (arXiv:2308.14949).

    Descends on ½‖F − h‖² + (λ₁/2) tr(FᵀLF) from F = h, the layer's input, while a multiplier λ_k per step bounds
    how much the similarity of neighbours may change in it:

    .. math::
        \hat F &= (1 - (1 + \lambda_1) \eta) F_{k-1} + \lambda_1 \eta \tilde A F_{k-1} + \eta h \\
        F_k &= \hat F - 2 \eta \lambda_k L (\hat F - F_{k-1})
        \qquad \text{so that}\quad \mathrm{tr}(\Delta_k^T L \Delta_k) \le \alpha |E|,\ \Delta_k = F_k - F_{k-1}

    with :math:`\tilde A = D^{-1/2} A D^{-1/2}` of the graph as given (add self-loops yourself, as for ``GraphConv``)
    and L = I − Ã. The second line is the descent of the Lagrangian on the violated constraint; every eigenvalue
    μ ≤ 2 of L shrinks its part of Δ by |1 − 2ηλ_kμ| ≤ 1 as long as λ_k ≤ 1/(2η), where it is stopped. In each
    training step λ_k grows while step k exceeds the bound and decays while it holds
    (:class:`~dgl_lowbit.smoothness.DifferentialMultiplier`); at inference it is a constant, and where it is 0 the
    correction costs nothing.

    Quantised are the messages. ``"delta"``: neighbours keep a running value of every node, and only its quantised
    change crosses an edge, so that errors do not add up over steps. ``"direct"``: the value itself is sent.

    Parameters
    ----------
    in_feats : int
        Width of the features.
    k : int
        Number of steps. Default: 10.
    eta : float
        Step size η. Default: 0.1.
    lambda1 : float
        Weight of smoothness λ₁. Default: 9, which makes a step 0.9 Ã F + 0.1 h.
    threshold : float, optional
        Bound α on tr(ΔᵀLΔ) per edge. Default: None, no bound.
    multiplier_lr : float
        Rate of the multipliers. Default: 0.01.
    messages : {"delta", "direct"}
        What crosses an edge.
    allow_zero_in_degree : bool
        As in ``dgl.nn.GraphConv``.
    config : QuantConfig, optional
        Components used: messages, outputs. Default: None, float32.

    Attributes
    ----------
    multipliers : torch.nn.ModuleList
        One DifferentialMultiplier a step; empty without a threshold.

    Examples
    --------
    >>> import dgl
    >>> from dgl_lowbit import QuantConfig
    >>> g = dgl.add_self_loop(dgl.graph(([0, 1, 2], [1, 2, 0])))
    >>> SMPConv(7, threshold=0.1, config=QuantConfig(2))(g, torch.rand(3, 7)).shape
    torch.Size([3, 7])
    """

    def __init__(
        self,
        in_feats,
        k=10,
        eta=0.1,
        lambda1=9.0,
        threshold=None,
        multiplier_lr=0.01,
        messages="delta",
        allow_zero_in_degree=False,
        *,
        config=None,
    ):
        nn.Module.__init__(self)
        if not isinstance(k, int) or k < 1:
            raise ValueError(f"k must be a whole number of steps, at least 1, got {k!r}.")
        if not eta > 0 or not lambda1 >= 0:
            raise ValueError(f"eta must be positive and lambda1 not negative, got {eta!r} and {lambda1!r}.")
        if messages not in ("delta", "direct"):
            raise ValueError(f"messages must be 'delta' or 'direct', got {messages!r}.")
        if threshold is not None and not threshold > 0:
            raise ValueError(f"threshold must be positive or None, got {threshold!r}.")
        self.in_feats, self.k, self.eta, self.lambda1 = in_feats, k, eta, lambda1
        self.threshold, self.messages = threshold, messages
        self._allow_zero_in_degree = allow_zero_in_degree
        self.multipliers = nn.ModuleList(
            DifferentialMultiplier(lr=multiplier_lr, maximum=1 / (2 * eta))
            for _ in range(k if threshold is not None else 0)
        )
        self.configure(config)

    def operands(self):
        rounds = [f"messages_{step}" for step in range(self.k)]
        rounds += [f"corrections_{step}" for step in range(len(self.multipliers))]
        operands = {name: Operand("messages", self.in_feats) for name in rounds}
        return {**operands, "outputs": Operand("outputs", self.in_feats)}

    def forward(self, graph, feat):
        """Shapes: feat (N, in_feats) float, output the same. In training mode the multipliers take a step.

        Raises
        ------
        DGLError
            On a block or bipartite graph, zero in-degrees (unless allowed), or features that do not fit.
        """
        if graph.is_block or graph.num_src_nodes() != graph.num_dst_nodes():
            raise DGLError("SMPConv propagates within one set of nodes; pass a homogeneous graph.")
        check_graph(self, graph, self._allow_zero_in_degree)
        check_features(self, feat, self.in_feats, graph.num_nodes())
        return self.compute(TorchOps(), graph, feat)

    def compute(self, ops, graph, feat):
        send = _Channel(ops, graph, self.quantizers if self.is_low_bit else None, self.messages)
        keep, mix = 1 - (1 + self.lambda1) * self.eta, self.lambda1 * self.eta
        h = feat
        for step in range(self.k):
            received = send(h, f"messages_{step}")
            moved = ops.combine((keep, h), (mix, received), (self.eta, feat))
            if self.multipliers and (self.training or self.multipliers[step].multiplier > 0):
                pull = 2 * self.eta * self.multipliers[step].multiplier.item()
                change = send(moved, f"corrections_{step}")
                # F̂ − pull·(Δ − ÃΔ), with Δ = F̂ − F and ÃΔ = ÃF̂ − ÃF
                moved = ops.combine((1 - pull, moved), (pull, h), (pull, change), (-pull, received))
                if self.training:
                    self._ascend(graph, step, moved - h)
            h = moved
        return ops.requantize(self.quantizers["outputs"], h) if self.is_low_bit else h

    @torch.no_grad()
    def _ascend(self, graph, step, change):
        self.multipliers[step].step(dirichlet_energy(graph, change), self.threshold * max(graph.num_edges(), 1))

    def extra_repr(self):
        return (
            f"in_feats={self.in_feats}, k={self.k}, eta={self.eta}, lambda1={self.lambda1}, "
            f"threshold={self.threshold}, messages={self.messages!r}"
        )


class _Channel:
    """Sends node features over the edges, F ↦ Ã F, through quantised messages."""

    def __init__(self, ops, graph, quantizers, messages):
        self.ops, self.graph, self.quantizers = ops, graph, quantizers
        self.keeps_state = messages == "delta" and quantizers is not None
        self.sent = self.received = None

    def __call__(self, h, name):
        ops, graph = self.ops, self.graph
        h = ops.scale_by_degree(h, graph, "out", -0.5)
        if self.quantizers is None:
            total = ops.aggregate(graph, Quantized(h, h.new_ones(())))
        elif not self.keeps_state or self.quantizers[name].format.is_float:
            total = ops.aggregate(graph, ops.quantize(self.quantizers[name], h))
        else:
            codes, self.sent = ops.delta_quantize(self.quantizers[name], h, self.sent)
            total = ops.aggregate(graph, codes)
            if self.received is not None:
                total = ops.combine((1, self.received), (1, total))
            self.received = total
        return ops.scale_by_degree(total, graph, "in", -0.5)
