"""The basic differential multiplier method for inequality bounds."""

from __future__ import annotations

import torch
from torch import nn


class DifferentialMultiplier(nn.Module):
    r"""Multiplier and slack of a bound ``value ≤ bound`` (Platt and Barr 1987; arXiv:2308.14949).

    With a slack s the bound is the equation g = value + s² − bound = 0, and the Lagrangian of a loss f is
    f + λ g. The method descends in the variables and in s and ascends in λ:

    .. math:: s \leftarrow s - 2 \eta_s \lambda s \qquad \lambda \leftarrow \max(0, \lambda + \eta_\lambda g)

    so λ grows while the bound is violated and decays to 0 while it holds. The descent in the variables,
    f + λ · value, is the caller's. Values are measured in units of the bound, which makes both rates pure numbers.

    Parameters
    ----------
    lr : float
        Rates η_λ and η_s.
    initial : float
        Start of λ and of s.
    maximum : float
        Upper end of λ.
    largest_step : float
        A violation counts at most this much in one step.

    Attributes
    ----------
    multiplier, slack, violation : torch.Tensor
        λ ≥ 0, s, and the last value / bound − 1; float32 scalars, saved with the state.

    Examples
    --------
    Minimise ½(x − 2)² under x² ≤ 1: the solution is x = 1 with λ = ½.

    >>> m, x = DifferentialMultiplier(lr=0.05), 2.0
    >>> for _ in range(2000):
    ...     x -= 0.05 * ((x - 2) + m.multiplier.item() * 2 * x)
    ...     m.step(torch.tensor(x * x), bound=1.0)
    >>> round(x, 2), round(m.multiplier.item(), 2)
    (1.0, 0.5)
    """

    def __init__(self, lr=1e-2, initial=1e-3, maximum=float("inf"), largest_step=10.0):
        super().__init__()
        if not lr > 0:
            raise ValueError(f"lr must be positive, got {lr!r}.")
        self.lr, self.maximum, self.largest_step = lr, maximum, largest_step
        self.register_buffer("multiplier", torch.tensor(float(initial)))
        self.register_buffer("slack", torch.tensor(float(initial)))
        self.register_buffer("violation", torch.tensor(0.0))

    @torch.no_grad()
    def step(self, value: torch.Tensor, bound: float) -> None:
        """Descend in the slack and ascend in the multiplier, given the constrained value (scalar)."""
        self.violation.copy_(value / bound - 1)
        gap = (self.violation + self.slack.square()).clamp_max(self.largest_step)
        self.slack.mul_((1 - 2 * self.lr * self.multiplier).clamp_min(0))
        self.multiplier.add_(self.lr * gap).clamp_(0, self.maximum)

    def extra_repr(self):
        return f"lr={self.lr}, maximum={self.maximum}"
