"""What is timed: sums over neighbours, products, whole models; each with its float32 counterpart."""

from __future__ import annotations

import copy
import warnings
from dataclasses import dataclass, field
from typing import Callable

import dgl
import dgl.nn
import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

import numba_kernels
from numba_kernels.run.memory import aligned_empty

from ...calibration import calibrate
from ...config import QuantConfig
from ...convert import quantize
from ...deploy.freeze import freeze
from ...deploy.packed import kernel_graph
from ..data import GRAPH_NAMES, load_graph, num_classes
from ..models import MODELS
from .machine import has_bfloat16

# Nodes and edges: as many as ogbn-arxiv's, and as half of Reddit's, of the latter two.
SYNTHETIC = {
    "20k": (20_000, 400_000),
    "100k": (100_000, 1_500_000),
    "170k": (170_000, 2_400_000),
    "500k": (500_000, 12_500_000),
}
WIDTH = 256
_FEATS, _CLASSES = 128, 40


def check_names(graphs: tuple, works: tuple, known_works: tuple) -> None:
    """Raise ValueError for graphs and works that are not among those that a bench has."""
    for kind, given, known in (("work", works, known_works), ("graph", graphs, (*SYNTHETIC, *GRAPH_NAMES))):
        for name in given:
            if name not in known:
                raise ValueError(f"unknown {kind} {name!r}; there are {', '.join(known)}.")


@dataclass
class Work:
    """Functions that compute the same, by name; the first, in float32, is what the others are compared with.

    ``moved`` and ``operations`` tell, of some, the bytes read from memory without any reuse, and integer operations.
    With ``fresh`` every call gets arguments of its own, which it draws.
    """

    name: str
    graph: str
    nodes: int = 0
    edges: int = 0
    functions: dict = field(default_factory=dict)
    moved: dict = field(default_factory=dict)
    operations: dict = field(default_factory=dict)
    fresh: Callable[[], tuple] | None = None


def skewed_graph(nodes: int, edges: int, seed: int = 0) -> dgl.DGLGraph:
    """A random graph with int32 ids whose out-degrees are skewed: sources ∝ the square of a uniform number."""
    rng = np.random.default_rng(seed)
    source = (rng.random(edges) ** 2 * nodes).astype(np.int64)
    source = rng.permutation(nodes)[source]
    return dgl.graph((source, rng.integers(0, nodes, edges)), num_nodes=nodes).int()


def spmm_works(name: str, bits: tuple, seed: int = 0) -> list[Work]:
    """Sums over in-neighbours of 256 columns, to packed codes and to float32."""
    nodes, edges = SYNTHETIC[name]
    graph = skewed_graph(nodes, edges, seed).formats(["csc"])
    prepared = kernel_graph(graph)
    feat = torch.from_numpy(np.random.default_rng(seed).random((nodes, WIDTH), np.float32))
    indptr, indices = torch.from_numpy(prepared.indptr), torch.from_numpy(prepared.indices).long()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that CSR is in beta
        matrix = torch.sparse_csr_tensor(indptr, indices, torch.ones(edges), (nodes, nodes))
    half = feat.bfloat16() if has_bfloat16() else None
    floats = {"DGL float32": lambda: dgl.ops.copy_u_sum(graph, feat)}
    if has_bfloat16():
        floats["DGL bfloat16"] = lambda: dgl.ops.copy_u_sum(graph, half)
    floats["torch CSR"] = lambda: matrix @ feat
    packed = Work("SpMM → packed", name, nodes, edges, dict(floats))
    to_float = Work("SpMM → float32", name, nodes, edges, dict(floats))
    out = aligned_empty((nodes, WIDTH), np.float32)
    for b in bits:
        top = 2**b - 1
        codes = numba_kernels.quantize(feat.numpy(), numba_kernels.Grid(WIDTH, b, scale=1 / top))
        coarse = numba_kernels.Grid(WIDTH, b, scale=edges / nodes / top)
        packed.functions[f"INT{b}"] = lambda codes=codes, coarse=coarse: numba_kernels.spmm(prepared, codes, coarse)
        to_float.functions[f"INT{b}"] = lambda codes=codes: numba_kernels.spmm(prepared, codes, out=out)
        row = codes.packed.shape[1]
        packed.moved[f"INT{b}"] = edges * (row + 4) + nodes * (row + 8)
        to_float.moved[f"INT{b}"] = edges * (row + 4) + nodes * (4 * WIDTH + 8)
    return [packed, to_float]


