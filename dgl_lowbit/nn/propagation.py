"""How propagation layers send node features over the edges, step after step."""

from __future__ import annotations

from .base import Operand
from .ops import Quantized

MESSAGES = ("delta", "direct")


class Channel:
    """Sends node features over the edges, F ↦ Ã F with Ã = D^−½ A D^−½, through quantised messages.

    ``"direct"``: the value itself is sent, scaled by its degree norm. ``"delta"``: neighbours keep a running value of
    every node, and only its quantised change crosses an edge, so that errors do not add up over steps. Where states
    have as few bits as messages, a node keeps just what its neighbours have of it.

    Parameters
    ----------
    ops : TorchOps or Recorder
    graph : DGLGraph
    layer : LowBitLayer
        With ``messages``, and, where low-bit, quantisers named by :func:`channel_operands`.
    """

    def __init__(self, ops, graph, layer):
        self.ops, self.graph = ops, graph
        self.quantizers = layer.quantizers if layer.is_low_bit else None
        self.is_delta = layer.messages == "delta"
        self.keeps_codes = layer.is_low_bit and keeps_codes(layer.config)
        self.sent = self.received = None

    def start(self, h):
        """What is kept of the layer's input."""
        return self._requantize("states", h)

    def __call__(self, h, step: int, prefix="messages"):
        """What is kept of ``h`` as step number ``step`` sends it, and Ã h as its neighbours know it."""
        ops, graph = self.ops, self.graph
        if not self.keeps_codes and step > 0 and prefix == "messages":
            h = self._requantize(f"states_{step}", h)
        sent = ops.scale_by_degree(h, graph, "out", -0.5)
        if self.quantizers is None:
            total = ops.aggregate(graph, Quantized(sent, sent.new_ones(())))
        else:
            sent, total = self._send(sent, self.quantizers[f"{prefix}_{step}"])
            if self.keeps_codes:
                h = ops.scale_by_degree(sent, graph, "out", 0.5)
        return h, ops.scale_by_degree(total, graph, "in", -0.5)

    def _send(self, value, quantizer):
        """``value`` as neighbours have it now, and its sum over neighbours."""
        ops, graph = self.ops, self.graph
        if not self.is_delta or quantizer.format.is_float:
            codes = ops.quantize(quantizer, value)
            kept = ops.dequantize(codes) if self.keeps_codes else value
            return kept, ops.aggregate(graph, codes)
        codes, self.sent = ops.delta_quantize(quantizer, value, self.sent)
        total = ops.aggregate(graph, codes)
        self.received = total if self.received is None else ops.combine((1, self.received), (1, total))
        return self.sent, self.received

    def _requantize(self, name, h):
        return h if self.quantizers is None or name not in self.quantizers else self.ops.requantize(
            self.quantizers[name], h
        )  # fmt: skip


def keeps_codes(config) -> bool:
    """Whether a node keeps just what it has sent."""
    states = config.bits_of("states")
    return states < 32 and states <= config.bits_of("messages")


def channel_operands(config, width: int, steps: int) -> dict[str, Operand]:
    """Operands of ``steps`` steps of a :class:`Channel` of ``width`` features."""
    operands = {f"messages_{step}": Operand("messages", width) for step in range(steps)}
    if config.bits_of("states") < 32:
        operands["states"] = Operand("states", width)
        if not keeps_codes(config):
            operands.update({f"states_{step}": Operand("states", width) for step in range(1, steps)})
    return operands


def check_messages(messages: str) -> str:
    if messages not in MESSAGES:
        raise ValueError(f"messages must be 'delta' or 'direct', got {messages!r}.")
    return messages
