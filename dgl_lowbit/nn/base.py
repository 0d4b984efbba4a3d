"""What every low-bit layer shares: quantisers of its operands, and checks of what it is given."""

from __future__ import annotations

import inspect
from typing import NamedTuple

import torch
from dgl import DGLError
from torch import nn

from ..config import QuantConfig
from ..sparse import SparseFeatures


class Operand(NamedTuple):
    """An operand of a layer's integer operations: its component, channel count and channel axis."""

    component: str
    channels: int
    axis: int = -1


class LowBitLayer(nn.Module):
    """Mixin that makes a layer low-bit; stands before the float layer among a class's bases.

    The constructor and ``forward`` are the float layer's, plus the keyword-only ``config``. Without a
    ``config`` the layer is exactly its parent.

    A subclass lists its operands in :meth:`operands`, states its computation in ``compute(ops, …)`` over the
    operations of :mod:`dgl_lowbit.nn.ops`, and routes ``forward`` there when :attr:`is_low_bit`.

    Parameters
    ----------
    config : QuantConfig, optional
        Bits and quantisers. Default: None, the float layer.
    """

    config: QuantConfig | None = None
    # Class of the float layer this one replaces.
    float_class: type | None = None

    def __init__(self, *args, config=None, **kwargs):
        super().__init__(*args, **kwargs)
        self.configure(config)

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        if cls.float_class is not None:
            signature = inspect.signature(cls.float_class)
            config = inspect.Parameter("config", inspect.Parameter.KEYWORD_ONLY, default=None)
            cls.__signature__ = signature.replace(parameters=[*signature.parameters.values(), config])

    def configure(self, config: QuantConfig | None) -> None:
        """Give the layer fresh quantisers of ``config``, or none.

        Raises
        ------
        ValueError
            When ``config`` is not a QuantConfig, or the layer has quantisers already.
        """
        if config is not None and not isinstance(config, QuantConfig):
            raise ValueError(f"config must be a QuantConfig or None, got {type(config).__name__}.")
        if self.is_low_bit:
            raise ValueError(f"{type(self).__name__} has quantisers already; configure the float layer.")
        self.config = config
        if config is not None and not config.is_float:
            reference = next(self.parameters(), torch.empty(0))
            self.quantizers = nn.ModuleDict(
                {
                    name: config.quantizer_for(operand.component, channels=operand.channels, axis=operand.axis)
                    for name, operand in self.all_operands().items()
                }
            ).to(reference.device)
            self.quantizers.train(self.training)

    @property
    def is_low_bit(self) -> bool:
        """Whether any component is quantised."""
        return "quantizers" in self._modules

    def operands(self) -> dict[str, Operand]:
        """Operands by name; the names are the keys of ``quantizers``."""
        raise NotImplementedError

    def all_operands(self):
        """:meth:`operands`, and what a layer under a smoothness bound returns, if states are to be quantised."""
        operands = self.operands()
        if "smoothness" in self._modules and self.config.bits_of("states") < 32:
            operands = {**operands, "states": Operand("states", operands["outputs"].channels)}
        return operands

    def compute(self, ops, *args, **kwargs):
        """The layer's computation, stated over ``ops``."""
        raise NotImplementedError


def check_features(layer: nn.Module, feat, width: int, rows: int, what: str = "feat") -> None:
    """Raise DGLError unless ``feat`` is a finite float tensor of ``rows`` vectors of ``width``."""
    name = type(layer).__name__
    if not isinstance(feat, (torch.Tensor, SparseFeatures)):
        raise DGLError(f"{name} expects {what} as a torch.Tensor, got {type(feat).__name__}.")
    if not feat.is_floating_point():
        raise DGLError(f"{name} expects {what} in floating point, got {feat.dtype}; pass {what}.float().")
    if feat.dim() < 2 or feat.shape[-1] != width:
        raise DGLError(
            f"{name} expects {what} of width {width}, got shape {tuple(feat.shape)}; "
            "build the layer for that width or pass other features."
        )
    if feat.shape[0] != rows:
        raise DGLError(
            f"{name} expects {what} with a row for each of {rows} nodes, got {feat.shape[0]} rows; "
            "pass the features of this graph."
        )
    values = (feat.values if isinstance(feat, SparseFeatures) else feat).detach()
    # One pass: a sum is finite unless a term is not, or (rarely) the sum overflows.
    if not torch.isfinite(values.sum()) and not torch.isfinite(values).all():
        raise DGLError(f"{name} got NaN or infinity in {what}; clean it before quantising.")


def check_graph(layer: nn.Module, graph, allow_zero_in_degree: bool) -> None:
    """Raise DGLError where nodes receive no message and the layer was not told to allow it."""
    if not allow_zero_in_degree and (graph.in_degrees() == 0).any():
        raise DGLError(
            f"There are 0-in-degree nodes in the graph, whose {type(layer).__name__} output would be invalid. "
            "Add self-loops with `dgl.add_self_loop(g)`, or construct the layer with "
            "allow_zero_in_degree=True to let zeros through."
        )


def check_edge_weight(layer: nn.Module, graph, edge_weight) -> None:
    """Raise DGLError unless ``edge_weight`` is None or holds one finite number for each edge."""
    if edge_weight is None:
        return
    shape = tuple(edge_weight.shape)
    if shape not in ((graph.num_edges(),), (graph.num_edges(), 1)):
        raise DGLError(f"{type(layer).__name__} expects edge_weight of shape ({graph.num_edges()},), got {shape}.")
    if not torch.isfinite(edge_weight).all():
        raise DGLError(f"{type(layer).__name__} got NaN or infinity in edge_weight.")


def pair_rows(graph, feat) -> tuple:
    """``feat`` as ((source, rows), (destination, rows)), the destination None unless a pair was given."""
    source, destination = feat if isinstance(feat, tuple) else (feat, None)
    return (source, graph.num_src_nodes()), (destination, graph.num_dst_nodes())
