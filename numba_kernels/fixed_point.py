"""Integer arithmetic between accumulators and codes, stated once (AQD, arXiv:2007.06919).

A number between an accumulator and the next codes is *fixed-point*: v · 2^-unit, v a whole number. float32 holds it, so
that biases, ReLU and residual sums are exact in float32; where v outgrows 24 bits, it is rounded as IEEE float32 says,
on every machine alike. Scales become whole multipliers. All that follows fits int32, or float32:

    sums and products   v = ((a >> p) · M_c) >> s   a = 2 Σ (q − z), or 4 Σ (q_x − z_x)(q_w − z_w)
    degree norms        v = v · m · 2^-r, rounded   (degree + plus)^power ≈ m · 2^-r, m of 15 bits; to 24 bits first
    codes               q = clamp(((w · M_c) >> s) + z_c, 0, top)   w = x · 2^unit_c, rounded
    codes, normed       the same of (w · m) >> 15                   w = x · 2^(unit_c + 15 − r), rounded

``>>`` rounds to the nearest, halves up; ``rounded`` to the nearest, halves to even. p drops bits that an accumulator of
so many terms may have beyond 22 in products and 16 in sums. Multipliers follow from scales: this module makes them for
training, for kernels and for their NumPy twin. No rounding but these is made, and none depends on the machine.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

# Bits of a degree norm; of a multiplier of codes, and of what it multiplies; of accumulators in products and in sums,
# which leave multipliers the rest of 30; of products and normed numbers at most.
NORM_BITS, CODE_BITS, CODED_BITS, PRODUCT_BITS, SUM_BITS, NUMBER_BITS = 15, 14, 16, 22, 16, 22
# Bits of the fraction of an accumulator's step that a product's unit has at most, of what one message makes, and of the
# fraction that norms add to sums.
_FRACTION, _MESSAGE_BITS, NORM_FRACTION = 8, 10, 4


def _exponent(number):
    """The least e with ``number`` < 2^e."""
    return np.frexp(np.float64(number))[1]


def shifted(a: np.ndarray, shift) -> np.ndarray:
    """a >> shift of int64, rounded to the nearest, halves up."""
    return (a + ((1 << shift) >> 1)) >> shift


def rounded(x: np.ndarray, times) -> np.ndarray:
    """x · times as the nearest whole numbers, halves to even, int64."""
    return np.rint(x.astype(np.float64) * times).astype(np.int64)


def degree_norm(degrees: np.ndarray, power: float, plus: int) -> np.ndarray:
    """(degree + plus)^power for power −1, −½ or ½, with 15 bits, float32; degrees of 0 count as 1."""
    exact = np.maximum(degrees.astype(np.float64) + plus, 1)
    exact = exact if power == -1 else np.sqrt(exact)
    mantissa, exponent = np.frexp(exact if power == 0.5 else 1 / exact)
    return np.ldexp(np.rint(np.ldexp(mantissa, NORM_BITS)), exponent - NORM_BITS).astype(np.float32)


def unit_of_product(scale: np.ndarray, inputs: int, most: float) -> int:
    """The unit of products of ``inputs`` codes with weights; ``most`` bounds one term, ``scale`` is a step's."""
    return int(min(_FRACTION, NUMBER_BITS - _exponent(inputs * most)) - _exponent(scale.max()))


def unit_of_sum(scale: np.ndarray, most: float) -> int:
    """The unit of sums over neighbours of codes on a grid of ``scale``, each of ``most`` steps at most."""
    return int(_MESSAGE_BITS - _exponent(most) - _exponent(scale.max()))


