"""What a bench ran on, and what it says while it runs."""

from __future__ import annotations

import os
import platform
import sys
from importlib.metadata import version
from pathlib import Path

from llvmlite import binding


def processor_name() -> str:
    """What the processor calls itself."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def has_bfloat16() -> bool:
    """Whether the processor has instructions for bfloat16, which others emulate, slower than float32."""
    features = binding.get_host_cpu_features()
    return any(features.get(name, False) for name in ("avx512bf16", "amx-bf16", "bf16"))


def describe_machine() -> dict:
    """Processor and versions."""
    packages = {name: version(name) for name in ("dgl", "torch", "numba", "numpy")}
    return {"processor": processor_name(), "cores": os.cpu_count(), "python": platform.python_version(), **packages}


def say(progress, line):
    if progress:
        print(line, file=sys.stderr, flush=True)


def machine_line(machine: dict) -> str:
    """:func:`describe_machine` in a line."""
    return (
        f"{machine['processor']}, {machine['cores']} cores; Python {machine['python']}, DGL {machine['dgl']}, "
        f"torch {machine['torch']}, Numba {machine['numba']}"
    )
