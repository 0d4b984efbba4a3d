"""Nodes that are evaluated some at a time, where no process has the whole graph with its features in memory."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property

import dgl
import torch
import torch.nn.functional as F
from torch import nn

from ..quant.evaluation import evaluating
from .processes import Processes

# Nodes whose surroundings ranges are taken from, and nodes that are evaluated at a time, in each process.
_SHOWN, _EVALUATED = 2048, 1024


class InBatches:
    """Evaluates nodes from all of their neighbours, on blocks that :meth:`loaded` makes.

    A class that is made of it has these attributes, and :meth:`loaded`.

    Attributes
    ----------
    sampler : dgl.dataloading.BlockSampler
        Of training.
    processes : Processes
        Those that each evaluate nodes of their own.
    own : (n,) int64 tensor
        Nodes that are trained on.
    nodes, node_labels : dict of str to (m,) int64 tensor
        Nodes by what they are for, "val" and "test" among it, and their labels.
    """

    sampler: dgl.dataloading.BlockSampler
    processes: Processes
    own: torch.Tensor
    nodes: dict[str, torch.Tensor]
    node_labels: dict[str, torch.Tensor]

    def loaded(self, batches: list[torch.Tensor], sampler) -> Iterator[tuple[int, list, torch.Tensor]]:
        """Of each of ``batches`` of nodes its number, blocks by ``sampler``, and features, in any order."""
        raise NotImplementedError

    def show(self, look) -> None:
        """Call ``look`` with blocks around some of the nodes, and their features."""
        look(*self.example())

    def example(self) -> tuple[list, torch.Tensor]:
        """What a model is called with."""
        chosen = self.own[torch.linspace(0, len(self.own) - 1, min(_SHOWN, len(self.own))).long()]
        ((_, blocks, feat),) = self.loaded([chosen], self.sampler)
        return blocks, feat

    @cached_property
    def _depth(self) -> int:
        """The number of blocks that the model is called with."""
        return len(self.example()[0])

    @torch.no_grad()
    def _evaluated(self, model, nodes):
        """Logits of ``nodes``, some at a time, from all of their neighbours: pairs of their places and logits."""
        batches = torch.arange(len(nodes)).split(_EVALUATED)
        if not len(nodes):
            return
        whole = dgl.dataloading.MultiLayerFullNeighborSampler(self._depth)
        with evaluating(model):
            for number, blocks, feat in self.loaded([nodes[places] for places in batches], whole):
                yield batches[number], model(blocks, feat)

    def logits(self, model: nn.Module) -> torch.Tensor:
        """Evaluation logits of the nodes that are trained on."""
        parts = list(self._evaluated(model, self.own))
        logits = parts[0][1].new_empty(len(self.own), parts[0][1].shape[-1])
        for places, part in parts:
            logits[places] = part
        return logits

    def scores(self, model, is_better) -> dict[str, float]:
        """Loss and accuracy in validation; accuracy in the test where that is better than before, else NaN."""
        loss, hits, count = self._score(model, "val")
        record = {"val_loss": loss / count, "val_accuracy": hits / count, "test_accuracy": float("nan")}
        if is_better(record):
            _, hits, count = self._score(model, "test")
            record["test_accuracy"] = hits / count
        return record

    def _score(self, model, name):
        nodes, labels = self.nodes[name], self.node_labels[name]
        loss = hits = 0.0
        for places, logits in self._evaluated(model, nodes):
            loss += F.cross_entropy(logits, labels[places], reduction="sum").item()
            hits += float((logits.argmax(-1) == labels[places]).sum())
        return self.processes.sums(loss, hits, len(nodes))
