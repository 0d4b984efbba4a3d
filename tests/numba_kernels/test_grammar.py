"""Plans of a grammar, some with fields changed, are refused in words or give what the NumPy twin gives."""

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.numba_kernels.grammar import Grammar, outcome
from tests.numba_kernels.plans import EXAMPLES


@settings(max_examples=EXAMPLES, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_plans_that_fit_run(seed):
    assert outcome(Grammar(seed, changed=0).draw()) in ("equal", "ran", "refused", "refused arguments")


@settings(max_examples=10 * EXAMPLES, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_changed_plans_are_refused_or_run(seed):
    assert outcome(Grammar(seed, changed=1).draw()) in ("equal", "ran", "refused", "refused arguments")


def test_the_grammar_draws_the_same_again():
    one, other = (Grammar(7, changed=1).draw() for _ in range(2))
    assert one.builder.ops == other.builder.ops and one.outputs == other.outputs


def test_most_plans_fit():
    """Of plans without changes; the others ask for what no grid allows, as sums of codes with a scale a row."""
    from numba_kernels import PlanError

    fit = 0
    for seed in range(60):
        try:
            Grammar(seed, changed=0).draw().plan()
            fit += 1
        except PlanError:
            pass
    assert fit > 20
