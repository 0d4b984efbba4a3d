"""A graph of DGL's distributed engine, of which each process trains on a share."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import dgl
import torch
import torch.distributed as dist

from ..graphs.degrees import keep_degrees
from ..nn.stored import is_store
from .batches import Batch, check_label, check_names
from .identity import blocks_of, identity_of
from .in_batches import InBatches
from .processes import Processes, watch
from .sampling import learns


def is_distributed(graph: Any) -> bool:
    """Whether ``graph`` is one of DGL's distributed engine."""
    return isinstance(graph, dgl.distributed.DistGraph)


def check_dist_graph(graph, sampler, feat, **options) -> None:
    """Raise ValueError unless ``graph`` has what training reads, and options are such as it can be trained with."""
    if len(graph.ntypes) > 1 or len(graph.etypes) > 1:
        raise ValueError(
            f"training reads a DistGraph of one type of nodes and edges, got {graph.ntypes} and {graph.etypes}; train "
            "with a loop of your own, and dgl_lowbit.training.synchronize."
        )
    check_names(graph.ndata, "a DistGraph's ndata", feat is None)
    if feat is not None:
        _check_records(graph.ndata, feat)
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


def _check_records(ndata, feat):
    """Raise ValueError unless ``feat`` is the store whose records the graph has."""
    if not is_store(feat):
        raise ValueError(
            "feat of a DistGraph is the FeatureStore whose records are its ndata['feat']; features themselves stand in "
            f"ndata['feat'], got {type(feat).__name__} beside."
        )
    held = ndata.get("feat")
    if held is None or held.dtype != torch.uint8 or tuple(held.shape[1:]) != (feat.row_bytes,):
        got = "nothing" if held is None else f"{held.dtype} {(*held.shape,)}"
        raise ValueError(
            f"a DistGraph's ndata['feat'] must be records of the store, (N, {feat.row_bytes}) uint8, got {got}; "
            "partition the graph with store.records() as its 'feat'."
        )


def _world():
    return dist.group.WORLD if dist.is_available() and dist.is_initialized() else None


def processes_of(graph: Any) -> Processes:
    """Those that train on ``graph`` together: all, of a DistGraph, else this one."""
    return Processes(_world()) if is_distributed(graph) else Processes()


class Shares(InBatches):
    """A DistGraph that several processes train on, each on its share of the nodes.

    Shares of each mask are DGL's (``node_split``): as large as each other, and mostly of the process's own part.

    Parameters
    ----------
    graph : dgl.distributed.DistGraph
    sampler : dgl.dataloading.BlockSampler
    batch_size : int
        Labelled nodes of a step of one process.
    store : FeatureStore, optional
        Decodes the features, which are then its records.
    degrees : bool
        Whether blocks are to know the degrees of the graph.

    Raises
    ------
    ValueError
        When a process has fewer labelled nodes than there are steps, for labels below 0 where a mask is set.
    """

    messages = None

    def __init__(self, graph, sampler, batch_size, store=None, degrees=False):
        self.graph, self.sampler, self.processes, self.store = graph, sampler, processes_of(graph), store
        self._degrees = degrees
        with watch("masks and labels"):
            masks = {name: graph.ndata[f"{name}_mask"] for name in ("train", "val", "test")}
            self.nodes = {name: self._share(mask) for name, mask in masks.items()}
            self._others = self._share_of_others(masks["train"])
            self.own = torch.cat([self.nodes["train"], self._others])
            self.node_labels = {name: graph.ndata["label"][nodes].long() for name, nodes in self.nodes.items()}
        # Nobody asks for labels of others.
        self.labels = torch.cat([self.node_labels["train"], torch.full_like(self._others, -1)])
        labelled = torch.cat(list(self.node_labels.values()))
        check_label(self.processes.least(int(labelled.min()) if len(labelled) else 0), "a DistGraph's ndata['label']")
        count = len(self.nodes["train"])
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

    def _features(self, nodes):
        rows = self.graph.ndata["feat"][nodes]
        return rows if self.store is None else self.store.decode(rows)

    def keep_messages(self, model) -> None:
        """Histories are of graphs in one process."""

    def batches(self, with_others: bool) -> Iterator[Batch]:
        """As many steps in each process, with as many nodes, but for one."""
        count = len(self.nodes["train"])
        labelled = torch.randperm(count).tensor_split(self._steps)
        others = (count + torch.randperm(len(self._others))).split(max(map(len, labelled)))
        places = [
            torch.cat([some, *(part[: len(some)] for part in others[step : step + 1] if with_others)])
            for step, some in enumerate(labelled)
        ]
        for step, blocks, feat in self.loaded([self.own[chosen] for chosen in places], self.sampler):
            is_labelled = torch.arange(len(places[step])) < len(labelled[step])
            yield Batch(blocks, feat, places[step], is_labelled)

    def loaded(self, batches, sampler):
        """Of each of ``batches`` of nodes its number, blocks and features, in any order; sampled by DGL's samplers."""
        loader = dgl.distributed.DistDataLoader(
            torch.arange(len(batches)), batch_size=1, collate_fn=_Sampling(self.graph, sampler, batches, self._degrees)
        )
        rest = iter(loader)
        for _ in batches:
            with watch("blocks and features of a batch"):
                number, sources, blocks = next(rest)
                feat = self._features(sources)
            yield number, blocks, feat

    def identity(self, model, teacher):
        book = self.graph.get_partition_book()
        content = (
            f"{self.graph.num_nodes()} nodes, {self.graph.num_edges()} edges, in {book.num_partitions()} parts, for "
            f"{self.processes.size} processes"
        )
        return identity_of(model, content, teacher, blocks=blocks_of(self.sampler, self._degrees))


class _Sampling:
    """Makes blocks of a batch by its number, in this process or in one of DGL's samplers."""

    def __init__(self, graph, sampler, batches, degrees):
        self.graph, self.sampler, self.batches, self.degrees = graph, sampler, batches, degrees

    def __call__(self, numbers):
        (number,) = numbers
        sources, _, blocks = self.sampler.sample_blocks(self.graph, self.batches[number])
        for block in blocks if self.degrees else ():
            keep_degrees(block, self.graph)
        return number, sources, blocks
