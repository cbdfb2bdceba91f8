"""How many CPUs this process may really use.

The host's core count is what Python and ONNX Runtime see; a container's quota and affinity are what the kernel
grants. Threads beyond that only make each other wait.
"""

import contextlib
import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Cpus:
    """The CPUs to plan with, and why.

    Attributes:
        count: whole CPUs, at least 1.
        reason: for ``/health``: what limits the count.
    """

    count: int
    reason: str


def usable_cpus(proc: Path = Path("/proc"), cgroups: Path = Path("/sys/fs/cgroup")) -> Cpus:
    """The smaller of the affinity mask and the CPU quota of the process's cgroup, v2 or v1.

    A quota of 1.5 CPUs gives 2: two threads can use it up, one cannot.
    """
    affinity = len(os.sched_getaffinity(0))
    quota = cgroup_quota(proc, cgroups)
    if quota is not None and math.ceil(quota) < affinity:
        return Cpus(max(1, math.ceil(quota)), f"cgroup quota of {quota:g} CPUs, {affinity} in the affinity mask")
    return Cpus(affinity, f"{affinity} CPUs in the affinity mask, {'no' if quota is None else 'a larger'} cgroup quota")


def yield_to_everybody() -> None:
    """Lets the calling thread run only where a CPU is idle (sched(7), SCHED_IDLE), as far as the system allows it."""
    with contextlib.suppress(OSError):
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))


def cgroup_quota(proc: Path, cgroups: Path) -> float | None:
    """CPUs that the cgroup and its parents grant (the smallest), or None where nothing limits them.

    Sources: cgroup v2 ``cpu.max`` ("$MAX $PERIOD", kernel Documentation/admin-guide/cgroup-v2.rst), cgroup v1
    ``cpu.cfs_quota_us`` and ``cpu.cfs_period_us`` (Documentation/scheduler/sched-bwc.rst).
    """
    return cgroup_limit(proc, cgroups, "cpu", _quota_v2, _quota_v1)


def cgroup_limit(
    proc: Path,
    cgroups: Path,
    controller: str,
    read_v2: Callable[[Path], float | None],
    read_v1: Callable[[Path], float | None],
) -> float | None:
    """The smallest limit that the cgroup and its parents set, or None where nothing does.

    Args:
        proc: where procfs is mounted.
        cgroups: where the cgroup file systems are mounted.
        controller: whose limit, e.g. ``cpu``.
        read_v2: reads the limit in a directory of cgroup v2; None where there is none.
        read_v1: the same for v1.
    """
    try:
        lines = (proc / "self" / "cgroup").read_text().splitlines()
    except OSError:
        return None
    limits = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            root, read = cgroups, read_v2
        elif controller in controllers.split(","):
            root, read = cgroups / controllers, read_v1
        else:
            continue
        # In a container the path may name a directory that only the host sees; its own limits are then at the root.
        here = root / path.lstrip("/")
        for directory in [here, *here.parents]:
            if (limit := read(directory)) is not None:
                limits.append(limit)
            if directory == root:
                break
    return min(limits, default=None)


def _quota_v2(directory: Path) -> float | None:
    try:
        limit, period = (directory / "cpu.max").read_text().split()
        return None if limit == "max" else int(limit) / int(period)
    except (OSError, ValueError):
        return None


def _quota_v1(directory: Path) -> float | None:
    try:
        limit = int((directory / "cpu.cfs_quota_us").read_text())
        period = int((directory / "cpu.cfs_period_us").read_text())
        return None if limit <= 0 else limit / period
    except (OSError, ValueError):
        return None
