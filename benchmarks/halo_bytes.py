"""What workers send of a packed GCN on a partitioned graph, against the same rows in float32.

    python benchmarks/halo_bytes.py [--graph planted] [--workers 2,4] [--hidden 64] [--classes 16] [--table FILE]

Partitions are METIS's, workers processes of this machine that speak by gloo. A GCN multiplies before it sums, so that
its layers send rows of as many columns as they return. Bytes are the largest sum that a worker sends in one layer, and
those beside the rows too: before each exchange a worker tells every other one, in 16 bytes, that it goes on. Results of
all workers are compared with one process's.
"""

from __future__ import annotations

import argparse
import socket
import tempfile
from pathlib import Path

import dgl
import torch
import torch.distributed
import torch.multiprocessing

import dgl_lowbit as lowbit
from dgl_lowbit.distributed import Partition, inference
from dgl_lowbit.experiments.data import load_graph
from dgl_lowbit.experiments.models import GCN
from dgl_lowbit.experiments.tables import show
from dgl_lowbit.report import table

CONFIGS = {
    "INT2": {"bits": 2},
    "INT2, powers of two of rows": {"bits": 2, "messages_granularity": "shift"},
    "INT4": {"bits": 4},
}
NOTE_BYTES = 16


def work(rank, count, port, folder, graph, owners):
    """A worker: its part of each model's results, and what it sent."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=count)
    part, found = Partition.split(graph, owners, rank, count), {}
    for name in CONFIGS:
        packed = lowbit.load(folder / f"{name}.safetensors")
        rows = inference(packed, part, graph.ndata["feat"][part.nodes["_N"]], timeout=600)
        found[name] = rows, part.nodes["_N"], [(*sent, sent.float_nbytes) for sent in part.sent]
    torch.save(found, folder / f"{rank}.pt")
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def packed_models(graph, hidden, classes, folder):
    """Files of a model in all configurations; returns its results."""
    results = {}
    for name, config in CONFIGS.items():
        torch.manual_seed(0)
        feat = graph.ndata["feat"]
        model = lowbit.quantize(GCN(feat.shape[1], classes, hidden), lowbit.QuantConfig(**config)).eval()
        packed = lowbit.freeze(lowbit.calibrate(model, graph, feat), graph, feat)
        packed.save(folder / f"{name}.safetensors")
        results[name] = packed(graph, feat)
    return results


def rows_of(graph, count, folder, results):
    """A row of the table for each model and layer."""
    owners = dgl.metis_partition_assignment(graph, count)
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    torch.multiprocessing.spawn(work, (count, port, folder, graph, owners), count)
    workers = [torch.load(folder / f"{rank}.pt") for rank in range(count)]
    for name, whole in results.items():
        parts = [found[name] for found in workers]
        assert all(torch.equal(rows, whole[nodes]) for rows, nodes, _ in parts)
        for layer in range(len(parts[0][2])):
            _, columns, _, rows, nbytes, floats = max((sent[layer] for _, _, sent in parts), key=lambda sent: sent[3])
            nbytes += NOTE_BYTES * (count - 1)
            yield [str(count), name, str(columns), f"{rows:,}", f"{nbytes:,}", f"{floats:,}", f"{floats / nbytes:.1f}x"]


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--graph", default="planted", help="a graph by name (default: %(default)s)")
    parser.add_argument("--workers", default="2,4", help="how many (default: %(default)s)")
    parser.add_argument("--hidden", type=int, default=64, help="columns of the first layer (default: %(default)s)")
    parser.add_argument("--classes", type=int, default=16, help="columns of the second (default: %(default)s)")
    parser.add_argument("--table", help="write the table to this file too")
    options = parser.parse_args()
    graph = dgl.add_self_loop(dgl.remove_self_loop(load_graph(options.graph, 0)))
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        results = packed_models(graph, options.hidden, options.classes, Path(folder))
        for count in map(int, options.workers.split(",")):
            rows += rows_of(graph, count, Path(folder), results)
    header = ["workers", "messages", "columns", "rows sent", "bytes", "float32 bytes", "fewer"]
    show(table(header, rows), options.table)


if __name__ == "__main__":
    main()
