"""Low-bit layers: subclasses of DGL's and torch's, with their constructors and forwards, plus ``config``."""

from .base import LowBitLayer, Operand
from .deepgraphconv import DeepGraphConv
from .graphconv import GraphConv
from .linear import Linear
from .sageconv import SAGEConv
from .smpconv import SMPConv

__all__ = ["DeepGraphConv", "GraphConv", "Linear", "LowBitLayer", "Operand", "SAGEConv", "SMPConv"]
