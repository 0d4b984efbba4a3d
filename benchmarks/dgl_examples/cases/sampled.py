"""Models of sampled blocks."""

from types import SimpleNamespace

import dgl
import torch.nn.functional as F

from ..case import Case
from .convolutions import CLASSES, FEATS, HIDDEN


def sampled(layers):
    return lambda d: d.sampled(layers, FEATS)


def _with_pairs(d):
    blocks, feat = d.sampled(3, FEATS)
    ends = blocks[-1].num_dst_nodes()
    pairs = d.graph(ends, 2, loops=False, key="pairs"), d.graph(ends, 3, loops=False, key="others")
    return *pairs, blocks, feat


def _items(d):
    """Items by category and price, and the neighbours that PinSAGE samples."""
    graph = d.graph(4 * d.nodes, 2, key="items")
    items = dgl.heterograph({("item", "with", "item"): graph.edges()}, {"item": graph.num_nodes()})
    data = items.nodes["item"].data
    data[dgl.NID] = d.integers(4 * 60, items.num_nodes())
    data["price"], data["category"] = d.rows(items.num_nodes(), 3), d.integers(7, items.num_nodes())
    data["category"][0] = 6
    return items


def _item_blocks(d):
    items = _items(d)
    blocks = d.blocks(2, items)
    for block in blocks:
        block.edata["weights"] = d.integers(5, block.num_edges()) + 1
        for ids, frame in ((block.srcdata[dgl.NID], block.srcdata), (block.dstdata[dgl.NID], block.dstdata)):
            for name, column in items.ndata.items():
                frame[name] = column[ids]
    return blocks


def _item_pairs(d):
    blocks = _item_blocks(d)
    pairs = []
    for key in ("positive", "negative"):
        graph = d.graph(blocks[-1].num_dst_nodes(), 2, loops=False, key=key)
        pair = dgl.heterograph({("item", "to", "item"): graph.edges()}, {"item": graph.num_nodes()})
        pair.ndata[dgl.NID] = blocks[-1].dstdata[dgl.NID]
        pairs.append(pair)
    return (*_same_pairs(d, pairs), blocks)


def _same_pairs(d, pairs):
    """As many negative as positive pairs, so that scores can be compared one by one."""
    least = min(pair.num_edges() for pair in pairs)
    same = []
    for pair in pairs:
        cut = dgl.edge_subgraph(pair, range(least), relabel_nodes=False, store_ids=False)
        cut.ndata[dgl.NID] = pair.ndata[dgl.NID]
        same.append(cut)
    return same


def _scored(d):
    pair = _item_pairs(d)[0]
    return pair, d.rows(pair.num_nodes(), HIDDEN)


def _convolved(d):
    block = _item_blocks(d)[0]
    feats = d.rows(block.num_src_nodes(), FEATS)
    return block, (feats, feats[: block.num_dst_nodes()]), block.edata["weights"]


def _net(d):
    blocks = _item_blocks(d)
    return blocks, d.rows(blocks[0].num_src_nodes(), HIDDEN)


WORDS = SimpleNamespace(get_itos=lambda: ["<pad>", *"abcdefgh"], get_stoi=lambda: {"<pad>": 0})
LAYERS = "pinsage/layers.py"
CASES = [
    Case("graphsage/node_classification.py", "SAGE", (FEATS, HIDDEN, CLASSES), sampled(3)),
    Case("graphsage/lightning/node_classification.py", "SAGE", (FEATS, HIDDEN, CLASSES), sampled(3)),
    Case("graphsage/link_pred.py", "SAGE", (FEATS, HIDDEN), _with_pairs),
    *[
        Case(file, cls, (FEATS, HIDDEN, CLASSES, 2, F.relu, 0.5), sampled(2))
        for file, cls in {
            "graphsage/advanced/model.py": "SAGE",
            "graphsage/dist/train_dist.py": "DistSAGE",
            "graphsage/dist/train_dist_unsupervised.py": "DistSAGE",
            "ogb/ogbn-products/graphsage/main.py": "SAGE",
        }.items()
    ],
    Case("graphsage/dist/train_dist_transductive.py", "DistEmb", (50, HIDDEN), lambda d: d.integers(50, d.nodes)),
    Case(LAYERS, "BagOfWords", (WORDS, HIDDEN), lambda d: (d.integers(9, d.nodes, 6), d.integers(6, d.nodes) + 1)),
    Case(
        LAYERS,
        "LinearProjector",
        lambda d: (_items(d), "item", None, HIDDEN),
        lambda d: {name: _items(d).ndata[name] for name in ("price", "category")},
    ),
    Case(LAYERS, "WeightedSAGEConv", (FEATS, HIDDEN, HIDDEN), _convolved),
    Case(LAYERS, "SAGENet", (HIDDEN, 2), _net),
    Case(LAYERS, "ItemToItemScorer", lambda d: (_items(d), "item"), _scored),
    Case("pinsage/model.py", "PinSAGEModel", lambda d: (_items(d), "item", None, HIDDEN, 2), _item_pairs),
    Case(
        "pinsage/model_sparse.py",
        "PinSAGEModel",
        lambda d: (_items(d), "item", None, HIDDEN, 2),
        lambda d: (*_item_pairs(d), _Rows(HIDDEN)),
    ),
]


class _Rows:
    """A table of embeddings that lives outside of the model."""

    def __init__(self, columns):
        self.columns = columns

    def __call__(self, ids):
        return (ids.unsqueeze(1) * 0.37 + F.one_hot(ids % self.columns, self.columns)).cos()
