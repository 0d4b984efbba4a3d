"""Quantisation with learnable ranges (QLR), arXiv:2308.14949."""

from __future__ import annotations

import math
from types import MappingProxyType

import torch
from torch import nn

from numba_kernels.spec import MOST_HALVINGS, SMALLEST_SCALE, GridSpec, RowGrid, ShiftGrid

from .base import Quantizer
from .format import QParams
from .observer import UNCALIBRATED, NotCalibratedError
from .precision import converted
from .quantized import Quantized
from .ranges import ranges_of_rows

GRIDS = ("auto", "affine", "half")
# Magnitudes whose percentile is taken; of more, as many are looked at.
_MOST_SORTED = 1 << 23
# Values that each factor of the search codes; of more, every n-th row.
_MOST_CODED = 1 << 22
_SMALLEST_SCALE = float(SMALLEST_SCALE)


def alpha_candidates(count: int = 40, lowest: float = 0.02) -> list[float]:
    """Geometric factors from 1 down to ``lowest``, the grid on which the initial range is searched.

    Parameters
    ----------
    count : int
        Number of factors, at least 2.
    lowest : float
        The last of them.

    Returns
    -------
    list of float

    Examples
    --------
    >>> [round(a, 3) for a in alpha_candidates(3)]
    [1.0, 0.141, 0.02]
    """
    return [math.exp(math.log(lowest) * i / (count - 1)) for i in range(count)]


