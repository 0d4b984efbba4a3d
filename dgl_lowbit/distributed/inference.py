"""Packed models on graphs that are partitioned among workers."""

from __future__ import annotations

import contextlib
import weakref
import zlib
from collections.abc import Iterator

import numpy as np
import torch
from dgl import DGLError
from dgl.distributed import DistGraph, DistTensor

from ..deploy import PackedModel
from ..training.processes import LostProcessError
from ..trees import mapped
from .halo import Halo
from .partition import Partition
from .workers import Workers

_partitions: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()  # of DistGraphs


def inference(
    packed: PackedModel,
    graph: DistGraph | Partition,
    *args,
    batch_size: int = 4096,
    out=None,
    group=None,
    timeout: float = 60.0,
    **kwargs,
):
    """Run a packed model on a partitioned graph: each worker computes its nodes, and sends codes of those at the cut.

    All workers call it, processes of torch.distributed. Between layers only the packed codes that neighbours of other
    partitions read are sent, without padding: 16 times fewer bytes than float32 at 2 bits. Sums over neighbours are of
    integers, so that results are those of one process on the whole graph, to the bit; attention and float edge weights
    are summed in the order of the numbers of edges.

    Models that mix rows of all nodes, by readouts or functions that NumPy computes, are refused.

    Parameters
    ----------
    packed : PackedModel
        The same on all workers.
    graph : dgl.distributed.DistGraph or Partition
        The graph that all workers share, or this worker's part of it.
    *args, **kwargs
        What the model takes beside the graph: for nodes a ``DistTensor`` or the rows of this worker's inner nodes, a
        float tensor (n, width), or a dict of them by type of nodes; for edges likewise, in the order of
        ``Partition.edges``. Rows of a ``DistTensor`` are read ``batch_size`` at a time.
    batch_size : int
        Rows that are computed at a time.
    out : DistTensor, optional
        (N, width) float32, or a tuple or dict of them as the model returns; gets the rows of all workers. It is written
        once all of them are done, or not at all.
    group : torch.distributed.ProcessGroup, optional
        The workers, by gloo, with a timeout of its own. Default: all processes.
    timeout : float
        Seconds that a worker waits for another one, which may be so much slower in one layer.

    Returns
    -------
    torch.Tensor, or a tuple or dict of them
        float32 (n, width) rows of this worker's inner nodes, in their order.

    Raises
    ------
    LostProcessError
        Where another worker has an error, is gone, or runs something else.
    DGLError
        Where graph and features do not fit each other or the model, and for models that are refused.
    TypeError
        When the arguments are not those of the frozen model's ``forward``, or the first is no packed model.
    """
    workers = Workers(group, timeout)
    with _told(workers):
        if not isinstance(packed, PackedModel):
            raise TypeError(f"expected a packed model, as dgl_lowbit.freeze makes, got {type(packed).__name__}.")
        workers.agree(zlib.crc32(packed.to_bytes()))
        partition = graph if isinstance(graph, Partition) else _partition_of(graph, workers)
        halo = _halo_of(partition, workers)
        names = {entry["name"]: halo.graphs for entry in packed.plan.inputs if entry["kind"] == "graph"}
        bound = _bound(packed, args, kwargs, names)
        given = {name: _given(value, partition) for name, value in bound.items()}
        partition.sent = []
        result = packed.inference(**given, **names, batch_size=batch_size, exchange=halo.exchange)
        result = mapped(result, lambda rows: torch.from_numpy(np.ascontiguousarray(rows)))
        places = [] if out is None else _places(out, result, partition)
        workers.agree()
    for tensor, ids, rows in places:
        tensor[ids] = rows
    return result


@contextlib.contextmanager
def _told(workers: Workers) -> Iterator[None]:
    """Other workers are told of an error."""
    try:
        yield
    except LostProcessError:
        workers.forget()
        raise
    except BaseException as error:
        workers.stop(error)
        raise


def _partition_of(graph, workers):
    """This worker's part of a DistGraph."""
    if not isinstance(graph, DistGraph):
        raise DGLError(
            f"expected a dgl.distributed.DistGraph or a dgl_lowbit.distributed.Partition, got {type(graph).__name__}."
        )
    part = int(graph.get_partition_book().partid)
    machines = workers.all(np.array([part]))[:, 0]
    if graph not in _partitions:
        _partitions[graph] = Partition.of(graph, workers.rank, machines)
    return _partitions[graph]


def _halo_of(partition, workers):
    """What is exchanged once for a partition; made anew where one of the workers has it not."""
    if (partition.rank, partition.workers) != (workers.rank, workers.size):
        raise DGLError(
            f"this is the part of worker {partition.rank} of {partition.workers}, given to worker {workers.rank} of "
            f"{workers.size}."
        )
    known, halo = partition.ready
    if not workers.all(np.array([known is workers.group])).all():
        halo = Halo(partition, workers)
        partition.ready = workers.group, halo
    halo.workers = workers
    return halo


def _bound(packed, args, kwargs, graphs):
    """Arguments by name, those without a name in the order of what the model takes beside graphs."""
    names = [name for name in packed._names() if name not in graphs]
    if len(args) > len(names):
        raise TypeError(f"the model takes ({', '.join(names)}) beside the graph, got {len(args)} arguments.")
    return {**dict(zip(names, args)), **kwargs}


def _given(value, partition):
    """An argument with rows of DistTensors."""
    if isinstance(value, (tuple, list, dict)):
        return mapped(value, lambda part: _given(part, partition))
    if not isinstance(value, DistTensor):
        return value
    ids = _ids_of(value, partition)
    return _Pulled(value, ids) if len(value.shape) == 2 else value[ids].numpy()


def _ids_of(tensor, partition):
    """Which rows of a DistTensor are this worker's."""
    kind, known = tensor.part_policy.type_name, partition.nodes if tensor.part_policy.is_node else partition.edges
    if kind not in known:
        raise DGLError(f"a DistTensor of type {kind!r} is given, the graph has {', '.join(map(repr, known))}.")
    return known[kind]


class _Pulled:
    """Rows of a DistTensor, read by slices."""

    def __init__(self, tensor, ids):
        self._tensor, self._ids, self.shape = tensor, ids, (len(ids), tensor.shape[1])
        self.dtype = torch.empty(0, dtype=tensor.dtype).numpy().dtype
        self.nbytes = self.dtype.itemsize * len(ids) * tensor.shape[1]

    def __getitem__(self, rows):
        return self._tensor[self._ids[rows]].numpy()


def _places(out, result, partition):
    """Tensors that take rows of the result: which rows, and what."""
    if isinstance(result, (tuple, dict)):
        keys = result if isinstance(result, dict) else range(len(result))
        fits = type(out) is type(result) and len(out) == len(result)
        if not fits or (isinstance(result, dict) and set(out) != set(result)):
            raise DGLError(f"out must be a {type(result).__name__} of {len(result)} DistTensors, as the model returns.")
        return [place for key in keys for place in _places(out[key], result[key], partition)]
    width = tuple(result.shape[1:])
    if not isinstance(out, DistTensor) or tuple(out.shape[1:]) != width or out.dtype != result.dtype:
        raise DGLError(f"out must be a DistTensor of {result.dtype}, with rows of {width}, got {out!r}.")
    ids = _ids_of(out, partition)
    if len(ids) != len(result):
        raise DGLError(f"the model returns {len(result)} rows, out has {len(ids)} of this worker.")
    return [(out, ids, result)]
