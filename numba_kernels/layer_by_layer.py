"""Models on graphs larger than memory: layer by layer, batch by batch, and what that takes."""

from __future__ import annotations

import contextlib
import functools
import os
from typing import Any, Callable

import numpy as np

from .arguments import graphs, lazy_features
from .estimate import Estimate, estimate
from .given import whole_number
from .graph import Graph, GraphError
from .mapped import existing_folder
from .plan.own_rows import refuse_silent_rows
from .progress import Progress
from .result_file import result_file
from .run.cpus import available_memory
from .run.runtime import checked, running
from .run.states import States, identity_of, states_in


class LayerByLayer:
    """What a packed model does with graphs that do not fit into memory; see :class:`numba_kernels.PackedModel`."""

    plan: Any
    threads: int | None
    _executor: Any
    _inputs: Callable
    _returned: Callable
    _arranged: Callable
    blocks_read: Callable
    to_bytes: Callable

    def inference(
        self,
        *args,
        batch_size: int = 4096,
        out=None,
        folder=None,
        most_memory: int | None = None,
        progress: bool | Callable = False,
        exchange: Callable | None = None,
        **kwargs,
    ):
        """Run the model layer by layer, ``batch_size`` rows at a time, on graphs that do not fit into memory.

        Features may be anything of two dimensions that gives float rows for a slice, as a ``numpy.memmap`` does: a
        batch of them is read and converted at a time, from a memmap while the one before is computed. Between layers
        only packed codes are kept, and floats where the model needs them again (residuals, states). A model that takes
        a list of blocks runs on one graph given in its place.

        With a ``folder`` these stand in files there, and so does a graph given as arrays, which may be mapped from
        files. A sum over neighbours reads codes at random; where they take more than ``most_memory``, it is made for
        one part of the nodes after another, for each of which the codes of its neighbours are brought into memory.

        If ``out`` is a path as well, a run that was ended goes on after the last stage that was complete, when it is
        called again with the same model, graph and features. Of features 1,024 rows are compared, and size and time of
        the file that they are mapped from. It begins anew if the machine was started again, and where NumPy computes a
        part of the model.

        Parameters
        ----------
        *args, **kwargs
            What the model is called with.
        batch_size : int
        out : (N_dst, width) float32 array, or path-like, optional
            For models of one output: a C-contiguous array, or an ``.npy`` file that is replaced whole or not at all.
            Default: a new array.
        folder : path-like, optional
            On a disk with room, see :meth:`estimate`; for one run at a time. What stands there is removed when the run
            is over or its arguments are refused. Default: states stand in memory.
        most_memory : int, optional
            Bytes, with a folder. Default: half of what is available.
        progress : bool or callable, optional
            Whether to show on stderr how far it is, or what to call with the share of the work that is done.
        exchange : callable, optional
            Where graphs are :class:`~numba_kernels.partition.PartitionGraph`, what brings the rows of other workers:
            ``exchange(codes)`` is called on all of them after the same stages, with a list of
            :class:`~numba_kernels.run.halo.HaloCodes`. Features, and results, are of inner nodes then, and stand in
            memory.

        Returns
        -------
        numpy.ndarray, or a tuple or dict of them
            As a call's; for a path the array of the file, mapped into memory; changes of it stay there.

        Raises
        ------
        TypeError, GraphError
            As a call, and for an ``out`` that does not fit; of partitions, for models that read rows of all nodes, and
            for an ``out`` or a ``folder``.
        ArrayFileError, StatesError
            For a path that is not of an ``.npy`` file; for a folder that has the states of another run, or is in use.
        OSError
            When there is no folder, no room on its disk, or the file cannot be written.
        """
        batch_size = whole_number(batch_size, "batch_size", 1)
        if exchange is not None and not (out is None and folder is None):
            raise GraphError("a worker's rows of a partition stand in memory: leave out and folder away.")
        if folder is not None:
            refuse_silent_rows(self.plan, "what goes on in the memory of the step before cannot be resumed")
        to_file = isinstance(out, (str, os.PathLike))
        if (len(self.plan.outputs) != 1 and out is not None) or not (out is None or to_file or _is_result(out)):
            raise GraphError(
                "out must be a writeable C-contiguous float32 matrix, or the path of an .npy file, for a model of one "
                "output."
            )
        most_memory = whole_number(available_memory() // 2 if most_memory is None else most_memory, "most_memory", 1)
        read_graphs = functools.partial(graphs, folder=None if folder is None else existing_folder(folder))
        inputs = self._inputs(args, kwargs, features=lazy_features, graph=read_graphs)
        for value, count in self.blocks_read().items():
            if isinstance(inputs[value], (Graph, dict)):
                inputs[value] = [inputs[value]] * count
        tell = Progress("inference") if progress is True else progress or None
        with running(), contextlib.ExitStack() as stack:
            if exchange is not None:
                run = self._executor.run_partition(inputs, checked(self.threads), batch_size, exchange)
                return self._returned(run)
            states: States | None = None
            if folder is not None:
                identity = identity_of(self.to_bytes(), inputs)
                states = stack.enter_context(states_in(folder, identity, most_memory))
            if to_file:
                file = stack.enter_context(result_file(out, None if states is None else states.result))
            threads, result = checked(self.threads), file if to_file else out
            outputs = self._executor.run(inputs, threads, batch_size, result, states=states, progress=tell)
            if not to_file:
                return self._returned(outputs)
            shape = outputs[0].shape
            heads = self.plan.heads[0]
            file.describe((shape[0], heads, shape[1] // heads) if heads else shape)
        return self._arranged([np.load(out, mmap_mode="c")])

    def estimate(
        self,
        graph=None,
        *,
        nodes: int | None = None,
        edges: int | None = None,
        batch_size: int = 4096,
        most_memory: int | None = None,
    ) -> Estimate:
        """What :meth:`inference` takes, before it is made: bytes of memory and disk, and seconds.

        Seconds are the processor time that a small random graph of the same mean degree takes, in proportion, over the
        threads: a lower bound, as more of it stands in caches, nothing is read from disk and nobody else computes.

        Parameters
        ----------
        graph : optional
            As of a call; no more of it is read than its sizes.
        nodes, edges : int, optional
            Its sizes, where there is none yet.
        batch_size, most_memory
            As of :meth:`inference`.

        Returns
        -------
        Estimate

        Raises
        ------
        GraphError
            For sizes that are none, and models that take anything but a graph of one set of nodes and their features.
        ValueError
            When the plan does not tell how wide features are.

        Examples
        --------
        >>> packed.estimate(nodes=100_000_000, edges=1_000_000_000)  # doctest: +SKIP
        """
        most_memory = whole_number(available_memory() // 2 if most_memory is None else most_memory, "most_memory", 1)
        return estimate(self, graph, nodes, edges, whole_number(batch_size, "batch_size", 1), most_memory)


def _is_result(array) -> bool:
    """Whether a result can be written to it."""
    is_array = isinstance(array, np.ndarray) and not isinstance(array, np.ma.MaskedArray)
    return (
        is_array
        and array.dtype == np.float32
        and array.ndim == 2
        and array.flags.c_contiguous
        and array.flags.writeable
    )
