"""Smoothness-aware message propagation."""

from __future__ import annotations

from .operands import Operand
from .propagation import Channel, Propagation, channel_operands


class SMPConv(Propagation):
    r"""Smoothness-aware message propagation, K steps without weights (arXiv:2308.14949).

    Descends on ½‖F − h‖² + (λ₁/2) tr(FᵀLF) from F = h, the layer's input, while a multiplier λ_k per step bounds
    how much the similarity of neighbours may change in it:

    .. math::
        \hat F &= (1 - (1 + \lambda_1) \eta) F_{k-1} + \lambda_1 \eta \tilde A F_{k-1} + \eta h \\
        F_k &= F_{k-1} + (\hat F - F_{k-1}) / (1 + \lambda_k)
        \qquad \text{so that}\quad \mathrm{tr}(\Delta_k^T L \Delta_k) \le \alpha |E|,\ \Delta_k = F_k - F_{k-1}

    with :math:`\tilde A = D^{-1/2} A D^{-1/2}` of the graph as given (add self-loops yourself, as for ``GraphConv``)
    and L = I − Ã. A step along Δ scales its energy by the square of the step, so every bound can be met. In each
    training forward λ_k grows while step k exceeds the bound and decays while it holds
    (:class:`~dgl_lowbit.smoothness.DifferentialMultiplier`); at inference it is a constant and costs nothing.

    ``acts="gradient"`` is the descent of the Lagrangian on the violated constraint,
    :math:`F_k = \hat F - 2 \eta \lambda_k L (\hat F - F_{k-1})`, at the price of a second sum over neighbours. Every
    eigenvalue μ ≤ 2 of L shrinks its part of Δ by ``|1 − 2ηλ_kμ| ≤ 1`` as long as λ_k ≤ 1/(2η), where λ_k is stopped;
    one such step brings Δ down only so far, so that tight bounds are not met.

    Quantised are the messages. ``"delta"``: neighbours keep a running value of every node, and only its quantised
    change crosses an edge, so that errors do not add up over steps. ``"direct"``: the value itself is sent. With
    ``QuantConfig(…, states=b)`` what a node keeps between steps is quantised too.

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
    relative : bool
        Whether the bound is α tr(FᵀLF) of the step's input instead of α|E|.
    acts : {"step", "projection", "gradient"}
        How multipliers act; see :class:`~dgl_lowbit.smoothness.SmoothnessControl`.
    multiplier_lr : float
        Rate of the multipliers. Default: 0.1.
    messages : {"delta", "direct"}
        What crosses an edge.
    allow_zero_in_degree : bool
        As in ``dgl.nn.GraphConv``.
    config : QuantConfig, optional
        Components used: messages, states, outputs. Default: None, float32.

    Attributes
    ----------
    controls : torch.nn.ModuleList
        One SmoothnessControl a step; empty without a threshold.

    Raises
    ------
    ValueError
        For a number of steps below 1, rates out of range, and an unknown way to act or to send.

    Examples
    --------
    >>> import dgl, torch
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
        relative=False,
        acts="step",
        multiplier_lr=0.1,
        messages="delta",
        allow_zero_in_degree=False,
        *,
        config=None,
    ):
        if not isinstance(k, int) or k < 1:
            raise ValueError(f"k must be a whole number of steps, at least 1, got {k!r}.")
        if not eta > 0 or not lambda1 >= 0:
            raise ValueError(f"eta must be positive and lambda1 not negative, got {eta!r} and {lambda1!r}.")
        if acts not in ("step", "projection", "gradient"):
            raise ValueError(f"acts must be 'step', 'projection' or 'gradient', got {acts!r}.")
        maximum = 1 / (2 * eta) if acts == "gradient" else 1000.0
        super().__init__(
            in_feats, k, messages, allow_zero_in_degree, threshold, relative, acts, lr=multiplier_lr, maximum=maximum
        )
        self.k, self.eta, self.lambda1, self.acts = k, eta, lambda1, acts
        self.configure(config)

    def operands(self):
        operands = channel_operands(self.config, self.in_feats, self.k)
        if self.acts == "gradient":
            operands.update({f"corrections_{k}": Operand("messages", self.in_feats) for k in range(len(self.controls))})
        return {**operands, "outputs": Operand("outputs", self.in_feats)}

    def compute(self, ops, graph, feat):
        """Shapes: feat (N, in_feats) float, output the same. In training mode the multipliers take a step.

        Raises
        ------
        DGLError
            On a block or bipartite graph, zero in-degrees (unless allowed), or features that do not fit.
        """
        send = Channel(ops, graph, self)
        keep, mix = 1 - (1 + self.lambda1) * self.eta, self.lambda1 * self.eta
        h = feat = send.start(feat)
        for step in range(self.k):
            h, received = send(h, step)
            moved = ops.combine((keep, h), (mix, received), (self.eta, feat))
            if self.acts == "gradient" and self.controls:
                h = self._descend(ops, send, step, h, received, moved)
            else:
                h = self.controlled(ops, graph, step, h, moved)
        return self.finish(ops, h)

    def _descend(self, ops, send, step, h, received, moved):
        """From h to ``moved``, and down the gradient of the step's bound."""
        control = self.controls[step]
        pull = 2 * self.eta * control.force_on(h)
        if control.is_watching or pull > 0:
            _, change = send(moved, step, "corrections")
            # F̂ − pull·(Δ − ÃΔ), with Δ = F̂ − F and ÃΔ = ÃF̂ − ÃF
            moved = ops.combine((1 - pull, moved), (pull, h), (pull, change), (-pull, received))
        control.step_towards(send.graph, h, moved)
        return moved

    def extra_repr(self):
        return (
            f"in_feats={self.in_feats}, k={self.k}, eta={self.eta}, lambda1={self.lambda1}, "
            f"threshold={self.threshold}, acts={self.acts!r}, messages={self.messages!r}"
        )
