"""Folders that examine the package: models of heterogeneous graphs."""

import dgl
import torch.nn.functional as F

from ..case import Case
from .attention import PATHS
from .convolutions import CLASSES, FEATS, HIDDEN
from .relations import RELATIONS

NODE_TYPES, EDGE_TYPES = {"user": 0, "item": 1}, {name: i for i, name in enumerate(RELATIONS)}
PAPERS = (("author", "writes", "paper"), ("paper", "cites", "paper"), ("paper", "written-by", "author"))
SOCIAL = (("user", "follows", "user"), ("user", "likes", "user"))
RATINGS = (("user", "1", "movie"), ("movie", "rev-1", "user"), ("user", "2", "movie"), ("movie", "rev-2", "user"))


def _typed(d):
    graph = d.hetero()
    return graph, d.by_type(graph, FEATS)


def _framed(name, *keys):
    return lambda d: (d.hetero(**{name: FEATS}), *keys)


def _users_and_items(d):
    return d.hetero(), "user", "item", *(d.integers(60, 20 + i) for i in range(3))


def _reviews(d):
    graph = d.hetero((("u", "forward", "v"),))
    ends = graph.edges()
    both_ways = {("u", "forward", "v"): ends, ("v", "backward", "u"): ends[::-1]}
    graph = dgl.heterograph(both_ways, {t: graph.num_nodes(t) for t in graph.ntypes})
    return graph, d.rows(len(ends[0]), 6), d.rows(graph.num_nodes("u"), FEATS), d.rows(graph.num_nodes("v"), 10)


def _ratings(d):
    graph = d.hetero(RATINGS)
    for ntype in graph.ntypes:
        for name in ("cj", "ci"):
            graph.nodes[ntype].data[name] = d.positive(graph.num_nodes(ntype), 1)
    return graph, d.rows(graph.num_nodes("user"), FEATS), d.rows(graph.num_nodes("movie"), FEATS)


def _one_rating(d):
    graph = _ratings(d)[0]["1"]
    return graph, d.rows(graph.num_src_nodes(), FEATS)


def _decoded(d):
    graph = d.hetero(RATINGS[:1])
    return graph, d.rows(graph.num_nodes("user"), FEATS), d.rows(graph.num_nodes("movie"), FEATS)


def _papers(d):
    blocks = d.blocks(3, d.hetero(PAPERS))
    return blocks, d.by_type(blocks[0], FEATS)


def _blocks(d):
    blocks = d.blocks(2, d.hetero())
    return d.by_type(blocks[0], FEATS), blocks


def _block(d):
    block = d.blocks(1, d.hetero())[0]
    return block, d.by_type(block, FEATS)


def _one_type(d):
    return d.blocks(1, d.hetero(SOCIAL))[0]


CASES = [
    Case(
        "GNN-FiLM/main.py",
        "GNNFiLMLayer",
        (FEATS, HIDDEN, ["follows", "likes"]),
        lambda d: (d.hetero(SOCIAL), {"user": d.feat(FEATS)}),
    ),
    Case(
        "GNN-FiLM/main.py",
        "GNNFiLM",
        (["follows", "likes"], FEATS, HIDDEN, CLASSES, 2),
        lambda d: (d.hetero(SOCIAL, feat=FEATS), "user"),
    ),
    Case(
        "NGCF/NGCF/model.py",
        "NGCF",
        lambda d: (d.hetero(), FEATS, [HIDDEN, CLASSES], [0.1, 0.1]),
        _users_and_items,
        fixed=True,
    ),
    Case("TAHIN/TAHIN.py", "SemanticAttention", (FEATS,), lambda d: d.feat(3, FEATS)),
    Case("TAHIN/TAHIN.py", "HANLayer", (PATHS, FEATS, 8, 2, 0.5), lambda d: (d.hetero(), d.feat(FEATS))),
    Case("TAHIN/TAHIN.py", "RelationalAGG", lambda d: (d.hetero(), FEATS, FEATS), _typed),
    Case(
        "TAHIN/TAHIN.py",
        "TAHIN",
        lambda d: (d.hetero(), {"user": PATHS, "item": [["clicked-by", "clicks"]]}, FEATS, FEATS, 2, 0.5),
        lambda d: (d.hetero(), "user", "item", d.integers(60, 20), d.integers(60, 20)),
        fixed=True,
    ),
    Case("gas/model.py", "GASConv", (6, FEATS, 10, 8, 8, 8, F.relu, 0.5), _reviews),
    Case("gas/model.py", "GAS", (6, FEATS, 10, 8, 8, 8, CLASSES, 2, 0.5, F.relu), _reviews),
    Case("gas/model.py", "MLP", (6 + FEATS + 10, CLASSES), _reviews),
    Case("gcmc/model.py", "GCMCGraphConv", (FEATS, HIDDEN), _one_rating),
    *[
        Case(
            "gcmc/model.py",
            "GCMCLayer",
            ([1, 2], FEATS, FEATS, HIDDEN, CLASSES, 0.5, "stack", "leaky", None, shared),
            _ratings,
            variant=variant,
        )
        for variant, shared in (("", False), ("shared", True))
    ],
    Case("gcmc/model.py", "BiDecoder", (FEATS, CLASSES, 2, 0.5), _decoded),
    Case(
        "gcmc/model.py",
        "DenseBiDecoder",
        (FEATS, CLASSES, 2, 0.5),
        lambda d: (d.feat(FEATS), d.positive(d.nodes, FEATS)),
    ),
    Case("hgt/model.py", "HGTLayer", (FEATS, FEATS, NODE_TYPES, EDGE_TYPES, 2, 0.2, True), _typed),
    Case(
        "hgt/model.py",
        "HGT",
        lambda d: (d.hetero(), NODE_TYPES, EDGE_TYPES, FEATS, HIDDEN, CLASSES, 2, 2),
        _framed("inp", "user"),
    ),
    Case("hgt/model.py", "HeteroRGCNLayer", (FEATS, HIDDEN, RELATIONS), _typed),
    Case("hgt/model.py", "HeteroRGCN", lambda d: (d.hetero(), FEATS, HIDDEN, CLASSES), _framed("inp", "user")),
    Case(
        "ogb/ogbn-mag/hetero_rgcn.py",
        "RelGraphConvLayer",
        (FEATS, CLASSES, ["item", "user"], RELATIONS, F.relu),
        _block,
    ),
    Case("ogb/ogbn-mag/hetero_rgcn.py", "EntityClassify", lambda d: (d.hetero(), FEATS, CLASSES), _blocks),
    Case("rgat/train.py", "HeteroGAT", (["writes", "cites", "written-by"], FEATS, HIDDEN, CLASSES, 2), _papers),
    Case("GATNE-T/src/main.py", "DGLGATNE", (999, HIDDEN, 8, ["follows", "likes"], 2, 4), _one_type),
]
