"""Kernels touch nothing beside their arrays: they run where what stands there must not be touched."""

import json
import signal
import subprocess
import sys

import numpy as np
import pytest

from numba_kernels import Graph
from tests.numba_kernels.guard import Guard
from tests.numba_kernels.plans import JIT_OFF, run_tests_of_kernels

pytestmark = pytest.mark.skipif(JIT_OFF, reason="NumPy checks its bounds itself")
SIDES = ("begin", "end")


def guarded(*command):
    return subprocess.run(
        [sys.executable, "-m", "tests.numba_kernels.guarded", *command], capture_output=True, text=True, timeout=600
    )


@pytest.mark.parametrize("side", SIDES)
def test_arrays_stand_between_pages(side):
    guard = Guard(side)
    array = guard.copy(np.arange(5, dtype=np.int16))
    place = array.ctypes.data + (10 if side == "end" else 0)
    assert place % 4096 == 0 and array.tolist() == [0, 1, 2, 3, 4]
    graph = guard.graph(Graph([0, 1, 3], [1, 0, 1], edge_ids=[2, 1, 0]))
    assert graph.edges[0].tolist() == [1, 0, 1] and graph.factor_address("in", -0.5, 0) % 4 == 0


@pytest.mark.parametrize("side", [pytest.param("begin", marks=pytest.mark.slow), "end"])
def test_an_overrun_ends_the_process(side):
    assert guarded("overrun", side).returncode == -signal.SIGSEGV


@pytest.mark.slow
@pytest.mark.parametrize("side", SIDES)
def test_plans_of_the_grammar(side):
    """Some refused, some run; all that run give what the twin gives."""
    done = guarded("plans", side, "0", "40")
    assert done.returncode == 0, done.stderr[-2000:]
    counts = json.loads(done.stdout)
    assert sum(counts.values()) == 40 and counts["refused"] and counts["equal"] and counts["ran"]


@pytest.mark.slow
@pytest.mark.parametrize("side", SIDES)
def test_tests_of_kernels(side):
    chosen = "test_attend or test_sums or test_readout or test_heads or test_whole or test_product or test_maximum"
    assert "passed" in run_tests_of_kernels(chosen, "-p", "tests.numba_kernels.guarded", GUARD=side)
