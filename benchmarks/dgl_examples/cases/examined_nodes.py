"""Folders that examine the package: models of nodes."""

import torch.nn.functional as F
from torch import nn

from ..case import Case, holding
from .convolutions import CLASSES, FEATS, HIDDEN, held, on_graph
from .sampled import sampled

NGNN, PROTEINS = "ogb/ngnn/main.py", "ogb/ogbn-proteins/models.py"


def rows(d):
    return d.feat(FEATS)


def framed(*names, width=FEATS):
    def example(d):
        graph = d.graph()
        for name in names:
            graph.ndata[name] = d.feat(width)
        return graph

    return example


def _normed(d):
    graph = framed("feat")(d)
    graph.ndata["full_D_norm"] = 1 / graph.in_degrees().float().unsqueeze(1)
    return graph


def _views(d):
    return d.graph(key="one"), d.graph(key="two"), d.feat(FEATS), d.positive(d.nodes, FEATS)


def _diffused(d):
    graph = d.graph(degree=6, key="diffused")
    return d.graph(), graph, d.feat(FEATS), d.positive(d.nodes, FEATS), d.positive(graph.num_edges())


def _channels(d):
    """Eight features an edge, and those of the edges' nodes."""
    graph = d.graph()
    for c in range(8):
        graph.edata[f"feat_{c}"] = d.positive(graph.num_edges(), c + 1)[:, c:]
    graph.edata["feat"] = d.rows(graph.num_edges(), 8)
    graph.ndata["feat"] = d.feat(FEATS)
    return graph


def _proteins(d):
    graph = _channels(d)
    return graph, graph.ndata["feat"], graph.edata["feat"]


def _anchored(d):
    graph = d.graph()
    graph.edata["sp_dist"] = d.positive(graph.num_edges(), 1)
    graph.ndata["feat"] = d.feat(FEATS)
    anchors = d.integers(graph.num_edges(), d.nodes * 4)
    return {"graph": graph, "anchor_eid": anchors.tolist(), "dists_max": d.positive(d.nodes, 4)}


def _series(d):
    graphs = [d.graph(key=str(i)) for i in range(3)]
    for i, graph in enumerate(graphs):
        graph.ndata["feat"] = d.rows(d.nodes, FEATS + i)[:, :FEATS]
    return (graphs,)


def _bipartite(d):
    block = d.blocks(1)[0]
    block.edata["affine"] = d.positive(block.num_edges())
    return block, d.rows(block.num_src_nodes(), FEATS)