def gemm_works(bits: tuple, seed: int = 0, shape=(20_000, 256, 256)) -> list[Work]:
    """Products of packed activations and packed weights."""
    rows, K, M = shape
    rng = np.random.default_rng(seed)
    x, w = (torch.from_numpy(rng.random(size, np.float32)) for size in ((rows, K), (K, M)))
    x8, w8 = (torch.from_numpy(rng.integers(-127, 128, size, np.int8)) for size in ((rows, K), (K, M)))
    work = Work("GEMM", f"{rows:,} × {K} × {M}")
    work.functions = {"torch float32": lambda: x @ w, "torch _int_mm": lambda: torch._int_mm(x8, w8)}
    out = aligned_empty((rows, M), np.float32)
    for b in bits:
        codes = numba_kernels.quantize(x.numpy(), numba_kernels.Grid(K, b, scale=1 / (2**b - 1)))
        weight = numba_kernels.Weight(rng.integers(0, 2**b, (K, M)).astype(np.uint8), 0.1, (2**b - 1) / 2)
        work.functions[f"INT{b}"] = lambda codes=codes, weight=weight: numba_kernels.gemm(codes, weight, out=out)
        work.operations[f"INT{b}"] = 2 * rows * K * M
    return [work]


class ThreeLayers(nn.Module):
    """Three layers, 128-256-256-40, with ReLU between."""

    def __init__(self, make):
        super().__init__()
        self.layers = nn.ModuleList([make(_FEATS, WIDTH), make(WIDTH, WIDTH), make(WIDTH, _CLASSES)])

    def forward(self, graph, feat):
        h = feat
        for i, layer in enumerate(self.layers):
            h = layer(graph, F.relu(h) if i else h)
        return h


class TwoHeads(nn.Module):
    """Two layers of attention, 8 heads of 16 columns, with ELU between; the mean over heads is what it returns."""

    def __init__(self, make):
        super().__init__()
        self.layers = nn.ModuleList([make(width, 16, 8) for width in (_FEATS, _FEATS)])

    def forward(self, graph, feat):
        h = F.elu(self.layers[0](graph, feat).flatten(1))
        return self.layers[1](graph, h).mean(1)


def model_works(name: str, bits: tuple, kinds: tuple, seed: int = 0) -> list[Work]:
    """Whole models on float32 features: three layers on a synthetic graph, the reference models on a real one."""
    torch.manual_seed(seed)
    if name in SYNTHETIC:
        graph = dgl.add_self_loop(skewed_graph(*SYNTHETIC[name], seed))
        feat = torch.randn(graph.num_nodes(), _FEATS)
        layers = {"gcn": dgl.nn.GraphConv, "sage": lambda i, o: dgl.nn.SAGEConv(i, o, "mean")}
        models = {kind: lambda kind=kind: ThreeLayers(layers[kind]) for kind in kinds if kind in layers}
        attention = {"gat": dgl.nn.GATConv, "gatv2": dgl.nn.GATv2Conv}
        models.update({kind: lambda kind=kind: TwoHeads(attention[kind]) for kind in kinds if kind in attention})
        names = {"gcn": "3-layer GCN", "sage": "3-layer SAGE", "gat": "2-layer GAT 8×16", "gatv2": "2-layer GATv2 8×16"}
    else:
        graph = dgl.add_self_loop(load_graph(name, seed)).int()
        feat = graph.ndata["feat"]
        known = [kind for kind in kinds if kind in MODELS]
        models = {kind: lambda kind=kind: MODELS[kind](feat.shape[1], num_classes(graph)) for kind in known}
        names = {"gcn": "2-layer GCN", "sage": "2-layer SAGE", "smp": "SMP K=10"}
    graph.create_formats_()
    return [_model_work(names[kind], name, graph, feat, make().eval(), bits) for kind, make in models.items()]


def _model_work(label, name, graph, feat, model, bits):
    work = Work(label, name, graph.num_nodes(), graph.num_edges())
    work.functions = {"DGL float32": lambda: model(graph, feat)}
    if has_bfloat16():
        half, half_feat = copy.deepcopy(model).bfloat16(), feat.bfloat16()
        work.functions["DGL bfloat16"] = lambda: half(graph, half_feat)
    for b in bits:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            low = quantize(model, QuantConfig(b))
            calibrate(low, graph, feat)
            packed = freeze(low)
        work.functions[f"INT{b}"] = lambda packed=packed: packed(graph, feat)
    return work
