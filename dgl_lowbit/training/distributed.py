"""A graph of DGL's distributed engine, of which each process trains on a share."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import dgl
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn

from ..quant.evaluation import evaluating
from .batches import Batch, check_label, check_names
from .identity import identity_of
from .processes import Processes, watch
from .sampling import learns

# Nodes whose surroundings ranges are taken from, and nodes that are evaluated at a time, in each process.
_SHOWN, _EVALUATED = 2048, 1024


def is_distributed(graph: Any) -> bool:
    """Whether ``graph`` is one of DGL's distributed engine."""
    return isinstance(graph, dgl.distributed.DistGraph)


def check_dist_graph(graph, sampler, **options) -> None:
    """Raise ValueError unless ``graph`` has what training reads, and options are such as it can be trained with."""
    if len(graph.ntypes) > 1 or len(graph.etypes) > 1:
        raise ValueError(
            f"training reads a DistGraph of one type of nodes and edges, got {graph.ntypes} and {graph.etypes}; train "
            "with a loop of your own, and dgl_lowbit.training.synchronize."
        )
    check_names(graph.ndata, "a DistGraph's ndata")
    if not isinstance(sampler, dgl.dataloading.BlockSampler):
        raise ValueError(
            "a DistGraph is trained on by blocks; pass sampler=, as dgl.dataloading.NeighborSampler([10, 10]), got "
            f"{sampler!r}."
        )
    if learns(sampler):
        raise ValueError(
            f"{type(sampler).__name__} keeps a number for each edge of a graph in one process; on a DistGraph sample "
            "with dgl.dataloading.NeighborSampler."
        )
    given = [f"{name}=" for name, value in options.items() if value]
    if given:
        raise ValueError(
            f"{', '.join(given)} cannot be had on a DistGraph; leave it out"
            + (", and set DGL_NUM_SAMPLER for processes that sample." if "num_workers=" in given else ".")
        )
    trainers, world = dgl.distributed.role.get_num_trainers(), processes_of(graph).size
    if trainers != world:
        raise ValueError(
            f"DGL knows {trainers} trainers, torch.distributed {world} processes; start both with "
            "dgl_lowbit.distributed.initialize()."
        )


def _world():
    return dist.group.WORLD if dist.is_available() and dist.is_initialized() else None


def processes_of(graph: Any) -> Processes:
    """Those that train on ``graph`` together: all, of a DistGraph, else this one."""
    return Processes(_world()) if is_distributed(graph) else Processes()


