"""Integer arithmetic between accumulators and codes, stated once (AQD, arXiv:2007.06919).

A number between an accumulator and the next codes is *fixed-point*: v · 2^-unit, v a whole number. float32 holds it, so
that biases, ReLU and residual sums are exact in float32; where v outgrows 24 bits, it is rounded as IEEE float32 says,
on every machine alike. Scales become whole multipliers, (a · M + ½ · 2^s) >> s in 64 bits, halves rounded up:

    sums and products   v = (a · M_c) >> s          a = 2 Σ (q − z), or 4 Σ (q_x − z_x)(q_w − z_w), in int32
    degree norms        v = v · m · 2^-r, rounded   m of 15 bits, (degree + plus)^power ≈ m · 2^-r
    codes               q = clamp(((w · M_c) >> 30) + z_c, 0, top), with w = x · 2^unit, rounded

``rounded`` is to the nearest whole number, halves to even. Multipliers follow from scales: this module makes them for
training, for kernels and for their NumPy twin. No rounding but these is made, and none depends on the machine.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

# Bits of a degree norm, of the fraction of a code's multiplier, of what a code is made of, and of any number.
NORM_BITS, CODE_SHIFT, CODED_BITS, MOST_BITS = 15, 30, 24, 30
# Bits of the steps of an accumulator that a unit divides it into, of a product's most, and of one message's most.
_PRODUCT_FRACTION, _PRODUCT_BITS, _MESSAGE_BITS = 8, 22, 14
# Bits of the widest step of a grid, in units of what is coded.
_STEP_BITS = 14
_MOST_MULTIPLIER, _MOST_SHIFT = (1 << 31) - 1, 32


def _exponent(number) -> int:
    """The least e with ``number`` < 2^e."""
    return int(np.frexp(np.float64(number))[1])


def shifted(a: np.ndarray, multiplier: np.ndarray, shift: int) -> np.ndarray:
    """(a · multiplier + ½ · 2^shift) >> shift, int64."""
    return (a.astype(np.int64) * multiplier + (1 << (shift - 1))) >> shift


def rounded(x: np.ndarray, times) -> np.ndarray:
    """x · times as the nearest whole numbers, halves to even, int64; float32 ``times`` a power of two or a norm."""
    return np.rint(x.astype(np.float64) * times).astype(np.int64)


def degree_norm(degrees: np.ndarray, power: float, plus: int) -> np.ndarray:
    """(degree + plus)^power for power −1, −½ or ½, with 15 bits, float32; degrees of 0 count as 1."""
    exact = np.maximum(degrees.astype(np.float64) + plus, 1)
    exact = exact if power == -1 else np.sqrt(exact)
    mantissa, exponent = np.frexp(exact if power == 0.5 else 1 / exact)
    return np.ldexp(np.rint(np.ldexp(mantissa, NORM_BITS)), exponent - NORM_BITS).astype(np.float32)


def unit_of_product(scale: np.ndarray, inputs: int, most: float) -> int:
    """The unit of products of ``inputs`` codes with weights; ``most`` bounds one term, ``scale`` is a step's."""
    room = _PRODUCT_BITS - _exponent(inputs * most)
    return min(_PRODUCT_FRACTION, room) - _exponent(scale.max())


def unit_of_sum(scale: np.ndarray, most: float) -> int:
    """The unit of sums over neighbours of codes on a grid of ``scale``, each of ``most`` steps at most."""
    return _MESSAGE_BITS - _exponent(most) - _exponent(scale.max())


@dataclass(frozen=True)
class Multiplier:
    """What accumulators are multiplied with to become fixed-point numbers of ``unit``.

    Attributes
    ----------
    numbers : numpy.ndarray
        M, (1,) or (columns,) int64, below 2^31.
    shift : int
    most : int
        Magnitude to which accumulators are clamped first, so that numbers stay within 30 bits.
    unit : int
    """

    numbers: np.ndarray
    shift: int
    most: int
    unit: int

    @classmethod
    def of(cls, scale: np.ndarray, parts: int, unit: int) -> Multiplier:
        """Of accumulators that count in ``parts``-ths of ``scale``, (1,) or (columns,)."""
        ratio = np.ldexp(scale.astype(np.float64) / parts, unit)
        shift = min(MOST_BITS - _exponent(ratio.max()), _MOST_SHIFT)
        most = min(int((1 << MOST_BITS) / ratio.max()), (1 << 31) - 1)
        return cls(np.rint(np.ldexp(ratio, shift)).astype(np.int64), shift, most, unit)

    def times(self, accumulators: np.ndarray) -> np.ndarray:
        """Fixed-point numbers, float32, of accumulators, (rows, columns) integers."""
        v = shifted(np.clip(accumulators, -self.most, self.most), self.numbers, self.shift)
        return np.ldexp(v.astype(np.float32), -self.unit)


def normed(x: np.ndarray, norm: np.ndarray, unit: int) -> np.ndarray:
    """Rows of fixed-point numbers of ``unit`` times their degree norms, (rows,), as such numbers."""
    v = rounded(x, np.ldexp(norm.astype(np.float64), unit)[:, None])
    return np.ldexp(v.astype(np.float32), -unit)


def on_unit(numbers: np.ndarray, unit: int) -> np.ndarray:
    """Numbers, such as biases, as the nearest fixed-point numbers of ``unit``, within 23 bits."""
    v = np.clip(rounded(numbers, 2.0**unit), 1 - (1 << 23), (1 << 23) - 1)
    return np.ldexp(v.astype(np.float32), -unit)


@dataclass(frozen=True)
class Coding:
    """How numbers become codes: w = x · 2^unit, rounded, then ((w · M + added) >> 30) + zero.

    Attributes
    ----------
    numbers, zero : numpy.ndarray
        M and whole offsets, (1,) or (columns,) int64.
    added : int
        A half of 2^30, or all of it where offsets are odd halves.
    unit : int
    """

    numbers: np.ndarray
    zero: np.ndarray
    added: int
    unit: int

    @classmethod
    def of(cls, scale: np.ndarray, offset: np.ndarray) -> Coding:
        """Of a grid's scale and offset, multiples of ½ that are all whole or all odd halves."""
        unit = _STEP_BITS - _exponent(scale.max())
        exact = np.ldexp(1 / scale.astype(np.float64), CODE_SHIFT - unit)
        zero = np.floor(offset.astype(np.float64))
        added = 1 << (CODE_SHIFT if offset[0] > zero[0] else CODE_SHIFT - 1)
        return cls(np.minimum(np.rint(exact), _MOST_MULTIPLIER).astype(np.int64), zero.astype(np.int64), added, unit)

    def codes(self, x: np.ndarray, top: int, norm: np.ndarray | None = None) -> np.ndarray:
        """Codes, uint8, of ``x``, (rows, columns) float32, times degree norms a row if they are given."""
        times = 2.0**self.unit if norm is None else np.ldexp(norm.astype(np.float64), self.unit)[:, None]
        w = np.clip(np.rint(x.astype(np.float64) * times), -(1 << CODED_BITS), 1 << CODED_BITS).astype(np.int64)
        return np.clip(((w * self.numbers + self.added) >> CODE_SHIFT) + self.zero, 0, top).astype(np.uint8)


def are_halves(*arrays: np.ndarray) -> bool:
    """Whether numbers are multiples of ½, those of each array all whole or all odd halves."""
    twice = [2 * array.astype(np.float64) for array in arrays]
    return all((part == np.rint(part)).all() and len(set(np.unique(part % 2))) <= 1 for part in twice)
