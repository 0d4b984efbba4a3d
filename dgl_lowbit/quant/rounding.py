"""Weights rounded on data, each rounding making up for those before it: GPTQ, arXiv:2210.17323."""

from __future__ import annotations

import operator
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import nn

from .base import Quantizer
from .few import is_mostly_zero
from .format import QParams
from .quantized import Quantized
from .sparse import SparseFeatures, compressed

# What is added to the diagonal of the inputs' moments, as a part of its mean.
_DAMPING = 0.01
# What ranges of columns are multiplied by, to see how they do then.
_STRETCHES = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2, 1.35, 1.5)
# Inputs that are rounded together; of more, as many at a time, so that moments take at most 3 x 512 MiB.
_MOST_TOGETHER = 8192
# Values that are worked on at once, and rows of a weight whose errors are spread at once.
_VALUES, _ROWS = 1 << 22, 128


def second_moments(inputs: list[Quantized], columns: slice = slice(None)) -> torch.Tensor:
    """XᵀX of ``columns`` of what ``inputs``, each (…, in), stand for; (columns, columns), float64."""
    like = inputs[0].scale
    size = len(range(inputs[0].shape[-1])[columns])
    total = torch.zeros(size, size, dtype=torch.float64, device=like.device)
    for part in inputs:
        for x in _blocks(part):
            x = x[:, columns].double()
            is_sparse = is_mostly_zero(x) and (x.is_cuda or torch.backends.mkl.is_available())
            torch.addmm(total, compressed(x.t()) if is_sparse else x.t(), x, out=total)
    return total


