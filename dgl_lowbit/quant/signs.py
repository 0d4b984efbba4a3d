"""Signs times mean magnitudes: 1 bit for the operands of products, arXiv:2010.07565."""

from __future__ import annotations

import torch

from numba_kernels.spec import SMALLEST_SCALE, GridSpec, SignGrid

from .base import Quantizer
from .format import QParams
from .observer import UNCALIBRATED, NotCalibratedError
from .quantized import Quantized
from .sparse import SparseFeatures

_SMALLEST_SCALE = float(SMALLEST_SCALE)


class SignQuantizer(Quantizer):
    r"""x ≈ m · sgn(x), m the mean magnitude of what has one scale (Bi-GCN, arXiv:2010.07565); 0 counts as negative.

    In training zeros of rows stay 0 and do not count in m: they are what dropout has left out. Nothing is learned but
    what is coded. With the gradient :math:`g` of the coded values,

    - of rows, activations: :math:`\partial x = g \cdot 1[|x| \le 1]`;
    - of weights, m once a column of n (or once for all):
      :math:`\partial w = m\, g \cdot 1[|w| \le 1] + \mathrm{sgn}(w) \frac{1}{n} \sum g\, \mathrm{sgn}(w)`, the second
      term that of the mean.

    What it codes should lie about 0: it is made for layers that a ``BatchNorm1d`` feeds, with dropout and without ReLU
    between them, and learns nothing behind a ReLU or from bags of words, whose zeros get the value −m; give those
    components 2 bits, and so the usual grid. On Cora the usual grid at 1 bit, with messages of 2, does as well or
    better, ``dgl-lowbit study relatives --method sign`` says, and 2 bits throughout better still.

    Parameters
    ----------
    bits : {1}
    granularity : {"row", "channel", "tensor"}
        "row" is for activations, the others are for weights, whose scales are known with them.
    axis, channels
        See :class:`Quantizer`.
    grid : {"sign"}
        The name that the config has for it.
    clip_gradient : bool
        Of no effect: gradients end at 1.

    Raises
    ------
    ValueError
        For other bits or granularities.

    Examples
    --------
    >>> q = SignQuantizer(1, granularity="row").train()
    >>> q(torch.tensor([[-2.0, -0.5, 0.2, 1.3]]))
    tensor([[-1., -1.,  1.,  1.]])
    """

    def __init__(self, bits, *, grid="sign", clip_gradient=True, **options):
        if bits != 1:
            raise ValueError(f"signs have 1 bit, got {bits!r}; use grid='auto'.")
        super().__init__(bits, clip_gradient=False, **options)  # gradients end by themselves
        if self.granularity in ("shift", "group"):
            raise ValueError(f"signs have a scale a row, a channel or a tensor, got granularity {self.granularity!r}.")

    @property
    def is_fixed(self):
        return False

    @property
    def is_moving(self):
        return False

    @property
    def margin(self):
        return torch.full((), -1.0, device=self.width.device)  # no value moves the scale but through the mean

    def qparams(self, x=None):
        scale = (2 * self._mean_magnitude(x)).float().clamp_min(_SMALLEST_SCALE)
        half = torch.full_like(scale, 0.5)
        return QParams(scale, half, half)

    def _mean_magnitude(self, x):
        """In float64, so that kernels, which add in another order, come to the same float32."""
        if self.granularity == "row":
            x = (x.to_dense() if isinstance(x, SparseFeatures) else x).detach()
            count = (x != 0).sum(-1, keepdim=True).clamp_min(1) if self.training else x.shape[-1]
            return x.abs().sum(-1, keepdim=True, dtype=torch.float64) / count
        kept = {self.axis % x.dim()} if self.granularity == "channel" else set()
        dims = [dim for dim in range(x.dim()) if dim not in kept]
        return x.abs().mean(dims, keepdim=True, dtype=torch.float64)

    def _search(self, x):
        """There is no range to be set."""

    def _straight_through(self, x, params):
        passed = x.clamp(-1, 1)
        if self.granularity != "row":
            passed = passed * (0.5 * params.scale.detach())
        signs = super()._straight_through(x.detach() + (passed - passed.detach()), params)
        kept = x != 0
        if self.granularity != "row" or not self.training or kept.all():
            return signs
        return Quantized(signs.centered * kept, signs.scale)

    def clipped(self, x, params):
        return x.abs() > 1

    @torch.no_grad()
    def export(self) -> GridSpec:
        """The grid of rows.

        Raises
        ------
        NotCalibratedError
            Before a tensor was seen.
        NotImplementedError
            Where scales are those of a weight.
        """
        if self.granularity != "row":
            return super().export()
        if not self.calibrated:
            raise NotCalibratedError(UNCALIBRATED)
        return SignGrid()
