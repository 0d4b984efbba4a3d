"""Weights and ranges tuned on what the float model returns, without labels."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from .base import range_rates
from .evaluation import evaluating
from .learned import LearnedBitsQuantizer

# How far a step of the optimiser moves a weight, as a part of the root mean square of its matrix, and a range.
_WEIGHT_RATE, _RANGE_RATE = 0.05, 0.01
# How much further apart the scores of classes are compared than they are: which class wins counts for more then.
_SHARPENING = 4
# The least that a parameter counts as, such as biases of 0, what outputs vary by as a part of their size, and at all.
_LEAST, _LEAST_SUM = 1e-3, 1e-12


def reconstruct(
    model: nn.Module, run: Callable[[], Any], expected: Any, loss: str, steps: int, stepped: Callable[[], object]
) -> None:
    """Bring what ``run()`` returns nearer to ``expected``, by gradients straight through the rounding of codes.

    As arXiv:2102.05426 with the whole model for a block, and no term that drives weights to the grid, on which their
    codes are anyway. The model computes as in evaluation; of all states met it is left the best.

    Parameters
    ----------
    model : torch.nn.Module
    run : callable
    expected : tensors, in tuples, lists and dicts
        Of which :func:`check_comparable` has nothing to say.
    loss : {"kl", "squared"}
        What tells outputs apart, of :data:`LOSSES`; the softmax of "kl" is at temperature ¼.
    steps : int
    stepped : callable
        Called after each step.
    """
    parameters = tuned_parameters(model)
    optimizer = torch.optim.Adam(_groups(model, parameters))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5 + 0.5 * math.cos(math.pi * step / steps))
    sharpening = _SHARPENING if loss == "kl" else 1
    least, best = math.inf, [parameter.detach().clone() for parameter in parameters]
    with torch.enable_grad(), evaluating(model):
        for step in range(steps + 1):
            pairs = zip(tensors_of(run()), tensors_of(expected))
            total = torch.stack([LOSSES[loss](sharpening * got, sharpening * wanted) for got, wanted in pairs]).sum()
            if total.item() < least:
                least, best = total.item(), [parameter.detach().clone() for parameter in parameters]
            if step == steps or not total.isfinite():
                break
            # What gradients the caller has stay as they are.
            before = [parameter.grad for parameter in parameters]
            gradients = torch.autograd.grad(total, parameters, allow_unused=True)
            for parameter, gradient in zip(parameters, gradients):
                parameter.grad = gradient
            optimizer.step()
            for parameter, own in zip(parameters, before):
                parameter.grad = own
            schedule.step()
            stepped()
    for parameter, value in zip(parameters, best):
        parameter.copy_(value)


def tuned_parameters(model: nn.Module) -> list[nn.Parameter]:
    """The parameters that are tuned: those with gradients, but for numbers of bits and tables of sparse gradients."""
    left = {module.weight for module in model.modules() if getattr(module, "sparse", False) is True}
    left |= {module.bits for module in model.modules() if isinstance(module, LearnedBitsQuantizer)}
    return [parameter for parameter in model.parameters() if parameter.requires_grad and parameter not in left]


def check_comparable(expected: Any, loss: str, asked: str) -> None:
    """Raise ValueError, for what ``asked``, unless ``loss`` tells outputs from ``expected``, tensors in any nesting."""
    outputs = list(tensors_of(expected))
    if not outputs:
        raise ValueError(f"{asked} needs floating tensors returned, got {type(expected).__name__}.")
    for output in outputs:
        if output.isnan().any() or (loss == "squared" and output.isinf().any()):
            raise ValueError(
                f"{asked} compares with what the model returns in float32, and that has numbers that are not finite; "
                "look at the features, and at what the model divides by."
            )
        if output.dim() < (2 if loss == "kl" else 1) or (loss == "kl" and output.shape[-1] < 2):
            raise ValueError(
                f"loss={loss!r} cannot compare outputs of shape {tuple(output.shape)}; "
                + ("write loss='squared'." if output.dim() else "return a number a row.")
            )


def divergence(output: torch.Tensor, expected: torch.Tensor) -> torch.Tensor:
    """Mean KL(expected ‖ output) of the softmax over the last dimension, a scalar."""
    logs, wanted = (x.reshape(-1, x.shape[-1]).log_softmax(-1) for x in (output, expected))
    masked = wanted.isneginf()  # classes that cannot be, in both
    logs, wanted = logs.masked_fill(masked, 0), wanted.masked_fill(masked, 0)
    terms = F.kl_div(logs, wanted, reduction="none", log_target=True)
    return terms.masked_fill(masked, 0).sum() / max(len(wanted), 1)


def difference(output: torch.Tensor, expected: torch.Tensor) -> torch.Tensor:
    """Squared difference, as a part of the variance of ``expected`` over rows, a scalar; of one row, of its square."""
    size = expected.square().sum()
    spread = (expected - expected.mean(0)).square().sum() if len(expected) > 1 else size
    return (output - expected).square().sum() / torch.maximum(spread, _LEAST * size).clamp_min(_LEAST_SUM)


LOSSES: dict[str, Callable] = {"kl": divergence, "squared": difference}


def tensors_of(value: Any) -> Iterator[torch.Tensor]:
    """The floating tensors in tuples, lists and dicts, as float32."""
    if isinstance(value, torch.Tensor):
        if value.is_floating_point():
            yield value.float()
    elif isinstance(value, (tuple, list)):
        for part in value:
            yield from tensors_of(part)
    elif isinstance(value, dict):
        yield from tensors_of(list(value.values()))


def _groups(model, parameters):
    ranges = range_rates(model)
    rates = [_RANGE_RATE / ranges[p] if p in ranges else _WEIGHT_RATE * _size(p) for p in parameters]
    return [{"params": [p], "lr": rate} for p, rate in zip(parameters, rates)]


def _size(parameter):
    return max(float(parameter.detach().square().mean().sqrt()), _LEAST)
