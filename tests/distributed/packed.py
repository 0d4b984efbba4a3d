"""Models of all kinds, their graphs and features, and workers that run them on partitions.

``python -m tests.distributed.packed COUNT FOLDER NAMES WAY`` is as many workers, processes that speak by gloo, which
run models that are files of the folder.
"""

import json
import os
import signal
import socket
import sys
import time
from pathlib import Path

import dgl
import dgl.nn
import torch
import torch.distributed
import torch.nn.functional as F
from torch import nn

import dgl_lowbit as lowbit
from dgl_lowbit.distributed.halo import Halo
from dgl_lowbit.experiments.models import GCN, SMP, GraphSAGE

WIDTH, CLASSES, HIDDEN = 24, 5, 16


class Layers(nn.Module):
    """Two layers of a kind, with more after the first."""

    def __init__(self, first, second, norm=None):
        super().__init__()
        self.first, self.second, self.norm = first, second, norm or nn.ReLU()

    def forward(self, graph, feat):
        return self.second(graph, self.norm(self.first(graph, feat).flatten(1))).flatten(1)


class RGCN(nn.Module):
    def __init__(self, etypes):
        super().__init__()
        self.layers = nn.ModuleList(
            dgl.nn.HeteroGraphConv({e: dgl.nn.GraphConv(i, o, "right") for e in etypes})
            for i, o in ((WIDTH, HIDDEN), (HIDDEN, CLASSES))
        )

    def forward(self, graph, feat):
        feat = {ntype: F.relu(h) for ntype, h in self.layers[0](graph, feat).items()}
        return self.layers[1](graph, feat)


