"""Facts about this computer: what its CPU can do, and how many cores this process may use."""

from __future__ import annotations

import functools
import math
import os
from pathlib import Path

_CPUINFO = Path("/proc/cpuinfo")
_TOPOLOGY = Path("/sys/devices/system/cpu")
_CGROUP = Path("/sys/fs/cgroup")
_OWN_CGROUP = Path("/proc/self/cgroup")


@functools.cache
def cpu_flags() -> frozenset[str] | None:
    """Return the CPU's flags as /proc/cpuinfo names them, None where there is no such file.

    They tell what the CPU has and the kernel has enabled.
    """
    try:
        lines = _CPUINFO.read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        key, _, value = line.partition(":")
        if key.strip() in ("flags", "Features"):  # x86, Arm
            return frozenset(value.split())
    return None


def available_cores() -> int:
    """Count the physical cores that this process may keep busy, at least 1.

    Those it may be scheduled on, not counting hyper-threads apart (two of them share one vector
    unit), and no more than the container's CPU quota: threads that wait for each other at barriers
    lose most when some of them are stopped.
    """
    cores = {_core(cpu) for cpu in available_cpus()}
    return max(1, int(min(len(cores), _quota())))


def available_cpus() -> list[int]:
    """Return the ids of the logical CPUs that this process may be scheduled on."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def _core(cpu: int) -> str:
    """Return the ids of the hyper-threads that share a core with this one, as the kernel does."""
    try:
        return (_TOPOLOGY / f"cpu{cpu}/topology/thread_siblings_list").read_text().strip()
    except OSError:
        return str(cpu)


def _quota() -> float:
    """Return the number of CPUs that the control groups allow, infinite if they set no limit."""
    least = math.inf
    for folder in _cgroups():
        for read in (_quota_v2, _quota_v1):
            try:
                allowed, period = read(folder)
            except (OSError, ValueError):
                continue
            if allowed > 0 and period > 0:
                least = min(least, math.ceil(allowed / period))
    return least


def _cgroups() -> set[Path]:
    """Return the folders of this process's control groups and of those around them."""
    folders = {_CGROUP, _CGROUP / "cpu", _CGROUP / "cpu,cpuacct"}
    try:
        lines = _OWN_CGROUP.read_text().splitlines()
    except OSError:
        return folders
    for line in lines:
        _, controllers, name = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        own = _CGROUP / controllers / name.lstrip("/")
        folders.update(folder for folder in (own, *own.parents) if folder.is_relative_to(_CGROUP))
    return folders


def _quota_v2(folder: Path) -> tuple[int, int]:
    allowed, period = (folder / "cpu.max").read_text().split()
    return int(allowed), int(period)  # "max" is a ValueError: no limit


def _quota_v1(folder: Path) -> tuple[int, int]:
    allowed = int((folder / "cpu.cfs_quota_us").read_text())  # -1: no limit
    return allowed, int((folder / "cpu.cfs_period_us").read_text())
