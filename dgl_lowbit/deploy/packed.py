"""Packed models on DGL graphs and torch tensors."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable

import numpy as np
import torch
from dgl import DGLError, DGLGraph
from dgl.heterograph_index import _CAPI_DGLHeteroGetAdj
from torch import nn
from torch.utils.dlpack import from_dlpack

import numba_kernels
from numba_kernels.run.runtime import with_whole_openmp

from ..graphs.cache import GraphCache
from ..quant.sparse import SparseFeatures
from .errors import ArgumentsError
from .store import FeatureStore

_graphs = GraphCache()


def kernel_graph(graph: DGLGraph) -> numba_kernels.Graph | dict:
    """``graph`` as kernels read it, prepared once and kept while the graph lives unchanged, as far as memory allows.

    Parameters
    ----------
    graph : DGLGraph

    Returns
    -------
    numba_kernels.Graph, or a dict of them
        Of several edge types one each, by (source type, edge type, destination type).
    """
    return _graphs.get(graph, _prepare)


def _prepare(graph):
    etypes = graph.canonical_etypes
    if len(etypes) == 1:
        return _prepare_type(graph, 0, etypes[0])
    return {etype: _prepare_type(graph, number, etype) for number, etype in enumerate(etypes)}


def _prepare_type(graph, number, etype):
    try:
        matrix = _CAPI_DGLHeteroGetAdj(graph._graph, number, True, "csr")
    except DGLError:  # the graph is restricted to formats that the in-neighbours cannot be read from
        return _prepare_type(graph.formats(["coo", "csr", "csc"]), number, etype)
    # As adjacency_matrix_tensors does, without what takes most of its time for small graphs.
    indptr, indices, edge_ids = (from_dlpack(matrix(part).to_dlpack()).cpu().numpy() for part in range(3))
    sizes = None
    if graph._batch_num_nodes is not None and not graph.is_block and graph.batch_size > 1:
        sizes = graph.batch_num_nodes(etype[2]).cpu().numpy()
    edge_ids, num_src = edge_ids if len(edge_ids) else None, graph.num_src_nodes(etype[0])
    return numba_kernels.Graph(indptr, indices, num_src, edge_ids, graph.is_block, sizes)


class Prepared(numba_kernels.Prepared):
    """What :meth:`PackedModel.prepare` returns: call it for results, tensors or arrays as those of a call."""

    _gives_tensors = True

    def __call__(self, nodes=None):
        """What the model returns, or the rows of ``nodes``, as a call with ``nodes=``.

        Raises
        ------
        DGLError
            For nodes that the graph has not.
        """
        result = with_whole_openmp(_run_plain, super().__call__, [_plain(nodes, "nodes")], {})
        return _tensors(result) if self._gives_tensors else result


class PackedModel(numba_kernels.PackedModel, nn.Module):
    """A frozen low-bit model on DGL graphs and torch tensors.

    As :class:`numba_kernels.PackedModel`, and a ``torch.nn.Module`` without parameters, so that code which evaluates
    the model it was frozen from runs unchanged. Graphs may be a ``DGLGraph``, a DGL block or a list of blocks, features
    and edge weights tensors. The result is a tensor if any argument is one, else an array.

    Parameters
    ----------
    plan, info, threads
        As of :class:`numba_kernels.PackedModel`; :func:`dgl_lowbit.freeze` and :func:`dgl_lowbit.load` make models.

    Attributes
    ----------
    defaults : dict of str to DGLGraph
        Graphs that the frozen model's modules keep, by name; they serve where a call gives no others. A file has none.
    """

    _prepared = Prepared

    def __init__(self, plan, info=None, threads=None):
        nn.Module.__init__(self)
        numba_kernels.PackedModel.__init__(self, plan, info, threads)
        self.defaults: dict[str, DGLGraph] = {}
        self.training = False

    def __call__(self, *args, **kwargs):
        """Run the model, as :meth:`numba_kernels.PackedModel.__call__`, of some ``nodes`` where they are given.

        Raises
        ------
        DGLError
            When graph and features do not fit each other or the model.
        """
        return self._run(super().__call__, args, kwargs)

    forward = __call__

    def train(self, mode: bool = True) -> PackedModel:
        """Nothing: a packed model is always in evaluation mode, so that loops that switch modes run as they are."""
        return self

    def to(self, *args, **kwargs) -> PackedModel:
        """The model itself, for the CPU and float32.

        Raises
        ------
        ValueError
            For other devices and types: kernels run on the CPU, on codes.
        """
        device, dtype, *_ = torch._C._nn._parse_to(*args, **kwargs)
        elsewhere = device is not None and device.type != "cpu"
        if elsewhere or dtype not in (None, torch.float32):
            got = device if elsewhere else dtype
            raise ValueError(f"a packed model runs on the CPU and returns float32, got {got}.")
        return self

    def _apply(self, fn, recurse=True):
        """What ``float()``, ``cpu()`` and their like come to: tried on a tensor, as the model has no parameters."""
        found = fn(torch.zeros(1))
        return self.to(found.device, found.dtype)

    def state_dict(self, *args, **kwargs):
        """The arrays of the plan, copied; :meth:`save` writes the whole model."""
        return {name: torch.from_numpy(np.array(array)) for name, array in self.plan.arrays.items()}

    def load_state_dict(self, state_dict, strict=True, assign=False):
        """Refused: codes fit no plan but their own.

        Raises
        ------
        ValueError
            Always; says to load a file instead.
        """
        raise ValueError("a packed model takes no state; dgl_lowbit.load reads what save wrote.")

    def inference(
        self,
        *args,
        batch_size: int = 4096,
        out=None,
        folder=None,
        most_memory: int | None = None,
        progress: bool | Callable = False,
        exchange=None,
        **kwargs,
    ):
        """Run the model layer by layer, on graphs that may be larger than memory.

        As :meth:`numba_kernels.PackedModel.inference`: features and graph may be mapped from files, ``folder`` is where
        what stands between layers is kept in files, and where an ended run goes on; ``out`` may be the path of a file,
        or a tensor.

        :func:`dgl_lowbit.distributed.inference` gives it an ``exchange``.

        Raises
        ------
        DGLError
            When graph and features do not fit each other or the model.
        ArrayFileError, StatesError, OSError
            As :meth:`numba_kernels.PackedModel.inference`, for files.
        """
        out = _plain(out, "out") if isinstance(out, torch.Tensor) and not out.requires_grad else out
        options = {"folder": folder, "most_memory": most_memory, "progress": progress, "exchange": exchange}
        run = functools.partial(super().inference, batch_size=batch_size, out=out, **options)
        return self._run(run, args, kwargs)

    def estimate(self, graph=None, **options) -> numba_kernels.Estimate:
        """What :meth:`inference` takes, as :meth:`numba_kernels.PackedModel.estimate`; it prepares no DGL graph.

        Raises
        ------
        DGLError
            As :meth:`numba_kernels.PackedModel.estimate`.
        """
        if isinstance(graph, list) and graph and all(isinstance(part, DGLGraph) for part in graph):
            graph = graph[0]  # the same for each block
        if isinstance(graph, DGLGraph):
            if len(graph.canonical_etypes) != 1 or graph.is_block:
                raise ArgumentsError("estimates are of graphs of one type of nodes and edges.")
            sizes = {"nodes": graph.num_nodes(), "edges": graph.num_edges()}
            return with_whole_openmp(_run_plain, super().estimate, (), {**sizes, **options})
        return with_whole_openmp(_run_plain, super().estimate, (graph,), options)

    def update(self, *args, changed=None, changed_edges=None, **kwargs):
        """Run the model where its last result has changed, as :meth:`numba_kernels.PackedModel.update`.

        Raises
        ------
        DGLError
            As a call, and where there are fewer nodes than before.
        """
        named = {"changed": changed, "changed_edges": changed_edges}
        run = functools.partial(super().update, **{name: _plain(value, name) for name, value in named.items()})
        return self._run(run, args, kwargs)

    def prepare(self, *args, **kwargs) -> Prepared:
        """The model with arguments that stay, as :meth:`numba_kernels.PackedModel.prepare`.

        Raises
        ------
        DGLError
            As a call.
        """
        return self._run(super().prepare, args, kwargs)

    def embed(self, *args, bits: int | None = None, granularity: str = "channel", **kwargs) -> numba_kernels.Codes:
        """What the model returns, as packed codes to search in, as :meth:`numba_kernels.PackedModel.embed`.

        Raises
        ------
        DGLError
            As a call, and where the model returns not one matrix.
        """
        run = functools.partial(super().embed, bits=bits, granularity=granularity)
        return self._run(run, args, kwargs)

    def _run(self, run, args, kwargs):
        return with_whole_openmp(self._run_here, run, args, kwargs)

    def _run_here(self, run, args, kwargs):
        kwargs = {**self.defaults, **kwargs, **self._frame_columns(args, kwargs)}
        given = (*args, *kwargs.values())
        self._refuse_tensors_as_graphs(args, kwargs)
        names = itertools.chain(self._names(), itertools.repeat("an argument"))
        wants_tensor = any(_holds(part, torch.Tensor) for part in given) or (
            any(_holds(part, DGLGraph) for part in given) and not any(_holds(part, np.ndarray) for part in given)
        )
        result = _run_plain(run, map(_plain, args, names), {name: _plain(kwargs[name], name) for name in kwargs})
        if isinstance(result, numba_kernels.Codes):
            return result
        if isinstance(result, Prepared):
            result._gives_tensors = wants_tensor
            return result
        return _tensors(result) if wants_tensor else result

    def _refuse_tensors_as_graphs(self, args, kwargs):
        graphs = {entry["name"] for entry in self.plan.inputs if entry["kind"] == "graph"}
        for name, value in (*zip(self._names(), args), *kwargs.items()):
            if name in graphs and isinstance(value, torch.Tensor):
                takes = ", ".join(self._names())
                raise ArgumentsError(f"{name} must be a DGLGraph, got a Tensor; the model takes ({takes}).")

    def _names(self):
        """Names of the arguments, in calling order."""
        return list(dict.fromkeys(entry["name"] for entry in self.plan.inputs if "frame" not in entry))

    def _frame_columns(self, args, kwargs):
        """What the model reads in the frames of graphs that are given, by the names of its inputs."""
        given, columns = {**self.defaults, **dict(zip(self._names(), args)), **kwargs}, {}
        for entry in self.plan.inputs:
            if "frame" in entry and entry["name"] not in given:
                (name, *keys), side, kind, key = entry["frame"]
                graph = given.get(name)
                for place in keys:
                    graph = graph[place]
                if isinstance(graph, DGLGraph):
                    columns[entry["name"]] = frame_column(graph, side, kind, key)
        return columns


def frame_column(graph: DGLGraph, side: str, kind: str | list, key: str) -> torch.Tensor:
    """A tensor in a frame of ``graph``: of "src" or "dst" nodes of a type, or of the edges, "edge", of one.

    Raises
    ------
    DGLError
        When there is none.
    """
    try:
        if side == "edge":
            return graph.edges[tuple(kind)].data[key]
        nodes = graph.dstnodes if side == "dst" else graph.srcnodes if graph.is_block else graph.nodes
        return nodes[kind].data[key]
    except KeyError as error:
        raise ArgumentsError(
            f"the model reads {key!r} of the graph's {side} frame of {kind}, which it does not have."
        ) from error


def _run_plain(run, args, kwargs):
    """Run on what kernels take."""
    try:
        return run(*args, **kwargs)
    except numba_kernels.GraphError as error:
        raise ArgumentsError(str(error)) from error


def _holds(value, kind):
    """Whether an argument is of a kind, or one of its parts is."""
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, (tuple, list)) else ()
    return isinstance(value, kind) or any(_holds(part, kind) for part in parts)


def _plain(value, name):
    """DGL graphs, tensors and stores, of an argument called ``name``, as what kernels take."""
    if isinstance(value, FeatureStore):
        return value.coded
    if isinstance(value, (tuple, list)):
        parts = [_plain(part, name) for part in value]
        return tuple(parts) if isinstance(value, tuple) else parts
    if isinstance(value, dict):
        return {key: _plain(part, name) for key, part in value.items()}
    if isinstance(value, DGLGraph):
        return kernel_graph(value)
    if isinstance(value, SparseFeatures):
        raise ArgumentsError(f"{name} is SparseFeatures, which training takes; pass {name}.to_dense().")
    return _numbers(value, name) if isinstance(value, torch.Tensor) else value


def _numbers(tensor, name):
    """A tensor as an array."""
    if tensor.is_nested:
        raise ArgumentsError(f"{name} is a nested tensor; pass one of a row each, torch.cat({name}.unbind()).")
    if tensor.layout != torch.strided:
        raise ArgumentsError(f"{name} must be a dense tensor, got layout {tensor.layout}; pass {name}.to_dense().")
    if tensor.is_quantized:
        raise ArgumentsError(f"{name} is a quantised tensor; pass {name}.dequantize().")
    if tensor.is_meta:
        raise ArgumentsError(f"{name} is on the meta device, where tensors hold no numbers; pass one on the CPU.")
    is_small = tensor.dtype.is_floating_point and tensor.dtype not in (torch.float16, torch.float32, torch.float64)
    try:
        return (tensor.float() if is_small else tensor).numpy(force=True)
    except (TypeError, RuntimeError) as error:
        raise ArgumentsError(f"{name} must hold numbers that NumPy has, got {tensor.dtype}: {error}") from error


def _tensors(result):
    if isinstance(result, dict):
        return {key: _tensors(part) for key, part in result.items()}
    if isinstance(result, tuple):
        return tuple(map(_tensors, result))
    return torch.from_numpy(np.ascontiguousarray(result).reshape(result.shape))
