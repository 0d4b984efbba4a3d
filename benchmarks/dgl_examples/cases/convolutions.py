"""Convolutions on one whole graph."""

from types import SimpleNamespace

import torch
import torch.nn.functional as F

from ..case import Case, holding
from ..draw import Draw

FEATS, HIDDEN, CLASSES = 12, 16, 5
ZOO = "model_zoo/citation_network/models.py"


def on_graph(d):
    return d.graph(), d.feat(FEATS)


def held(d):
    return holding(d.feat(FEATS), g=d.graph())


def _line_graph(d, feats):
    graph = d.undirected()
    line = graph.line_graph(backtracking=False)
    degrees = graph.in_degrees().float().unsqueeze(1), line.in_degrees().float().unsqueeze(1)
    ends = graph.edges()[0]
    if feats == 1:
        return graph, line, *degrees, ends
    return graph, line, d.feat(feats), d.rows(graph.num_edges(), feats), *degrees, ends


MIXHOP = {"args": SimpleNamespace(p=[0, 1, 2])}
CASES = [
    Case("gcn/train.py", "GCN", (FEATS, HIDDEN, CLASSES), on_graph),
    Case("graphsage/train_full.py", "SAGE", (FEATS, HIDDEN, CLASSES), on_graph),
    Case(
        "appnp/appnp.py",
        "APPNP",
        lambda d: (d.graph(), FEATS, [HIDDEN], CLASSES, F.relu, 0.5, 0.5, 0.1, 10),
        held,
    ),
    *[
        Case("jknet/model.py", "JKNet", (FEATS, HIDDEN, CLASSES, 3, mode, 0.5), on_graph, variant=mode)
        for mode in ("cat", "max", "lstm")
    ],
    Case("mixhop/main.py", "MixHopConv", (FEATS, HIDDEN), on_graph, constants=MIXHOP),
    Case(
        "mixhop/main.py",
        "MixHop",
        (FEATS, HIDDEN, CLASSES, 3, [0, 1, 2], 0.5, 0.5, torch.tanh, True),
        on_graph,
        constants=MIXHOP,
    ),
    Case("dagnn/main.py", "DAGNNConv", (FEATS, 4), on_graph),
    Case("dagnn/main.py", "MLPLayer", (FEATS, HIDDEN, True, F.relu, 0.5), lambda d: d.feat(FEATS)),
    Case("dagnn/main.py", "DAGNN", (4, FEATS, HIDDEN, CLASSES), on_graph),
    Case("tagcn/tagcn.py", "TAGCN", lambda d: (d.graph(), FEATS, HIDDEN, CLASSES, 1, F.relu, 0.5), held),
    Case(
        "monet/citation.py",
        "MoNet",
        lambda d: (d.graph(), FEATS, HIDDEN, CLASSES, 2, 2, 3, 0.5),
        lambda d: holding(d.feat(FEATS), d.positive(d.graph().num_edges(), 2), g=d.graph()),
    ),
    Case(ZOO, "GCN", lambda d: (d.graph(), FEATS, CLASSES, HIDDEN, 2, F.relu, 0.5), held),
    *[
        Case(
            ZOO,
            "GraphSAGE",
            lambda d, module, kind=kind: (d.graph(), FEATS, CLASSES, HIDDEN, 2, F.relu, 0.5, kind),
            held,
            variant=kind,
        )
        for kind in ("gcn", "mean", "pool")
    ],
    Case(ZOO, "APPNP", lambda d: (d.graph(), FEATS, CLASSES, HIDDEN, 2, F.relu, 0.5, 0.5, 0.1, 10), held),
    Case(ZOO, "TAGCN", lambda d: (d.graph(), FEATS, CLASSES, HIDDEN, 2, F.relu, 0.5), held),
    Case(ZOO, "AGNN", lambda d: (d.graph(), FEATS, CLASSES, HIDDEN, 2, 1.0, True, 0.5), held),
    # Its layer keeps what the first graph gave, so that the second must be the same.
    Case(ZOO, "SGC", lambda d: (d.graph(), FEATS, CLASSES, HIDDEN, 2, True), lambda d: held(Draw(0, 60))),
    Case(ZOO, "GIN", lambda d: (d.graph(), FEATS, CLASSES, HIDDEN, 2, 0.1, True), held),
    Case(ZOO, "ChebNet", lambda d: (d.graph(), FEATS, CLASSES, HIDDEN, 2, 2, True), held),
    Case("ogb/ogbn-arxiv/models.py", "GCN", (FEATS, HIDDEN, CLASSES, 3, F.relu, 0.5, True), on_graph),
    Case(
        "ogb/ogbn-arxiv/models.py",
        "GCN",
        (FEATS, HIDDEN, CLASSES, 3, F.relu, 0.5, False),
        on_graph,
        variant="no linear",
    ),
    Case("ogb/ogbn-arxiv/models.py", "ElementWiseLinear", (FEATS,), lambda d: d.feat(FEATS)),
    *[
        Case(file, "MLP", (FEATS, CLASSES, 3, HIDDEN, F.relu, 0.5, 0.1, True), lambda d: d.feat(FEATS))
        for file in ("ogb/ogbn-products/gat/models.py", "ogb/ogbn-products/mlp/models.py")
    ],
    Case(
        "vgae/model.py",
        "VGAEModel",
        (FEATS, HIDDEN, 8),
        on_graph,
        constants={"device": torch.device("cpu")},
    ),
    Case("sign/sign.py", "FeedForwardNet", (FEATS, HIDDEN, CLASSES, 3, 0.5), lambda d: d.feat(FEATS)),
    Case(
        "sign/sign.py",
        "Model",
        (FEATS, HIDDEN, CLASSES, 2, 2, 0.5),
        lambda d: [d.feat(FEATS), d.rows(d.nodes, 1, FEATS)[:, 0], d.positive(d.nodes, FEATS)],
    ),
    Case("line_graph/gnn.py", "GNNModule", (FEATS, HIDDEN, 2), lambda d: _line_graph(d, FEATS)),
    Case("line_graph/gnn.py", "GNN", ([1, HIDDEN, HIDDEN], 2, CLASSES), lambda d: _line_graph(d, 1)),
]
