"""Low-bit layers: subclasses of DGL's and torch's, with their constructors and forwards, plus ``config``."""

from dgl.nn import EdgeWeightNorm

from ..graphs.degrees import with_degrees
from .appnpconv import APPNPConv
from .arguments import Role, roles
from .base import LowBitLayer, register_layer
from .boosted import BoostedMLP
from .chebconv import ChebConv
from .deepgraphconv import DeepGraphConv
from .gatconv import GATConv
from .gatv2conv import GATv2Conv
from .gcn2conv import GCN2Conv
from .ginconv import GINConv
from .gineconv import GINEConv
from .graphconv import GraphConv
from .heterographconv import HeteroGraphConv
from .linear import Linear
from .operands import Operand
from .propagation import silent_shares
from .protection import with_degree_ranks
from .protocol import Ops
from .relgraphconv import RelGraphConv
from .sageconv import SAGEConv
from .sgconv import SGConv
from .smpconv import SMPConv
from .tagconv import TAGConv

__all__ = [
    "APPNPConv",
    "BoostedMLP",
    "ChebConv",
    "DeepGraphConv",
    "EdgeWeightNorm",
    "GATConv",
    "GATv2Conv",
    "GCN2Conv",
    "GINConv",
    "GINEConv",
    "GraphConv",
    "HeteroGraphConv",
    "Linear",
    "LowBitLayer",
    "Operand",
    "Ops",
    "RelGraphConv",
    "Role",
    "SAGEConv",
    "SGConv",
    "SMPConv",
    "TAGConv",
    "register_layer",
    "roles",
    "silent_shares",
    "with_degree_ranks",
    "with_degrees",
]
