"""DGL's distributed engine on this machine: ``python -m tests.distributed.served FOLDER``.

A server and two workers, which share the one partition that the folder holds, run its model ``sage``.
"""

import json
import os
import socket
import sys
from pathlib import Path

import dgl
import torch
import torch.distributed

import dgl_lowbit as lowbit
from tests.distributed.packed import CLASSES

WORKERS = 2


def free_ports(count):
    found = [socket.socket() for _ in range(count)]
    for one in found:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in found]
    for one in found:
        one.close()
    return ports


def work(rank, port, folder):
    torch.distributed.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=WORKERS)
    graph = dgl.distributed.DistGraph("g", part_config=str(folder / "g.json"))
    packed = lowbit.load(folder / "sage.safetensors")
    out = dgl.distributed.DistTensor((graph.num_nodes(), CLASSES), torch.float32, "out")
    for _ in range(2):  # what is exchanged once is kept
        rows = lowbit.distributed.inference(packed, graph, graph.ndata["feat"], batch_size=7, out=out, timeout=300)
    torch.distributed.barrier()
    torch.save((rows, out[torch.arange(graph.num_nodes())]), folder / f"served{rank}.pt")
    torch.distributed.barrier()


def main(folder):
    folder, (server, port) = Path(folder), free_ports(2)
    (folder / "ip.txt").write_text(f"127.0.0.1 {server}\n")
    os.environ.update(
        DGL_DIST_MODE="distributed", DGL_IP_CONFIG=str(folder / "ip.txt"), DGL_NUM_SERVER="1", DGL_SERVER_ID="0",
        DGL_NUM_CLIENT=str(WORKERS), DGL_CONF_PATH=str(folder / "g.json"), DGL_NUM_SAMPLER="0",
        DGL_GRAPH_FORMAT="csc", DGL_KEEP_ALIVE="0", DGL_GROUP_ID="0",
    )  # fmt: skip
    for rank in range(-1, WORKERS):
        if os.fork() == 0:
            status = 1
            try:
                os.environ["DGL_ROLE"] = "server" if rank < 0 else "client"
                dgl.distributed.initialize(os.environ["DGL_IP_CONFIG"])  # the server stays here, and exits
                work(rank, port, folder)
                dgl.distributed.exit_client()
                status = 0
            except SystemExit as ended:
                status = ended.code or 0
            finally:
                os._exit(status)
    print(json.dumps(sorted(os.waitstatus_to_exitcode(os.wait()[1]) for _ in range(WORKERS + 1))))


if __name__ == "__main__":
    main(*sys.argv[1:])
