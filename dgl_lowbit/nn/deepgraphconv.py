"""A deep stack of graph convolutions whose steps are bounded in smoothness."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from .operands import Operand
from .propagation import Channel, Propagation, channel_operands


class DeepGraphConv(Propagation):
    r"""A stack of graph convolutions (arXiv:1609.02907) of one width that does not oversmooth (arXiv:2308.14949).

    .. math::
        \hat{F_k} &= \mathrm{ReLU}(\tilde A F_{k-1} (I + W_k) + b_k) \\
        F_k &= F_{k-1} + (\hat{F_k} - F_{k-1}) / (1 + \lambda_k)
        \qquad \text{so that}\quad \mathrm{tr}(\Delta_k^T L \Delta_k) \le \alpha\, \mathrm{tr}(F_{k-1}^T L F_{k-1})

    with Δ_k = F_k − F_{k−1}, Ã and L as in :class:`SMPConv`; no value of the input is fed to later layers. A multiplier
    a layer is driven by the differential multiplier method while training and a constant at inference. Without a
    threshold it is a plain stack, F_k = F̂_k, whose features collapse within some layers.

    Quantised are messages, aggregates (the left operands of the products), weights W_k and, where asked, the states
    F_k, see :class:`SMPConv`; the identity costs no weights.

    Parameters
    ----------
    in_feats : int
        Width of the features.
    num_layers : int
        Number of layers.
    threshold : float, optional
        α. Default: 0.0025, steps of a twentieth of the features' own energy norm. None: no bound, no steps.
    relative : bool
        Whether the bound is relative to the energy of the layer's input (else α|E|).
    acts : {"step", "projection", "fixed"}
        How multipliers act; see :class:`~dgl_lowbit.smoothness.SmoothnessControl`.
    multiplier_lr : float
        Rate of the multipliers.
    first_step : float
        1 / (1 + λ) to start from. Default: the root of the threshold, 0.05.
    dropout : float
        Of what a layer receives, in training.
    identity : bool
        Whether the product is with I + W (W starts close to 0), or with W (Xavier).
    messages : {"delta", "direct"}
        What crosses an edge.
    allow_zero_in_degree : bool
        As in ``dgl.nn.GraphConv``.
    config : QuantConfig, optional
        Components used: messages, aggregates, weights, states, outputs. Default: None, float32.

    Attributes
    ----------
    weight, bias : torch.nn.Parameter
        (num_layers, in_feats, in_feats) and (num_layers, in_feats).
    controls : torch.nn.ModuleList
        One SmoothnessControl a layer; empty without a threshold.

    Raises
    ------
    ValueError
        For a number of layers below 1, an unknown way to act or to send, and a first step not in (0, 1].

    Examples
    --------
    >>> import dgl, torch
    >>> from dgl_lowbit import QuantConfig
    >>> g = dgl.add_self_loop(dgl.graph(([0, 1, 2], [1, 2, 0])))
    >>> DeepGraphConv(8, 16, config=QuantConfig(2, states=8))(g, torch.rand(3, 8)).shape
    torch.Size([3, 8])
    """

    def __init__(
        self,
        in_feats,
        num_layers,
        threshold=0.0025,
        relative=True,
        acts="step",
        multiplier_lr=0.1,
        first_step=None,
        dropout=0.0,
        identity=True,
        messages="delta",
        allow_zero_in_degree=False,
        *,
        config=None,
    ):
        if not isinstance(num_layers, int) or num_layers < 1:
            raise ValueError(f"num_layers must be a whole number, at least 1, got {num_layers!r}.")
        if acts not in ("step", "projection", "fixed"):
            raise ValueError(f"acts must be 'step', 'projection' or 'fixed', got {acts!r}.")
        if first_step is None:
            first_step = min(threshold**0.5, 1.0) if threshold is not None and relative else 1.0
        if not 0 < first_step <= 1:
            raise ValueError(f"first_step must be above 0 and at most 1, got {first_step!r}.")
        super().__init__(
            in_feats, num_layers, messages, allow_zero_in_degree, threshold, relative, acts,
            lr=multiplier_lr, initial=1 / first_step - 1,
        )  # fmt: skip
        self.num_layers, self.identity = num_layers, identity
        self.weight = nn.Parameter(torch.empty(num_layers, in_feats, in_feats))
        self.bias = nn.Parameter(torch.empty(num_layers, in_feats))
        self.dropout = nn.Dropout(dropout)
        self.reset_parameters()
        self.configure(config)

    def reset_parameters(self):
        """Weights close to 0 beside the identity, else Xavier; zero biases."""
        for weight in self.weight:
            if self.identity:
                nn.init.normal_(weight, std=0.01)
            else:
                nn.init.xavier_uniform_(weight)
        nn.init.zeros_(self.bias)

    def operands(self):
        width, steps = self.in_feats, range(self.num_layers)
        operands = channel_operands(self.config, width, self.num_layers)
        operands.update({f"aggregates_{k}": Operand("aggregates", width) for k in steps})
        operands.update({f"weights_{k}": Operand("weights", width, axis=1) for k in steps})
        return {**operands, "outputs": Operand("outputs", width)}

    def compute(self, ops, graph, feat):
        """Shapes: feat (N, in_feats) float, output the same. In training mode the multipliers take a step.

        Raises
        ------
        DGLError
            On a block or bipartite graph, zero in-degrees (unless allowed), or features that do not fit.
        """
        send = Channel(ops, graph, self)
        h = send.start(feat)
        for k in range(self.num_layers):
            h, received = send(h, k)
            received = ops.dropout(received, self.dropout)
            target = self._product(ops, received, k)
            if self.identity:
                target = ops.combine((1, target), (1, received))
            target = ops.activate(ops.bias(target, self.bias[k]), F.relu)
            h = self.controlled(ops, graph, k, h, target)
        return self.finish(ops, h)

    def _product(self, ops, received, k):
        if not self.is_low_bit:
            return received @ self.weight[k]
        codes = ops.quantize(self.quantizers[f"aggregates_{k}"], received)
        return ops.product(codes, self.quantizers[f"weights_{k}"], self.weight[k])

    def extra_repr(self):
        return (
            f"in_feats={self.in_feats}, num_layers={self.num_layers}, threshold={self.threshold}, "
            f"identity={self.identity}, messages={self.messages!r}"
        )
