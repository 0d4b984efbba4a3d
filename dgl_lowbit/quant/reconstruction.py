"""Weights and ranges tuned on what the float model returns, without labels."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

from .base import Quantizer
from .evaluation import evaluating

# How far a step of the optimiser moves a weight, as a part of the root mean square of its matrix, and a range.
_WEIGHT_RATE, _RANGE_RATE = 0.1, 0.003
# The least that a parameter counts as, such as biases of 0, and what outputs vary by, such as constants.
_LEAST, _LEAST_SUM = 1e-3, 1e-12


def reconstruct(
    model: nn.Module, run: Callable[[], Any], expected: Any, steps: int, stepped: Callable[[], object]
) -> None:
    """Bring what ``run()`` returns nearer to ``expected``, by gradients straight through the rounding of codes.

    As arXiv:2102.05426 with the whole model for a block, and no term that drives weights to the grid, on which their
    codes are anyway. The model computes as in evaluation; of all states met it is left the best.

    Parameters
    ----------
    model : torch.nn.Module
    run : callable
    expected : tensors, in tuples, lists and dicts
    steps : int
    stepped : callable
        Called after each step.
    """
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.Adam(_groups(model, parameters))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5 + 0.5 * math.cos(math.pi * step / steps))
    least, best = math.inf, [parameter.data for parameter in parameters]
    with torch.enable_grad(), evaluating(model):
        for step in range(steps + 1):
            loss = difference(run(), expected)
            if loss.item() < least:
                least, best = loss.item(), [parameter.detach().clone() for parameter in parameters]
            if step == steps:
                break
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            stepped()
        optimizer.zero_grad()
    for parameter, value in zip(parameters, best):
        parameter.copy_(value)


def difference(outputs: Any, expected: Any) -> torch.Tensor:
    """Squared difference of the tensors in two outputs, as a part of their variance over rows, summed; a scalar."""
    pairs = zip(_tensors(outputs), _tensors(expected))
    parts = [(x - y).square().sum() / (y - y.mean(0)).square().sum().clamp_min(_LEAST_SUM) for x, y in pairs]
    return torch.stack(parts).sum()


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        if value.is_floating_point():
            yield value.float()
    elif isinstance(value, (tuple, list)):
        for part in value:
            yield from _tensors(part)
    elif isinstance(value, dict):
        yield from _tensors(list(value.values()))


def _groups(model, parameters):
    ranges = {p for module in model.modules() if isinstance(module, Quantizer) for p in module.parameters()}
    return [{"params": [p], "lr": _RANGE_RATE if p in ranges else _WEIGHT_RATE * _size(p)} for p in parameters]


def _size(parameter):
    return max(float(parameter.detach().square().mean().sqrt()), _LEAST)
