"""What comes between the stages of a run."""

import contextlib
import itertools

import numba
import numpy as np
import pytest

from numba_kernels import GraphError
from numba_kernels.run import one_run
from tests.numba_kernels.plans import PlanBuilder, draw_graph, normal, static


def two_layers(rng):
    """Two sums over the neighbours of graph 0, of features 1."""
    build, x = PlanBuilder(), 1
    for _ in range(2):
        x = build.add("aggregate", 0, build.quantize(x, static(2, 12, rng, False), 12), None, None)
    return build.model(["graph", "features"], x)


@pytest.mark.parametrize("batch_size", [None, 7])
def test_a_hook_is_called_once_a_stage_and_changes_nothing(batch_size):
    rng = np.random.default_rng(0)
    model = two_layers(rng)
    inputs = {0: draw_graph(rng, 30, 30, 90), 1: normal(rng, 30, 12)}
    (expected,), seen = model.run(inputs), []

    def after_stage(run, number):
        seen.append((number, run.stage_rows[number]))

    (got,) = model._executor.run(inputs, 1, batch_size, after_stage=after_stage)
    np.testing.assert_array_equal(got, expected)
    assert seen == [(0, 30), (1, 30), (2, 30)]


def test_a_hook_ends_the_run_and_a_fault_comes_before_it():
    rng = np.random.default_rng(0)
    model, graph, x = two_layers(rng), draw_graph(rng, 30, 30, 90), normal(rng, 30, 12)

    def stop(run, number):
        raise KeyboardInterrupt(number)

    with pytest.raises(KeyboardInterrupt, match="0"):
        model._executor.run({0: graph, 1: x}, 1, after_stage=stop)
    with pytest.raises(GraphError, match="x1 holds NaN"):
        model._executor.run({0: graph, 1: x * np.nan}, 1, after_stage=stop)


@pytest.mark.skipif(numba.config.NUMBA_NUM_THREADS < 2, reason="one thread")
def test_batches_are_whole_whoever_has_the_threads(monkeypatch):
    rng, grants = np.random.default_rng(0), itertools.cycle([2, 1, 1])
    model, inputs = two_layers(rng), {0: draw_graph(rng, 30, 30, 90), 1: normal(rng, 30, 12)}
    (expected,) = model.run(inputs)
    model.run({**inputs, 1: -inputs[1]})  # leaves other numbers in memory

    @contextlib.contextmanager
    def sharing(threads):
        yield min(threads, next(grants))

    monkeypatch.setattr(one_run, "sharing", sharing)
    (got,) = model._executor.run(inputs, 2, 7)
    np.testing.assert_array_equal(got, expected)