class APPNP(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear, self.propagate = nn.Linear(WIDTH, CLASSES), dgl.nn.APPNPConv(3, 0.1)

    def forward(self, graph, feat):
        return self.propagate(graph, self.linear(feat))


def gin():
    return Layers(dgl.nn.GINConv(nn.Linear(WIDTH, HIDDEN), "sum"), dgl.nn.GINConv(nn.Linear(HIDDEN, CLASSES), "sum"))


def gat():
    norm = nn.LayerNorm(HIDDEN)
    return Layers(dgl.nn.GATConv(WIDTH, HIDDEN // 2, 2), dgl.nn.GATConv(HIDDEN, CLASSES, 1), norm)


def pruned():
    """It reads half of the columns, and sends half of the channels."""
    graph, feat = homogeneous()
    graph.ndata.update(feat=feat, label=feat.argmax(1) % CLASSES)
    for name in ("train_mask", "val_mask", "test_mask"):
        graph.ndata[name] = torch.ones(graph.num_nodes(), dtype=torch.bool)
    pruner = lowbit.Pruner(GCN(WIDTH, CLASSES, HIDDEN), graph, features=0.5, channels=0.5, start=0, stop=1)
    pruner.advance(1)
    return pruner.squeeze()


CONFIG, DELTA = {"bits": 2}, {"bits": 2, "states": 8}
SHIFT = {**DELTA, "messages_granularity": "shift", "states_granularity": "shift"}
MODELS = {
    "gcn": (lambda: GCN(WIDTH, CLASSES, HIDDEN), CONFIG),
    "sage": (lambda: GraphSAGE(WIDTH, CLASSES, HIDDEN), CONFIG),
    "gat": (gat, CONFIG),
    "gin": (gin, CONFIG),
    "appnp": (APPNP, CONFIG),
    "smp": (lambda: SMP(WIDTH, CLASSES, HIDDEN), DELTA),
    "smp-shift": (lambda: SMP(WIDTH, CLASSES, HIDDEN), SHIFT),
    "pruned": (pruned, CONFIG),
    "rgcn": (lambda: RGCN(["r", "s", "t"]), CONFIG),
}


def homogeneous(nodes=60, edges=240):
    generator = torch.Generator().manual_seed(0)
    graph = dgl.graph((*torch.randint(nodes, (2, edges), generator=generator),), num_nodes=nodes)
    graph = dgl.add_self_loop(dgl.remove_self_loop(graph))
    return graph, torch.randn(nodes, WIDTH, generator=generator)


def heterogeneous():
    generator = torch.Generator().manual_seed(0)
    sizes = {"a": 30, "b": 20}

    def edges(source, target):
        ends = [torch.randint(sizes[end], (90,), generator=generator) for end in (source, target)]
        return torch.cat([ends[0], torch.zeros(sizes[target], dtype=torch.int64)]), torch.cat(
            [ends[1], torch.arange(sizes[target])]
        )

    etypes = [("a", "r", "b"), ("b", "s", "a"), ("a", "t", "a")]
    graph = dgl.heterograph({etype: edges(etype[0], etype[2]) for etype in etypes}, num_nodes_dict=sizes)
    return graph, {ntype: torch.randn(count, WIDTH, generator=generator) for ntype, count in sizes.items()}


def arguments(name):
    return heterogeneous() if name == "rgcn" else homogeneous()


def save(folder, name):
    """Make a packed model; its file is kept."""
    make, config = MODELS[name]
    torch.manual_seed(0)
    graph, feat = arguments(name)
    model = lowbit.quantize(make(), lowbit.QuantConfig(**config), graph, feat).eval()
    lowbit.calibrate(model, graph, feat)
    packed = lowbit.freeze(model, graph, feat)
    packed.save(folder / f"{name}.safetensors")
    return packed(graph, feat)


def parts_of(graph, count):
    """Which worker computes each node; numbers of all kinds, none of them a range."""
    generator = torch.Generator().manual_seed(1)
    return {n: torch.randint(count, (graph.num_nodes(n),), generator=generator) for n in graph.ntypes}


def run(folder, name, rank, count, **options):
    """A worker's rows, and how they are distributed."""
    graph, feat = arguments(name)
    part = lowbit.distributed.Partition.split(graph, parts_of(graph, count), rank, count)
    feat = {n: feat[n][ids] for n, ids in part.nodes.items()} if isinstance(feat, dict) else feat[part.nodes["_N"]]
    packed = lowbit.load(folder / f"{name}.safetensors")
    return lowbit.distributed.inference(packed, part, feat, batch_size=7, **{"timeout": 300, **options}), part


def fail(folder, name, rank, count, way):
    """Begin to run a model; worker 1 stops in the midst of it."""
    exchanged = Halo.exchange

    def exchange(halo, codes):
        if rank == 1:
            if way == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            if way == "sleep":
                time.sleep(8)
            raise MemoryError("no room left")
        exchanged(halo, codes)

    Halo.exchange = exchange
    start = time.monotonic()
    try:
        run(folder, name, rank, count, timeout=4 if way == "sleep" else 300)
    except (lowbit.training.LostProcessError, MemoryError) as error:
        told = type(error).__name__, str(error), time.monotonic() - start
        (folder / f"{way}-{rank}.json").write_text(json.dumps(told))


def work(rank, count, port, folder, names, way):
    torch.distributed.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=count)
    for name in names.split(","):
        if way == "run":
            result, part = run(folder, name, rank, count)
            torch.save((result, part.nodes), folder / f"{name}-{count}-{rank}.pt")
        else:
            fail(folder, name, rank, count, way)


def main(count, folder, names, way):
    """Fork the workers, so that they need not import everything anew, and wait for them."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    for rank in range(int(count)):
        if os.fork() == 0:
            status = 1
            try:
                work(rank, int(count), port, Path(folder), names, way)
                status = 0
            finally:
                os._exit(status)
    statuses = [os.waitstatus_to_exitcode(os.wait()[1]) for _ in range(int(count))]
    print(json.dumps(sorted(statuses)))


if __name__ == "__main__":
    main(*sys.argv[1:])
