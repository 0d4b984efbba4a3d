"""Ways to choose bits under a budget."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping

from .budget import excess as over
from .trials import Bits, Trials

# Assignments that an exhaustive search looks at: six components of four widths.
MOST_ASSIGNMENTS = 4**6


def excess(trials: Trials, bits: Bits, budget: Mapping[str, float]) -> float:
    """By how many parts of the budget ``bits`` exceed it, 0 where they keep it."""
    return over(trials.cost(bits), budget)


def greedy(trials: Trials, budget: Mapping[str, float]) -> Bits:
    """Lower one component after another, that which loses least for what it saves; then trade bits while that helps."""
    best = _lowered(trials, trials.highest, budget)
    while True:
        rivals = [_lowered(trials, raised, budget, keep) for keep, raised in changes(trials, best, up=True)]
        better = min(rivals, key=trials.loss, default=best)
        if not trials.loss(better) < trials.loss(best):
            return best
        best = better


def _lowered(trials, bits, budget, keep=None):
    """``bits`` brought within the budget, the component number ``keep`` left alone as long as that can be."""
    while (over := excess(trials, bits, budget)) > 0:
        known, options = trials.loss(bits), []
        for number, lower in changes(trials, bits, up=False):
            saved = over - excess(trials, lower, budget)
            if saved > 0:
                options.append((number, lower, saved))
        others = [option for option in options if option[0] != keep] or options
        losses = [((trials.loss(lower) - known) / saved, lower) for _, lower, saved in others]
        bits = min(losses)[1]
    return bits


def changes(trials: Trials, bits: Bits, up: bool) -> Iterator[tuple[int, Bits]]:
    """``bits`` with one component, of the number given, at each other width above, or below."""
    for number, own in enumerate(bits):
        for width in trials.widths:
            if width != own and (width > own) == up:
                yield number, (*bits[:number], width, *bits[number + 1 :])


def exhaustive(trials: Trials, budget: Mapping[str, float]) -> Bits:
    """The best of all assignments that keep the budget.

    Raises
    ------
    ValueError
        When there are more than :data:`MOST_ASSIGNMENTS` of all.
    """
    count = len(trials.widths) ** len(trials.names)
    if count > MOST_ASSIGNMENTS:
        raise ValueError(
            f"{len(trials.names)} components of {len(trials.widths)} widths have {count:,} assignments, and an "
            f"exhaustive search looks at {MOST_ASSIGNMENTS:,} at most; use method='greedy', or fewer widths."
        )
    return min(within(trials, budget), key=trials.loss)


def within(trials: Trials, budget: Mapping[str, float]) -> Iterator[Bits]:
    """All assignments that keep the budget."""
    for bits in itertools.product(trials.widths, repeat=len(trials.names)):
        if excess(trials, bits, budget) == 0:
            yield bits