PROTEIN_GAT = {
    "node_feats": FEATS,
    "edge_feats": 8,
    "n_classes": CLASSES,
    "n_layers": 2,
    "n_heads": 2,
    "n_hidden": 8,
    "edge_emb": 4,
    "activation": F.relu,
    "dropout": 0.5,
    "input_drop": 0.1,
    "attn_drop": 0.1,
    "edge_drop": 0.1,
}
CASES = [
    Case("arma/model.py", "ARMAConv", (FEATS, HIDDEN, 2, 2, nn.ReLU()), on_graph),
    Case("arma/model.py", "ARMA4NC", (FEATS, HIDDEN, CLASSES, 2, 2, nn.ReLU(), 0.5), on_graph),
    *[
        Case("bgnn/run.py", "GNNModelDGL", (FEATS, HIDDEN, CLASSES, 0.5, kind), on_graph, variant=kind)
        for kind in ("gat", "gcn", "agnn", "appnp")
    ],
    Case("bgrl/model.py", "LayerNorm", (FEATS,), rows),
    Case("bgrl/model.py", "MLP_Predictor", (FEATS, CLASSES, HIDDEN), rows),
    Case("bgrl/model.py", "GCN", ([FEATS, HIDDEN, CLASSES],), framed("feat")),
    Case("bgrl/model.py", "GraphSAGE_GCN", ((FEATS, HIDDEN, CLASSES),), framed("feat")),
    Case(
        "bgrl/model.py",
        "BGRL",
        lambda d, module: (module.GCN([FEATS, HIDDEN]), module.MLP_Predictor(HIDDEN, CLASSES, 32)),
        lambda d: (framed("feat")(d), framed("feat")(d)),
    ),
    Case("cluster_gcn/cluster_gcn.py", "SAGE", (FEATS, HIDDEN, CLASSES), on_graph),
    Case("correct_and_smooth/model.py", "MLPLinear", (FEATS, CLASSES), rows),
    Case("correct_and_smooth/model.py", "MLP", (FEATS, HIDDEN, CLASSES, 3, 0.5), rows),
    Case(
        "correct_and_smooth/model.py",
        "LabelPropagation",
        (4, 0.8),
        lambda d: (d.graph(), d.positive(d.nodes, CLASSES)),
    ),
    Case("dgi/gcn.py", "GCN", lambda d: (d.graph(), FEATS, HIDDEN, CLASSES, 2, F.relu, 0.5), held),
    Case("dgi/dgi.py", "Encoder", lambda d: (d.graph(), FEATS, HIDDEN, 1, nn.PReLU(HIDDEN), 0.5), held),
    Case("dgi/dgi.py", "DGI", lambda d: (d.graph(), FEATS, HIDDEN, 1, nn.PReLU(HIDDEN), 0.5), held),
    Case("dgi/dgi.py", "Classifier", (FEATS, CLASSES), rows),
    *[Case("evolveGCN/model.py", cls, (FEATS, 8, 2, CLASSES, HIDDEN), _series) for cls in ("EvolveGCNH", "EvolveGCNO")],
    Case("gatv2/gatv2.py", "GATv2", (2, FEATS, 8, CLASSES, [2, 2, 1], F.elu, 0.5, 0.5, 0.2, True), on_graph),
    *[
        Case("geniepath/model.py", cls, (FEATS, CLASSES, HIDDEN, 2, 2), on_graph)
        for cls in ("GeniePath", "GeniePathLazy")
    ],
    Case("grace/model.py", "GCN", (FEATS, HIDDEN, F.relu, 3), on_graph),
    Case("grace/model.py", "MLP", (FEATS, HIDDEN), rows),
    Case("grace/model.py", "Grace", (FEATS, HIDDEN, 8, 2, F.relu, 0.5), _views),
    Case("grand/model.py", "MLP", (FEATS, HIDDEN, CLASSES, 0.5, 0.5, True), rows),
    Case(
        "grand/model.py",
        "GRAND",
        (FEATS, HIDDEN, CLASSES, 2, 3, 0.5, 0.5, 0.5, True),
        lambda d: (d.graph(), d.feat(FEATS), False),
    ),
    Case(
        "graphsaint/modules.py",
        "GCNLayer",
        (FEATS, HIDDEN, 2, F.relu, 0.5, True),
        lambda d: (_normed(d), d.feat(FEATS)),
    ),
    Case("graphsaint/modules.py", "GCNNet", (FEATS, HIDDEN, CLASSES, "1-1-0", F.relu, 0.5, True), _normed),
    Case("hardgat/hgao.py", "HardGAO", {"in_feats": FEATS, "out_feats": 8, "num_heads": 2, "k": 3}, on_graph),
    Case(
        "hardgat/hgao.py",
        "HardGAT",
        lambda d: (d.graph(), 1, FEATS, 8, CLASSES, [2, 1], F.elu, 0.5, 0.5, 0.2, False, 3),
        held,
    ),
    Case("hilander/models/graphconv.py", "GraphConvLayer", (FEATS, HIDDEN), _bipartite),
    *[
        Case("hilander/models/graphconv.py", "GraphConv", (FEATS, HIDDEN, 0.5, gat, 2), _bipartite, variant=variant)
        for variant, gat in (("", False), ("GAT", True))
    ],
    Case("labor/model.py", "GATv2", (3, FEATS, 8, CLASSES, [2, 2, 1], F.elu, 0.5, 0.5, 0.2, True), sampled(3)),
    Case("labor/model.py", "SAGE", (FEATS, HIDDEN, CLASSES, 2, F.relu, 0.5), sampled(2)),
    Case("multigpu/multi_gpu_node_classification.py", "SAGE", (FEATS, HIDDEN, CLASSES), sampled(3)),
    Case("multigpu/multi_gpu_link_prediction.py", "SAGE", (FEATS, HIDDEN, CLASSES), sampled(3)),
    Case("mvgrl/node/model.py", "LogReg", (FEATS, CLASSES), rows),
    Case("mvgrl/node/model.py", "MVGRL", (FEATS, HIDDEN), _diffused),
    Case("ogb/cluster-gat/main.py", "GAT", (FEATS, 2, 8, CLASSES, 3, F.relu, 0.5), on_graph),
    Case("ogb/cluster-sage/main.py", "SAGE", (FEATS, HIDDEN, CLASSES, 3, F.relu, 0.5), on_graph),
    Case(NGNN, "NGNN_GCNConv", (FEATS, HIDDEN, CLASSES, 2), on_graph),
    Case(
        NGNN,
        "NGNN_SAGEConv",
        {
            "in_channels": FEATS,
            "hidden_channels": HIDDEN,
            "out_channels": CLASSES,
            "num_nonl_layers": 2,
            "reduce": "mean",
        },
        on_graph,
    ),
    *[
        Case(NGNN, cls, (FEATS, HIDDEN, CLASSES, 3, 0.5, kind, "ogbl-ddi"), on_graph, variant=kind)
        for cls in ("GCN", "SAGE")
        for kind in ("input", "hidden")
    ],
    Case(NGNN, "LinkPredictor", (FEATS, HIDDEN, 1, 3, 0.5), lambda d: (d.feat(FEATS), d.positive(d.nodes, FEATS))),
    *[
        Case(PROTEINS, "MWEConv", (FEATS, width, F.relu, True, 8, mode), lambda d: _proteins(d)[:2], variant=mode)
        for mode, width in (("sum", HIDDEN), ("concat", 8))
    ],
    Case(PROTEINS, "MWE_GCN", (1, HIDDEN, CLASSES, 2, F.relu, 0.5), _channels),
    Case(PROTEINS, "MWE_DGCN", (1, HIDDEN, CLASSES, 3, F.relu, 0.5, "true"), _channels),
    Case(PROTEINS, "GATConv", (FEATS, 8, 8, 2), _proteins),
    Case(PROTEINS, "GAT", PROTEIN_GAT, _channels),
    Case("ogb/sign/sign.py", "FeedForwardNet", (FEATS, HIDDEN, CLASSES, 3, 0.5), rows),
    Case(
        "ogb/sign/sign.py",
        "SIGN",
        (FEATS, HIDDEN, CLASSES, 2, 2, 0.5, 0.1),
        lambda d: [d.feat(FEATS), d.positive(d.nodes, FEATS)],
    ),
    Case("P-GNN/model.py", "PGNN", (FEATS, HIDDEN), _anchored),
    Case("rect/model.py", "GCN", lambda d: (d.graph(), FEATS, HIDDEN, CLASSES, nn.PReLU(), 0.5), held),
    Case("rect/model.py", "RECT_L", lambda d: (d.graph(), FEATS, HIDDEN, nn.PReLU(), 0.5), held),
    Case("rect/classify.py", "LogisticRegressionClassifier", (FEATS, CLASSES), rows),
    Case(
        "stgcn_wave/model.py",
        "STGCN_WAVE",
        lambda d: ([1, 4, 8, 8, 8, 8], 40, 60, d.graph(), 0.5, 9, "cpu"),
        lambda d: holding(d.rows(2, 1, 40, 60), g=d.graph()),
        fixed=True,
    ),
    Case(
        "metapath2vec/model.py",
        "SkipGramModel",
        (50, HIDDEN),
        lambda d: (d.integers(50, d.nodes), d.integers(49, d.nodes), d.integers(50, d.nodes, 3)),
    ),
]
