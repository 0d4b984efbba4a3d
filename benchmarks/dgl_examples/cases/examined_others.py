"""Folders that examine the package: points, series, sequences, and layers by themselves."""

from types import SimpleNamespace

import dgl.nn
import torch
import torch.nn.functional as F

from ..case import Case
from .convolutions import CLASSES, FEATS, HIDDEN, on_graph
from .examined_graphs import labelled
from .examined_nodes import rows


def _weighted(d):
    return *on_graph(d), d.positive(d.graph().num_edges())


def _coarsened(d):
    """Batches of graphs, each of half as many nodes as the one before, as pooling pairs of nodes makes them."""
    graphs = [d.batch(d.nodes // 12, nodes) for nodes in (16, 8, 4)]
    for graph in graphs:
        graph.edata["u"] = d.positive(graph.num_edges(), 2)
    return graphs, d.rows(graphs[0].num_nodes(), 1)


def _visited(d):
    blocks = d.blocks(2)
    for block, width in zip(blocks, (FEATS, HIDDEN)):
        block.srcdata["hist"] = d.rows(block.num_src_nodes(), width)
        block.dstdata["agg_hist"] = d.rows(block.num_dst_nodes(), width)
    blocks[0].srcdata["features"] = d.rows(blocks[0].num_src_nodes(), FEATS)
    return (blocks,)


def _radial(d):
    batch = d.batch()
    batch.edata["m"], batch.edata["rbf"] = d.rows(batch.num_edges(), HIDDEN), d.positive(batch.num_edges(), 6)
    return batch


def _roads(d):
    graph = d.graph()
    graph.edata["weight"] = d.positive(graph.num_edges())
    return graph, d.feat(FEATS)


def _clouds(*shape):
    return lambda d: d.rows(d.nodes // 12, *shape)


def _gates(d):
    return d.graph(), d.feat(FEATS), d.feat(HIDDEN)


WRITER = SimpleNamespace(nhid=FEATS, nhead=2, head_dim=6, dec_ninp=FEATS)
ZOO = "model_zoo/geometric/mnist.py"
CASES = [
    Case("gnn_explainer/models.py", "Layer", (FEATS, HIDDEN), on_graph),
    Case("gnn_explainer/models.py", "Model", (FEATS, CLASSES, HIDDEN), on_graph),
    Case("gnn_explainer/models.py", "Model", (FEATS, CLASSES, HIDDEN), _weighted, variant="weighted"),
    Case(ZOO, "MoNet", (3, 1, [8, 16], CLASSES), _coarsened),
    Case(ZOO, "ChebNet", (2, 1, [8, 16], CLASSES), _coarsened),
    Case("vrgcn/train_cv.py", "SAGE", (FEATS, HIDDEN, CLASSES, 2, F.relu), _visited),
    Case("ogb/seal_ogbl/main.py", "DGCNN", (HIDDEN, 2, 12), labelled),
    Case("dimenet/modules/residual_layer.py", "ResidualLayer", (FEATS, F.silu), rows),
    Case(
        "dimenet/modules/output_block.py",
        "OutputBlock",
        (HIDDEN, 6, 2, CLASSES, F.silu, torch.nn.init.xavier_uniform_),
        _radial,
    ),
    Case("dtgrnn/gaan.py", "GatedGAT", (FEATS, HIDDEN, 8, 2), _roads),
    Case("dtgrnn/model.py", "GraphGRUCell", (FEATS, HIDDEN, dgl.nn.GraphConv), _gates),
    Case("graphwriter/modules.py", "GAT", (FEATS, 6, 2), on_graph),
    Case("graphwriter/modules.py", "MSA", (WRITER,), lambda d: (d.feat(FEATS), d.feat(7, FEATS))),
    Case("pointcloud/edgeconv/model.py", "Model", (4, [8, 8], [16, 16], CLASSES), _clouds(20, 3)),
    Case("pointcloud/pct/pct.py", "SALayerSeg", (HIDDEN,), _clouds(HIDDEN, 20)),
    Case("pointcloud/pointnet/pointnet_cls.py", "TransformNet", (3, 4), _clouds(3, 64)),
]
