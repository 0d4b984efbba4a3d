"""Attention over neighbours and over meta-paths, on whole graphs and blocks."""

import torch.nn.functional as F

from ..case import Case
from .convolutions import CLASSES, FEATS, ZOO, held, on_graph

PATHS = [["follows"], ["clicks", "clicked-by"]]
ARXIV, PRODUCTS = "ogb/ogbn-arxiv/models.py", "ogb/ogbn-products/gat/models.py"


def _with_edges(d):
    graph = d.graph()
    return graph, d.feat(FEATS), d.rows(graph.num_edges(), 6)


def _framed(d):
    graph = d.graph()
    graph.ndata["feat"], graph.edata["feat"] = d.feat(FEATS), d.rows(graph.num_edges(), 6)
    return graph


def _framed_blocks(d):
    blocks = d.blocks(2)
    for block in blocks:
        block.srcdata["feat"] = d.rows(block.num_src_nodes(), FEATS)
        block.edata["feat"] = d.rows(block.num_edges(), 6)
    return blocks


def _two_graphs(d):
    return [d.graph(key="one"), d.graph(degree=2, key="two")], d.feat(FEATS)


def _two_blocks(d):
    graphs = d.graph(4 * d.nodes, 2, key="one"), d.graph(4 * d.nodes, 3, key="two")
    blocks = [d.blocks(1, graph)[0] for graph in graphs]
    return blocks, [d.rows(block.num_src_nodes(), FEATS) for block in blocks]


CASES = [
    Case("gat/train.py", "GAT", (FEATS, 8, CLASSES, [3, 1]), on_graph),
    Case("gat/train_ppi.py", "GAT", (FEATS, 8, CLASSES, [2, 2, 3]), on_graph),
    Case(
        ZOO,
        "GAT",
        lambda d: (d.graph(), FEATS, CLASSES, 8, 2, [2, 2, 1], F.elu, 0.5, 0.5, 0.2, True),
        held,
    ),
    Case("han/model.py", "SemanticAttention", (FEATS,), lambda d: d.feat(3, FEATS)),
    Case("han/model.py", "HANLayer", (2, FEATS, 8, 2, 0.5), _two_graphs),
    Case("han/model.py", "HAN", (2, FEATS, 8, CLASSES, [2, 2], 0.5), _two_graphs),
    Case("han/model_hetero.py", "SemanticAttention", (FEATS,), lambda d: d.feat(3, FEATS)),
    Case("han/model_hetero.py", "HANLayer", (PATHS, FEATS, 8, 2, 0.5), lambda d: (d.hetero(), d.feat(FEATS))),
    Case("han/model_hetero.py", "HAN", (PATHS, FEATS, 8, CLASSES, [2, 2], 0.5), lambda d: (d.hetero(), d.feat(FEATS))),
    Case("han/train_sampling.py", "HANLayer", (2, FEATS, 8, 2, 0.5), _two_blocks),
    Case("han/train_sampling.py", "HAN", (2, FEATS, 8, CLASSES, [2], 0.5), _two_blocks),
    *[
        Case(
            ARXIV, "GATConv", {"in_feats": FEATS, "out_feats": 8, "num_heads": 3, **options}, on_graph, variant=variant
        )
        for variant, options in {
            "": {},
            "residual, symmetric": {"residual": True, "use_symmetric_norm": True},
            "no destination": {"use_attn_dst": False, "activation": F.elu},
        }.items()
    ],
    *[
        Case(
            ARXIV,
            "GAT",
            {
                "in_feats": FEATS,
                "n_classes": CLASSES,
                "n_hidden": 8,
                "n_layers": 3,
                "n_heads": 2,
                "activation": F.relu,
                "dropout": 0.5,
                "attn_drop": 0.1,
                "edge_drop": 0.1,
                **options,
            },
            on_graph,
            variant=variant,
        )
        for variant, options in {
            "": {},
            "symmetric, no destination": {"use_attn_dst": False, "use_symmetric_norm": True},
        }.items()
    ],
    Case("ogb/ogbn-products/gat/main.py", "GAT", (FEATS, 8, CLASSES, 3, 2, F.relu), lambda d: d.sampled(3, FEATS)),
    Case(PRODUCTS, "GATConv", (FEATS, 6, 8, 2), _with_edges),
    Case(PRODUCTS, "GATConv", (FEATS, 0, 8, 2), on_graph, variant="no edge features"),
    *[
        Case(
            PRODUCTS,
            "GAT",
            {
                "node_feats": FEATS,
                "edge_feats": 6,
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
                "allow_zero_in_degree": True,
                "residual": True,
                **options,
            },
            example,
            variant=variant,
        )
        for variant, options, example in (
            ("", {}, _framed),
            ("blocks", {}, lambda d: (_framed_blocks(d),)),
            ("no edge features", {"edge_emb": 0}, _framed),
        )
    ],
]
