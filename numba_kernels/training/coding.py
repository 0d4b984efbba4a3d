"""Fake quantisation: one pass over the values forward, one over values and gradients backward."""

from __future__ import annotations

import numpy as np

from .. import simd
from ..jit import kernel, launcher

__all__ = [
    "BLOCK_ROWS",
    "CLIPPED",
    "NO_GRADIENT",
    "UNCLIPPED",
    "code_columns",
    "code_rows",
    "codes_and_gradients",
    "gradients_of_columns",
    "gradients_of_rows",
    "gradients_of_scaled",
    "pack_columns",
    "ranges_of_rows",
    "scale_rows",
    "total_and_magnitude",
]

# Rows whose part in the gradients of channels' scales is summed at a time.
BLOCK_ROWS = 1024
# Values whose extremes are followed side by side, from here on.
_LANES, _INFINITY = 16, np.float32(np.inf)
# What the gradient of the values becomes: it is not asked for, it ends where the range does, or it does not.
NO_GRADIENT, CLIPPED, UNCLIPPED = 0, 1, 2


@kernel(reassociate=True)
def plus(total, term):
    """A sum whose order is the compiler's."""
    return total + term


@kernel
def code_of(x, inverse, offset, qmax):
    """clamp(round(x · inverse + offset), 0, qmax), NaN where x is."""
    code = np.rint(x * inverse + offset)
    code = np.float32(0) if code < np.float32(0) else code
    return qmax if code > qmax else code


@kernel
def within(gradient, x, inverse, offset, low, high):
    """``gradient`` where x stands within the range, else 0."""
    place = x * inverse + offset
    return gradient if (place >= low) & (place <= high) else np.float32(0)


@kernel
def gradient_of_value(gradient, x, inverse, offset, low, high, kind):
    """Gradient of x, of ``kind``, for that of its centred code."""
    return (within(gradient, x, inverse, offset, low, high) if kind == CLIPPED else gradient) * inverse


@kernel
def gradient_of_scale(gradient, code, x, inverse, offset, low, high):
    """Gradient of the logarithm of the scale of centred ``code`` · scale, float64, for that of the code.

    gradient · (code − x / scale), within the range what rounding left, beyond it the range's end.
    """
    return np.float64(gradient * (code - within(x * inverse, x, inverse, offset, low, high)))


@launcher
def code_rows(x, first, last, inverse, offset, zero, step, qmax, out):
    """out ← codes − zero, with the numbers ``[i · step]`` of ``inverse`` scales, offsets and zeros for row i."""
    for i in range(first, last):
        v, o, z = inverse[i * step], offset[i * step], zero[i * step]
        for j in range(x.shape[1]):
            out[i, j] = code_of(x[i, j], v, o, qmax) - z


@launcher
def code_columns(x, first, last, inverse, offset, zero, qmax, out):
    """out ← codes − zero, with the numbers ``[j]`` of ``inverse`` scales, offsets and zeros for column j."""
    for i in range(first, last):
        for j in range(x.shape[1]):
            out[i, j] = code_of(x[i, j], inverse[j], offset[j], qmax) - zero[j]