def _blocks(part: Quantized) -> Iterator[torch.Tensor]:
    """The values that codes stand for, dense, (rows, in), some rows at a time."""
    if len(part.shape) != 2:
        yield (part.centered * part.scale).reshape(-1, part.shape[-1])
        return
    step = max(_VALUES // max(part.shape[1], 1), 1)
    for start in range(0, part.shape[0], step):
        rows = part.block(slice(start, start + step))
        dense = rows.centered.to_dense() if isinstance(rows.centered, SparseFeatures) else rows.centered
        yield dense * rows.scale


class Factor(NamedTuple):
    """What the rounding of a weight needs of its inputs: M[order][:, order] = L Lᵀ of damped moments M."""

    order: torch.Tensor
    lower: torch.Tensor

    @classmethod
    def of(cls, moments: torch.Tensor, damping: float = _DAMPING) -> Factor:
        """Of moments, which are overwritten. The inputs that matter most come last."""
        diagonal = moments.diagonal()
        diagonal += damping * diagonal.mean() + torch.finfo(torch.float32).tiny
        order = torch.argsort(diagonal, stable=True)
        moments = moments[order][:, order]
        return cls(order, torch.linalg.cholesky(moments, out=moments))


def round_on_data(
    weight: torch.Tensor, factor: Factor, params: QParams, quantizer: Quantizer
) -> tuple[torch.Tensor, torch.Tensor]:
    r"""Codes by ``quantizer`` of ``weight``, (in, out), that keep its product with the inputs, and what that errs by.

    Rows are rounded from the last of ``factor.order`` to the first. With the errors :math:`e` of those done, row i
    takes up what it can of them, towards the least of :math:`\|X (W - \hat W)\|^2`:

    .. math:: \hat{w_i} = \mathrm{round}\left(w_i + \frac{1}{L_{ii}} \sum_{k > i} L_{ki} e_k\right), \qquad
              e_k = w_k - \hat{w_k},

    which is arXiv:2210.17323's update by the inverse factor, without the inverse (arXiv:2507.18553).

    Returns
    -------
    codes : torch.Tensor
        Float64 whole numbers, (in, out).
    error : torch.Tensor
        The squared error of each column, damped, (out,).
    """
    order, lower = factor
    scale, zero_point, offset = (part.double().reshape(-1).expand(weight.shape[1]) for part in params)
    weight, params = weight[order].double(), QParams(scale, zero_point, offset)
    codes, errors, error = torch.empty_like(weight), torch.zeros_like(weight), torch.zeros_like(scale)
    for stop in range(len(weight), 0, -_ROWS):
        rows = slice(max(stop - _ROWS, 0), stop)
        block, ends = lower[rows, rows], lower.diagonal()[rows, None]
        targets = weight[rows] + lower[stop:, rows].t() @ errors[stop:] / ends
        for i in reversed(range(len(targets))):
            done = slice(rows.start + i + 1, stop)
            target = targets[i] + block[i + 1 :, i] @ errors[done] / ends[i]
            codes[done.start - 1] = quantizer.nearest(target, params)
            value = quantizer.centered(codes[done.start - 1], zero_point) * scale
            errors[done.start - 1] = weight[done.start - 1] - value
            error += (ends[i] * (target - value)).square()
    return torch.empty_like(codes).index_copy_(0, order, codes), error


def best_stretch(weight: torch.Tensor, factors: list[Factor], params: QParams, quantizer: Quantizer) -> torch.Tensor:
    """By which of :data:`_STRETCHES` the range of each column of ``weight`` errs least once it is rounded, (out,)."""
    stretches = torch.tensor(_STRETCHES, device=weight.device)
    step = max(_VALUES // (len(weight) * len(stretches)), 1)
    found = []
    for start in range(0, weight.shape[1], step):
        some = weight[:, start : start + step]
        columns = QParams(*(part[start : start + step].repeat(len(stretches)) for part in params))
        columns = columns._replace(scale=columns.scale * stretches.repeat_interleave(some.shape[1]))
        parts = zip(_together(len(weight)), factors)
        errors = [round_on_data(some[rows].repeat(1, len(stretches)), f, columns, quantizer)[1] for rows, f in parts]
        found.append(stretches[torch.stack(errors).sum(0).view(len(stretches), -1).argmin(0)])
    return torch.cat(found)


class Rounder:
    """Rounds the weights of a model as a forward comes to their products, so that later layers see rounded ones.

    One forward tells by :meth:`count` how often it comes to each weight; in the next, by :meth:`meet`, a weight is
    rounded before the last of its products, on the inputs of all of them. Both are what
    :attr:`Quantizer.watch_product` calls. The values that the codes stand for are written into the parameter.

    Parameters
    ----------
    model : torch.nn.Module
    process_group : torch.distributed.ProcessGroup, optional
        Processes whose inputs count together.
    """

    def __init__(self, model: nn.Module, process_group=None):
        self._parameters = {_storage(parameter) for parameter in model.parameters()}
        self._group = process_group
        # Of weights, by their addresses.
        self._owners: dict[int, set[Quantizer]] = defaultdict(set)
        self._products: Counter[int] = Counter()
        self._waiting: dict[int, _Waiting] = {}
        self._factored: tuple[list[Quantized], list[Factor]] = [], []
        self.rounded: Callable[[], object] = lambda: None  # called after each weight

    def count(self, quantizer: Quantizer, weight: torch.Tensor, inputs: list[Quantized], columns: slice) -> None:
        """Note a product of ``weight``, (in, out), the ``columns`` of what ``quantizer`` codes, with ``inputs``."""
        address = weight.data_ptr()
        self._owners[address].add(quantizer)
        # A scale that the weights beside these set too would not be theirs.
        has_own_scale = quantizer.is_fixed or quantizer.granularity == "channel" or columns == slice(None)
        self._products[address] += has_own_scale and weight.numel() > 0 and _storage(weight) in self._parameters

    def meet(self, quantizer: Quantizer, weight: torch.Tensor, inputs: list[Quantized], columns: slice) -> None:
        """Round ``weight`` where this is the last of its products."""
        address = weight.data_ptr()
        if not self._is_to_round(address):
            return
        self._products[address] -= 1
        self._waiting.setdefault(address, _Waiting(quantizer, weight, columns, [])).inputs.extend(inputs)
        if not self._products[address]:
            self._round(self._waiting.pop(address))

    def finish(self) -> None:
        """Round the weights that were met less often than they were counted."""
        while self._waiting:
            self._round(self._waiting.popitem()[1])
        self._factored = [], []

    def __len__(self):
        """The number of weights that are still to be rounded."""
        return sum(map(self._is_to_round, self._products))

    def left(self) -> set[Quantizer]:
        """Before any is rounded, those whose weights will not be: computed ones, and those that several code."""
        return {q for address, owners in self._owners.items() if not self._is_to_round(address) for q in owners}

    def _is_to_round(self, address):
        return self._products[address] > 0 and len(self._owners[address]) == 1

    def _round(self, waiting):
        quantizer, weight, columns, inputs = waiting
        factors = self._factors(inputs, len(weight))
        params = _params(quantizer, weight, columns)
        if quantizer.granularity == "channel" and quantizer.is_fixed:
            stretch = torch.ones(quantizer.channels, device=weight.device)
            stretch[columns] = best_stretch(weight, factors, params, quantizer)
            quantizer.stretch(stretch)
            params = _params(quantizer, weight, columns)
        parts = zip(_together(len(weight)), factors)
        codes = torch.cat([round_on_data(weight[rows], factor, params, quantizer)[0] for rows, factor in parts])
        weight.copy_(quantizer.centered(codes, params.offset) * params.scale)
        self.rounded()

    def _factors(self, inputs, size):
        """Of each part of the inputs; those of the last ones are kept, which several weights may meet in a row."""
        known, factors = self._factored
        if len(known) != len(inputs) or any(map(operator.is_not, known, inputs)):
            self._factored = [], []
            moments = (self._of_all(second_moments(inputs, rows)) for rows in _together(size))
            factors = list(map(Factor.of, moments))
            self._factored = inputs, factors
        return factors

    def _of_all(self, moments):
        if self._group is not None:
            dist.all_reduce(moments, group=self._group)
        return moments


class _Waiting(NamedTuple):
    quantizer: Quantizer
    weight: torch.Tensor
    columns: slice
    inputs: list[Quantized]


def _together(size):
    """Slices of inputs that are rounded together."""
    return [slice(start, start + _MOST_TOGETHER) for start in range(0, size, _MOST_TOGETHER)]


def _params(quantizer, weight, columns):
    """Scale, zero point and offset of ``weight``, the ``columns`` of what is coded together: for all, or a column."""
    if not quantizer.is_fixed:
        return QParams(*(part.flatten() for part in quantizer.qparams(weight)))
    params = quantizer.qparams(torch.zeros(1, quantizer.channels or 1, device=quantizer.width.device))
    return QParams(*(part.flatten()[columns] if quantizer.granularity == "channel" else part for part in params))


def _storage(x):
    return x.untyped_storage().data_ptr()