@dataclass(frozen=True)
class Multiplier:
    """What accumulators are multiplied with to become fixed-point numbers of ``unit``.

    Making one raises ValueError where no int32 multiplier and shift lead from scales to the unit.

    Attributes
    ----------
    numbers : numpy.ndarray
        M, (1,) or (columns,) int64.
    shift, bits : int
        s, and how many bits accumulators have after p is dropped.
    term : int
        Largest magnitude of one term of an accumulator.
    unit : int
    """

    numbers: np.ndarray
    shift: int
    bits: int
    term: int
    unit: int

    @classmethod
    def of_products(cls, scale: np.ndarray, inputs: int, most: float, unit: int) -> Multiplier:
        """Of 4 · Σ of ``inputs`` products, each of ``most`` steps of ``scale`` at most."""
        term = int(4 * most)
        bits = int(min(_exponent(inputs * term), PRODUCT_BITS))
        return cls._of(np.ldexp(scale.astype(np.float64) / 4, unit), bits, term, unit, inputs)

    @classmethod
    def of_sums(cls, scale: np.ndarray, most: float, unit: int) -> Multiplier:
        """Of 2 · Σ of codes, each of ``most`` steps of ``scale`` at most."""
        return cls._of(np.ldexp(scale.astype(np.float64) / 2, unit), SUM_BITS, int(2 * most), unit)

    @classmethod
    def _of(cls, ratio, bits, term, unit, count=0):
        dropped = max(int(_exponent(count * term)) - bits, 0)
        shift = 30 - bits - int(_exponent(np.ldexp(ratio.max(), dropped)))
        if not 1 <= shift <= 31 - dropped:
            raise ValueError(f"the unit {unit} is too far from the scales for int32 multipliers and shifts")
        return cls(np.rint(np.ldexp(ratio, dropped + shift)).astype(np.int64), dropped + shift, bits, term, unit)

    def dropped(self, count) -> np.ndarray:
        """p for accumulators of ``count`` terms."""
        return np.clip(_exponent(count * self.term) - self.bits, 0, self.shift - 1)

    def times(self, accumulators: np.ndarray, count) -> np.ndarray:
        """Fixed-point numbers, float32, of (rows, columns) int64 accumulators of ``count`` terms, one or (rows, 1)."""
        dropped, most = self.dropped(count), (1 << self.bits) - 1
        v = shifted(np.clip(shifted(accumulators, dropped), -most, most) * self.numbers, self.shift - dropped)
        return np.ldexp(v.astype(np.float32), -self.unit)


def normed(x: np.ndarray, norm: np.ndarray, unit: int) -> np.ndarray:
    """Rows of fixed-point numbers times their degree norms, (rows,) float32, as such numbers of ``unit``."""
    most = np.float32((1 << NUMBER_BITS) - 1)
    v = np.rint(np.clip(x * np.ldexp(norm, unit)[:, None], -most, most))
    return np.ldexp(v, -unit)


def on_unit(numbers: np.ndarray, unit: int) -> np.ndarray:
    """Numbers, such as biases, as the nearest fixed-point numbers of ``unit``, within 23 bits."""
    v = np.clip(rounded(numbers, 2.0**unit), 1 - (1 << 23), (1 << 23) - 1)
    return np.ldexp(v.astype(np.float32), -unit)


@dataclass(frozen=True)
class Coding:
    """How numbers become codes.

    Attributes
    ----------
    power : numpy.ndarray
        2^unit, (1,) or (columns,) float32.
    numbers, whole : numpy.ndarray
        M and the whole part of offsets, the same, int64.
    shift, added : int
        s, and a half of 2^s, or all of it where offsets are odd halves.
    """

    power: np.ndarray
    numbers: np.ndarray
    whole: np.ndarray
    shift: int
    added: int

    @classmethod
    def of(cls, scale: np.ndarray, offset: np.ndarray, top: int) -> Coding:
        """Of a grid's scale and offset, multiples of ½ from 0 to ``top`` that are all whole or all odd halves."""
        fraction = CODED_BITS - 2 - int(top).bit_length()  # bits of a step
        unit = fraction + 1 - _exponent(scale)
        shift, whole = CODE_BITS + fraction, np.floor(offset.astype(np.float64))
        numbers = np.rint(np.ldexp(1 / scale.astype(np.float64), shift - unit)).astype(np.int64)
        added = 1 << (shift if offset[0] > whole[0] else shift - 1)
        return cls(np.ldexp(np.float32(1), unit), numbers, whole.astype(np.int64), shift, added)

    def codes(self, x: np.ndarray, top: int, norm: np.ndarray | None = None) -> np.ndarray:
        """Codes, uint8, of ``x``, (rows, columns) float32, times degree norms a row if they are given."""
        most = np.float32((1 << CODED_BITS) - 1)
        mantissa, exponent = np.frexp(np.float32(1) if norm is None else norm[:, None])
        with np.errstate(over="ignore"):
            x = x * self.power if norm is None else x * self.power * np.ldexp(np.float32(1), exponent)
        w = np.rint(np.clip(x, -most, most)).astype(np.int64)
        if norm is not None:
            w = shifted(w * np.ldexp(mantissa, NORM_BITS).astype(np.int64), NORM_BITS)
        return np.clip(((w * self.numbers + self.added) >> self.shift) + self.whole, 0, top).astype(np.uint8)


def most_steps(zero_point: np.ndarray, top: int) -> float:
    """The largest magnitude of codes from 0 to ``top``, in steps from their zero points."""
    return float(np.maximum(np.abs(zero_point), np.abs(top - zero_point)).max())


def are_halves(*arrays: np.ndarray) -> bool:
    """Whether numbers are multiples of ½, those of each array all whole or all odd halves."""
    twice = [2 * array.astype(np.float64) for array in arrays]
    return all((part == np.rint(part)).all() and len(set(np.unique(part % 2))) <= 1 for part in twice)
