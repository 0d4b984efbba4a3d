"""How propagation layers send node features over the edges, step after step."""

from __future__ import annotations

import torch
from torch import nn

from ..quant.dead_zone import DeadZone
from ..quant.evaluation import evaluating
from ..smoothness import SmoothnessControl
from .arguments import Role, roles
from .base import LowBitLayer
from .checks import check_features, check_graph, check_homogeneous
from .operands import Operand
from .ops import Quantized

MESSAGES = ("delta", "direct")


class Propagation(LowBitLayer):
    """Base of layers that propagate within one set of nodes, step after step, each under a smoothness bound if wanted.

    A subclass states ``compute(ops, graph, feat)`` over a :class:`Channel` and :meth:`controlled` steps.
    """

    arguments = roles(graph=Role.GRAPH, feat=Role.FEATURES)

    def __init__(self, in_feats, steps, messages, allow_zero_in_degree, threshold, relative, acts, **multiplier):
        nn.Module.__init__(self)
        if messages not in MESSAGES:
            raise ValueError(f"messages must be 'delta' or 'direct', got {messages!r}.")
        self.in_feats, self.messages, self.threshold = in_feats, messages, threshold
        self._allow_zero_in_degree = allow_zero_in_degree
        self.controls = nn.ModuleList(
            SmoothnessControl(threshold, relative, acts, **multiplier)
            for _ in range(steps if threshold is not None else 0)
        )

    def validate(self, graph, feat):
        check_homogeneous(self, graph)
        check_graph(self, graph, self._allow_zero_in_degree)
        check_features(self, feat, self.in_feats, graph.num_nodes())

    def controlled(self, ops, graph, step: int, h, target):
        """From h towards ``target`` as far as the step's multiplier lets it."""
        if not self.controls:
            return target
        size = self.controls[step].step_towards(graph, h, target)
        return target if size == 1 else ops.combine((1 - size, h), (size, target))

    def finish(self, ops, h):
        return ops.requantize(self.quantizers["outputs"], h) if self.is_low_bit else h


class Channel:
    """Sends node features over the edges, F ↦ Ã F with Ã = D^−½ A D^−½, through quantised messages.

    ``"direct"``: the value itself is sent, scaled by its degree norm. ``"delta"``: neighbours keep a running value of
    every node, and only its quantised change crosses an edge, so that errors do not add up over steps; under
    ``QuantConfig(dead_zone=…)`` only where it changed enough (:class:`~dgl_lowbit.quant.dead_zone.DeadZone`). Where
    states have as few bits as messages, a node keeps just what its neighbours have of it.

    Parameters
    ----------
    ops : TorchOps or Recorder
    graph : DGLGraph
    layer : LowBitLayer
        With ``messages``, and, where low-bit, quantisers named by :func:`channel_operands`.
    edge_weight : (E,) tensor, optional
        Weights of the edges in A, and in its degrees.
    """

    def __init__(self, ops, graph, layer, edge_weight=None):
        self.ops, self.graph, self.edge_weight = ops, graph, edge_weight
        self.normed = self.weights = ops.normed(graph, edge_weight)
        self.quantizers = layer.quantizers if layer.is_low_bit else None
        self.is_delta, self.side = layer.messages == "delta", getattr(layer, "degree_side", "out")
        self.keeps_codes = layer.is_low_bit and keeps_codes(layer.config)
        self.dead_zone = layer.config.dead_zone if layer.is_low_bit else None
        self.of_entries = has_dead_entries(layer.config)
        self.sent = self.received = None

    def drop_edges(self, dropout):
        """Send the next messages over those edges that ``dropout`` leaves."""
        self.weights = self.ops.drop_edges(self.graph, self.normed, dropout)

    def start(self, h):
        """What is kept of the layer's input."""
        return self._requantize("states", h)

    def __call__(self, h, step: int, prefix="messages"):
        """What is kept of ``h`` as step number ``step`` sends it, and Ã h as its neighbours know it."""
        ops, graph = self.ops, self.graph
        if not self.keeps_codes and step > 0 and prefix == "messages":
            h = self._requantize(f"states_{step}", h)
        sent = ops.scale_by_degree(h, graph, self.side, -0.5, unless=self.edge_weight)
        if self.quantizers is None:
            total = ops.aggregate(graph, Quantized(sent, sent.new_ones(())), self.weights)
        else:
            sent, total = self._send(sent, self.quantizers[f"{prefix}_{step}"])
            if self.keeps_codes:
                h = ops.scale_by_degree(sent, graph, self.side, 0.5, unless=self.edge_weight)
        return h, ops.scale_by_degree(total, graph, "in", -0.5, unless=self.edge_weight)

    def _send(self, value, quantizer):
        """``value`` as neighbours have it now, and its sum over neighbours."""
        ops, graph = self.ops, self.graph
        if not self.is_delta or quantizer.format.is_float:
            codes = ops.quantize(quantizer, value)
            kept = ops.dequantize(codes) if self.keeps_codes else value
            return kept, ops.aggregate(graph, codes, self.weights)
        codes, self.sent = ops.delta_quantize(quantizer, value, self.sent, *self._dead_zone())
        total = ops.aggregate(graph, codes, self.weights)
        self.received = total if self.received is None else ops.combine((1, self.received), (1, total))
        return self.sent, self.received

    def _dead_zone(self):
        """What is too small to send of what changed since the first message; sums with weights take all of it."""
        if self.dead_zone is None or self.sent is None or self.weights is not None:
            return ()
        return (DeadZone(self.quantizers["messages_0"], self.dead_zone, self.of_entries),)

    def _requantize(self, name, h):
        return h if self.quantizers is None or name not in self.quantizers else self.ops.requantize(
            self.quantizers[name], h
        )  # fmt: skip


def keeps_codes(config) -> bool:
    """Whether a node keeps just what it has sent."""
    states = config.bits_of("states")
    return states < 32 and states <= config.bits_of("messages")


def has_dead_entries(config) -> bool:
    """Whether single entries of messages are left out."""
    return config is not None and config.dead_zone is not None and config.dead_zone_of == "entries"


def channel_operands(config, width: int, steps: int) -> dict[str, Operand]:
    """Operands of ``steps`` steps of a :class:`Channel` of ``width`` features."""
    late = "affine" if has_dead_entries(config) else None  # of entries that are not sent the code is 0
    operands = {f"messages_{step}": Operand("messages", width, grid=late if step else None) for step in range(steps)}
    if config.bits_of("states") < 32:
        operands["states"] = Operand("states", width)
        if not keeps_codes(config):
            operands.update({f"states_{step}": Operand("states", width) for step in range(1, steps)})
    return operands


@torch.no_grad()
def silent_shares(model: nn.Module, graph, feat=None) -> list[float]:
    """Of each step of delta-coded propagation in ``model`` that has a dead zone, the share of rows that are not sent.

    Parameters
    ----------
    model : torch.nn.Module
        Low-bit and with ranges, called as ``model(graph, feat)``; it is evaluated.
    graph : DGLGraph
    feat : torch.Tensor, optional
        (N, D). Default: ``graph.ndata["feat"]``.

    Returns
    -------
    list of float
        In the order of the steps; empty where nothing has a dead zone.
    """
    shares: list[float] = []
    with evaluating(model), DeadZone.telling(lambda silent: shares.append(silent.float().mean().item())):
        model(graph, graph.ndata["feat"] if feat is None else feat)
    return shares
