"""Rows in groups, which have bits and ranges of their own (A²Q, arXiv:2302.00193)."""

from __future__ import annotations

import math

import torch
from torch import nn

from numba_kernels.spec import MOST_GROUPS, SMALLEST_SCALE, GridSpec, GroupGrid

from .base import Quantizer
from .format import FLOAT_BITS, QFormat, QParams
from .learned import WIDTHS
from .observer import UNCALIBRATED, NotCalibratedError
from .qlr import GRIDS, alpha_candidates
from .quantized import Quantized
from .ranges import ranges_of_rows
from .sparse import SparseFeatures
from .ste import range_ends

_SMALLEST_SCALE = float(SMALLEST_SCALE)
# How far limits follow those of a batch in a forward of training.
_FOLLOWED = 0.1


class RowParams(QParams):
    """What rows are coded with, (…, 1) each, with their groups, (…,), and their largest codes, (…, 1)."""

    group: torch.Tensor
    top: torch.Tensor


class _Bounded(torch.autograd.Function):
    """``x`` within its outermost codes; gradients pass within the range, and those of ``log_alpha`` are ``local``."""

    @staticmethod
    def forward(ctx, x, log_alpha, low, high, inside, local):
        ctx.save_for_backward(inside)
        ctx.local = local
        return torch.minimum(torch.maximum(x, low), high)

    @staticmethod
    def backward(ctx, grad):
        (inside,) = ctx.saved_tensors
        grad_x = grad * inside if ctx.needs_input_grad[0] else None
        return grad_x, ctx.local if ctx.needs_input_grad[1] else None, None, None, None, None


