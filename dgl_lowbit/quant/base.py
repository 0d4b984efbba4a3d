"""What every quantiser shares: bits, granularity, straight-through coding, observed ranges."""

from __future__ import annotations

from typing import Callable, Optional

import torch
from torch import nn

from numba_kernels.spec import FixedGrid, GridSpec

from .following import FollowedRange
from .format import QFormat, QParams
from .observer import UNCALIBRATED, NotCalibratedError
from .precision import converted
from .quantized import Quantized
from .recompute import Remembered
from .sparse import SparseFeatures
from .ste import centered_codes, encode, range_ends

GRANULARITIES = ("tensor", "channel", "row", "shift", "group")
Values = Optional[Callable[[], torch.Tensor]]
Mask = Optional[torch.Tensor]
# Forwards of which it is remembered which rows passed unrounded, a number a row.
_MOST_MASKS = 4


class Quantizer(FollowedRange):
    """Base of the quantisers: maps tensors, in float32, to codes and back.

    The same object serves training (:meth:`fake_quantize`, :meth:`split`) and export (:meth:`codes`,
    :meth:`dequantize`, :meth:`export`); ``fake_quantize(x)`` equals ``dequantize(codes(x))`` bit for bit.

    A quantiser of your own is a subclass that states

    - ``__init__(bits, *, grid="auto", **options)``, which hands ``bits`` and ``options`` on. What its range is made of
      are buffers, or parameters where it is to be learned;
    - :meth:`_search`: sets them, in place, from a tensor;
    - :meth:`qparams`: makes of them scale, zero point and offset, differentiable in parameters;
    - :meth:`stretch`, where ranges of channels may be multiplied, as rounding on data does with those of weights;
    - :attr:`range_rate`, how far the logarithm of a range goes where a parameter of it goes by 1, if that is not 1:
      optimisers' rates of ranges are divided by it;
    - :meth:`margin`, where its range reaches beyond the outermost codes;
    - :meth:`nearest` and :meth:`centered`, where codes stand for other numbers than themselves, and :attr:`levels`;
    - :meth:`export`, where its granularity is "row" or "shift": the base exports what is fixed before the data.

    ``register_quantizer(name, factory)`` makes it ``QuantConfig(quantizer=name)``; it then trains, is calibrated,
    bounded, diagnosed and frozen as the built-in ones.

    Ranges are taken from data: by ``dgl_lowbit.calibrate``, or in training mode from the tensors of steps 1, 2, 4,
    8, 16 and 32, while weights leave where they started. From then on they are learned.

    ``width`` is the last dimension of what was observed.

    Parameters
    ----------
    bits : int
        1, 2, 3, 4, 8, or 32 for none.
    granularity : {"tensor", "channel", "row", "shift", "group"}
        One scale for the tensor; one per channel along ``axis``; one per vector of the last dimension, taken from
        that vector itself at run time; or the tensor's scale halved as often as a vector's own range allows, so that
        sums of rows are still sums of integers, shifted. "group" is that of :class:`GroupQuantizer` alone.
    axis : int
        Channel axis, for ``"channel"``.
    channels : int, optional
        Number of channels, required for ``"channel"``.
    clip_gradient : bool
        Whether values outside the range receive no gradient.

    Raises
    ------
    ValueError
        For an unsupported width or granularity, or a missing channel count.
    """

    range_rate = 1.0
    width: torch.Tensor

    def __init__(self, bits, *, granularity="tensor", axis=-1, channels=None, clip_gradient=True):
        super().__init__()
        self.format = QFormat(bits)
        if granularity not in GRANULARITIES:
            raise ValueError(f"granularity must be one of {GRANULARITIES}, got {granularity!r}.")
        if granularity == "channel" and not channels:
            raise ValueError("granularity 'channel' needs the number of channels; pass channels=.")
        self.granularity, self.axis, self.channels = granularity, axis, channels
        self.clip_gradient = clip_gradient
        self._protected = Remembered(_MOST_MASKS)  # rows that passed unrounded in forwards of training
        self.watch = None  # called with what is coded: (quantizer, x, params)
        self.watch_product = None  # called before products of weights: (quantizer, weight, inputs, columns)
        self.register_buffer("calibrated", torch.tensor(False))
        self.register_buffer("width", torch.tensor(channels or 0))

    def __setstate__(self, state):
        super().__setstate__(state)
        vars(self).setdefault("_protected", Remembered(_MOST_MASKS))  # which pickles of earlier versions lack

    def number_format(self):
        """What codes and ranges are read with; a subclass adds what it is given beyond bits and granularity."""
        return {"quantizer": type(self).__name__, "bits": self.format.bits, "granularity": self.granularity}

    @property
    def is_observed(self) -> bool:
        """Whether a pass is made to see what this quantiser meets, as calibration and diagnosis do."""
        return self.observing or self.watch is not None

    def meets(self, weight: torch.Tensor, inputs: list[Quantized], columns: slice = slice(None)) -> None:
        """Say that codes of ``weight``, (in, out), are about to be multiplied by ``inputs``.

        ``columns`` are those that it has of what is coded together.
        """
        if self.watch_product is not None and not self.format.is_float:
            self.watch_product(self, weight, inputs, columns)

    # -- for subclasses ---------------------------------------------------------------------------------
    def qparams(self, x: torch.Tensor | None = None) -> QParams:
        """Scale (positive), zero point and offset, float32.

        They broadcast against ``x``: shape () where the granularity is "tensor", (channels,) along ``axis`` of ``x``,
        its other dimensions 1, where it is "channel". Values of ``x`` are read only for "row" and "shift".
        """
        raise NotImplementedError

    def _search(self, x: torch.Tensor) -> None:
        """Set the range, in place, from ``x``, float32, finite and not empty, as :attr:`observer` asks.

        Called without gradients. For "channel" ``x`` is the whole tensor, else it may be a sample of rows.
        """
        raise NotImplementedError

    def stretch(self, factor: torch.Tensor) -> None:
        """Multiply the range, and so the scale, by ``factor``, one a channel; not stated, it stays as it is."""

    def _learned_from(self, x: torch.Tensor, params: QParams) -> torch.Tensor:
        """The values of ``x``, by whose gradients something else than ranges may be learned: here nothing is."""
        return x

    @property
    def margin(self) -> torch.Tensor:
        """How far the range reaches beyond the outermost codes, in steps, a scalar: gradients pass within it.

        0 unless a subclass says otherwise.
        """
        return torch.zeros((), device=self.width.device)

    @property
    def is_fixed(self) -> bool:
        """Whether scales are known before the tensor that is coded."""
        return self.granularity in ("tensor", "channel")

    @property
    def levels(self) -> list[int] | None:
        """Of weights, what the codes 0, 1, 2, … stand for, before the zero point; None where that is themselves."""
        return None

    @torch.no_grad()
    def export(self) -> GridSpec:
        """The numbers that code a tensor without torch.

        Returns
        -------
        numba_kernels.spec.GridSpec
            A grid of one scale, or of one a channel.

        Raises
        ------
        NotCalibratedError
            Before a range is known.
        NotImplementedError
            Where the scale comes from the data, per row, and the subclass does not say how.
        """
        if not self.calibrated:
            raise NotCalibratedError(UNCALIBRATED)
        if self.granularity in ("row", "shift"):
            raise NotImplementedError(
                f"{type(self).__name__} does not export granularity {self.granularity!r}; use 'tensor' or 'channel', "
                "or define its export."
            )
        if not self.is_fixed or self.levels is not None:
            raise NotImplementedError(f"{type(self).__name__} codes weights, which are exported with their values.")
        like = torch.zeros(1, self.channels or 1, device=self.width.device)
        scale, zero_point, offset = (value.reshape(-1).float().cpu().numpy() for value in self.qparams(like))
        columns = self.channels if self.granularity == "channel" else 1
        return FixedGrid(self.format.bits, scale, zero_point, offset, columns)

    # -- values to codes and back -----------------------------------------------------------------------
    def split(
        self, x: torch.Tensor, observed: Values = None, protected: Mask = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Centred codes and scale of ``x``, both differentiable; their product is ``fake_quantize(x)``.

        ``observed()`` are values to take a range from, where it is to be taken, in the place of ``x``. Rows that are
        ``protected``, (rows,) bool, pass unrounded in training: no range comes of them, and no gradient of it.
        """
        quantized = self.quantized(x, observed, protected)
        return quantized.centered, quantized.scale

    def quantized(self, x: torch.Tensor, observed: Values = None, protected: Mask = None) -> Quantized:
        """What :meth:`split` gives, with codes that are made when they are asked for.

        Raises
        ------
        ValueError
            When ``x`` has another number of channels.
        """
        if self.format.is_float:
            return Quantized(x, torch.ones((), device=x.device))
        x = converted(x, torch.float32)
        if self.granularity == "channel" and x.shape[self.axis] != self.channels:
            raise ValueError(
                f"a quantiser of {self.channels} channels along axis {self.axis} met a tensor of shape "
                f"{tuple(x.shape)}; an Operand says how many its tensor has, and along which axis."
            )
        if self.granularity == "channel" and isinstance(x, SparseFeatures):  # whose non-zeros go by rows
            x = x.to_dense()
        protected = self._protected.as_first(x, protected) if self.training else None
        with self.as_first_met(x):
            params = self._ready(x, observed, protected)
            if self.watch is not None:
                self.watch(self, x, params)
            if isinstance(x, SparseFeatures):
                quantized = Quantized(*self._split_sparse(x, params))
            else:
                quantized = self._straight_through(self._learned_from(x, params), params)
        return quantized if protected is None else quantized.passing(x, protected)

    def _straight_through(self, x, params):
        """The codes of ``x`` with gradients, straight through the rounding."""
        return Quantized.of(x, params, self.format.qmax, self.margin, self.clip_gradient)

    def _split_sparse(self, x, params):
        zero = torch.zeros(1, device=x.device)
        if self.codes(zero, params).ne(params.zero_point).any():  # zeros get values: nothing is sparse
            quantized = self._straight_through(self._learned_from(x.to_dense(), params), params)
            return quantized.centered, quantized.scale
        gathered = {id(p): x.per_value(p) if p.dim() > 1 else p for p in params}  # offset often is the zero point
        at_values = QParams(*(gathered[id(p)] for p in params))
        values = self._learned_from(x.values, at_values)
        centered = centered_codes(values, at_values, self.format.qmax, self.margin, self.clip_gradient)
        return x.with_values(centered), params.scale

    def fake_quantize(self, x: torch.Tensor) -> torch.Tensor:
        """``x`` rounded to the grid, same shape, with straight-through gradients."""
        if self.format.is_float:
            return x
        centered, scale = self.split(x)
        return centered * scale

    forward = fake_quantize

    @torch.no_grad()
    def codes(self, x: torch.Tensor, params: QParams | None = None) -> torch.Tensor:
        """Codes of ``x``, uint8, same shape.

        Raises
        ------
        ValueError
            When the quantiser is off (32 bits), so that there are no codes.
        """
        if self.format.is_float:
            raise ValueError("a quantiser of 32 bits is off and has no codes; set bits to 8 or fewer.")
        x = converted(x, torch.float32)
        return self.nearest(x, params or self._ready(x)).to(torch.uint8)

    @torch.no_grad()
    def dequantize(self, codes: torch.Tensor, params: QParams | None = None) -> torch.Tensor:
        """Values of ``codes``, float32: (codes − zero_point) · scale.

        Raises
        ------
        ValueError
            Per row without ``params``: those scales come from the data, ``quantizer.qparams(x)``.
        """
        if params is None:
            if not self.is_fixed:
                raise ValueError("scales come from the data: pass params=quantizer.qparams(x) to dequantize.")
            if not self.calibrated:
                raise NotCalibratedError(UNCALIBRATED)
            params = self.qparams(codes)
        return self.centered(codes.to(torch.float32), params.zero_point) * params.scale

    def nearest(self, x: torch.Tensor, params: QParams) -> torch.Tensor:
        """Codes of ``x``, whole numbers in its dtype."""
        return encode(x, params, self.format.qmax)

    def centered(self, codes: torch.Tensor, zero_point: torch.Tensor) -> torch.Tensor:
        """What ``codes``, whole numbers of a floating dtype, stand for, without the scale."""
        return codes - zero_point

    def clipped(self, x: torch.Tensor, params: QParams) -> torch.Tensor:
        """Which values of ``x`` are beyond the range."""
        low, high = range_ends(self.format.qmax if self.levels is None else self.levels[-1], self.margin)
        place = x / params.scale + params.offset
        return (place < low) | (place > high)

    # -- ranges -----------------------------------------------------------------------------------------
    def observe(self, x: torch.Tensor) -> None:
        """Take the range from ``x``.

        Raises
        ------
        ValueError
            When ``x`` is empty or holds NaN or infinity.
        """
        if self.format.is_float:
            return
        is_channel = self.granularity == "channel"
        along = 1 if is_channel and self.axis % x.dim() == 0 else 0
        x = self.observer.seen(converted(x.detach(), torch.float32), along, whole=is_channel)
        if x.numel() == 0:
            raise ValueError("cannot take a range from an empty tensor; calibrate on a graph with nodes.")
        if not torch.isfinite(x.values if isinstance(x, SparseFeatures) else x).all():
            raise ValueError("cannot take a range from a tensor with NaN or infinity; clean the features.")
        self._search(x)
        self.width.fill_(x.shape[-1] if x.dim() else 1)
        self.calibrated.fill_(True)

    def extra_repr(self):
        return f"bits={self.format.bits}, granularity={self.granularity!r}"


def range_rates(model: nn.Module) -> dict[nn.Parameter, float]:
    """The parameters that the ranges of a model are learned by, each with its :attr:`Quantizer.range_rate`."""
    quantizers = [module for module in model.modules() if isinstance(module, Quantizer)]
    return {parameter: quantizer.range_rate for quantizer in quantizers for parameter in quantizer.parameters()}
