"""Bits by a regression tree of measured assignments (arXiv:2007.05100)."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from .search import changes, excess
from .trials import Bits, Trials

# Assignments that are drawn and measured first; rounds of proposals after them, and how many each measures.
_FIRST, _ROUNDS, _PROPOSED = 24, 6, 8
# Assignments drawn for a round, of which the tree chooses.
_POOL = 256
_LEAF = 2
_SMALLEST = 1e-12


def tree(trials: Trials, budget: Mapping[str, float]) -> Bits:
    """Measure some assignments that keep the budget, then, round after round, those that a tree of them holds best.

    The tree predicts the logarithm of the loss from the bits. What it chooses among is drawn, always the same way, and
    around the best so far.
    """
    draw = np.random.default_rng(0)
    for _ in range(_FIRST):
        trials.loss(_drawn(trials, budget, draw))
    for _ in range(_ROUNDS):
        known = {bits: loss for bits, loss in trials.losses.items() if not excess(trials, bits, budget)}
        best = min(known, key=known.__getitem__)
        nearby = [near for up in (True, False) for _, near in changes(trials, best, up)]
        pool = {_drawn(trials, budget, draw, near) for near in nearby}
        pool |= {_drawn(trials, budget, draw) for _ in range(_POOL)}
        rows = np.log2(np.array(list(known)))
        model = _grown(rows, np.log(np.clip(list(known.values()), _SMALLEST, 1 / _SMALLEST)))
        new = sorted(pool - known.keys(), key=lambda bits: (_predicted(model, np.log2(bits)), bits))
        for bits in new[:_PROPOSED]:
            trials.loss(bits)
    return min((bits for bits in trials.losses if not excess(trials, bits, budget)), key=trials.loss)


def _drawn(trials, budget, draw, bits=None):
    """``bits``, by default the highest, lowered here and there until the budget is kept."""
    bits = trials.highest if bits is None else bits
    while excess(trials, bits, budget):
        lower = [changed for _, changed in changes(trials, bits, up=False)]
        bits = lower[draw.integers(len(lower))]
    return bits


def _grown(rows, values):
    """A tree: the mean of ``values``, or (column, threshold, tree up to it, tree above)."""
    best = math.inf, 0, 0.0
    for column in range(rows.shape[1]):
        for threshold in np.unique(rows[:, column])[:-1]:
            low = rows[:, column] <= threshold
            if min(low.sum(), (~low).sum()) >= _LEAF:
                error = sum(part.var() * len(part) for part in (values[low], values[~low]))
                best = min(best, (error, column, threshold))
    error, column, threshold = best
    if error >= values.var() * len(values):
        return float(values.mean())
    low = rows[:, column] <= threshold
    return column, threshold, _grown(rows[low], values[low]), _grown(rows[~low], values[~low])


def _predicted(model, row) -> float:
    while isinstance(model, tuple):
        column, threshold, low, high = model
        model = low if row[column] <= threshold else high
    return model
