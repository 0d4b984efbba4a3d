"""Weights on levels that are sums of powers of two: finer about 0, where most weights are."""

from __future__ import annotations

from itertools import product
from typing import NamedTuple

import torch

from numba_kernels.spec import SMALLEST_SCALE

from .format import QParams
from .qlr import QLRQuantizer
from .quantized import Quantized
from .ste import straight_through

_SMALLEST_SCALE = float(SMALLEST_SCALE)

# How far the outermost levels may be apart, so that 16-bit sums hold some products with bytes, see simd.products.
_WIDEST = 32
# Exponents of what levels are sums of.
_EXPONENTS = 5
# How many units levels are tried in, from the coarsest on, and what a finer one must lower the error to.
_UNITS, _BETTER = 32, 0.999
# Values that levels are searched on; of more, as many in even strides of their order.
_MOST_SEARCHED = 1 << 16
_STEPS, _ROUNDS = 40, 2


def superpositions() -> list[int]:
    """Whole numbers that are 0, or a power of two, or one plus or minus another, up to :data:`_WIDEST` in size.

    >>> [number for number in superpositions() if number >= 0]
    [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 14, 15, 16, 17, 18, 20, 24, 28, 30, 31, 32]
    """
    powers = [0, *(sign << n for n in range(_EXPONENTS + 1) for sign in (1, -1))]
    return sorted({a + b for a, b in product(powers, powers) if abs(a + b) <= _WIDEST})


class LevelSet(NamedTuple):
    """Levels, ascending whole numbers from 0 on, and the zero point."""

    values: torch.Tensor
    zero: float

    @classmethod
    def uniform(cls, count: int) -> LevelSet:
        """Levels that are the codes themselves, symmetric about 0."""
        return cls(torch.arange(count, dtype=torch.float64), (count - 1) / 2)


