"""What studies measure of low-bit models beside their accuracy."""

from __future__ import annotations

import statistics
import time
from functools import partial
from typing import Callable, NamedTuple

import numpy as np
from dgl import DGLGraph
from torch import nn

from numba_kernels import Grid, functional

from ...allocation.cost import components_of
from ...deploy import PackedModel, launching
from ...deploy.packed import kernel_graph
from ...diagnose import diagnose
from ...nn.propagation import silent_shares
from ...training import predict

_ROUNDS = 30


class Made(NamedTuple):
    """A low-bit model, what it was frozen to, and the graph that it is for."""

    model: nn.Module
    packed: PackedModel
    graph: DGLGraph

    def read(self):
        """What the model reads of its graph's features."""
        feat, columns = self.graph.ndata["feat"], getattr(self.model, "columns", None)
        return feat if columns is None else columns.of(feat)


def weight_error(made: dict[str, Made]) -> dict[str, float]:
    """The squared error of weights as a part of their square, mean over matrices."""
    errors = {}
    for label, (model, _, graph) in made.items():
        weights = [q for name, part in components_of(model).items() if _is_weights(name) for q in part.quantizers]
        rows = {row["quantizer"]: row["snr"] for row in diagnose(model, graph, graph.ndata["feat"])}
        errors[label] = statistics.mean(10 ** (-rows[name] / 10) for name in weights)
    return errors


def _is_weights(component):
    return component.rpartition(".")[2] == "weights"


def identical(made: dict[str, Made]) -> dict[str, float]:
    """The share of nodes whose logits are the same, packed and not, to the bit."""
    shares = {}
    for label, (model, packed, graph) in made.items():
        shares[label] = (predict(model, graph) == packed(graph, graph.ndata["feat"])).all(1).float().mean().item()
    return shares


def milliseconds(made: dict[str, Made]) -> dict[str, float]:
    """Processor time of a packed call on one thread, of the columns that are read where not all are."""
    return _medians({label: partial(one.packed, one.graph, one.read()) for label, one in made.items()})


def milliseconds_whole(made: dict[str, Made]) -> dict[str, float]:
    """Processor time of a packed call on one thread, with all columns of features."""
    return _medians({label: partial(one.packed, one.graph, one.graph.ndata["feat"]) for label, one in made.items()})


def milliseconds_of_sums(made: dict[str, Made]) -> dict[str, float]:
    """Processor time of one sum over neighbours, of 64 columns of 2 bits to float32, on one thread."""
    calls, rng = {}, np.random.default_rng(0)
    for label, one in made.items():
        values = rng.random((one.graph.num_nodes(), 64), np.float32)
        codes = functional.quantize(values, Grid(64, 2, 1 / 3))
        calls[label] = partial(functional.spmm, kernel_graph(one.graph), codes)
    return _medians(calls)


def _medians(calls):
    """Of processor time, in milliseconds, of calls that take turns, after a first one."""
    taken: dict[str, list[float]] = {label: [] for label in calls}
    with launching(1):
        for turn in range(_ROUNDS + 1):
            for label, call in calls.items():
                start = time.process_time()
                call()
                if turn:
                    taken[label].append(1e3 * (time.process_time() - start))
    return {label: statistics.median(times) for label, times in taken.items()}


def silent_rows(made: dict[str, Made]) -> dict[str, list[float]]:
    """Of each step of propagation after the first, the share of rows that a dead zone leaves unsent."""
    return {label: silent_shares(model, graph) for label, (model, _, graph) in made.items()}


# By the name that entries of results have for it.
FIGURES: dict[str, Callable[[dict[str, Made]], dict]] = {
    "weight_error": weight_error, "identical": identical, "ms": milliseconds, "ms_whole": milliseconds_whole,
    "ms_sums": milliseconds_of_sums, "silent": silent_rows,
}  # fmt: skip
