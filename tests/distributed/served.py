"""Workers and servers of DGL's distributed engine: ``python -m tests.distributed.served FOLDER``, as OneHost runs it.

They run the model ``sage`` of the folder on the parts that it holds, each its share.
"""

import os
import sys
from pathlib import Path

import dgl
import torch
import torch.distributed

import dgl_lowbit as lowbit
from dgl_lowbit.distributed import inference, initialize
from tests.distributed.packed import CLASSES


def main(folder):
    initialize()
    graph = dgl.distributed.DistGraph("g", part_config=os.environ["DGL_CONF_PATH"])
    packed = lowbit.load(folder / "sage.safetensors")
    out = dgl.distributed.DistTensor((graph.num_nodes(), CLASSES), torch.float32, "out")
    for _ in range(2):  # what is exchanged once is kept
        rows = inference(packed, graph, graph.ndata["feat"], batch_size=7, out=out, timeout=300)
    torch.distributed.barrier()
    written = out[torch.arange(graph.num_nodes())]
    torch.save((rows, written), folder / f"served{torch.distributed.get_rank()}.pt")
    torch.distributed.barrier()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