@launcher
def pack_columns(x, first, last, inverse, offset, qmax, bits, packed):
    """packed ← the codes of :func:`code_columns`, of ``bits``, as :mod:`numba_kernels.layout` says; it starts as 0.

    Returns whether one of the values is not a number, which no code stands for.
    """
    width, faults = packed.shape[1], False
    for i in range(first, last):
        for start in range(0, x.shape[1], width):
            stop, shift = min(start + width, x.shape[1]), np.uint8(bits * (start // width))
            values, v, o = x[i, start:stop], inverse[start:stop], offset[start:stop]
            for j in range(len(values)):
                code = code_of(values[j], v[j], o[j], qmax)
                faults |= code != code
                packed[i, j] |= np.uint8(np.int32(code)) << shift
    return faults


@launcher
def gradients_of_rows(grad, x, first, last, inverse, offset, step, low, high, kind, grad_x, sums):
    """grad_x ← gradient of the values, of ``kind``; sums[i] ← Σ grad · x over those of row i within the range."""
    for i in range(first, last):
        v, o, total = inverse[i * step], offset[i * step], 0.0
        for j in range(x.shape[1]):
            if kind != NO_GRADIENT:
                grad_x[i, j] = gradient_of_value(grad[i, j], x[i, j], v, o, low, high, kind)
            total = plus(total, np.float64(within(grad[i, j], x[i, j], v, o, low, high) * x[i, j]))
        sums[i] = total


@launcher
def gradients_of_columns(grad, x, first, last, inverse, offset, low, high, kind, grad_x, sums):
    """As :func:`gradients_of_rows`, by column; ``sums``, (blocks, columns) zeros, are those of BLOCK_ROWS rows each."""
    for i in range(first, last):
        totals = sums[i // BLOCK_ROWS]
        for j in range(x.shape[1]):
            v, o = inverse[j], offset[j]
            if kind != NO_GRADIENT:
                grad_x[i, j] = gradient_of_value(grad[i, j], x[i, j], v, o, low, high, kind)
            totals[j] += np.float64(within(grad[i, j], x[i, j], v, o, low, high) * x[i, j])


@launcher
def codes_and_gradients(grad, x, first, last, inverse, offset, zero, step, qmax, low, high, kind, codes, grad_x, sums):
    """codes ← those of :func:`code_rows`; grad_x ← gradient of the values, of ``kind``, for that of the codes.

    sums[i] ← Σ over row i of what the gradient of its scale is made of, see :func:`gradient_of_scale`.
    """
    for i in range(first, last):
        v, o, z, total = inverse[i * step], offset[i * step], zero[i * step], 0.0
        for j in range(x.shape[1]):  # loops of few arrays are made vectors of
            codes[i, j] = code_of(x[i, j], v, o, qmax) - z
        for j in range(x.shape[1]):
            total = plus(total, gradient_of_scale(grad[i, j], codes[i, j], x[i, j], v, o, low, high))
        sums[i] = total
        if kind != NO_GRADIENT:
            for j in range(x.shape[1]):
                grad_x[i, j] = gradient_of_value(grad[i, j], x[i, j], v, o, low, high, kind)


@launcher
def ranges_of_rows(x, first, last, low, high):
    """low[i], high[i] ← smallest and largest of row i; NaN where one of its values is."""
    columns, values, none = x.shape[1], simd.f32_at(simd.address(x)), simd.zeros_f32()
    whole = columns - columns % _LANES
    for i in range(first, last):
        smallest, largest, faults = simd.fill(none, _INFINITY), simd.fill(none, -_INFINITY), none
        for j in range(0, whole, _LANES):
            v = simd.load(none, values, i * columns + j)
            smallest, largest = simd.minimum(smallest, v), simd.maximum(largest, v)
            faults = simd.add(faults, simd.subtract(v, v))  # 0 where v is finite
        a, b, fault = simd.smallest(smallest), simd.largest(largest), simd.total(faults)
        for j in range(whole, columns):
            v = x[i, j]
            a, b, fault = min(a, v), max(b, v), fault + (v - v)
        is_faulty = fault != 0 and np.isnan(x[i]).any()
        low[i], high[i] = (np.nan, np.nan) if is_faulty else (a, b)


@launcher
def total_and_magnitude(x, sums):
    """sums ← Σ x, Σ |x| of flat values, float64."""
    total = magnitude = 0.0
    for i in range(len(x)):
        total = plus(total, np.float64(x[i]))
        magnitude = plus(magnitude, np.float64(abs(x[i])))
    sums[0], sums[1] = total, magnitude


@launcher
def scale_rows(x, first, last, before, before_step, column_scale, after, after_step, out):
    """out[i, j] ← x[i, j] · before[i · before_step] · column_scale[j] · after[i · after_step]; ``x`` may be ``out``."""
    row = np.empty(x.shape[1], np.float32)
    for i in range(first, last):
        b, a = before[i * before_step], after[i * after_step]
        for j in range(len(row)):
            row[j] = x[i, j] * b * column_scale[j] * a
        out[i, :] = row


@launcher
def gradients_of_scaled(grad, out, first, last, row_scale, row_step, column_scale, grad_x, row_sums, column_sums):
    """grad_x ← grad · column_scale · row_scale; row_sums, column_sums ← Σ grad · out along the row, the column.

    ``column_sums``, (blocks, columns) zeros, are those of BLOCK_ROWS rows each.
    """
    for i in range(first, last):
        r, total, totals = row_scale[i * row_step], 0.0, column_sums[i // BLOCK_ROWS]
        for j in range(out.shape[1]):
            grad_x[i, j] = grad[i, j] * column_scale[j] * r
            product = np.float64(grad[i, j] * out[i, j])
            total = plus(total, product)
            totals[j] += product
        row_sums[i] = total
