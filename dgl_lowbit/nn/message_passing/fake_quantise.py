"""Message passing on codes: operands are coded, DGL's function runs on the codes, scales follow."""

from __future__ import annotations

import math
from typing import Any

import dgl
import torch
from dgl import DGLError

from ...quant import NotCalibratedError
from ...quant.format import FLOAT_BITS
from ...quant.ranges import is_finite
from ...quant.stochastic import with_gradient_in
from ..protection import is_protecting, meet, protected_messages, protected_rows, side_by_side
from ..sums import float32_holds_sums
from ..typed import meet_by_type
from .calls import Call, coded, tensors_of

_OVER_EDGES = ("spmm", "spmm_hetero", "sddmm", "sddmm_hetero")


class FakeQuantise:
    """The handler of low-bit models.

    As in our layers sums run over centred codes, so that they are exact in float32, as they are in packed integers:
    where every operand has a scale for all its rows, DGL's function of the codes times the scales is its function of
    the values. Each method takes a :class:`Call` and returns what DGL's function gives for the values that the codes
    of the operands stand for.

    Raises
    ------
    NotCalibratedError
        By each method, when the call has no quantisers yet.
    DGLError
        For NaN or infinity in what is coded.
    """

    def sum(self, call: Call):
        """Any call whose operands are coded with a scale for all rows."""
        groups = groups_of(call)
        if not groups:
            return call.original(*call.operands)
        site: Any = call.site
        operands, scales = list(call.operands), [1.0] * len(call.operands)
        for component, numbers in groups.items():
            parts = [x for number in numbers for x in tensors_of(operands[number])]
            protected = _protected(call, numbers)
            codes, scale = _split_together(site[component], parts, channels_of(call, component, parts), protected)
            left = iter(codes)
            for number in numbers:
                operands[number], scales[number] = _like(operands[number], left), scale
        sums_edges = call.kind in ("spmm", "spmm_hetero") and call.reduce == "sum"
        if sums_edges and not _float32_holds_sums(call, groups, operands):
            operands = [_in_float64(operand) for operand in operands]
        with _float32(parts[0]):
            result = call.original(*operands)
        gradients = call.module.lowbit_hook.config.gradients if sums_edges else FLOAT_BITS
        scale = scales[0] if call.op in ("add", "sub") else math.prod(scales)

        def scaled(part):  # a type that nothing is sent to has nothing
            if part is None or not part.numel():
                return part
            return with_gradient_in(part.float() * scale, gradients).to(parts[0].dtype)

        return tuple(map(scaled, result)) if isinstance(result, tuple) else scaled(result)

    def product(self, call: Call):
        """Rows times the matrix of their type: rows have a scale each, matrices one for each of their columns."""
        if not groups_of(call):
            return call.original(*call.operands)
        site: Any = call.site
        (rows, matrices), types = call.operands, call.details["types"]
        count, width, out = matrices.shape
        inputs = site["inputs"].quantized(rows.float(), protected=protected_rows(len(rows)))
        meet_by_type(site["weights"], matrices, inputs, types, call.details.get("rows"))
        centered, row_scale = inputs.centered, inputs.scale
        flat = matrices.float().transpose(0, 1).reshape(width, count * out)
        codes, scale = site["weights"].split(flat)
        with _float32(rows):
            result = call.original(centered, codes.view(width, count, out).transpose(0, 1).contiguous())
        if row_scale.dim() and call.details.get("rows") is not None:
            row_scale = row_scale[call.details["rows"]]
        return (result * row_scale * scale.expand(1, count * out).view(count, out)[types]).to(rows.dtype)

    spmm = spmm_hetero = sddmm = sddmm_hetero = segment_reduce = sum
    edge_softmax = edge_softmax_hetero = udf_reduce = sum
    segment_mm = gather_mm = product


def groups_of(call: Call) -> dict[str, tuple[int, ...]]:
    """What is coded of a call of a low-bit module, as :func:`coded` says, once it is known that it can be."""
    groups = coded(call, attention=call.site is not None and "attention" in call.site) if is_low_bit(call) else {}
    if groups and (call.site is None or groups.keys() - call.site.keys()):
        raise NotCalibratedError(_unknown(call))
    for component, numbers in groups.items():
        _check(call, component, [x for number in numbers for x in tensors_of(call.operands[number])])
    return groups


def _check(call, component, tensors):
    """Raise DGLError for NaN, infinity, or another width than the site was made for."""
    for x in tensors:
        if not is_finite(x):
            raise DGLError(f"{_where(call)} got NaN or infinity in its {component}; clean it before quantising.")
    quantizer, channels = call.site[component], channels_of(call, component, tensors)
    if quantizer.granularity == "channel" and quantizer.channels != channels:
        shapes = ", ".join(str(tuple(x.shape)) for x in tensors)
        raise DGLError(
            f"{_where(call)} was made for {component} of {quantizer.channels} channels, got shapes {shapes}. Calls are "
            "counted from the start of a forward: one that makes other calls than the example's finds other quantisers."
        )


