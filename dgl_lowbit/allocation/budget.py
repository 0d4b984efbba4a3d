"""The most that a low-bit model may cost."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any

from .cost import MEASURES, Costs


def check_budget(budget: Any) -> None:
    """Raise ValueError unless ``budget`` maps some of :data:`MEASURES` to positive numbers."""
    if isinstance(budget, Mapping) and "hidden" in budget:
        raise ValueError("a budget of 'hidden' bytes is that of fit with QuantConfig(node_groups=8).")
    if not isinstance(budget, Mapping) or not budget or not budget.keys() <= MEASURES.keys():
        raise ValueError(
            f"budget maps measures, {', '.join(map(repr, MEASURES))}, to the most there may be, as "
            f"{{'model': 20_000}}; got {budget!r}."
        )
    limits = list(budget.values())
    if not all(
        isinstance(limit, Real) and not isinstance(limit, bool) and 0 < float(limit) < math.inf for limit in limits
    ):
        raise ValueError(f"a budget is a positive number, got {dict(budget)!r}.")


def excess(costs: Mapping[str, Any], budget: Mapping[str, float]) -> Any:
    """By how many parts of the budget ``costs`` exceed it, 0 where they keep it: numbers, or tensors of them."""
    return sum(max(costs[measure] / limit - 1, 0) for measure, limit in budget.items())


def check_possible(costs: Costs, budget: Mapping[str, float], lowest: int) -> None:
    """Raise ValueError unless the free components keep the budget at ``lowest`` bits."""
    least = costs.of(dict.fromkeys(costs.free, lowest))
    if excess(least, budget):
        named = ", ".join(f"{MEASURES[m]}: {least[m]:,.10g} for {limit:,.10g}" for m, limit in budget.items())
        raise ValueError(f"the budget cannot be kept; the least possible, at {lowest} bits, are {named}.")


def within_budget(
    costs: Costs, wanted: Mapping[str, float], widths: Sequence[int], budget: Mapping[str, float]
) -> dict[str, int]:
    """The width nearest to what is wanted of each component, brought within a budget that can be kept.

    As long as they exceed it, that component is lowered which loses least of its wanted bits for what that saves; what
    is left of the budget then goes to components, those first that have least of theirs.
    """
    bits = {name: min(widths, key=lambda width: abs(width - wish)) for name, wish in wanted.items()}

    def over(name, width):
        return excess(costs.of({**bits, name: width}), budget)

    while (now := excess(costs.of(bits), budget)) > 0:
        lower = [(n, w, now - over(n, w)) for n, own in bits.items() for w in widths if w < own]
        name, width, _ = min((o for o in lower if o[2] > 0), key=lambda o: ((wanted[o[0]] - o[1]) / o[2], o))
        bits[name] = width
    while True:
        higher = [(n, min(w for w in widths if w > own)) for n, own in bits.items() if own < max(widths)]
        kept = [(n, w) for n, w in higher if not over(n, w)]
        if not kept:
            return bits
        name, width = min(kept, key=lambda option: (option[1] - wanted[option[0]], option))
        bits[name] = width
