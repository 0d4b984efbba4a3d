"""Histories of the messages of a model's layers, for training on blocks."""

from __future__ import annotations

from typing import Any

import dgl
import torch
from torch import nn

from ..config import QuantConfig
from ..convert import quantize
from ..graphs.degrees import with_degrees
from ..nn import LowBitLayer
from ..nn.checks import check_is_graph
from ..nn.history import KeptMessages
from ..nn.message_passing.site import Site
from ..nn.neighbours import Neighbours
from ..quant import LearnedBitsQuantizer
from ..quant.evaluation import evaluating


class MessageHistory:
    r"""Packed codes of what every node sent last in each layer, with which blocks sum over whole neighbourhoods.

    A layer on a block sums, for a target v, the messages of those in-neighbours that the step computes, and for all its
    others the codes :math:`\bar q_u` that they sent when they were last computed,

    .. math:: \sum_{u \in N(v) \cap S} q_u + \sum_{u \in N(v) \setminus S} \bar q_u,

    S being the block's sources: no neighbour is left out, and degrees are those of the graph. In the backward pass the
    gradient of a sum, which the codes do not take, goes to those of N(v) ∩ S that are no targets themselves, as many
    times larger as there are neighbours without one: in the mean over draws it is that of the whole neighbourhood.

    The idea is VQ-GNN's (arXiv:2110.14363), which has learned codewords where this has the codes that messages are
    anyway, and which keeps gradients too, a term ⟨messages, kept gradients⟩ for what rows outside the batch would send
    back. With few labelled nodes most rows never have one to be kept, and training was slower by it. The history serves
    GraphConv, GINConv (sum, mean) and SAGEConv (mean, gcn) without edge weights. It is of no use where fan-outs cover
    most neighbourhoods, and training does not come up to that on the whole graph, whose gradients have less noise, nor
    to plain sampling whose sums count for whole ones (:func:`dgl_lowbit.nn.with_degrees`), see ``docs/relatives.md``.

    Parameters
    ----------
    model : torch.nn.Module
        Low-bit, on blocks; its messages have 1 to 8 bits.
    graph : DGLGraph
        Of one node type, which blocks are sampled from.

    Attributes
    ----------
    graph : DGLGraph
        The graph with its degrees in columns: sample blocks from this.

    Raises
    ------
    ValueError
        When a layer has other sums than those, messages without codes, integer arithmetic, bits that are learned or
        nodes that pass unrounded (``protect``), or none has any; when the graph is none of one node and edge type.

    Examples
    --------
    >>> import dgl.nn
    >>> from dgl_lowbit import QuantConfig, quantize
    >>> g = dgl.graph(([0, 1, 2, 3], [1, 2, 3, 0]))
    >>> model = quantize(nn.ModuleList([dgl.nn.GraphConv(64, 64)]), QuantConfig(2))
    >>> history = MessageHistory(model, g)
    >>> history.nbytes, history.float_bytes
    (64, 1024)
    >>> history.detach()
    """

    def __init__(self, model: nn.Module, graph: dgl.DGLGraph):
        check_is_graph(graph, "MessageHistory", ValueError)
        if len(graph.ntypes) > 1 or len(graph.etypes) > 1:
            raise ValueError(f"a history keeps messages of one type of nodes, got {graph.ntypes} and {graph.etypes}.")
        self.model, self.graph = model, with_degrees(graph)
        self.layers = layers_that_sum(model)
        neighbours = Neighbours(graph)
        self.kept = {name: _kept_of(layer, neighbours) for name, layer in self.layers.items()}
        for name, layer in self.layers.items():
            self.kept[name].attach(layer)

    @torch.no_grad()
    def fill(self, *example: Any) -> None:
        """Keep what all nodes send, by one evaluation pass ``model(*example)`` on the whole graph for each block.

        Raises
        ------
        ValueError
            When a layer sums more than once in the pass, or not on all nodes.
        """
        before = {name: kept.filled for name, kept in self.kept.items()}
        with evaluating(self.model):
            self.model(*example)
        for name, kept in self.kept.items():
            times = kept.filled - before[name]
            if times != 1:
                raise ValueError(
                    f"layer {name!r} sums over all nodes {times} times in a pass; a history keeps one sum a layer: "
                    "give each call a layer of its own, or train without history."
                )

    @property
    def nbytes(self) -> int:
        """Bytes that they take."""
        return sum(kept.rows.nbytes for kept in self.kept.values())

    @property
    def float_bytes(self) -> int:
        """Bytes that they would take in float32."""
        return sum(row["float_bytes"] for row in self.report())

    def report(self) -> list[dict]:
        """For each layer its name, ``columns`` and ``bits`` of messages, ``bytes`` of these and ``float_bytes``."""
        return [
            {
                "layer": name, "columns": kept.rows.columns, "bits": kept.rows.bits, "bytes": kept.rows.nbytes,
                "float_bytes": 4 * kept.rows.columns * kept.num_nodes,
            }
            for name, kept in self.kept.items()
        ]  # fmt: skip

    def state_dict(self) -> dict[str, dict[str, torch.Tensor]]:
        """What is kept, by layer."""
        return {name: kept.rows.state_dict() for name, kept in self.kept.items()}

    def load_state_dict(self, state: dict[str, dict]) -> None:
        """Go on from what :meth:`state_dict` gave for the same model and graph.

        Raises
        ------
        ValueError
            For other layers, or of another shape.
        """
        if set(state) != set(self.kept):
            raise ValueError(f"the history is of the layers {sorted(state)}, the model's are {sorted(self.kept)}.")
        for name, kept in self.kept.items():
            try:
                kept.rows.load_state_dict(state[name])
            except ValueError as error:
                raise ValueError(f"the history is of another model or graph: of {name!r}, {error}.") from error

    def detach(self) -> None:
        """Let the model's layers sum over blocks as they did before."""
        for name, layer in self.layers.items():
            self.kept[name].detach(layer)