class _Sorted:
    """Weighted values in order, of which sums between two places are differences of running sums."""

    def __init__(self, values, weights):
        order = values.argsort()
        step = max(-(-len(order) // _MOST_SEARCHED), 1)
        self.values, weights = values[order[::step]], weights[order[::step]]
        sums = torch.stack([weights * self.values**power for power in range(3)])
        self._running = torch.cat([sums.new_zeros(3, 1), sums.cumsum(1)], 1)

    def sums(self, centres):
        """Σ w, Σ w·x and Σ w·x² of the values that are nearest to each of ``centres``."""
        ends = torch.searchsorted(self.values, (centres[1:] + centres[:-1]) / 2)
        ends = torch.cat([ends.new_zeros(1), ends, ends.new_full((1,), len(self.values))])
        return self._running[:, ends].diff(dim=1)

    def error(self, centres):
        mass, first, second = self.sums(centres)
        return float((second - 2 * centres * first + centres.square() * mass).sum())


def search(values: torch.Tensor, weights: torch.Tensor, start: LevelSet) -> LevelSet:
    """The set of as many superpositions as ``start`` has levels that errs least on ``values``, in some unit.

    The levels that err least, of any real numbers (Lloyd's iteration, from ``start``), are moved to the nearest
    superpositions of each of several units.

    Parameters
    ----------
    values, weights : torch.Tensor
        In the unit of ``start``, and what the squared error of each counts, (n,), float64.
    start : LevelSet
    """
    ordered, centres = _Sorted(values, weights), start.values - start.zero
    for _ in range(_STEPS):
        mass, first, _ = ordered.sums(centres)
        centres = torch.where(mass > 0, first / mass.clamp_min(1e-300), centres)
    allowed = torch.tensor(superpositions(), dtype=centres.dtype, device=centres.device)
    least, best = float("inf"), start
    span = float(centres[-1] - centres[0])
    for part in range(_UNITS):
        unit = span / ((len(centres) - 1) * (_WIDEST / (len(centres) - 1)) ** (part / (_UNITS - 1)))
        levels = allowed[torch.bucketize(centres / unit, (allowed[1:] + allowed[:-1]) / 2)].unique()
        if len(levels) < 2 or levels[-1] - levels[0] > _WIDEST:
            continue
        for _ in range(4):
            _, first, _ = sums = ordered.sums(levels * unit)
            unit = float((levels * first).sum() / (levels.square() * sums[0]).sum())
        error = ordered.error(levels * unit) if unit > 0 else float("inf")
        if error < _BETTER * least:
            least, best = error, LevelSet(levels - levels[0], -float(levels[0]))
    return best


class LevelsQuantizer(QLRQuantizer):
    r"""Weights on superposed levels, scale · (level − zero point), in the spirit of AUSN (arXiv:2007.03903).

    A level is 0, a signed power of two, or the sum of two of them. Where ranges are observed, a set of up to 2^b levels
    is searched for the tensor that errs least, the uniform grid without zero among the candidates; ranges of another
    observer than "error" keep that. The scale is learned as :class:`QLRQuantizer` learns it, once a column. Files hold
    codes and levels, kernels get the levels as small integers, for which products are the same. On processors with AVX2
    alone they take longer where the usual grid's codes are small enough for a faster form, most of all with 2-bit
    weights. The search takes many times as long as that of the usual range: calibrate once, before training.

    Not for 1 and 8 bits, where there is nothing to gain. Not for activations and messages: their codes would be looked
    up in a table for every load in every sum over neighbours, and sums of levels up to 32 need wider lanes than sums of
    codes.

    Parameters
    ----------
    bits : {2, 3, 4}
    granularity, axis, channels, error, clip_gradient
        See :class:`QLRQuantizer`; the granularity is "channel" or "tensor".
    grid : {"levels"}
        The name that the config has for it.

    Raises
    ------
    ValueError
        For other bits or granularities.

    Examples
    --------
    >>> q = LevelsQuantizer(2)
    >>> q.observe(torch.tensor([-4.0, -1.1, -1.0, -0.9, 0.9, 1.0, 1.1, 4.0]))
    >>> [level - int(q.zero) for level in q.levels]
    [-4, -1, 1, 4]
    """

    level_values: torch.Tensor
    zero: torch.Tensor

    def __init__(self, bits, *, grid="levels", **options):
        if bits not in (2, 3, 4):
            raise ValueError(f"levels are for 2, 3 or 4 bits, got {bits!r}; use grid='auto'.")
        super().__init__(bits, grid="half", **options)
        if not self.is_fixed:
            raise ValueError(f"levels are for weights, by 'channel' or 'tensor', got {self.granularity!r}.")
        self.grid = grid
        # Fewer levels than there is room for: the last one is repeated.
        self.register_buffer("level_values", torch.zeros(self.format.levels))
        self.register_buffer("zero", torch.zeros(()))
        self._take(LevelSet.uniform(self.format.levels))

    @property
    def levels(self):
        return list(map(int, self.level_values.unique()))

    def nearest(self, x, params):
        place, levels = x * params.scale.reciprocal() + params.offset, self.level_values.to(x.dtype)
        middles = torch.where(levels[1:] > levels[:-1], (levels[1:] + levels[:-1]) / 2, torch.inf)
        return torch.bucketize(place.contiguous(), middles).to(x.dtype)

    def centered(self, codes, zero_point):
        return self.level_values.to(codes.dtype)[codes.long()] - zero_point

    def _straight_through(self, x, params):
        return Quantized(_NearestLevels.apply(x, params.scale, params.zero_point, self), params.scale)

    def _grid_params(self, low, high):
        bound = torch.maximum(low.abs(), high.abs())
        scale = (bound * (2 / (self.level_values[-1] + 1))).clamp_min(_SMALLEST_SCALE)
        zero_point = self.zero.expand_as(scale).clone()
        return QParams(scale, zero_point, zero_point)

    def _take(self, levels: LevelSet):
        room = len(self.level_values)
        self.level_values.copy_(torch.cat([levels.values, levels.values[-1:].expand(room - len(levels.values))]))
        self.zero.fill_(levels.zero)

    @torch.no_grad()
    def _search(self, x):
        uniform = LevelSet.uniform(self.format.levels)
        self._take(uniform)
        super()._search(x)
        if self.observer.kind != "error":
            return
        self._refine(x)
        for _ in range(_ROUNDS):
            least, before = self._squared_error(x), [tensor.clone() for tensor in self._tensors()]
            params = self.qparams(x)
            places, weights = (x / params.scale).double(), params.scale.double().square().expand_as(x)
            start = LevelSet(torch.tensor(self.levels, dtype=torch.float64, device=x.device), float(self.zero))
            self._take(search(places.flatten(), weights.flatten(), start))
            self._minimise_error(x, self._reduced_dims(x))
            self._refine(x)
            if self._squared_error(x) >= least:
                for tensor, value in zip(self._tensors(), before):
                    tensor.copy_(value)
                break

    def _refine(self, x, steps=5):
        """Bring scales to the nearest least of the squared error."""
        dims = self._reduced_dims(x)
        for _ in range(steps):
            params = self.qparams(x)
            levels = self.centered(self.nearest(x, params), params.zero_point)
            factor = (x * levels).sum(dims) / (levels.square().sum(dims) * self._common_params().scale)
            self.log_start += torch.where(factor > 0, factor, 1.0).log()

    def _squared_error(self, x):
        params = self.qparams(x)
        return float((self.dequantize(self.nearest(x, params), params) - x).double().square().sum())


class _NearestLevels(torch.autograd.Function):
    """Levels nearest to places, less the zero point; gradients as those of centred codes."""

    @staticmethod
    def forward(ctx, x, scale, zero_point, quantizer):
        ctx.save_for_backward(x, scale, zero_point, quantizer.margin)
        ctx.qmax, ctx.clip_gradient = quantizer.levels[-1], quantizer.clip_gradient
        values = quantizer.centered(quantizer.nearest(x, QParams(scale, zero_point, zero_point)), zero_point)
        return torch.where(x.isnan(), x, values)  # the last level else, as if nothing were wrong

    @staticmethod
    def backward(ctx, grad):
        return *straight_through(ctx, grad, *ctx.saved_tensors), None, None