def is_low_bit(call: Call) -> bool:
    """Whether the call's module codes what it passes."""
    hook = getattr(call.module, "lowbit_hook", None)
    return hook is not None and not hook.is_float


def channels_of(call: Call, component: str, tensors: list[torch.Tensor]) -> int | None:
    """Channels of what is coded together: the product of trailing dimensions, or the columns of all types' matrices.

    None where one scale must serve all: rows differ in width, or products are summed over channels.
    """
    if component == "weights":
        return tensors[0].shape[0] * tensors[0].shape[2]
    shapes = {tuple(x.shape[1:]) for x in tensors}
    return None if call.op == "dot" or len(shapes) > 1 else math.prod(shapes.pop())


def _protected(call, numbers):
    """Which rows of some operands, side by side, are those of protected nodes, or of edges that leave these."""
    if not is_protecting():
        return None
    targets, masks, rows = call.details.get("targets", "ue"), [], []
    for number in numbers:
        operand, is_of_edges = call.operands[number], call.kind in _OVER_EDGES and targets[number] == "e"
        for kind, x in enumerate(operand if isinstance(operand, (tuple, list)) else (operand,)):
            if x is not None:
                masks.append(_of_messages(call.graph, kind) if is_of_edges else _of_nodes(call, len(x)))
                rows.append(len(x))
    return side_by_side(masks, rows)


def _of_nodes(call, number):
    if protected_rows(number) is None and call.kind in _OVER_EDGES:  # a graph that the model was not called with
        types, kinds = (range(n) for n in (call.graph.number_of_ntypes(), call.graph.number_of_etypes()))
        meet(dgl.DGLGraph(call.graph, list(map(str, types)), list(map(str, kinds))))
    return protected_rows(number)


def _of_messages(index, kind):
    source, _ = index.metagraph.find_edge(kind)
    return protected_messages(lambda: index.edges(kind, "eid")[0], index.number_of_nodes(source))


def _split_together(quantizer, tensors, channels, protected):
    """Centred codes of each of ``tensors`` and their common scale, which broadcasts against their rows.

    Those of ``protected`` rows, side by side, are not rounded.
    """
    rows = [x.float().reshape(*((-1, 1) if channels is None else (len(x), channels))) for x in tensors]
    if protected is not None and channels is None:
        widths = [protected.new_full((len(x),), x.shape[1:].numel(), dtype=torch.long) for x in tensors]
        protected = protected.repeat_interleave(torch.cat(widths))
    centered, scale = quantizer.split(torch.cat(rows) if len(rows) > 1 else rows[0], protected=protected)
    codes = centered.split([len(part) for part in rows])
    scale = scale.reshape(tensors[0].shape[1:] if scale.numel() > 1 else ())
    return [part.view(x.shape) for part, x in zip(codes, tensors)], scale


def _float32_holds_sums(call, groups, operands):
    """Whether float32 holds the sums of a call on centred codes exactly; sums with weights that are no codes round."""
    is_weighted = call.op not in ("copy_lhs", "copy_rhs", "add", "sub")
    if is_weighted and "attention" not in groups:
        return True
    messages = [x for number in groups["messages"] for x in tensors_of(operands[number])]
    weight = _most_messages(call.graph, messages[0].device)
    if is_weighted:  # products of halves are quarters
        weight *= 2 * max(float(x.detach().abs().max()) if x.numel() else 0.0 for x in tensors_of(operands[1]))
    elif len(groups["messages"]) > 1:
        weight *= 2
    return all(float32_holds_sums(x, weight) for x in messages)


def _most_messages(index, device):
    """The largest in-degree in DGL's index of a graph, or the sum of those of its edge types."""
    most = 0
    for etype in range(index.number_of_etypes()):
        _, target = index.metagraph.find_edge(etype)
        nodes = torch.arange(index.number_of_nodes(target), dtype=getattr(torch, index.dtype), device=device)
        most += int(index.in_degrees(etype, nodes).max()) if len(nodes) else 0
    return most


def _in_float64(operand):
    if isinstance(operand, (tuple, list)):
        return tuple(map(_in_float64, operand))
    return None if operand is None else operand.double()


def _like(operand, parts):
    """``operand`` with its tensors taken from ``parts``."""
    if not isinstance(operand, (tuple, list)):
        return None if operand is None else next(parts)
    return tuple(None if part is None else next(parts) for part in operand)


def _float32(x):
    """Codes are summed as they are, whatever the precision a caller has asked for."""
    return torch.autocast(x.device.type, enabled=False)


def _where(call):
    return f"{call.module.site_name(call.name)} ({type(call.module).__name__})"


def _unknown(call):
    return (
        f"{_where(call)} has no quantisers: no run before has come to this call. Show it one: "
        "quantize(model, config, *example) or calibrate(model, *example), before the optimiser is made; the call must "
        "be made in evaluation mode too."
    )