class GroupQuantizer(Quantizer):
    r"""Rows in groups of alike magnitude, each with bits and a range of its own (A²Q, arXiv:2302.00193).

    A row's scale comes of its extremes m and M, as in :class:`QLRQuantizer` under granularity "row": it codes
    :math:`[α_k m, α_k M]` in :math:`b_k` bits, where k is its group: the last one whose limit its mean magnitude
    reaches. So nodes and graphs that training has not seen have groups, and a packed model needs no table of nodes.
    Limits are quantiles of the rows that a range is taken from, so that groups are of one size; in training they follow
    those of the batches, whose mean magnitudes dropout leaves as they are, on average.

    Ranges are learned from the local error, :math:`E = \sum (\hat x - x)^2 / \sum x^2`, not from the loss, of which
    rows of nodes without labels know little:

    .. math:: \frac{\partial E}{\partial \log α_k} = \frac{2}{\sum x^2} \sum_{i \in k} (\hat x_i - x_i)
              \begin{cases} \hat x_i - x_i & \text{in the range} \\ \hat x_i & \text{beyond it.} \end{cases}

    What is coded receives the loss's gradient, within the range. The paper has a step a group, and takes the group
    whose range ends nearest to the row's largest magnitude. That goes neither with dropout, which raises it, nor with
    ranges that clip, as those of 1 and 2 bits do: groups lose their rows to lower ones. Bits are chosen by
    :func:`dgl_lowbit.allocation.allocate_groups`.

    Parameters
    ----------
    bits : int
        Of all groups, until they are chosen: 1, 2, 3, 4, 8, or 32 for none.
    groups : int
        How many, from 2 to 256.
    grid : {"auto", "affine", "half"}
        As of :class:`QLRQuantizer`.
    granularity, axis, channels, clip_gradient
        See :class:`Quantizer`.

    Attributes
    ----------
    limits : torch.Tensor
        (groups − 1,) float32, ascending.
    bits : torch.Tensor
        (groups,) int64.
    log_alpha : torch.nn.Parameter
        (groups,) float32.

    Raises
    ------
    ValueError
        For another grid or number of groups, and as :class:`Quantizer`.

    Examples
    --------
    >>> q, x = GroupQuantizer(2, groups=2), torch.tensor([[0.1, 0.3], [10.0, 30.0]])
    >>> q.observe(x)
    >>> q.bits.copy_(torch.tensor([1, 2])).tolist(), q.codes(x).tolist()
    ([1, 2], [[0, 1], [1, 3]])
    """

    limits: torch.Tensor
    bits: torch.Tensor
    half_grid: torch.Tensor

    def __init__(self, bits, *, groups=8, grid="auto", granularity="group", **options):
        check_groups(groups)
        if grid not in GRIDS:
            raise ValueError(f"groups of rows have a grid of {', '.join(GRIDS)}, got {grid!r}.")
        if granularity != "group":
            raise ValueError(f"groups of rows have the granularity 'group', got {granularity!r}.")
        self.groups, self.grid = groups, grid
        super().__init__(bits, granularity=granularity, **options)
        self.register_buffer("limits", torch.zeros(groups - 1))
        self.register_buffer("half_grid", torch.tensor(grid == "half"))
        self.log_alpha = nn.Parameter(torch.zeros(groups), requires_grad=not self.format.is_float)

    @property
    def format(self) -> QFormat:
        """Of the most bits that a group has. Set to others, all groups have these, unless it says 32."""
        return QFormat(FLOAT_BITS if self._is_off else int(self.bits.max()))

    @format.setter
    def format(self, value: QFormat) -> None:
        self._is_off = value.is_float
        if "bits" not in self._buffers:
            self.register_buffer("bits", torch.full((self.groups,), WIDTHS[-1]))
        if self.format != value:
            self.bits.fill_(value.bits)

    def number_format(self):
        bits = FLOAT_BITS if self.format.is_float else "of groups"
        return {**super().number_format(), "bits": bits, "groups": self.groups, "grid": self.grid}

    @property
    def is_fixed(self):
        return False

    @property
    def margin(self):
        return 0.5 * self.half_grid

    # -- groups -----------------------------------------------------------------------------------------
    @torch.no_grad()
    def qparams(self, x=None) -> RowParams:
        x = (x.to_dense() if isinstance(x, SparseFeatures) else x).detach()
        group = torch.bucketize(_mean_magnitudes(x), self.limits, right=True)
        alpha, top = (part[group].unsqueeze(-1) for part in (self.log_alpha.exp(), 2.0**self.bits - 1))
        low, high = (alpha * end for end in ranges_of_rows(x))
        if self.half_grid:
            scale = torch.maximum(low.abs(), high.abs()) * (2 / (top + 1))
            zero_point = top / 2
        else:
            low, high = low.clamp_max(0), high.clamp_min(0)
            scale = (high - low) / top
            zero_point = torch.round(-low / scale.clamp_min(_SMALLEST_SCALE))
        params = RowParams(scale.clamp_min(_SMALLEST_SCALE), zero_point, zero_point)
        params.group, params.top = group, top
        return params

    def place(self, x: torch.Tensor) -> None:
        """Set the limits to those between groups of one size of the rows of ``x``, (rows, columns)."""
        self.limits.copy_(self._limits_of(x))

    @torch.no_grad()
    def _limits_of(self, x):
        """Limits between groups of one size."""
        parts = torch.arange(1, self.groups, device=x.device) / self.groups
        return torch.quantile(_mean_magnitudes(x), parts)

    def _follow(self, x, observed=None):
        super()._follow(x, observed)
        if x.numel():
            dense = (x.to_dense() if isinstance(x, SparseFeatures) else x).detach()
            self.limits.lerp_(self._limits_of(dense.reshape(-1, dense.shape[-1])), _FOLLOWED)

    @property
    def is_moving(self):
        return True

    def quantized(self, x, observed=None, protected=None):
        return super().quantized(x.to_dense() if isinstance(x, SparseFeatures) else x, observed, protected)

    def nearest(self, x, params):
        return torch.minimum(super().nearest(x, params), params.top)

    def clipped(self, x, params):
        return ~self._is_inside(x, params)

    def _is_inside(self, x, params):
        place = x * params.scale.reciprocal() + params.offset
        low, beyond = range_ends(0, self.margin)
        return (place >= low) & (place <= params.top + beyond)

    # -- values -----------------------------------------------------------------------------------------
    def _straight_through(self, x, params):
        needs_local = self.training and torch.is_grad_enabled() and self.log_alpha.requires_grad
        with torch.no_grad():
            low, high = ((code - params.zero_point) * params.scale for code in (0, params.top))
            inside = self._is_inside(x, params)
            local = self._local_gradient(x, params, inside) if needs_local else None
        bounded = _Bounded.apply(x, self.log_alpha if needs_local else None, low, high, inside, local)
        return Quantized.of(bounded, params, self.format.qmax, self.margin, False)

    def _local_gradient(self, x, params, inside):
        """∂E/∂log α, (groups,)."""
        value = (self.nearest(x, params) - params.zero_point) * params.scale
        error = value - x
        of_rows = (error * torch.where(inside, error, value)).sum(-1)
        return 2 * self._by_group(of_rows, params) / x.square().sum().clamp_min(_SMALLEST_SCALE)

    def _by_group(self, of_rows, params):
        """Sums over the rows of each group, (groups,)."""
        return of_rows.new_zeros(self.groups).index_add_(0, params.group.flatten(), of_rows.flatten())

    # -- ranges -----------------------------------------------------------------------------------------
    @torch.no_grad()
    def _search(self, x):
        self.place(x)
        if self.grid == "auto":
            self.half_grid.copy_((x.amin() < 0) & (x.amax() > 0))
        self.log_alpha.zero_()
        if self.observer.kind == "percentile":
            shares = (x.abs() / x.abs().amax(-1, keepdim=True).clamp_min(_SMALLEST_SCALE)).flatten()
            reach = torch.quantile(shares, self.observer.percentile / 100)
            self.log_alpha.fill_(reach.clamp(_SMALLEST_SCALE, 1).log().item())
        elif self.observer.kind == "error":
            self._minimise_error(x)

    def _minimise_error(self, x):
        """Give each group, at its bits, the α of least error; these errors, (groups,), are returned."""
        best, best_log_alpha = torch.full_like(self.log_alpha, math.inf), torch.zeros_like(self.log_alpha)
        for alpha in alpha_candidates():
            self.log_alpha.fill_(math.log(alpha))
            params = self.qparams(x)
            residual = (self.nearest(x, params) - params.zero_point) * params.scale - x
            error = self._by_group(residual.square().sum(-1), params)
            best_log_alpha = torch.where(error < best, self.log_alpha, best_log_alpha)
            best = torch.minimum(best, error)
        self.log_alpha.copy_(best_log_alpha)
        return best

    @torch.no_grad()
    def errors(self, x: torch.Tensor) -> torch.Tensor:
        """E of the rows of each group at each of 1, 2, 3, 4 and 8 bits, (5, groups); rows as in :meth:`observe`.

        The quantiser stays as it is.
        """
        own = self.bits.clone(), self.log_alpha.clone()
        found = []
        for width in WIDTHS:
            self.bits.fill_(width)
            found.append(self._minimise_error(x))
        self.bits.copy_(own[0])
        self.log_alpha.copy_(own[1])
        return torch.stack(found) / x.square().sum().clamp_min(_SMALLEST_SCALE)

    @torch.no_grad()
    def export(self) -> GridSpec:
        """The numbers that code rows without torch.

        Raises
        ------
        NotCalibratedError
            Before a range is known.
        """
        if not self.calibrated:
            raise NotCalibratedError(UNCALIBRATED)
        alphas, limits = (tuple(part.cpu().tolist()) for part in (self.log_alpha.exp(), self.limits))
        return GroupGrid(self.format.bits, tuple(self.bits.tolist()), alphas, limits, bool(self.half_grid))

    def extra_repr(self):
        return f"{super().extra_repr()}, groups={self.groups}, grid={self.grid!r}"


def check_groups(groups) -> None:
    """Raise ValueError unless ``groups`` is a number of groups that there may be."""
    if isinstance(groups, bool) or not isinstance(groups, int) or not 2 <= groups <= MOST_GROUPS:
        raise ValueError(f"there are 2 to {MOST_GROUPS} groups of nodes, got {groups!r}.")


def _mean_magnitudes(x):
    """Of rows, added in float64, so that kernels, which add in another order, come to the same float32."""
    return (x.abs().sum(-1, dtype=torch.float64) / x.shape[-1]).float()
