"""How many CPUs this process may use, and how much memory."""

from __future__ import annotations

import contextlib
import functools
import math
import os
from collections.abc import Iterator
from pathlib import Path


def available_cpus() -> int:
    """CPUs that this process may use: those it is bound to, and what the quota of its container comes to."""
    if hasattr(os, "process_cpu_count"):  # from Python 3.13 on; honours PYTHON_CPU_COUNT
        cpus = os.process_cpu_count()
    else:
        cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(int(min(cpus or 1, quota())), 1)


@functools.cache
def quota(root: Path = Path("/")) -> float:
    """CPUs that control groups grant, rounded up, the least of the process's group and those around it.

    Reads ``cpu.max`` (version 2) or ``cpu.cfs_quota_us`` (version 1); infinity where nothing is set.
    """
    return min(map(_granted, _groups("cpu", root)), default=math.inf)


def available_memory(root: Path = Path("/")) -> int:
    """Bytes of memory that this process may use: what is free, and what control groups grant, whatever uses it now.

    Reads ``memory.max`` (version 2) or ``memory.limit_in_bytes`` (version 1); 2^63 − 1 where nothing is known.
    """
    least = 2**63 - 1
    with contextlib.suppress(OSError, ValueError, StopIteration):
        lines = (root / "proc/meminfo").read_text().splitlines()
        least = 1024 * int(next(line.split()[1] for line in lines if line.startswith("MemAvailable:")))
    for folder in _groups("memory", root):
        for name in ("memory.max", "memory.limit_in_bytes"):
            with contextlib.suppress(OSError, ValueError):  # "max" is no number
                least = min(least, int((folder / name).read_text()))
    return least


def _groups(controller: str, root: Path) -> Iterator[Path]:
    """The folder of the control group that governs this process, and those around it."""
    try:
        groups = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in groups:
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        mount = root / "sys/fs/cgroup" / (controller if controllers else "")
        place = mount / path.strip("/")
        for folder in (place, *place.parents):  # seen from inside of a container, its own group may be the mount
            yield folder
            if folder == mount:
                break


def _granted(folder):
    try:
        limit, period = (folder / "cpu.max").read_text().split()
    except (OSError, ValueError):
        try:
            limit, period = ((folder / f"cpu.cfs_{name}_us").read_text().strip() for name in ("quota", "period"))
        except OSError:
            return math.inf
    is_limited = limit.isdigit() and period.isdigit() and int(limit) > 0 < int(period)
    return math.ceil(int(limit) / int(period)) if is_limited else math.inf
