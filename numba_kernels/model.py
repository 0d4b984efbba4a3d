"""A packed model: runs on NumPy arrays, saves to and loads from a file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from .arguments import READ, float_features, lazy_features
from .errors import ModelFileError
from .files import replace_file
from .given import whole_number
from .graph import Graph, GraphError
from .model_file import decode, encode, read
from .plan import Plan
from .prepared import Prepared
from .run.coded import NOT_CODED, Coded
from .run.executor import Executor
from .run.part import checked_nodes, node_count
from .run.room import refuse_beyond
from .run.runtime import checked, running
from .run.update import Kept

__all__ = ["ModelFileError", "PackedModel", "load"]


class PackedModel:
    """A frozen low-bit model.

    Call it as the model it was frozen from: ``packed(graph, feat)``. A graph is a
    :class:`~numba_kernels.graph.Graph`, a scipy.sparse matrix or a pair (indptr, indices) of in-neighbours, or a list
    of them where the model takes blocks, or a dict of them by (source type, edge type, destination type); features are
    float arrays, (N, width), or a pair of them, or a dict of them by node type. Where the model takes arrays of any
    dimensions, numbers are read as float32, int64 or bool.

    Parameters
    ----------
    plan : Plan
        What it computes.
    info : dict, optional
        What is known of its making, JSON values; kept in the file.
    threads : int, optional
        Threads to run on. Default: Numba's current number.
    """

    _prepared = Prepared

    def __init__(self, plan: Plan, info: dict | None = None, threads: int | None = None):
        self.plan, self.info, self.threads = plan, dict(info or {}), threads
        self._executor = Executor(plan)
        self._kept = Kept(self._executor)

    def __call__(self, *args, **kwargs):
        """Run the model.

        Parameters
        ----------
        *args, **kwargs
            What the frozen model's ``forward`` takes.
        nodes : (n,) integers, or a mask of N bools, optional, by keyword
            The nodes whose rows are wanted, in any order, as often as they are named; default: all. The result is, to
            the bit, ``packed(*args)[nodes]``. Where :attr:`hops` is a number, only what these rows follow from is read
            and computed: the nodes at most so many edges away, and not that other features are finite. Keep the
            :class:`~numba_kernels.graph.Graph` for the next call: a pair is read whole each time. A model whose own
            ``forward`` takes an argument of this name gets it, and is run on all nodes.

        Returns
        -------
        numpy.ndarray, or a tuple or dict of them
            float32, (N_dst, width) or (N_dst, heads, width), as the frozen model's. What array functions make may have
            any dimensions, and be int64 or bool.

        Raises
        ------
        TypeError
            When the arguments are not those of the frozen model's ``forward``.
        GraphError
            When graph and features do not fit each other or the model, or hold what cannot be computed with; for nodes
            that the graph has not, of blocks and graphs of several types, or where results have no row for each node.
        """
        nodes = None if self._takes("nodes") else kwargs.pop("nodes", None)
        if nodes is None:
            return self.run_at(None, self._inputs(args, kwargs))
        inputs = self._inputs(args, kwargs, features=float_features)
        return self.run_at(nodes, inputs)

    def prepare(self, *args, **kwargs) -> Prepared:
        """The model with arguments that stay.

        ``packed.prepare(graph, feat)(nodes=…)`` is ``packed(graph, feat, nodes=…)``. The model runs once. What it makes
        of features row by row, their codes, is kept, so that later runs neither convert nor encode them; where nothing
        else reads features, a run reads 16 times less at 2 bits. The arguments must not change while it is in use.

        Parameters
        ----------
        *args, **kwargs
            What the model is called with.

        Raises
        ------
        TypeError, GraphError
            As a call.
        """
        return self._prepared(self, self._inputs(args, kwargs))

    def update(self, *args, changed=None, changed_edges=None, **kwargs):
        """Run the model where its last result has changed.

        The first call, and one that does not say what changed, runs all of it. The result is kept until the next, and
        is equal, to the bit, to that of a call of the model, as long as everything is named that has changed since the
        last update that returned. Where :attr:`hops` is None, all of the model runs each time. One update follows on
        another: make them from one thread.

        Parameters
        ----------
        *args, **kwargs
            What the model is called with: graph and features as they are now.
        changed : (n,) integers, or a mask of N bools, optional
            Nodes whose features are others than then. Nodes behind those that there were are new, and need not be
            named; neither need their edges.
        changed_edges : pair of (m,) integers, optional
            Sources and destinations of edges that were added or removed, or have other weights, types or features.

        Returns
        -------
        numpy.ndarray, or a tuple or dict of them
            As a call's, for all nodes.

        Raises
        ------
        TypeError, GraphError
            As a call, and where there are fewer nodes than before.
        """
        inputs = self._inputs(args, kwargs, features=float_features)
        with running():
            return self._returned(self._kept.update(inputs, changed, changed_edges, checked(self.threads)))

    @property
    def hops(self) -> int | None:
        """How many edges away from a node what its row of the result follows from is.

        None where results mix rows otherwise, as readouts do, or NumPy computes some of them: then all of the model
        runs whatever ``nodes`` are asked for.
        """
        return self._executor.reach.hops

    def _inputs(self, args, kwargs, **others):
        """Arguments by value, checked and converted, those of some kinds in ways of their own."""
        read_as, inputs = {**READ, **others}, {}
        for entry, value in self._bind(args, kwargs):
            inputs[entry["value"]] = read_as[entry["kind"]](value, entry["name"])
        return inputs

    def _takes(self, name):
        return any(entry["name"] == name for entry in self.plan.inputs)

    def run(self, inputs: dict) -> list[np.ndarray]:
        """Outputs of the plan for its inputs by number, Graphs and float32 arrays."""
        with running():
            return self._executor.run(inputs, checked(self.threads))

    def run_at(self, nodes, inputs: dict, coded: Coded = NOT_CODED):
        """What a call returns, for ``nodes`` if any are named, of inputs by number, of which some are ``coded``."""
        if nodes is not None:
            nodes = checked_nodes(nodes, node_count(self.plan.inputs, inputs))
        with running():
            executor, threads = self._executor, checked(self.threads)
            if nodes is None:
                return self._returned(executor.run(inputs, threads, coded=coded))
            return self._returned(executor.run_at(nodes, inputs, threads, coded))

    def coded(self, inputs: dict) -> Coded:
        """What is made of features row by row, for calls with the same inputs by number."""
        with running():
            return self._executor.coded(inputs, checked(self.threads))

    def inference(self, *args, batch_size: int = 4096, out=None, exchange: Callable | None = None, **kwargs):
        """Run the model layer by layer, ``batch_size`` rows at a time, on graphs whose features do not fit at once.

        Features may be anything of two dimensions that gives float rows for a slice, as a ``numpy.memmap`` does: a
        batch of them is read and converted at a time, and results go to ``out``, which may be mapped to a file too.
        Between layers only packed codes are in memory, and floats where the model needs them again (residuals,
        states). A model that takes a list of blocks runs on one graph given in its place.

        Parameters
        ----------
        *args, **kwargs
            What the model is called with.
        batch_size : int
        out : (N_dst, width) float32 array, optional
            C-contiguous; for models of one output. Default: a new array.
        exchange : callable, optional
            Where graphs are :class:`~numba_kernels.partition.PartitionGraph`, what brings the rows of other workers:
            ``exchange(codes)`` is called on all of them after the same stages, with a list of
            :class:`~numba_kernels.run.halo.HaloCodes`. Features, and results, are of inner nodes then.

        Returns
        -------
        numpy.ndarray, or a tuple or dict of them
            As a call's.

        Raises
        ------
        TypeError, GraphError
            As a call, and for an ``out`` that does not fit; of partitions, for models that read rows of all nodes.
        """
        batch_size = whole_number(batch_size, "batch_size", 1)
        inputs = self._inputs(args, kwargs, features=lazy_features)
        for value, count in self.blocks_read().items():
            if isinstance(inputs[value], (Graph, dict)):
                inputs[value] = [inputs[value]] * count
        if out is not None:
            is_array = isinstance(out, np.ndarray) and not isinstance(out, np.ma.MaskedArray)
            fits = len(self.plan.outputs) == 1 and is_array and out.dtype == np.float32
            if not (fits and out.ndim == 2 and out.flags.c_contiguous and out.flags.writeable):
                raise GraphError("out must be a writeable C-contiguous float32 matrix, for a model of one output.")
        with running():
            threads = checked(self.threads)
            if exchange is not None:
                return self._returned(self._executor.run_partition(inputs, threads, batch_size, exchange))
            return self._returned(self._executor.run(inputs, threads, batch_size, out))

    def check_room(self, nbytes: int) -> None:
        """Raise GraphError where a run on small arguments may not take as many bytes."""
        refuse_beyond(self._executor.room(()), nbytes)

    def blocks_read(self):
        """How many graphs the plan reads of each argument that is a list of them."""
        counts = {}
        for op in self.plan.ops:
            if op["op"] == "item":
                counts[op["in"][0]] = max(counts.get(op["in"][0], 0), op["index"] + 1)
        return counts

    def _returned(self, outputs):
        plan = self.plan
        outputs = [
            array.reshape(len(array), heads, array.shape[1] // heads) if heads else array
            for array, heads in zip(outputs, plan.heads)
        ]
        if isinstance(plan.returns, tuple):
            return dict(zip(plan.returns, outputs))
        return tuple(outputs) if plan.returns == "tuple" else outputs[0]

    def release(self):
        """Free the memory that is kept from run to run, and the last result of :meth:`update`."""
        self._executor.release()
        self._kept.release()

    def _bind(self, args, kwargs):
        names = list(dict.fromkeys(entry["name"] for entry in self.plan.inputs if "frame" not in entry))
        by_keyword = [entry["name"] for entry in self.plan.inputs if "frame" in entry]
        unknown = [name for name in kwargs if name not in (*names[len(args) :], *by_keyword)]
        if len(args) > len(names) or unknown:
            raise TypeError(f"the model takes ({', '.join(names)}), got {len(args)} positional and {list(kwargs)}.")
        given = {**dict(zip(names, args)), **kwargs}
        for entry in self.plan.inputs:
            name, key = entry["name"], entry.get("key")
            if name not in given and not entry["optional"]:
                raise TypeError(f"the model takes ({', '.join(names)}), and {name} is missing.")
            value = given.get(name)
            if entry["kind"] == "constant" and name in given and not _is_constant(value, entry["constant"]):
                raise TypeError(
                    f"{name} is {entry['constant']!r} in this model, got {_described(value)}; freeze it with another."
                )
            yield entry, value if key is None else _part(value, key, name)

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays: codes, scales, zero points, biases."""
        return sum(array.nbytes for array in self.plan.arrays.values())

    # -- files ------------------------------------------------------------------------------------------
    def to_bytes(self) -> bytes:
        """The file's content; the same model always gives the same bytes."""
        return encode(self.plan, self.info)

    def save(self, path) -> Path:
        """Write the model to ``path``, a safetensors file.

        It is written beside and renamed into place, so that an existing file is replaced whole or not at all; see
        :func:`numba_kernels.files.replace_file`.
        """
        return replace_file(path, self.to_bytes())

    @classmethod
    def load(cls, path, threads: int | None = None) -> PackedModel:
        """Read a model that :meth:`save` wrote; its arrays are mapped into memory.

        Raises
        ------
        FileNotFoundError
            When there is no such file.
        ModelFileError
            When the file is truncated, damaged, of another kind, or of a newer version.
        """
        return cls(*read(path), threads)

    @classmethod
    def from_bytes(cls, content, threads: int | None = None) -> PackedModel:
        """The model that :meth:`to_bytes` wrote; raises ModelFileError as :meth:`load`."""
        return cls(*decode(content), threads)

    def __repr__(self):
        names = ", ".join(dict.fromkeys(entry["name"] for entry in self.plan.inputs))
        return f"{type(self).__name__}({names}) of {len(self.plan.ops)} operations, {self.nbytes:,} bytes"


def load(path, threads: int | None = None) -> PackedModel:
    """Read a packed model that ``PackedModel.save`` wrote.

    Parameters
    ----------
    path : path-like
    threads : int, optional
        Threads to run on. Default: Numba's current number.

    Returns
    -------
    PackedModel

    Raises
    ------
    FileNotFoundError
        When there is no such file.
    ModelFileError
        When the file is truncated, damaged, of another kind or of a newer version.
    """
    return PackedModel.load(path, threads)


def _is_constant(value, constant):
    return type(value) is type(constant) and value == constant


def _part(value, key, name):
    """An entry of an argument that is a dict, or a tuple or list."""
    if isinstance(key, str):
        if not isinstance(value, dict) or key not in value:
            raise GraphError(f"{name} must be a dict with an entry {key!r}, got {_described(value)}.")
    elif not isinstance(value, (tuple, list)) or len(value) <= key:
        raise GraphError(f"{name} must be a tuple with an entry {key}, got {_described(value)}.")
    return value[key]


def _described(value):
    if isinstance(value, dict):
        return f"one with {', '.join(map(str, value))}"
    return repr(value) if isinstance(value, (bool, int, float, str)) else type(value).__name__
