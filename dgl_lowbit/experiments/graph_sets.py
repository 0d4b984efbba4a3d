"""Sets of graphs to tell apart, and how a model learns to: graph classification."""

from __future__ import annotations

import copy
from typing import NamedTuple

import dgl
import dgl.data
import torch
import torch.nn.functional as F
from torch import nn

from ..quant.evaluation import evaluating
from ..training import distillation_loss, parameter_groups

_BATCH = 32


class Labelled(NamedTuple):
    """A batch of graphs, whose ``ndata`` has ``feat``, and their classes, (graphs,)."""

    graph: dgl.DGLGraph
    labels: torch.Tensor

    def scores(self, model: nn.Module) -> torch.Tensor:
        """What ``model`` makes of the graphs in evaluation, (graphs, classes)."""
        with torch.no_grad(), evaluating(model):
            return model(self.graph, self.graph.ndata["feat"])

    def accuracy(self, model: nn.Module) -> float:
        return (self.scores(model).argmax(1) == self.labels).float().mean().item()


class GraphSets(NamedTuple):
    """Graphs to train on, one by one, and batches to validate and test on."""

    train: list[Labelled]
    val: Labelled
    test: Labelled
    classes: int

    def batch(self, chosen: torch.Tensor) -> Labelled:
        return _batched([self.train[i] for i in chosen.tolist()])


def mini_gc(seed: int, graphs: int = 320) -> GraphSets:
    """``dgl.data.MiniGCDataset``: cycles, stars, grids … of 10 to 20 nodes, their in-degrees one-hot up to 15."""
    parts = []
    for number in range(3):
        dataset = dgl.data.MiniGCDataset(graphs, 10, 20, seed=3 * seed + number)
        items = [Labelled(*dataset[i]) for i in range(len(dataset))]
        for graph, _ in items:
            graph.ndata["feat"] = F.one_hot(graph.in_degrees().clamp(max=15), 16).float()
        parts.append(items)
    train, val, test = parts
    return GraphSets(train, _batched(val), _batched(test), dataset.num_classes)


GRAPH_SETS = {"mini-gc": mini_gc}


def _batched(items):
    graphs, labels = zip(*items)
    return Labelled(dgl.batch(graphs), torch.stack(labels))


def train_on_graphs(
    model: nn.Module,
    sets: GraphSets,
    *,
    epochs: int,
    seed: int,
    lr: float = 0.005,
    quantizer_lr: float = 0.01,
    teacher: nn.Module | None = None,
    distillation: float = 0.5,
) -> dict:
    """Train ``model`` with Adam and leave it with the weights of its best validation epoch.

    Returns
    -------
    dict
        ``test`` and ``val`` accuracy at that epoch, its number, ``epoch``, and how many there were, ``epochs``.
    """
    torch.manual_seed(seed)
    optimizer = torch.optim.Adam(parameter_groups(model, lr, 0.0, quantizer_lr))
    best, weights = {"val": -1.0}, {}
    for epoch in range(epochs):
        model.train()
        for chosen in torch.randperm(len(sets.train)).split(_BATCH):
            batch = sets.batch(chosen)
            logits = model(batch.graph, batch.graph.ndata["feat"])
            loss = F.cross_entropy(logits, batch.labels)
            if teacher is not None:
                learned = distillation_loss(logits, batch.scores(teacher))
                loss = (1 - distillation) * loss + distillation * learned
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        val = sets.val.accuracy(model)
        if val > best["val"]:
            best = {"test": sets.test.accuracy(model), "val": val, "epoch": epoch, "epochs": epochs}
            weights = copy.deepcopy(model.state_dict())
    model.load_state_dict(weights)
    model.eval()
    return best
