"""A server, or a worker, of DGL's distributed engine: ``python -m tests.distributed.served rank count port folder``.

The environment says which, as ``dgl.distributed.initialize`` reads it.
"""

import os
import sys
from pathlib import Path

import dgl
import torch
import torch.distributed

import dgl_lowbit as lowbit


def main(rank, count, port, folder):
    rank, count, folder = int(rank), int(count), Path(folder)
    dgl.distributed.initialize(os.environ["DGL_IP_CONFIG"])  # a server stays here
    torch.distributed.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=count)
    graph = dgl.distributed.DistGraph("g", part_config=str(folder / "g.json"))
    packed = lowbit.load(folder / "sage.safetensors")
    classes = 5
    out = dgl.distributed.DistTensor((graph.num_nodes(), classes), torch.float32, "out")
    for _ in range(2):  # what is exchanged once is kept
        rows = lowbit.distributed.inference(packed, graph, graph.ndata["feat"], batch_size=7, out=out, timeout=300)
    torch.distributed.barrier()
    if rank == 0:
        torch.save(out[torch.arange(graph.num_nodes())], folder / "out.pt")
    torch.save(rows, folder / f"rows{rank}.pt")
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