class Shares:
    """A DistGraph that several processes train on, each on its share of the nodes.

    Shares of each mask are DGL's (``node_split``): as large as each other, and mostly of the process's own part.

    Parameters
    ----------
    graph : dgl.distributed.DistGraph
    sampler : dgl.dataloading.BlockSampler
    batch_size : int
        Labelled nodes of a step of one process.

    Raises
    ------
    ValueError
        When a process has fewer labelled nodes than there are steps, for labels below 0 where a mask is set.
    """

    messages = None

    def __init__(self, graph, sampler, batch_size):
        self.graph, self.sampler, self.processes = graph, sampler, processes_of(graph)
        with watch("masks and labels"):
            masks = {name: graph.ndata[f"{name}_mask"] for name in ("train", "val", "test")}
            self._nodes = {name: self._share(mask) for name, mask in masks.items()}
            self._others = self._share_of_others(masks["train"])
            self._own = torch.cat([self._nodes["train"], self._others])
            self._labels = {name: self._fetch("label", nodes).long() for name, nodes in self._nodes.items()}
        self.labels = torch.cat([self._labels["train"], torch.full_like(self._others, -1)])  # whose labels nobody asks
        labelled = torch.cat(list(self._labels.values()))
        check_label(self.processes.least(int(labelled.min()) if len(labelled) else 0), "a DistGraph's ndata['label']")
        count = len(self._nodes["train"])
        self._steps = self.processes.most(-(-count // batch_size))
        if self.processes.least(count) < max(self._steps, 1):
            raise ValueError(
                f"each of {self.processes.size} processes needs a labelled node for each of {self._steps} steps an "
                "epoch; set more of train_mask, or train in fewer processes."
            )

    def _share(self, mask):
        return dgl.distributed.node_split(mask, self.graph.get_partition_book(), force_even=True)

    def _share_of_others(self, train_mask):
        """Nodes without a label to learn from: those of this process's part, divided among its trainers."""
        every = torch.ones(self.graph.num_nodes(), dtype=torch.bool)
        own = dgl.distributed.node_split(every, self.graph.get_partition_book(), force_even=True)
        return own[train_mask[own] == 0]

    def _fetch(self, name, nodes):
        return self.graph.ndata[name][nodes]

    def keep_messages(self, model) -> None:
        """Histories are of graphs in one process."""

    def show(self, look):
        """Call ``look`` with blocks around some of this process's nodes, and their features."""
        look(*self.example())

    def example(self) -> tuple[list, torch.Tensor]:
        chosen = self._own[torch.linspace(0, len(self._own) - 1, min(_SHOWN, len(self._own))).long()]
        with watch("blocks to take ranges from"):
            sources, _, blocks = self.sampler.sample_blocks(self.graph, chosen)
            return blocks, self._fetch("feat", sources)

    def batches(self, with_others: bool) -> Iterator[Batch]:
        """As many steps in each process, with as many nodes, but for one."""
        count = len(self._nodes["train"])
        labelled = torch.randperm(count).tensor_split(self._steps)
        others = (count + torch.randperm(len(self._others))).split(max(map(len, labelled)))
        places = [
            torch.cat([some, *(part[: len(some)] for part in others[step : step + 1] if with_others)])
            for step, some in enumerate(labelled)
        ]
        for step, blocks, feat in self._loaded([self._own[chosen] for chosen in places], self.sampler):
            is_labelled = torch.arange(len(places[step])) < len(labelled[step])
            yield Batch(blocks, feat, places[step], is_labelled)

    def _loaded(self, batches, sampler):
        """Of each of ``batches`` of nodes its number, blocks and features, in any order; sampled by DGL's samplers."""
        loader = dgl.distributed.DistDataLoader(
            torch.arange(len(batches)), batch_size=1, collate_fn=_Sampling(self.graph, sampler, batches)
        )
        rest = iter(loader)
        for _ in batches:
            with watch("blocks and features of a batch"):
                number, sources, blocks = next(rest)
                feat = self._fetch("feat", sources)
            yield number, blocks, feat

    @torch.no_grad()
    def _evaluated(self, model, nodes):
        """Logits of ``nodes``, some at a time, from all of their neighbours: pairs of their places and logits."""
        batches = torch.arange(len(nodes)).split(_EVALUATED)
        if not len(nodes):
            return
        whole = dgl.dataloading.MultiLayerFullNeighborSampler(self._depth)
        with evaluating(model):
            for number, blocks, feat in self._loaded([nodes[places] for places in batches], whole):
                yield batches[number], model(blocks, feat)

    @property
    def _depth(self):
        """The number of blocks that the model is called with."""
        if not hasattr(self, "_blocks"):
            self._blocks = len(self.example()[0])
        return self._blocks

    def logits(self, model: nn.Module) -> torch.Tensor:
        """Evaluation logits of this process's nodes, in the order of ``labels``."""
        parts = list(self._evaluated(model, self._own))
        logits = parts[0][1].new_empty(len(self._own), parts[0][1].shape[-1])
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
        nodes, labels = self._nodes[name], self._labels[name]
        loss = hits = 0.0
        for places, logits in self._evaluated(model, nodes):
            loss += F.cross_entropy(logits, labels[places], reduction="sum").item()
            hits += float((logits.argmax(-1) == labels[places]).sum())
        return self.processes.sums(loss, hits, len(nodes))

    def identity(self, model, teacher):
        book = self.graph.get_partition_book()
        content = (
            f"{self.graph.num_nodes()} nodes, {self.graph.num_edges()} edges, in {book.num_partitions()} parts, for "
            f"{self.processes.size} processes"
        )
        return identity_of(model, content, teacher, blocks=self.sampler)


class _Sampling:
    """Makes blocks of a batch by its number, in this process or in one of DGL's samplers."""

    def __init__(self, graph, sampler, batches):
        self.graph, self.sampler, self.batches = graph, sampler, batches

    def __call__(self, numbers):
        (number,) = numbers
        sources, _, blocks = self.sampler.sample_blocks(self.graph, self.batches[number])
        return number, sources, blocks
