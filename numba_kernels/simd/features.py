"""Which instructions multiply bytes on the machine that code is generated for."""

from __future__ import annotations

import numba
from llvmlite import binding

# From the fastest on: instructions, and the features, as LLVM names them, that a machine must have for them.
_DOT_PRODUCTS = {
    "avx512vnni": {"avx512f", "avx512bw", "avx512vnni"},
    "avxvnni": {"avx2", "avxvnni"},
    "i8mm": {"neon", "i8mm"},
    "dotprod": {"neon", "dotprod"},
    "avx2": {"avx2"},
}
# Features of processors that Numba may be told to generate code for by name (NUMBA_CPU_NAME).
_PROCESSORS = {
    "haswell": {"avx2"},
    "x86-64-v3": {"avx2"},
    "x86-64-v4": {"avx2", "avx512f", "avx512bw"},
}


def features_of(name: str | None, given: str | None, host: dict[str, bool]) -> set[str]:
    """Features of the machine that code is generated for.

    Parameters
    ----------
    name, given : str, optional
        A processor and features ("+avx2,-fma", …) that Numba is told to generate code for. Without either it is this
        machine.
    host : dict
        Features of this machine.

    Examples
    --------
    >>> sorted(features_of("haswell", "+avxvnni", {"avx512f": True}))
    ['avx2', 'avxvnni']
    """
    if not name and not given:
        return {feature for feature, has in host.items() if has}
    known, asked = set(_PROCESSORS.get(name, ())), (given or "").split(",")
    known |= {feature[1:] for feature in asked if feature.startswith("+")}
    return known - {feature[1:] for feature in asked if feature.startswith("-")}


def dot_product_of(features: set[str]) -> str:
    """The instructions that multiply bytes fastest: "avx512vnni", "avxvnni", "i8mm", "dotprod", "avx2" or "generic".

    Examples
    --------
    >>> dot_product_of({"avx2", "avx512f"}), dot_product_of(set())
    ('avx2', 'generic')
    """
    return next((name for name, needed in _DOT_PRODUCTS.items() if needed <= features), "generic")


DOT_PRODUCT = dot_product_of(
    features_of(numba.config.CPU_NAME, numba.config.CPU_FEATURES, dict(binding.get_host_cpu_features()))
)
