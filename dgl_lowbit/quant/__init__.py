"""Quantisers: float32 tensors in, fake-quantised tensors, codes and scales out."""

from __future__ import annotations

from typing import Callable

from .base import Quantizer
from .format import FLOAT_BITS, SUPPORTED_BITS, QFormat, QParams
from .observer import NotCalibratedError, Observer
from .qlr import QLRQuantizer, alpha_candidates
from .truncation import TruncationQuantizer, skewness

_QUANTIZERS: dict[str, Callable[..., Quantizer]] = {}


def register_quantizer(name: str, factory: Callable[..., Quantizer]) -> None:
    """Make ``QuantConfig(quantizer=name)`` build its quantisers with ``factory(bits, **options)``.

    Parameters
    ----------
    name : str
        One that is known already is replaced.
    factory : callable
        Makes a :class:`Quantizer`, which says what one of one's own states. ``options`` are those of
        :class:`Quantizer` and ``grid``.
    """
    _QUANTIZERS[name] = factory


def quantizer_names() -> tuple[str, ...]:
    """Names that ``QuantConfig(quantizer=…)`` accepts.

    Returns
    -------
    tuple of str

    Examples
    --------
    >>> quantizer_names()
    ('bt', 'bt*', 'qlr')
    """
    return tuple(sorted(_QUANTIZERS))


def make_quantizer(name: str, bits: int, **options) -> Quantizer:
    """Build the quantiser registered as ``name``.

    Parameters
    ----------
    name : str
        One of :func:`quantizer_names`.
    bits : int
        1, 2, 3, 4, 8, or 32 for none.
    **options
        Those of :class:`Quantizer`, and ``grid``.

    Returns
    -------
    Quantizer

    Raises
    ------
    ValueError
        For an unknown name.
    """
    if name not in _QUANTIZERS:
        raise ValueError(f"quantizer must be one of {', '.join(quantizer_names())}, got {name!r}.")
    return _QUANTIZERS[name](bits, **options)


register_quantizer("qlr", QLRQuantizer)
register_quantizer("bt", TruncationQuantizer)
register_quantizer("bt*", lambda bits, **options: TruncationQuantizer(bits, skew_aware=True, **options))

__all__ = [
    "FLOAT_BITS",
    "SUPPORTED_BITS",
    "NotCalibratedError",
    "Observer",
    "QFormat",
    "QLRQuantizer",
    "QParams",
    "Quantizer",
    "TruncationQuantizer",
    "alpha_candidates",
    "make_quantizer",
    "quantizer_names",
    "register_quantizer",
    "skewness",
]
