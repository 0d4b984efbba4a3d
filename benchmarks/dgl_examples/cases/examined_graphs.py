"""Folders that examine the package: models of batches of graphs."""

from torch import nn

from ..case import Case
from .convolutions import CLASSES, FEATS, HIDDEN
from .graphs import on_batch

PCQM = "ogb_lsc/PCQM4M"


def _molecules(d):
    batch = d.batch()
    return batch, d.integers(5, batch.num_nodes(), 3), d.integers(5, batch.num_edges(), 3)


def _bonds_first(d):
    batch, atoms, bonds = _molecules(d)
    return batch, bonds, atoms


def _embedded(d):
    batch, _, bonds = _molecules(d)
    return batch, d.rows(batch.num_nodes(), FEATS), bonds


def _brains(d):
    batch = d.batch(x=FEATS)
    batch.edata["edge_weights"] = d.positive(batch.num_edges())
    return batch


def _with_ids(d):
    batch, feat = on_batch(d)
    sizes = batch.batch_num_nodes()
    return batch, feat, sizes.new_tensor(range(len(sizes))).repeat_interleave(sizes)


def _with_edges(d):
    batch, feat = on_batch(d)
    return batch, feat, d.positive(batch.num_edges(), 5)


def _weighted(d):
    batch, feat = on_batch(d)
    return batch, feat, d.positive(batch.num_edges())


def _two_views(d):
    batch, feat, ids = _with_ids(d)
    return batch, batch.clone(), feat, d.positive(batch.num_edges()), ids


def labelled(d):
    batch = d.batch()
    return batch, d.integers(9, batch.num_nodes())


def _directed(d):
    batch, atoms, _ = _molecules(d)
    batch.edata["eig"] = d.positive(batch.num_edges(), 3)
    return batch, atoms, d.positive(batch.num_nodes(), 1)


def _bodies(d):
    graph = d.graph(loops=False)
    edges = graph.num_edges()
    return graph, d.feat(2), d.rows(edges, 5), d.positive(d.nodes, 1), d.positive(edges, 1)


def _sudoku(d):
    batch = d.batch()
    for name in ("q", "row", "col", "a"):
        batch.ndata[name] = d.integers(9, batch.num_nodes())
    return batch


CASES = [
    *[
        Case("deepergcn/layers.py", "GENConv", (FEATS, HIDDEN, kind), _embedded, variant=kind)
        for kind in ("softmax", "power")
    ],
    Case("deepergcn/models.py", "DeeperGCN", (FEATS, 5, HIDDEN, CLASSES, 3, 0.5, 1.0, True), _bonds_first),
    *[
        Case(f"eeg-gcnn/{depth}_EEGGraphConvNet.py", "EEGGraphConvNet", (FEATS,), _brains)
        for depth in ("deep", "shallow")
    ],
    Case("infograph/model.py", "FeedforwardNetwork", (FEATS, HIDDEN), lambda d: d.feat(FEATS)),
    Case("infograph/model.py", "GINEncoder", (FEATS, HIDDEN, 3), on_batch),
    Case("infograph/model.py", "InfoGraph", (FEATS, HIDDEN, 3), _with_ids),
    Case("infograph/model.py", "NNConvEncoder", (FEATS, 8), _with_edges),
    Case("infograph/model.py", "InfoGraphS", (FEATS, 8), _with_edges),
    Case("infograph/evaluate_embedding.py", "LogReg", (FEATS, CLASSES), lambda d: d.feat(FEATS)),
    Case("multigpu/multi_gpu_graph_prediction.py", "GIN", (HIDDEN, CLASSES, 3), _molecules),
    Case("mvgrl/graph/model.py", "MLP", (FEATS, HIDDEN), lambda d: d.feat(FEATS)),
    Case("mvgrl/graph/model.py", "GCN", (FEATS, HIDDEN, 3, "none"), _weighted),
    Case("mvgrl/graph/model.py", "MVGRL", (FEATS, HIDDEN, 2), _two_views),
    Case("ogb/directional_GSN/main.py", "DGNNet", (HIDDEN, 512, 0.2, 2), _directed),
    Case("ogb/ngnn_seal/models.py", "DGCNN", (HIDDEN, 2, 9, 12), labelled),
    Case("seal/model.py", "GCN", (2, HIDDEN), labelled),
    Case("seal/model.py", "GCN", (2, HIDDEN, "sage"), labelled, variant="sage"),
    Case("seal/model.py", "DGCNN", (2, HIDDEN, 12), labelled),
    Case(f"{PCQM}/conv.py", "GINConv", (FEATS,), _embedded),
    Case(f"{PCQM}/conv.py", "GCNConv", (FEATS,), _embedded),
    *[
        Case(f"{PCQM}/conv.py", "GNN_node", (2, HIDDEN, 0.5, "sum", True, kind), _molecules, variant=kind)
        for kind in ("gin", "gcn")
    ],
    Case(f"{PCQM}/conv.py", "GNN_node_Virtualnode", (2, HIDDEN, 0.5, "last", True), _molecules),
    *[
        Case(
            f"{PCQM}/gnn.py",
            "GNN",
            {
                "num_tasks": CLASSES,
                "num_layers": 2,
                "emb_dim": HIDDEN,
                "graph_pooling": pooling,
                "virtual_node": virtual,
            },
            _molecules,
            variant=pooling,
        )
        for pooling, virtual in (("sum", True), ("attention", False), ("set2set", False))
    ],
    Case(
        "graphsim/models.py",
        "InteractionLayer",
        lambda d: (2, 5, 2, 8, 1, 1, nn.Linear, nn.Linear, "n_n"),
        _bodies,
    ),
    Case("rrn/sudoku.py", "SudokuNN", (3, 8, HIDDEN), _sudoku),
]
