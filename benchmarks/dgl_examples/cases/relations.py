"""Graphs of several relations."""

import dgl

from ..case import Case, Example, holding
from .convolutions import CLASSES, HIDDEN

RELATIONS = ["clicked-by", "clicks", "follows"]


def _relations(d):
    return d.relations(3)


def _blocks(d):
    return d.blocks(2, d.relations(3, 4 * d.nodes, degree=2))


def _framed(d):
    return (_blocks(d),)


def _hetero(d):
    graph = d.hetero()
    return graph, d.by_type(graph, HIDDEN)


def _hetero_block(d):
    block = d.blocks(1, d.hetero())[0]
    return block, d.by_type(block, HIDDEN)


def _hetero_blocks(layers):
    def example(d):
        blocks = d.blocks(layers, d.hetero())
        return d.by_type(blocks[0], HIDDEN), blocks

    return example


def _composed(d):
    graph = d.relations(2 * 3)
    count = graph.num_edges()
    graph.edata["etype"] = graph.edata[dgl.ETYPE]
    graph.edata["in_edges_mask"] = d.rows(count) > 0
    graph.edata["out_edges_mask"] = ~graph.edata["in_edges_mask"]
    return graph


def _composed_rows(d):
    return _composed(d), d.feat(HIDDEN), d.rows(2 * 3, HIDDEN)


COMPOSITIONS = ("sub", "mul", "ccorr")
CASES = [
    Case("rgcn/model.py", "RGCN", (60, HIDDEN, CLASSES, 3), _relations, fixed=True),
    Case(
        "rgcn/model.py",
        "RGCN",
        {"num_nodes": 999, "h_dim": HIDDEN, "out_dim": CLASSES, "num_rels": 3, "ns_mode": True},
        _framed,
        variant="blocks",
    ),
    Case("rgcn/link.py", "RGCN", (999, 100, 3), lambda d: (_relations(d), d.integers(999, d.nodes))),
    Case("rgcn/link.py", "LinkPredict", (999, 2, 100), lambda d: (_relations(d), d.integers(999, d.nodes))),
    Case("rgcn/entity.py", "RGCN", (60, HIDDEN, CLASSES, 3), _relations, fixed=True),
    Case("rgcn/entity_sample.py", "RGCN", (999, HIDDEN, CLASSES, 3), _framed),
    Case("rgcn/entity_sample_multi_gpu.py", "RGCN", (999, HIDDEN, CLASSES, 3), _framed),
    Case(
        "rgcn/experimental/entity_classify_dist.py",
        "RelGraphConvLayer",
        {"in_feat": HIDDEN, "out_feat": CLASSES, "rel_names": RELATIONS, "num_bases": 2, "self_loop": True},
        _hetero_block,
    ),
    Case(
        "rgcn/experimental/entity_classify_dist.py",
        "EntityClassify",
        ("cpu", HIDDEN, CLASSES, RELATIONS, 2, 1, 0.5, True),
        lambda d: _hetero_blocks(3)(d)[::-1],
    ),
    Case(
        "rgcn/experimental/entity_classify_dist.py",
        "DistEmbedLayer",
        lambda d: ("cpu", d.hetero(feat=6), HIDDEN),
        lambda d: holding({t: d.integers(60, d.nodes - 7) for t in ("user", "item")}, g=d.hetero(feat=6)),
    ),
    *[
        Case(
            "rgcn-hetero/model.py",
            cls,
            {"in_feat": HIDDEN, "out_feat": CLASSES, "rel_names": RELATIONS, "num_bases": bases, "self_loop": True},
            _hetero,
            variant=variant,
        )
        for cls in ("RelGraphConvLayer", "RelGraphConvLayerHeteroAPI")
        for variant, bases in (("", 3), ("bases", 2))
    ],
    Case(
        "rgcn-hetero/model.py",
        "RelGraphConvLayer",
        {"in_feat": HIDDEN, "out_feat": CLASSES, "rel_names": RELATIONS, "num_bases": 3, "self_loop": True},
        _hetero_block,
        variant="block",
    ),
    *[
        Case(
            "rgcn-hetero/model.py",
            cls,
            lambda d: (d.hetero(), HIDDEN, CLASSES, 2, 1, 0.5, True),
            lambda d: holding(g=d.hetero()),
            variant="its own graph",
            fixed=True,
        )
        for cls in ("EntityClassify", "EntityClassify_HeteroAPI")
    ],
    *[
        Case(
            "rgcn-hetero/model.py",
            cls,
            lambda d: (d.hetero(), HIDDEN, CLASSES, 2, 1, 0.5, True),
            lambda d: Example((), {"h": _hetero_blocks(3)(d)[0], "blocks": _hetero_blocks(3)(d)[1]}),
            variant="blocks",
        )
        for cls in ("EntityClassify",)
    ],
    *[
        Case(
            "compGCN/models.py",
            "CompGraphConv",
            (HIDDEN, CLASSES, composition),
            _composed_rows,
            variant=composition,
        )
        for composition in COMPOSITIONS
    ],
    *[
        Case(
            "compGCN/models.py",
            "CompGCN",
            (bases, 6, 60, HIDDEN, [HIDDEN, CLASSES], composition, True, 0.1, [0.3, 0.3]),
            _composed,
            variant=f"{composition}, {bases or 'no'} bases",
            fixed=True,
        )
        for composition, bases in (("sub", 0), ("mul", 2), ("ccorr", 2))
    ],
    Case(
        "compGCN/models.py",
        "CompGCN_ConvE",
        {
            "num_bases": 2,
            "num_rel": 6,
            "num_ent": 60,
            "in_dim": HIDDEN,
            "layer_size": [25],
            "num_filt": 4,
            "ker_sz": 3,
        },
        lambda d: (_composed(d), d.integers(60, 20), d.integers(6, 20)),
        fixed=True,
    ),
]
