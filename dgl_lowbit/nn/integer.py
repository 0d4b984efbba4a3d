"""The operations of layers with integer arithmetic between accumulators and codes."""

from __future__ import annotations

import dgl.function as fn
import torch

from ..graphs.degrees import degrees_of
from ..quant.integer import (
    IntegerCodes,
    fixed_product,
    fixed_sum,
    instead,
    integer_codes,
    norm_of_degrees,
    normed,
    on_unit,
)
from ..quant.products import finished, product
from ..quant.scaled import scaled
from ..quant.stochastic import with_gradient_in
from .ops import TorchOps, each, is_pair, of_all_neighbours


class IntegerOps(TorchOps):
    """:class:`TorchOps` whose values are, to the bit, those of packed models in integer arithmetic.

    Gradients are those of the float operations, straight through (arXiv:2007.06919). A result knows its ``unit``: it
    holds whole multiples of 2^-unit. What is missing here, layers that need it refuse when they are configured. Where
    quantisers are off, as for a look at the float model, float operations run.
    """

    @staticmethod
    def quantize(quantizer, x, norm=None):
        if quantizer.format.is_float:
            return TorchOps.quantize(quantizer, x, norm)
        norm = _of_15_bits(norm)
        if not is_pair(x):
            return integer_codes(quantizer, x, norm)
        together, first = integer_codes(quantizer, torch.cat(x), norm), len(x[0])
        return together.rows(slice(None, first)), together.rows(slice(first, None))

    def product(self, codes, quantizer, weight, norm=None, bias=None, onto=None):
        if quantizer.format.is_float or not isinstance(codes[0] if is_pair(codes) else codes, IntegerCodes):
            return TorchOps.product(codes, quantizer, weight, norm, bias, onto)
        quantizer.meets(weight, list(codes) if is_pair(codes) else [codes])
        quantized, norm = quantizer.quantized(weight), _of_15_bits(norm)

        def multiplied(part):
            values, unit = fixed_product(part, quantized, quantizer.format.storage_bits)
            values = values if norm is None else normed(values, norm, unit)
            if torch.is_grad_enabled():
                values = instead(product(part, quantized, norm), values)
            out = self.bias(_of_unit(values, unit), bias)
            return out if onto is None else out + onto

        return each(multiplied, codes)

    def products(self, *terms):
        return tuple(self.product(*term) for term in terms)

    def aggregate(self, graph, codes, edge_weight=None, self_codes=None, norm=None):
        if not isinstance(codes, IntegerCodes):
            return super().aggregate(graph, codes, edge_weight, self_codes, norm)
        total = of_all_neighbours(self.reduce(graph, codes, None, fn.sum("m", "neigh"), scaled=False), graph)
        total, norm = total if self_codes is None else total + self_codes.centered, _of_15_bits(norm)
        values, unit = fixed_sum(total, codes, degrees_of(graph, "in") + (self_codes is not None), norm)
        if torch.is_grad_enabled():
            floats = scaled(total.to(codes.centered.dtype), codes.scale)
            values = instead(finished(with_gradient_in(floats, self.gradients), norm), values)
        return _of_unit(values, unit)

    @staticmethod
    def bias(x, bias):
        unit = getattr(x, "unit", None)
        return TorchOps.bias(x, bias if unit is None or bias is None else on_unit(bias, unit))


def _of_15_bits(norm):
    """Degree norms, (N,), of a graph, side, power and what is added to degrees, if given."""
    if norm is None:
        return None
    graph, side, *power = norm
    return norm_of_degrees(degrees_of(graph, side), *power)


def _of_unit(values, unit):
    values.unit = unit
    return values
