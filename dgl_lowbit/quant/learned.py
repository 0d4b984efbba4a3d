"""Quantisers that learn their bits (arXiv:2405.00645)."""

from __future__ import annotations

import math

import torch
from torch import nn

from .format import FLOAT_BITS, SUPPORTED_BITS, QFormat
from .qlr import QLRQuantizer
from .ste import range_ends

WIDTHS = tuple(bits for bits in SUPPORTED_BITS if bits != FLOAT_BITS)


class LearnedBitsQuantizer(QLRQuantizer):
    r"""Learned ranges, of a number of bits that is learned too (arXiv:2405.00645, 2206.07741).

    Codes have the width, of 1, 2, 3, 4 and 8 bits, that is nearest to the parameter ``bits``. With a bit more the error
    of rounding, δ = x̂ − x, is half of what it was, so that ``bits`` is given the gradient of a function with

    .. math:: \partial \hat x / \partial \mathrm{bits} = -\ln 2 \cdot \delta

    within the range; what is clipped does not depend on it. A loss that rounding raises so asks for more bits; to be
    of use it needs a price of bits beside it: :class:`dgl_lowbit.allocation.LearnedBits`, which is what
    ``fit(…, budget=)`` trains under. Each width has an α of its own. All are searched where a range is taken, and that
    in use is learned.

    It is frozen as a quantiser of the bits that it has then. Do not train the weights meanwhile: where these have found
    a place on their grid, gradients say no longer what it costs.

    Parameters
    ----------
    bits : int
        Where ``bits`` starts; 32 for none.
    **options
        As for :class:`QLRQuantizer`.

    Attributes
    ----------
    bits : torch.nn.Parameter
        A scalar, float32; several quantisers may have one together.
    log_start, drift : torch.Tensor, torch.nn.Parameter
        As of :class:`QLRQuantizer`, one for each width.

    Examples
    --------
    >>> q, x = LearnedBitsQuantizer(2), torch.rand(100)
    >>> (q.fake_quantize(x) - x).square().sum().backward()
    >>> q.bits.grad.item() < 0  # more bits, less error
    True
    """

    def __init__(self, bits, **options):
        super().__init__(bits, **options)
        self._start_at(torch.zeros(len(WIDTHS), *self.log_start.shape), requires_grad=self.drift.requires_grad)

    @property
    def format(self) -> QFormat:
        """Of the width nearest to ``bits``; set, ``bits`` follow it, unless it says 32."""
        return QFormat(FLOAT_BITS if self._is_off else nearest(self.bits.item()))

    @format.setter
    def format(self, value: QFormat) -> None:
        if "bits" not in self._parameters:
            self.bits = nn.Parameter(torch.tensor(float(value.bits)), requires_grad=not value.is_float)
        self._is_off = value.is_float
        if self.format != value:
            self.bits.data.fill_(value.bits)

    def number_format(self):
        return {**super().number_format(), "bits": "learned"}

    def _in_use(self, values):
        return values[0 if self._is_off else WIDTHS.index(self.format.bits)]

    def _minimise_error(self, x, reduce):
        learned = self.bits.clone()
        for width in WIDTHS:
            self.bits.fill_(width)
            super()._minimise_error(x, reduce)
        self.bits.copy_(learned)

    def _learned_from(self, x, params):
        if not (torch.is_grad_enabled() and self.bits.requires_grad):
            return x
        with torch.no_grad():
            place = x * params.scale.reciprocal() + params.offset
            low, high = range_ends(self.format.qmax, self.margin)
            error = torch.where((place >= low) & (place <= high), (place.round() - place) * params.scale, 0.0)
        return x - math.log(2) * error * (self.bits - self.bits.detach())  # x itself, and a gradient


def nearest(bits: float) -> int:
    """The width nearest to a number of bits, the smaller of two.

    >>> nearest(5.5), nearest(6.5), nearest(0.2)
    (4, 8, 1)
    """
    return min(WIDTHS, key=lambda width: abs(width - bits))
