"""Runs under guard: tests, as a plugin of pytest, or plans of the grammar, as a command that says what became of them.

python -m tests.numba_kernels.guarded plans end 0 100    # 100 plans from seed 0 on, arrays at the end of a page
python -m tests.numba_kernels.guarded overrun begin      # reads features 64 bytes from where they stand
"""

import collections
import json
import os
import sys

import numpy as np
import pytest

from tests.numba_kernels.guard import Guard


@pytest.fixture(autouse=True)
def guard():
    """Every test runs under guard; GUARD says whether arrays end or begin at a page."""
    with Guard(os.environ["GUARD"]).installed() as guard:
        yield guard


def plans(first, count):
    """Outcomes of as many plans of the grammar."""
    from tests.numba_kernels.grammar import Grammar, outcome

    counts = collections.Counter()
    for seed in range(first, first + count):
        print(seed, file=sys.stderr, flush=True)  # the last one is the culprit
        counts[outcome(Grammar(seed).draw())] += 1
    return counts


def overrun(step):
    """A run whose kernels read features some bytes from where they stand."""
    from numba_kernels.run.one_run import Run
    from tests.numba_kernels.plans import PlanBuilder

    original = Run.address
    Run.address = lambda run, value: original(run, value) + step
    builder = PlanBuilder()
    builder.model(["features"], builder.add("relu", 0))(np.ones((16, 16), np.float32))
    return {"ran": 1}


if __name__ == "__main__":
    command, side, *numbers = sys.argv[1:]
    with Guard(side).installed():
        print(json.dumps(plans(*map(int, numbers)) if command == "plans" else overrun(64 if side == "end" else -64)))
