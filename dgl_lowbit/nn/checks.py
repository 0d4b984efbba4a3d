"""Checks of what a layer is given; each raises DGLError before any work."""

from __future__ import annotations

import dgl
import torch
from dgl import DGLError
from torch import nn

from ..graphs.degrees import leaves_out_nodes
from ..quant.ranges import is_finite
from ..quant.sparse import SparseFeatures


def check_features(
    layer: nn.Module, feat, width: int | None, rows: int | None, what: str = "feat", of: str = "nodes"
) -> None:
    """Raise DGLError unless ``feat`` is a finite float tensor of ``rows`` vectors of ``width`` (None: any)."""
    name = type(layer).__name__
    if not isinstance(feat, (torch.Tensor, SparseFeatures)):
        raise DGLError(
            f"{name} expects {what} as a torch.Tensor, got {type(feat).__name__}; pass {as_tensor(feat, what)}."
        )
    if isinstance(feat, torch.Tensor) and feat.layout != torch.strided:
        raise DGLError(f"{name} expects {what} dense, got {feat.layout}; pass {what}.to_dense().")
    if not feat.is_floating_point():
        raise DGLError(f"{name} expects {what} in floating point, got {feat.dtype}; pass {what}.float().")
    if feat.dim() < 2 or feat.shape[-1] != (width or feat.shape[-1]):
        raise DGLError(
            f"{name} expects {what} of width {width or 'at least 1'}, got shape {tuple(feat.shape)}; "
            "build the layer for that width or pass other features."
        )
    if rows is not None and feat.shape[0] != rows:
        raise DGLError(
            f"{name} expects {what} with a row for each of {rows} {of}, got {feat.shape[0]} rows; "
            "pass the features of this graph."
        )
    if not is_finite(feat):
        raise DGLError(f"{name} got NaN or infinity in {what}; clean it before quantising.")


def as_tensor(value: object, name: str) -> str:
    """The code that makes a tensor of ``value``, an argument called ``name``."""
    if hasattr(value, "toarray"):  # of scipy
        return f"torch.from_numpy({name}.toarray()).float()"
    return f"torch.as_tensor({name}, dtype=torch.float32)"


def check_is_graph(graph: object, where: str, error: type[Exception] = DGLError) -> None:
    """Raise ``error``, saying ``where``, unless ``graph`` is a DGLGraph; an adjacency matrix gets the code for one."""
    if isinstance(graph, dgl.DGLGraph):
        return
    kind = type(graph).__name__
    instead = "pass a DGLGraph"
    if isinstance(graph, torch.Tensor):
        kind = f"a {'sparse' if graph.layout != torch.strided else 'dense'} {kind}"
        instead = "write dgl.graph(tuple(adj.to_sparse_coo().coalesce().indices()), num_nodes=len(adj))"
    elif hasattr(graph, "tocoo"):  # of scipy
        instead = "write dgl.from_scipy(adj)"
    elif hasattr(graph, "coo") and hasattr(graph, "nnz"):  # of dgl.sparse
        instead = "write dgl.graph(adj.coo(), num_nodes=adj.shape[0])"
    elif isinstance(graph, (list, tuple)):
        instead = "pass one of them, or dgl.batch(graphs)"
    raise error(f"{where} expects a DGLGraph, got {kind}; {instead}.")


def check_graph(layer: nn.Module, graph, allow_zero_in_degree: bool) -> None:
    """Raise DGLError where nodes receive no message and the layer was not told to allow it."""
    if not allow_zero_in_degree and leaves_out_nodes(graph):
        raise DGLError(
            f"There are 0-in-degree nodes in the graph, whose {type(layer).__name__} output would be invalid. "
            "Add self-loops with `dgl.add_self_loop(g)`, or construct the layer with "
            "allow_zero_in_degree=True to let zeros through."
        )


def check_edge_weight(layer: nn.Module, graph, edge_weight) -> None:
    """Raise DGLError unless ``edge_weight`` is None or holds one finite number for each edge."""
    if edge_weight is None:
        return
    if getattr(getattr(layer, "config", None), "arithmetic", "float") == "integer":
        raise DGLError(
            f"{type(layer).__name__} has no integer arithmetic for edge weights; leave them out, or use "
            "arithmetic='float'."
        )
    if not isinstance(edge_weight, torch.Tensor):
        raise DGLError(
            f"{type(layer).__name__} expects edge_weight as a torch.Tensor, got {type(edge_weight).__name__}; pass "
            f"{as_tensor(edge_weight, 'edge_weight')}."
        )
    shape = tuple(edge_weight.shape)
    if shape not in ((graph.num_edges(),), (graph.num_edges(), 1)):
        raise DGLError(f"{type(layer).__name__} expects edge_weight of shape ({graph.num_edges()},), got {shape}.")
    if not is_finite(edge_weight):
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
