"""Bits by gradients, of mixtures of all widths (arXiv:2505.09361)."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from .budget import excess, within_budget
from .trials import Bits, Trials

# Steps, their rate, and what a loss is worth to which costs exceed the budget by all of it.
_STEPS, _RATE, _PRICE = 100, 0.1, 1.0


@torch.enable_grad()
def relaxed(trials: Trials, budget: Mapping[str, float]) -> Bits:
    """Shares of the widths of each component, trained on the loss and the price of what they cost over the budget.

    All components begin with equal shares of all widths.
    """
    for width in trials.widths:
        trials.loss((width,) * len(trials.names))
    widths = torch.tensor(trials.widths, dtype=torch.float32, device=trials.device)
    scores = torch.zeros(len(trials.names), len(widths), device=trials.device, requires_grad=True)
    optimizer = torch.optim.Adam([scores], lr=_RATE)
    for _step in range(_STEPS):
        shares = scores.softmax(1)
        costs = trials.costs.of(dict(zip(trials.names, shares @ widths)))
        total = trials.loss_of_mixtures(shares) + _PRICE * excess(costs, budget)
        scores.grad = torch.autograd.grad(total, scores)[0]
        optimizer.step()
        trials.on_measured()
    bits = dict(zip(trials.names, (scores.detach().softmax(1) @ widths).tolist()))
    return tuple(within_budget(trials.costs, bits, trials.widths, budget).values())