def check_history(history: Any, sampler, transform) -> None:
    """Raise ValueError unless training can keep a history, or is to keep none."""
    if not isinstance(history, bool):
        raise ValueError(f"history must be True or False, got {history!r}.")
    if history and sampler is None:
        raise ValueError("history=True is for blocks; pass a sampler=, or leave history out.")
    if history and transform is not None:
        raise ValueError("history=True sums over the neighbourhoods of one graph; leave transform= or history out.")


def sending_codes(model: nn.Module, config: QuantConfig | None, example: tuple) -> nn.Module:
    """A copy of a float model in which messages alone are codes, of 8 bits: from drawn weights few bits train badly."""
    granularity = (config or QuantConfig()).messages_granularity
    return quantize(model, QuantConfig(32, messages=8, messages_granularity=granularity), *example)


def _kept_of(layer, neighbours):
    quantizer = layer.quantizers["messages"]
    columns, bits = layer.operands()["messages"].channels, quantizer.format.storage_bits
    return KeptMessages(neighbours, columns, bits, quantizer.granularity == "shift")


def layers_that_sum(model):
    """The layers of a low-bit model whose messages are kept, by name; ValueError where a history does not serve it."""
    layers = {}
    for name, module in model.named_modules():
        if isinstance(module, Site):
            raise ValueError(
                f"a history keeps the sums of layers, and {name!r} is of a module that passes messages itself."
            )
        if not (isinstance(module, LowBitLayer) and module.is_low_bit and module.arguments):
            continue
        names = [operand for operand, of in module.operands().items() if of.component in ("messages", "attention")]
        if not names:
            continue
        if names != ["messages"] or not module.has_integers:
            raise ValueError(
                f"a history keeps the sums of GraphConv, GINConv (sum, mean) and SAGEConv (mean, gcn); {name!r}, "
                f"{type(module).__name__}, is none of these."
            )
        quantizer, config = module.quantizers["messages"], module.config
        if quantizer.format.is_float:
            raise ValueError(f"a history keeps codes, and messages of {name!r} have 32 bits; give them 8 or fewer.")
        if isinstance(quantizer, LearnedBitsQuantizer):
            raise ValueError("a history keeps codes of fixed bits; train without it while bits are learned.")
        if config.arithmetic == "integer" or config.protect is not None:
            raise ValueError("a history takes neither arithmetic='integer' nor protect=.")
        layers[name] = module
    if not layers:
        raise ValueError("the model has no low-bit layer that sums over neighbours, whose messages could be kept.")
    return layers
