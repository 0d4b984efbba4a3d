"""Packed models on DGL graphs and torch tensors."""

from __future__ import annotations

import functools
import weakref

import numpy as np
import torch
from dgl import DGLError, DGLGraph

import numba_kernels

# DGL replaces a graph's index when edges or nodes change, so an index that is the same object is the same graph.
_prepared: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()


def kernel_graph(graph: DGLGraph) -> numba_kernels.Graph | dict:
    """``graph`` as kernels read it, prepared once and kept as long as the graph lives unchanged.

    Of several edge types there is one each, by (source type, edge type, destination type).
    """
    index, prepared = _prepared.get(graph, (None, None))
    if index is not graph._graph:
        if len(graph.canonical_etypes) == 1:
            prepared = _prepare(graph, graph.canonical_etypes[0])
        else:
            prepared = {etype: _prepare(graph, etype) for etype in graph.canonical_etypes}
        _prepared[graph] = graph._graph, prepared
    return prepared


def _prepare(graph, etype):
    allowed = [name for names in graph.formats().values() for name in names]
    readable = graph if "csc" in allowed else graph.formats(["coo", "csr", "csc"])
    indptr, indices, edge_ids = (part.cpu().numpy() for part in readable.adj_tensors("csc", etype=etype))
    source, _, target = etype
    sizes = None
    if not graph.is_block and graph.batch_size > 1:
        sizes = graph.batch_num_nodes(target).cpu().numpy()
    return numba_kernels.Graph(
        indptr, indices, graph.num_nodes(f"SRC/{source}") if graph.is_block else graph.num_nodes(source),
        edge_ids if len(edge_ids) else None, graph.is_block, sizes,
    )  # fmt: skip


class PackedModel(numba_kernels.PackedModel):
    """A frozen low-bit model on DGL graphs and torch tensors.

    As :class:`numba_kernels.PackedModel`, and graphs may be a ``DGLGraph``, a DGL block or a list of blocks, features
    and edge weights tensors. The result is a tensor if any argument is one, else an array.
    """

    def __call__(self, *args, **kwargs):
        """Run the model, as :meth:`numba_kernels.PackedModel.__call__`.

        Raises
        ------
        DGLError
            When graph and features do not fit each other or the model.
        """
        return self._run(super().__call__, args, kwargs)

    def inference(self, *args, batch_size: int = 4096, out=None, **kwargs):
        """Run the model layer by layer, as :meth:`numba_kernels.PackedModel.inference`; ``out`` may be a tensor.

        Raises
        ------
        DGLError
            When graph and features do not fit each other or the model.
        """
        out = out.numpy() if isinstance(out, torch.Tensor) else out
        run = functools.partial(super().inference, batch_size=batch_size, out=out)
        return self._run(run, args, kwargs)

    @staticmethod
    def _run(run, args, kwargs):
        wants_tensor = any(
            isinstance(part, torch.Tensor) for value in (*args, *kwargs.values()) for part in _parts(value)
        )
        try:
            result = run(*map(_plain, args), **{name: _plain(value) for name, value in kwargs.items()})
        except numba_kernels.GraphError as error:
            raise DGLError(str(error)) from error
        return _tensors(result) if wants_tensor else result


def load(path, threads: int | None = None) -> PackedModel:
    """Read a packed model that ``PackedModel.save`` wrote.

    Raises
    ------
    FileNotFoundError
        When there is no such file.
    numba_kernels.ModelFileError
        When the file is truncated, of another kind, or of a newer version.
    """
    return PackedModel.load(path, threads)


def _parts(value):
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, (tuple, list)) else (value,)


def _plain(value):
    """DGL graphs and tensors as what kernels take."""
    if isinstance(value, (tuple, list)):
        return type(value)(map(_plain, value))
    if isinstance(value, dict):
        return {key: _plain(part) for key, part in value.items()}
    if isinstance(value, DGLGraph):
        return kernel_graph(value)
    if isinstance(value, torch.Tensor):
        if value.layout != torch.strided:
            raise DGLError(f"features must be a dense tensor, got layout {value.layout}; pass feat.to_dense().")
        value = value.detach().cpu()
        return (value.float() if value.dtype == torch.bfloat16 else value).numpy()
    return value


def _tensors(result):
    if isinstance(result, dict):
        return {key: _tensors(part) for key, part in result.items()}
    return tuple(map(_tensors, result)) if isinstance(result, tuple) else torch.from_numpy(np.ascontiguousarray(result))
