"""Batches of graphs: readouts, pooling, sequences."""

import torch.nn.functional as F

from ..case import Case
from .convolutions import CLASSES, FEATS, HIDDEN


def on_batch(d):
    batch = d.batch()
    return batch, d.rows(batch.num_nodes(), FEATS)


def _with_feat(d):
    return d.batch(feat=FEATS)


def _annotated(d, width=3):
    batch = d.batch(annotation=width)
    batch.edata["type"] = d.integers(2, batch.num_edges())
    return batch


def _dense(d):
    graphs = d.nodes // 12
    return d.rows(graphs, 10, FEATS), d.positive(graphs, 10, 10)


DIFFPOOL = "diffpool/model"
CASES = [
    Case("gin/train.py", "MLP", (FEATS, HIDDEN, CLASSES), lambda d: d.feat(FEATS)),
    Case("gin/train.py", "GIN", (FEATS, HIDDEN, CLASSES), on_batch),
    Case("sagpool/layer.py", "SAGPool", (FEATS,), on_batch),
    Case("sagpool/layer.py", "ConvPoolBlock", (FEATS, HIDDEN), on_batch),
    Case("sagpool/network.py", "SAGNetworkHierarchical", (FEATS, HIDDEN, CLASSES), _with_feat),
    Case("sagpool/network.py", "SAGNetworkGlobal", (FEATS, HIDDEN, CLASSES), _with_feat),
    Case("ggnn/ggnn_ns.py", "NodeSelectionGGNN", (3, HIDDEN, 3, 2), _annotated),
    Case("ggnn/ggnn_gc.py", "GraphClsGGNN", (3, HIDDEN, 3, 2, CLASSES), _annotated),
    Case("ggnn/ggsnn.py", "GGSNN", (3, HIDDEN, 3, 2, 4, CLASSES), lambda d: (_annotated(d), None)),
    *[
        Case(
            f"{DIFFPOOL}/dgl_layers/gnn.py", "GraphSageLayer", (FEATS, HIDDEN, F.relu, 0.5, kind, norm), on_batch, kind
        )
        for kind, norm in (("meanpool", True), ("maxpool", False))
    ],
    Case(f"{DIFFPOOL}/dgl_layers/gnn.py", "GraphSage", (FEATS, HIDDEN, CLASSES, 1, F.relu, 0.5, "meanpool"), on_batch),
    Case(
        f"{DIFFPOOL}/dgl_layers/gnn.py",
        "DiffPoolBatchedGraphLayer",
        (FEATS, 4, HIDDEN, F.relu, 0.5, "meanpool", False),
        on_batch,
    ),
    Case(f"{DIFFPOOL}/tensorized_layers/graphsage.py", "BatchedGraphSAGE", (FEATS, HIDDEN, True, True, True), _dense),
    Case(f"{DIFFPOOL}/tensorized_layers/assignment.py", "DiffPoolAssignment", (FEATS, 4), _dense),
    Case(f"{DIFFPOOL}/tensorized_layers/diffpool.py", "BatchedDiffPool", (FEATS, 4, HIDDEN), _dense),
    Case(
        f"{DIFFPOOL}/encoder.py",
        "DiffPool",
        (FEATS, HIDDEN, 8, CLASSES, F.relu, 3, 0.0, 1, False, 20, "meanpool", 6, 0.5),
        _with_feat,
    ),
]
