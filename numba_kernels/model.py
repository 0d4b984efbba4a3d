"""A packed model: runs on NumPy arrays, saves to and loads from a file."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from .arguments import READ, bound, coded_features, float_features, whole_floats
from .errors import GraphError, ModelFileError
from .files import replace_file
from .fitting import fitted_grid
from .functional import encoded
from .given import checked_nodes
from .layer_by_layer import LayerByLayer
from .model_file import decode, encode, read
from .plan import Plan
from .plan.attributes import argument_name
from .prepared import Prepared
from .run.coded import NOT_CODED, Coded, grids_of_features
from .run.codes import Codes
from .run.executor import Executor
from .run.part import node_count, of_each
from .run.room import refuse_beyond
from .run.runtime import checked, running
from .run.update import Kept

__all__ = ["ModelFileError", "PackedModel", "load"]


class PackedModel(LayerByLayer):
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
        others = {} if nodes is None else {"features": coded_features}
        return self.run_at(nodes, *self._executor.given_codes(self._inputs(args, kwargs, **others)))

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
        return self._prepared(self, self._inputs(args, kwargs, features=whole_floats))

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

    def embed(self, *args, bits: int | None = None, granularity: str = "channel", **kwargs) -> Codes:
        """What the model returns, as packed codes, in which :meth:`Codes.search` finds the nearest rows.

        Parameters
        ----------
        *args, **kwargs
            What the model is called with.
        bits : {1, 2, 3, 4, 8}, optional
            Results are coded on a grid that is fitted to them. Default: the model's own codes where its outputs are
            quantised, to which it then was trained, else 8 bits.
        granularity : {"channel", "tensor", "row"}
            With fitted grids: a scale a column, one, or one a row, which takes 8 bytes beside it.

        Returns
        -------
        Codes
            (N, width); of several heads all columns, one head after another.

        Raises
        ------
        TypeError, GraphError
            As a call, and where the model returns not one matrix.
        """
        inputs, coded = self._executor.given_codes(self._inputs(args, kwargs))
        with running():
            threads = checked(self.threads)
            found = self._executor.codes_returned(inputs, threads, coded) if bits is None else None
            if found is not None:
                return found
            outputs = self._executor.run(inputs, threads, coded=coded)
        if len(outputs) != 1 or outputs[0].ndim != 2 or outputs[0].dtype != np.float32:
            raise GraphError("embeddings are one matrix of floats; this model returns something else.")
        return encoded(outputs[0], fitted_grid(outputs[0], 8 if bits is None else bits, granularity))

    def feature_grids(self) -> dict:
        """The grids on which the model codes features as they are given, by the name of the argument.

        Features that are given as :class:`Codes` on such a grid are taken without being decoded, where nothing else
        reads them.

        Returns
        -------
        dict of str to numba_kernels.spec.GridSpec
        """
        return grids_of_features(self.plan)

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
            number, name = entry["value"], argument_name(entry)
            inputs[number] = read_as[entry["kind"]](value, name)
            if number in self._executor.selected:
                of_each(self._executor.selected[number].check, inputs[number], name)
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
        return self._arranged(map(_shaped, outputs, self.plan.heads))

    def _arranged(self, outputs):
        """Outputs as the frozen model returned them."""
        if isinstance(self.plan.returns, tuple):
            return dict(zip(self.plan.returns, outputs))
        return tuple(outputs) if self.plan.returns == "tuple" else next(iter(outputs))

    def release(self):
        """Free the memory that is kept from run to run, and the last result of :meth:`update`."""
        self._executor.release()
        self._kept.release()

    def _bind(self, args, kwargs):
        return bound(self.plan.inputs, args, kwargs)

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


def _shaped(output, heads):
    """An output with a dimension of heads, where it has any."""
    return output.reshape(len(output), heads, output.shape[1] // heads) if heads else output
