"""Message passing on codes: operands are coded, DGL's function runs on the codes, scales follow."""

from __future__ import annotations

import math
from typing import Any

import torch
from dgl import DGLError

from ...quant import NotCalibratedError
from .calls import SITE_NAMES, Call, coded, tensors_of


class FakeQuantise:
    """The handler of low-bit models.

    As in our layers sums run over centred codes, so that they are exact in float32, as they are in packed integers:
    where every operand has a scale for all its rows, DGL's function of the codes times the scales is its function of
    the values.
    """

    def __call__(self, call: Call):
        """What DGL's function gives for the values that the codes of the operands stand for.

        Raises
        ------
        NotCalibratedError
            When the call has no quantisers yet.
        DGLError
            For NaN or infinity in what is coded.
        """
        groups = coded(call, attention=call.site is not None and "attention" in call.site)
        if not groups or not is_low_bit(call):
            return call.original(*call.operands)
        if call.site is None or groups.keys() - call.site.keys():
            raise NotCalibratedError(_unknown(call))
        operands, scales = list(call.operands), [1.0] * len(call.operands)
        for component, numbers in groups.items():
            quantizer: Any = call.site[component]
            if quantizer.format.is_float:
                continue
            parts = [x for number in numbers for x in tensors_of(operands[number])]
            _check_finite(call, component, parts)
            codes, scale = split_together(quantizer, parts, common_channels(call, parts) is not None)
            left = iter(codes)
            for number in numbers:
                operands[number] = _like(operands[number], left)
                scales[number] = scale
        with torch.autocast(_device_of(call).type, enabled=False):
            return _scaled(call, call.original(*operands), scales)


for _kind in SITE_NAMES:
    setattr(FakeQuantise, _kind, FakeQuantise.__call__)


def is_low_bit(call: Call) -> bool:
    """Whether the call's module codes what it passes."""
    hook = getattr(call.module, "lowbit_hook", None)
    return hook is not None and not hook.config.is_float


def common_channels(call: Call, tensors: list[torch.Tensor]) -> int | None:
    """Channels of rows that are coded together: the product of their trailing dimensions.

    None where one scale must serve all: their widths differ, or products are summed over channels.
    """
    shapes = {tuple(x.shape[1:]) for x in tensors}
    return None if call.op == "dot" or len(shapes) > 1 else math.prod(shapes.pop())


def split_together(quantizer, tensors, by_channel):
    """Centred codes of each of ``tensors`` and their common scale, which broadcasts against their rows."""
    rows = [(x.reshape(len(x), math.prod(x.shape[1:])) if by_channel else x.reshape(-1, 1)).float() for x in tensors]
    centered, scale = quantizer.split(torch.cat(rows) if len(rows) > 1 else rows[0])
    parts = centered.split([len(part) for part in rows])
    scale = scale.reshape(tensors[0].shape[1:]) if scale.numel() > 1 else scale.reshape(())
    return [part.view(x.shape) for part, x in zip(parts, tensors)], scale


def _like(operand, parts):
    """``operand`` with its tensors taken from ``parts``."""
    if not isinstance(operand, (tuple, list)):
        return None if operand is None else next(parts)
    return tuple(None if part is None else next(parts) for part in operand)


def _scaled(call, result, scales):
    """``result`` of the codes as that of the values, in the dtype of the operands."""
    scale = math.prod(scales) if call.op not in ("add", "sub") else scales[0]
    dtype = tensors_of(call.operands[0] if call.operands[0] is not None else call.operands[1])[0].dtype
    if isinstance(result, tuple):
        return tuple(part if part is None else (part * scale).to(dtype) for part in result)
    return (result * scale).to(dtype)


def _device_of(call):
    return next(x for operand in call.operands for x in tensors_of(operand)).device


def _check_finite(call, component, tensors):
    for x in tensors:
        if not torch.isfinite(x.detach().sum()) and not torch.isfinite(x).all():
            raise DGLError(f"{_where(call)} got NaN or infinity in its {component}; clean it before quantising.")


def _where(call):
    return f"{call.module.site_name(call.name)} ({type(call.module).__name__})"


def _unknown(call):
    return (
        f"{_where(call)} has no quantisers: no run before has come to this call. Show it one: "
        "quantize(model, config, *example) or calibrate(model, *example), before the optimiser is made; the call must "
        "be made in evaluation mode too."
    )