class QLRQuantizer(Quantizer):
    r"""Learned range [α·m, α·M] around the observed range [m, M] (arXiv:2308.14949).

    α starts at the factor that minimises the error of representation and is trained straight through:
    its gradient is m below the range, M above, and the rounding residual inside. It is

    .. math:: α = α_0 \exp(s \cdot \mathrm{drift}),

    α_0 its start, s = :attr:`range_rate`, so that it stays positive, an optimiser's step changes it by a share, one of
    Adam by less than it changes weights, and weight decay draws it to where it started.

    Two grids:

    - ``"affine"``: the range is extended to hold 0, ``scale = (αM − αm) / (2^b − 1)`` and an integer zero
      point; after ReLU this is the unsigned grid {0 … 2^b − 1}·scale.
    - ``"half"``: ``scale = 2·α·max(|m|, |M|) / 2^b`` and ``zero_point = (2^b − 1) / 2``: levels at odd
      halves, {−1.5, −0.5, 0.5, 1.5}·scale at 2 bits; no level is spent on zero.

    ``"auto"`` takes ``half`` where both signs were observed, ``affine`` elsewhere.

    Parameters
    ----------
    bits, granularity, axis, channels, clip_gradient
        See :class:`Quantizer`. Per row, m and M are those of each row, and α is shared; with a shift per row, m, M and
        α are the tensor's, and training doubles m and M when a row outgrows them.
    grid : {"auto", "affine", "half"}
    error : {"squared", "absolute"}
        What the initial search minimises.

    Attributes
    ----------
    low, high : torch.Tensor
        Observed range, () or (channels,), float32.
    log_start : torch.Tensor
        Logarithm of α_0, the same shape.
    drift : torch.nn.Parameter
        How far training has moved α, the same shape; 0 where a range was taken.

    Raises
    ------
    ValueError
        For an unknown grid or error, and as :class:`Quantizer`.

    Examples
    --------
    >>> q = QLRQuantizer(2).train()
    >>> x = torch.tensor([-2.0, -0.4, 0.6, 1.9])
    >>> torch.equal(q.fake_quantize(x), q.dequantize(q.codes(x)))
    True
    >>> q.codes(x).tolist()
    [0, 1, 2, 3]
    """

    range_rate = 0.25
    merged = MappingProxyType({"low": "min", "high": "max"})
    log_start: torch.Tensor

    def __init__(self, bits, *, grid="auto", error="squared", **options):
        super().__init__(bits, **options)
        if grid not in GRIDS:
            raise ValueError(f"grid must be one of {GRIDS}, got {grid!r}.")
        if error not in ("squared", "absolute"):
            raise ValueError(f"error must be 'squared' or 'absolute', got {error!r}.")
        if self.granularity == "group":
            raise ValueError("granularity 'group' is that of GroupQuantizer.")
        self.grid, self.error = grid, error
        shape = (self.channels,) if self.granularity == "channel" else ()
        self.register_buffer("low", torch.zeros(shape))
        self.register_buffer("high", torch.zeros(shape))
        self.register_buffer("half_grid", torch.tensor(grid == "half"))
        self._start_at(torch.zeros(shape), requires_grad=not self.format.is_float)

    def _start_at(self, log_alpha, requires_grad):
        self.register_buffer("log_start", log_alpha)
        self.drift = nn.Parameter(torch.zeros_like(log_alpha), requires_grad)

    def __setstate__(self, state):
        super().__setstate__(state)
        before = self._parameters.pop("log_alpha", None)  # in pickles of earlier versions
        if before is not None:
            self._start_at(before.detach(), before.requires_grad)

    def _load_from_state_dict(self, state_dict, prefix, *args):
        before = state_dict.pop(prefix + "log_alpha", None)  # in states of earlier versions
        if before is not None:
            state_dict.update({prefix + "log_start": before, prefix + "drift": torch.zeros_like(before)})
        super()._load_from_state_dict(state_dict, prefix, *args)

    def number_format(self):
        return {**super().number_format(), "grid": self.grid}

    @property
    def alpha(self) -> torch.Tensor:
        """The factor α on the observed range, () or (channels,)."""
        return self._in_use(self.log_alpha).exp()

    @property
    def log_alpha(self) -> torch.Tensor:
        """Logarithm of α; set, it is where α starts anew."""
        return self.log_start + self.range_rate * self.drift

    @log_alpha.setter
    def log_alpha(self, value) -> None:
        with torch.no_grad():
            self.log_start.copy_(torch.as_tensor(value))
            self.drift.zero_()

    def _in_use(self, values: torch.Tensor) -> torch.Tensor:
        """Of ``log_start`` or the like, those of the width in use."""
        return values

    @property
    def _range_qmax(self) -> int:
        """Largest code of the grid that [α·m, α·M] is divided into; truncation keeps the top levels of a finer one."""
        return self.format.qmax

    @torch.no_grad()
    def stretch(self, factor):
        self.log_start += factor.log()

    @property
    def margin(self):
        return 0.5 * self.half_grid

    def qparams(self, x=None):
        if self.granularity == "row":
            alpha, (low, high) = self.alpha, ranges_of_rows(x)
            return self._grid_params(alpha * low, alpha * high)
        params = self._common_params()
        if self.granularity == "shift":
            return params._replace(scale=params.scale * self._powers(x.detach()))
        if self.granularity == "channel":
            shape = [1] * x.dim()
            shape[self.axis] = -1
            params = QParams(*(p.view(shape) for p in params))
        return params

    def quantized(self, x, observed=None, protected=None):
        """With a shift per row its power of two goes with the codes: sums of those are what the scale multiplies."""
        if self.granularity != "shift" or self.format.is_float:
            return super().quantized(x, observed, protected)
        x = converted(x, torch.float32)
        with self.as_first_met(x):
            codes = super().quantized(x, observed, protected)
            base = self._common_params().scale
        powers = (codes.scale / base).detach()
        shifted = Quantized(codes.centered * powers, base)
        shifted.shifted = codes, powers
        return shifted

    @property
    def is_moving(self):
        return self.granularity == "shift" or super().is_moving

    @property
    def _reach(self):
        """Largest range of a row that is halved once, times 2."""
        return torch.maximum(self.low.abs(), self.high.abs()) * math.sqrt(2)

    def _follow(self, x, observed=None):
        super()._follow(x, observed)
        if self.granularity == "shift" and x.numel():
            self._hold_largest_row(x.detach())

    @torch.no_grad()
    def _hold_largest_row(self, x):
        """Double the range until it holds the largest row; codes of the rows that it held stay as they are."""
        times = x.abs().max() / self._reach
        mantissa, exponent = torch.frexp(times)
        doublings = exponent - (mantissa == 0.5).to(exponent)  # ⌈log2 times⌉
        factor = torch.where(times.isfinite() & (times > 1), torch.ldexp(torch.ones_like(times), doublings), 1.0)
        self.low.mul_(factor)
        self.high.mul_(factor)

    def _powers(self, x):
        """2^−e for each row, (…, 1): e the halvings that bring √2 times the tensor's range down to the row's."""
        range_of_row = x.abs().amax(-1, keepdim=True)
        powers = torch.ones_like(range_of_row)
        for halvings in range(1, MOST_HALVINGS + 1):
            powers = torch.where(range_of_row <= self._reach * 2.0**-halvings, 0.5 * powers, powers)
        return powers

    def _common_params(self):
        """Scale, zero point and offset of the observed range: of the tensor, or of each channel."""
        # Copies: a layer may meet a quantiser twice in a forward, and ranges change in place.
        alpha = self.alpha
        return self._grid_params(alpha * self.low.clone(), alpha * self.high.clone())

    def _grid_params(self, low, high):
        qmax = self._range_qmax
        if self.half_grid:
            bound = torch.maximum(low.abs(), high.abs())
            scale = (bound * (2.0 / (qmax + 1))).clamp_min(_SMALLEST_SCALE)
            zero_point = torch.full_like(scale, qmax / 2)
        else:
            low, high = low.clamp_max(0), high.clamp_min(0)
            scale = ((high - low) / qmax).clamp_min(_SMALLEST_SCALE)
            zero_point = torch.round(-low / scale).detach()
        return QParams(scale, zero_point, zero_point)

    @torch.no_grad()
    def _search(self, x):
        reduce = self._reduced_dims(x)
        self.low.copy_(x.amin(reduce))
        self.high.copy_(x.amax(reduce))
        if self.grid == "auto":
            self.half_grid.copy_((self.low.amin() < 0) & (self.high.amax() > 0))
        self.log_alpha = 0.0
        if self.observer.kind == "percentile":
            self._leave_out(x, reduce)
        elif self.observer.kind == "error":
            self._minimise_error(x, reduce)

    def _leave_out(self, x, reduce):
        """Shrink the range to the percentile of the magnitudes; per row, of their parts of the row's largest."""
        magnitudes = x.abs()
        if self.granularity == "row":
            magnitudes = magnitudes / magnitudes.amax(-1, keepdim=True).clamp_min(_SMALLEST_SCALE)
        kept = [dim for dim in range(x.dim()) if dim not in reduce]
        flat = magnitudes.permute(*kept, *reduce).reshape(*(x.shape[dim] for dim in kept), -1)
        flat = flat[..., :: -(-flat.numel() // _MOST_SORTED)]
        reach = torch.quantile(flat, self.observer.percentile / 100, dim=-1)
        most = flat.amax(-1).clamp_min(_SMALLEST_SCALE)
        self.log_start.copy_((reach / most).clamp(_SMALLEST_SCALE, 1).log())

    def _minimise_error(self, x, reduce):
        if 0 in reduce:
            x = x[:: -(-x.numel() // _MOST_CODED)]
        best = torch.full_like(self.low, math.inf)
        start = self._in_use(self.log_start)
        best_start = torch.zeros_like(self.low)
        for alpha in alpha_candidates():
            start.fill_(math.log(alpha))
            params = self.qparams(x)
            residual = self.dequantize(self.codes(x, params), params) - x
            error = (residual.square() if self.error == "squared" else residual.abs()).mean(reduce)
            best_start = torch.where(error < best, start, best_start)
            best = torch.minimum(best, error)
        start.copy_(best_start)

    def _reduced_dims(self, x):
        dims = set(range(x.dim()))
        if self.granularity == "channel":
            dims -= {self.axis % x.dim()}
        return tuple(sorted(dims))

    @torch.no_grad()
    def export(self) -> GridSpec:
        """The numbers that code a tensor without torch.

        Returns
        -------
        numba_kernels.spec.GridSpec
            A grid of one scale, of one a channel or a row, or of a power of two a row.

        Raises
        ------
        NotCalibratedError
            Before a range is known.
        """
        if self.granularity not in ("row", "shift"):
            return super().export()
        if not self.calibrated:
            raise NotCalibratedError(UNCALIBRATED)
        bits = self.format.bits
        if self.granularity == "row":
            return RowGrid(bits, float(self.alpha), bool(self.half_grid), self._range_qmax, *self._truncation())
        scale, zero_point, offset = (value.reshape(-1).cpu().numpy() for value in self._common_params())
        return ShiftGrid(bits, scale, zero_point, offset, reach=float(self._reach))

    def _truncation(self) -> tuple[float, float]:
        """Divisor of the fine grid and shift added before dividing: none here."""
        return 1.0, 0.0

    def extra_repr(self):
        return f"{super().extra_repr()}, grid={self.grid!r}"
