"""The machine that is measured on: what it is, and whether it was busy with something else."""

from __future__ import annotations

import os
import platform
import re
import resource
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gluonlstm.machine import available_cores, available_cpus

CPU = Path("/sys/devices/system/cpu")
BUSY_SHARE = 0.05  # of the CPU time that went to others while it ran


def cores() -> list[int]:
    """Return one CPU of each core that this process may use, at most as many as it may keep busy.

    Hyper-threads of one core are one: they share its vector units.
    """
    first = {_read(CPU / f"cpu{cpu}/topology/thread_siblings_list") or str(cpu): cpu
             for cpu in reversed(available_cpus())}  # fmt: skip
    return sorted(first.values())[: available_cores()]


def describe() -> dict[str, Any]:
    """Return what is worth knowing about the machine, JSON-ready."""
    return {
        "cpu": cpu_name(),
        "cpus": os.cpu_count(),
        "cores_used": len(cores()),
        "caches": caches(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "system": platform.platform(),
        "python": platform.python_version(),
    }


def cpu_name() -> str:
    """Return the CPU's model as the system names it."""
    match = re.search(r"(?m)^model name\s*:\s*(.+)$", _read(Path("/proc/cpuinfo")))
    return match[1] if match else platform.processor() or platform.machine()


def caches() -> list[dict[str, Any]]:
    """Return level, kind, size and the CPUs that share it, of each cache of the first CPU."""
    found = []
    for folder in sorted((CPU / f"cpu{available_cpus()[0]}/cache").glob("index*")):
        fields = ("level", "type", "size", "shared_cpu_list")
        level, kind, size, shared = (_read(folder / field) for field in fields)
        found.append({"level": level, "kind": kind, "size": size, "shared_by_cpus": shared})
    return found


def label() -> str:
    """Return a name for the machine that can be part of a file's: its CPU and its cores."""
    name = re.sub(r"\((R|TM)\)|CPU|Processor|@.*", "", cpu_name())
    words = re.findall(r"[a-z0-9.]+", name.lower())
    return "-".join([*words, f"{len(cores())}cores"])


def load_average() -> float:
    """Return the load average of the last minute."""
    return os.getloadavg()[0]


@dataclass(frozen=True)
class Usage:
    """CPU seconds since the machine started: of all processes, stolen by the host, and our own."""

    at_s: float
    all_s: float
    stolen_s: float
    own_s: float


def usage() -> Usage | None:
    """Return the counters now; None where the system has none. Own are those that have ended."""
    fields = _read(Path("/proc/stat")).partition("\n")[0].split()
    if len(fields) < 9:
        return None
    user, nice, system, _, _, irq, softirq, stolen = map(int, fields[1:9])
    tick = 1 / os.sysconf("SC_CLK_TCK")
    own = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return Usage(
        at_s=time.monotonic(),
        all_s=(user + nice + system + irq + softirq) * tick,
        stolen_s=stolen * tick,
        own_s=sum(part.ru_utime + part.ru_stime for part in own),
    )


def others_share(before: Usage | None, after: Usage | None) -> float | None:
    """Return which share of the machine's CPU time others took, the host included."""
    if before is None or after is None or after.at_s <= before.at_s:
        return None
    total = (after.at_s - before.at_s) * (os.cpu_count() or 1)
    everyone = after.all_s - before.all_s + after.stolen_s - before.stolen_s
    return min(1.0, max(0.0, everyone - (after.own_s - before.own_s)) / total)


def others_share_of_block(before: Usage | None, after: Usage | None, own_s: float) -> float | None:
    """Return the same while one process, which took ``own_s`` CPU seconds, was measured."""
    if before is None or after is None:
        return None
    return others_share(replace(before, own_s=0.0), replace(after, own_s=own_s))


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
