"""What a bench ran on, and what it says while it runs."""

from __future__ import annotations

import os
import platform
import sys
from importlib.metadata import version
from pathlib import Path


def describe_machine() -> dict:
    """Processor and versions."""
    processor = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        names = [
            line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")
        ]
        processor = names[0] if names else processor
    packages = {name: version(name) for name in ("dgl", "torch", "numba", "numpy")}
    return {"processor": processor, "cores": os.cpu_count(), "python": platform.python_version(), **packages}


def say(progress, line):
    if progress:
        print(line, file=sys.stderr, flush=True)


def machine_line(machine: dict) -> str:
    """:func:`describe_machine` in a line."""
    return (
        f"{machine['processor']}, {machine['cores']} cores; Python {machine['python']}, DGL {machine['dgl']}, "
        f"torch {machine['torch']}, Numba {machine['numba']}"
    )
