"""How many CPUs this process may use."""

from __future__ import annotations

import functools
import math
import os
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
    try:
        groups = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return math.inf
    least = math.inf
    for line in groups:
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        mount = root / "sys/fs/cgroup" / ("cpu" if controllers else "")
        place = mount / path.strip("/")
        for folder in (place, *place.parents):  # seen from inside of a container, its own group may be the mount
            least = min(least, _granted(folder))
            if folder == mount:
                break
    return least


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
