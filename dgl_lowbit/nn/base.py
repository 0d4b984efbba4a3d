"""What every low-bit layer shares: quantisers of its operands, and checks of what it is given."""

from __future__ import annotations

import inspect
from typing import NamedTuple

import torch
from dgl import DGLError
from torch import nn

from ..config import QuantConfig
from ..quant.sparse import SparseFeatures

LAYERS: dict[type, type] = {}


def register_layer(low_bit_class: type) -> type:
    """Class decorator: let ``dgl_lowbit.quantize`` replace ``low_bit_class.float_class`` by this class.

    The class derives from :class:`LowBitLayer` and from its ``float_class``, and adds no constructor state beyond the
    quantisers.
    """
    LAYERS[low_bit_class.float_class] = low_bit_class
    return low_bit_class


class Operand(NamedTuple):
    """An operand of a layer's integer operations: its component, channel count (None: not known) and channel axis."""

    component: str
    channels: int | None
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
    # Names of submodules that are layers of their own: quantize converts them by themselves.
    inner: tuple = ()
    # Arguments of forward that choose what it computes: a frozen layer has their defaults.
    choices: tuple = ()

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


def check_features(layer: nn.Module, feat, width: int | None, rows: int, what: str = "feat", of: str = "nodes") -> None:
    """Raise DGLError unless ``feat`` is a finite float tensor of ``rows`` vectors of ``width`` (None: any)."""
    name = type(layer).__name__
    if not isinstance(feat, (torch.Tensor, SparseFeatures)):
        raise DGLError(f"{name} expects {what} as a torch.Tensor, got {type(feat).__name__}.")
    if not feat.is_floating_point():
        raise DGLError(f"{name} expects {what} in floating point, got {feat.dtype}; pass {what}.float().")
    if feat.dim() < 2 or feat.shape[-1] != (width or feat.shape[-1]):
        raise DGLError(
            f"{name} expects {what} of width {width or 'at least 1'}, got shape {tuple(feat.shape)}; "
            "build the layer for that width or pass other features."
        )
    if feat.shape[0] != rows:
        raise DGLError(
            f"{name} expects {what} with a row for each of {rows} {of}, got {feat.shape[0]} rows; "
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


def check_sources(layer: nn.Module, graph, feat, width: int | None, dst_width: int | None = None) -> None:
    """Check the features of a graph's source nodes and, where a pair is given, of its destination nodes."""
    (source, source_rows), (destination, destination_rows) = pair_rows(graph, feat)
    check_features(layer, source, width, source_rows)
    if destination is not None:
        check_features(layer, destination, dst_width or width, destination_rows)
    elif not graph.is_block and source_rows != destination_rows:
        raise DGLError(
            f"{type(layer).__name__} expects a pair of features on a bipartite graph of {source_rows} source and "
            f"{destination_rows} destination nodes; pass (feat_src, feat_dst)."
        )


def check_homogeneous(layer: nn.Module, graph) -> None:
    """Raise DGLError on a block or bipartite graph."""
    if graph.is_block or graph.num_src_nodes() != graph.num_dst_nodes():
        raise DGLError(f"{type(layer).__name__} propagates within one set of nodes; pass a homogeneous graph.")


def first_width(module: nn.Module | None) -> int | None:
    """Input width of the first linear layer in ``module``, None where there is none."""
    linears = [m for m in module.modules() if isinstance(m, nn.Linear)] if isinstance(module, nn.Module) else []
    return linears[0].in_features if linears else None


def pair_rows(graph, feat) -> tuple:
    """``feat`` as ((source, rows), (destination, rows)), the destination None unless a pair was given."""
    source, destination = feat if isinstance(feat, tuple) else (feat, None)
    return (source, graph.num_src_nodes()), (destination, graph.num_dst_nodes())
