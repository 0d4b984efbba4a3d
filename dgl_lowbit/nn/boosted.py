"""Small networks, each on features that were propagated further, that vote."""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import nn

from .operands import Operand
from .propagation import Channel, Propagation, channel_operands

PROPAGATIONS = ("adj", "ii", "kta")
# Of "kta": the powers of Ã whose results are mixed.
HOPS = (1, 2, 4, 8)


class BoostedMLP(Propagation):
    r"""Networks of one hidden layer on features at ascending scales, whose votes are summed (arXiv:2006.08550).

    .. math::
        y = \sum_{t=0}^{T-1} a_t\, \mathrm{softmax}(\mathrm{ReLU}(X_t W_t + b_t) U_t + c_t), \qquad X_0 = X

    with X_{t+1} = Ã X_t ("adj"), c Ã X_t + (1 − c) X_0 ("ii"), or Σ_k θ_tk Ã^(2^k) X_t with k from 0 to 3 ("kta");
    Ã = D^−½ A D^−½ of the graph as given (add self-loops yourself). Depth is in the features alone: no gradient passes
    through the graph, and a learner that finds nothing at its scale gets a small weight a_t, so that many scales do no
    harm. :func:`dgl_lowbit.boost` trains it, learner after learner.

    Quantised are the messages of each step ("delta": the change of what is propagated), the inputs and hidden values of
    each learner by row, and its weights.

    Parameters
    ----------
    in_feats, num_classes : int
        Widths of features and scores.
    rounds : int
        Number T of learners.
    hidden : int
        Width of their hidden layers.
    propagate : {"adj", "ii", "kta"}
        How features come to the next scale.
    share : float
        c of "ii", above 0 and at most 1.
    dropout : float
        Of the learners' inputs and hidden values, in training.
    messages, allow_zero_in_degree
        As in :class:`SMPConv`.
    config : QuantConfig, optional
        Components used: inputs, weights, messages, states, outputs. Default: None, float32.

    Attributes
    ----------
    weight, bias : torch.nn.Parameter
        W (rounds, in_feats, hidden), b (rounds, hidden).
    vote_weight, vote_bias : torch.nn.Parameter
        U (rounds, hidden, num_classes), c (rounds, num_classes).
    votes : torch.nn.Parameter
        a, (rounds,); 1 each before training.
    mixing : torch.Tensor
        θ, (rounds − 1, 4) for "kta", else (rounds − 1, 1).

    Raises
    ------
    ValueError
        For numbers below 1, an unknown way to propagate or to send, and a share out of range.

    Examples
    --------
    >>> import dgl, torch
    >>> from dgl_lowbit import QuantConfig
    >>> g = dgl.add_self_loop(dgl.graph(([0, 1, 2], [1, 2, 0])))
    >>> BoostedMLP(10, 4, rounds=3, hidden=8, config=QuantConfig(2))(g, torch.rand(3, 10)).shape
    torch.Size([3, 4])
    """

    def __init__(
        self,
        in_feats,
        num_classes,
        rounds=8,
        hidden=64,
        propagate="adj",
        share=0.9,
        dropout=0.5,
        messages="delta",
        allow_zero_in_degree=False,
        *,
        config=None,
    ):
        check_rounds(in_feats=in_feats, num_classes=num_classes, rounds=rounds, hidden=hidden)
        if propagate not in PROPAGATIONS:
            raise ValueError(f"propagate must be one of {', '.join(PROPAGATIONS)}, got {propagate!r}.")
        if not 0 < share <= 1:
            raise ValueError(f"share must be above 0 and at most 1, got {share!r}.")
        super().__init__(in_feats, 0, messages, allow_zero_in_degree, None, False, "step")
        self.rounds, self.hidden, self.num_classes = rounds, hidden, num_classes
        self.propagate, self.share = propagate, share
        self._steps = HOPS[-1] if propagate == "kta" else 1
        self.weight = nn.Parameter(torch.empty(rounds, in_feats, hidden))
        self.bias = nn.Parameter(torch.empty(rounds, hidden))
        self.vote_weight = nn.Parameter(torch.empty(rounds, hidden, num_classes))
        self.vote_bias = nn.Parameter(torch.empty(rounds, num_classes))
        self.votes = nn.Parameter(torch.ones(rounds))
        hops = len(HOPS) if propagate == "kta" else 1
        self.register_buffer("mixing", torch.full((rounds - 1, hops), (share if propagate == "ii" else 1.0) / hops))
        self.dropout = nn.Dropout(dropout)
        self.reset_parameters()
        self.configure(config)

    def reset_parameters(self):
        """Xavier weights, zero biases; votes stay."""
        for weight in (*self.weight, *self.vote_weight):
            nn.init.xavier_uniform_(weight)
        nn.init.zeros_(self.bias)
        nn.init.zeros_(self.vote_bias)

    def operands(self):
        operands = channel_operands(self.config, self.in_feats, (self.rounds - 1) * self._steps)
        for t in range(self.rounds):
            operands[f"inputs_{t}"] = Operand("inputs", self.in_feats)
            operands[f"weights_{t}"] = Operand("weights", self.hidden, axis=1)
            operands[f"hidden_{t}"] = Operand("inputs", self.hidden)
            operands[f"vote_weights_{t}"] = Operand("weights", self.num_classes, axis=1)
        return {**operands, "outputs": Operand("outputs", self.num_classes)}

    def compute(self, ops, graph, feat):
        """Shapes: feat (N, in_feats) float, output (N, num_classes), sums of votes.

        Raises
        ------
        DGLError
            On a block or bipartite graph, zero in-degrees (unless allowed), or features that do not fit.
        """
        return self.finish(ops, self.scores(ops, self.scales(ops, graph, feat)))

    def scales(self, ops, graph, feat, mix=None) -> list:
        """X_0, …, X_{T−1}; ``mix(t, X, spread)``, where given, is called before X_{t+1} is made."""
        send, x = Channel(ops, graph, self), feat
        found = [x]
        for t in range(self.rounds - 1):
            spread = self._spread(send, x, t)
            if mix is not None:
                mix(t, found, spread)
            terms = list(zip(self.mixing[t].tolist(), spread))
            x = ops.combine(*terms, *([(1 - self.share, feat)] if self.propagate == "ii" else []))
            found.append(x)
        return found

    def _spread(self, send, x, t):
        """Powers of Ã times x: those of :data:`HOPS`, or the first."""
        found = []
        for hop in range(self._steps):
            _, x = send(x, t * self._steps + hop)
            if hop + 1 in HOPS:
                found.append(x)
        return found

    def scores(self, ops, scales, first: int = 0):
        """The sum of the votes of learner ``first`` and those after it on ``scales``, theirs."""
        votes = partial(F.softmax, dim=-1)
        terms = [
            (self.votes[t], ops.activate(self.logits(ops, x, t), votes)) for t, x in enumerate(scales, start=first)
        ]
        return ops.combine(*terms)

    def learner(self, t: int) -> tuple:
        """W, b, U, c of one learner."""
        return self.weight[t], self.bias[t], self.vote_weight[t], self.vote_bias[t]

    def logits(self, ops, x, t):
        """What learner ``t`` makes of rows at its scale, (rows, num_classes), before the softmax."""
        hidden = self._product(ops, ops.dropout(x, self.dropout), t, "inputs", "weights", self.weight, self.bias)
        hidden = ops.dropout(ops.activate(hidden, F.relu), self.dropout)
        return self._product(ops, hidden, t, "hidden", "vote_weights", self.vote_weight, self.vote_bias)

    def _product(self, ops, x, t, name, weight_name, weight, bias):
        if not self.is_low_bit:
            return x @ weight[t] + bias[t]
        codes = ops.quantize(self.quantizers[f"{name}_{t}"], x)
        return ops.product(codes, self.quantizers[f"{weight_name}_{t}"], weight[t], bias=bias[t])

    def extra_repr(self):
        return (
            f"in_feats={self.in_feats}, num_classes={self.num_classes}, rounds={self.rounds}, hidden={self.hidden}, "
            f"propagate={self.propagate!r}, messages={self.messages!r}"
        )


def check_rounds(**counts) -> None:
    """Raise ValueError unless all are whole numbers, at least 1."""
    for name, count in counts.items():
        if isinstance(count, bool) or not isinstance(count, int) or count < 1:
            raise ValueError(f"{name} must be a whole number, at least 1, got {count!r}.")
