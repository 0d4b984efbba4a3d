"""Quantisers: float32 tensors in, fake-quantised tensors, codes and scales out."""

from __future__ import annotations

from typing import Callable

from .base import Quantizer
from .dead_zone import DeadZone
from .format import FLOAT_BITS, SUPPORTED_BITS, QFormat, QParams
from .groups import GroupQuantizer
from .learned import LearnedBitsQuantizer
from .levels import LevelsQuantizer
from .observer import NotCalibratedError, Observer
from .qlr import QLRQuantizer, alpha_candidates
from .signs import SignQuantizer
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

    Raises
    ------
    TypeError
        When ``name`` is no string, or ``factory`` cannot be called.
    """
    if not isinstance(name, str) or not callable(factory):
        raise TypeError(
            f"register_quantizer(name, factory) takes a string and a Quantizer subclass, got {name!r} and {factory!r}."
        )
    _QUANTIZERS[name] = factory


def quantizer_names() -> tuple[str, ...]:
    """Names that ``QuantConfig(quantizer=…)`` accepts.

    Returns
    -------
    tuple of str

    Examples
    --------
    >>> quantizer_names()
    ('bt', 'bt*', 'hgq', 'qlr')
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


def _with_learned_range(bits: int, *, grid: str = "auto", **options) -> Quantizer:
    if options.get("granularity") == "group":
        return GroupQuantizer(bits, grid=grid, **options)
    return {"sign": SignQuantizer, "levels": LevelsQuantizer}.get(grid, QLRQuantizer)(bits, grid=grid, **options)


register_quantizer("qlr", _with_learned_range)
register_quantizer("hgq", LearnedBitsQuantizer)
register_quantizer("bt", TruncationQuantizer)
register_quantizer("bt*", lambda bits, **options: TruncationQuantizer(bits, skew_aware=True, **options))

__all__ = [
    "FLOAT_BITS",
    "SUPPORTED_BITS",
    "DeadZone",
    "GroupQuantizer",
    "LearnedBitsQuantizer",
    "LevelsQuantizer",
    "NotCalibratedError",
    "Observer",
    "QFormat",
    "QLRQuantizer",
    "QParams",
    "Quantizer",
    "SignQuantizer",
    "TruncationQuantizer",
    "alpha_candidates",
    "make_quantizer",
    "quantizer_names",
    "register_quantizer",
    "skewness",
]
