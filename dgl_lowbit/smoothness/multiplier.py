"""The differential multiplier method for inequality bounds."""

from __future__ import annotations

import torch

from ..quant.state import OptionalState


class DifferentialMultiplier(OptionalState):
    r"""Multiplier and slack of a bound ``value ≤ bound`` (Platt and Barr 1987; arXiv:2308.14949).

    With a slack s the bound is the equation g = value + s² − bound = 0, and the Lagrangian of a loss f is
    f + λ g. The method descends in the variables and in s and ascends in λ:

    .. math:: s \leftarrow s - 2 \eta_s \lambda s \qquad \lambda \leftarrow \max(0, \lambda + \eta_\lambda g)

    so λ grows while the bound is violated and decays to 0 while it holds. The descent in the variables is the
    caller's, with :attr:`force` for λ. Values are measured in units of the bound, which makes both rates pure numbers.

    With ``damping`` c > 0 this is the modified method: the force on the variables is λ + c · max(0, g), the gradient
    of the Lagrangian with the penalty (c/2) g² added, which damps the oscillation of the basic one.

    Parameters
    ----------
    lr : float
        Rates η_λ and η_s.
    initial : float
        Start of λ.
    maximum : float
        Upper end of λ.
    largest_step : float
        A violation counts at most this much in one step.
    damping : float
        c. Default: 0, the basic method.
    proportional : bool
        Steps of λ in proportion to 1 + λ, for multipliers that act as a factor 1 / (1 + λ).
    count : int, optional
        Number of bounds; λ, s and violations are vectors of it. Default: None, one bound, scalars.

    Attributes
    ----------
    multiplier, slack, violation : torch.Tensor
        λ ≥ 0, s, and the last value / bound − 1; float32, () or (count,), saved with the state.

    Raises
    ------
    ValueError
        For a rate that is not positive, and a negative damping or start.

    Examples
    --------
    Minimise ½(x − 2)² under x² ≤ 1: the solution is x = 1 with λ = ½.

    >>> m, x = DifferentialMultiplier(lr=0.05), 2.0
    >>> for _ in range(2000):
    ...     x -= 0.05 * ((x - 2) + m.force.item() * 2 * x)
    ...     m.step(torch.tensor(x * x), bound=1.0)
    >>> round(x, 2), round(m.multiplier.item(), 2)
    (1.0, 0.5)
    """

    multiplier: torch.Tensor
    slack: torch.Tensor
    violation: torch.Tensor

    def __init__(
        self,
        lr=1e-2,
        initial=1e-3,
        maximum=float("inf"),
        largest_step=10.0,
        damping=0.0,
        proportional=False,
        count=None,
    ):
        super().__init__()
        if not lr > 0:
            raise ValueError(f"lr must be positive, got {lr!r}.")
        if not damping >= 0 or not initial >= 0:
            raise ValueError(f"damping and initial must not be negative, got {damping!r} and {initial!r}.")
        self.lr, self.maximum, self.largest_step = lr, maximum, largest_step
        self.damping, self.proportional = damping, proportional
        shape = () if count is None else (count,)
        self.register_buffer("multiplier", torch.full(shape, float(initial)))
        self.register_buffer("slack", torch.full(shape, 1e-3))
        self.register_buffer("violation", torch.zeros(shape))

    @property
    def force(self) -> torch.Tensor:
        """What stands for λ in the descent of the variables: λ + c · max(0, violation)."""
        return self.multiplier + self.damping * self.violation.clamp(0, self.largest_step)

    @torch.no_grad()
    def step(self, value: torch.Tensor, bound) -> None:
        """Descend in the slack and ascend in the multiplier, given the constrained value."""
        self.violation.copy_(value / bound - 1)
        gap = (self.violation + self.slack.square()).clamp_max(self.largest_step)
        self.slack.mul_((1 - 2 * self.lr * self.multiplier).clamp_min(0))
        rate = self.lr * (1 + self.multiplier) if self.proportional else self.lr
        self.multiplier.add_(rate * gap).clamp_(0, self.maximum)

    def extra_repr(self):
        return f"lr={self.lr}, maximum={self.maximum}, damping={self.damping}"
