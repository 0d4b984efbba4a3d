"""Plans of a grammar, some with fields changed, are refused in words or give what the NumPy twin gives."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from numba_kernels import PlanError
from tests.numba_kernels.grammar import Grammar, outcome
from tests.numba_kernels.plans import EXAMPLES

seeds = st.integers(0, 2**32)


def is_a_plan(seed, changed):
    try:
        Grammar(seed, changed).draw().plan()
    except PlanError:
        return False
    return True  # with any other error it fails


@settings(max_examples=5 * EXAMPLES, deadline=None)
@given(seed=seeds)
def test_changed_plans_are_refused_in_words(seed):
    is_a_plan(seed, changed=1)


def test_most_plans_fit_and_most_changed_ones_do_not():
    counts = [sum(is_a_plan(seed, changed) for seed in range(60)) for changed in (0, 1)]
    assert counts[0] > 30 > counts[1] > 0


def test_the_grammar_draws_the_same_again():
    one, other = (Grammar(7, changed=1).draw() for _ in range(2))
    assert one.builder.ops == other.builder.ops and one.outputs == other.outputs


@pytest.mark.slow
@settings(max_examples=5 * EXAMPLES, deadline=None)
@given(seed=seeds)
def test_plans_run_as_the_twin_does(seed):
    """Refusals count too: a changed plan's, or sums that 32 bits do not hold."""
    assert outcome(Grammar(seed).draw()) in ("equal", "ran", "refused", "refused arguments")
