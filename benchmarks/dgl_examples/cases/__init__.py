"""The models of DGL's examples, by what they run on."""

from .attention import CASES as ATTENTION
from .convolutions import CASES as CONVOLUTIONS
from .examined_graphs import CASES as EXAMINED_GRAPHS
from .examined_nodes import CASES as EXAMINED_NODES
from .examined_others import CASES as EXAMINED_OTHERS
from .examined_types import CASES as EXAMINED_TYPES
from .graphs import CASES as GRAPHS
from .relations import CASES as RELATIONS
from .sampled import CASES as SAMPLED

# Folders to look at while the package is developed; the others examine it.
DEVELOPED_ON = [
    *("appnp", "compGCN", "dagnn", "diffpool", "gat", "gcn", "ggnn", "gin", "graphsage", "han", "jknet", "line_graph"),
    *("mixhop", "model_zoo/citation_network", "monet", "ogb/ogbn-arxiv", "ogb/ogbn-products", "pinsage", "rgcn"),
    *("rgcn-hetero", "sagpool", "sign", "tagcn", "vgae"),
]
CASES = sorted(
    [
        *(*ATTENTION, *CONVOLUTIONS, *GRAPHS, *RELATIONS, *SAMPLED),
        *(*EXAMINED_GRAPHS, *EXAMINED_NODES, *EXAMINED_OTHERS, *EXAMINED_TYPES),
    ],
    key=lambda case: case.file,
)
