"""Facts about the machine, read from files like the kernel's."""

from __future__ import annotations

import math
import os

import pytest

from gluonlstm import machine, worker_threads
from gluonlstm.errors import InvalidArgumentError


@pytest.fixture
def kernel(tmp_path, monkeypatch):
    """Stand-ins for /proc and /sys; returns a function that writes one of their files."""
    places = {"cpuinfo": "_CPUINFO", "cpu": "_TOPOLOGY", "cgroup": "_CGROUP", "own": "_OWN_CGROUP"}
    for name, attribute in places.items():
        monkeypatch.setattr(machine, attribute, tmp_path / name)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3}, raising=False)
    machine.cpu_flags.cache_clear()

    def write(path, text):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)

    yield write
    machine.cpu_flags.cache_clear()


@pytest.mark.parametrize(
    ("text", "flags"),
    [
        ("processor\t: 0\nflags\t\t: fpu avx2\n\nprocessor: 1\nflags: fpu\n", {"fpu", "avx2"}),
        ("processor\t: 0\nFeatures\t: fp asimd sve\n", {"fp", "asimd", "sve"}),
        ("processor\t: 0\n", None),
    ],
)  # fmt: skip
def test_cpu_flags(kernel, text, flags):
    kernel("cpuinfo", text)
    assert machine.cpu_flags() == flags


def test_no_cpuinfo(kernel):
    assert machine.cpu_flags() is None


def test_this_machine():
    assert machine.available_cores() >= 1
    assert machine.available_cpus()
    flags = machine.cpu_flags()
    assert flags is None or len(flags) > 5


def test_hyper_threads_are_one_core(kernel):
    assert machine.available_cores() == 4  # nothing known: each CPU is a core
    for cpu, siblings in enumerate(["0,2", "1,3", "0,2", "1,3"]):
        kernel(f"cpu/cpu{cpu}/topology/thread_siblings_list", siblings + "\n")
    assert machine.available_cores() == 2


@pytest.mark.parametrize(
    ("path", "text", "cores"),
    [
        ("cgroup/cpu.max", "250000 100000\n", 3),
        ("cgroup/cpu.max", "50000 100000\n", 1),
        ("cgroup/cpu.max", "max 100000\n", 4),
        ("cgroup/cpu.max", "garbage\n", 4),
        ("cgroup/cpu/cpu.cfs_quota_us", "-1\n", 4),
        ("cgroup/cpu/cpu.cfs_quota_us", "200000\n", 2),
        ("cgroup/a/cpu.max", "100000 100000\n", 1),  # of an outer group
        ("cgroup/a/b/cpu.max", "200000 100000\n", 2),
        ("cgroup/cpu,cpuacct/c/cpu.cfs_quota_us", "100000\n", 1),
        ("cgroup/memory/d/cpu.max", "100000 100000\n", 4),  # of another controller
    ],
)
def test_quotas(kernel, path, text, cores):
    kernel("own", "0::/a/b\n3:cpu,cpuacct:/c\n4:memory:/d\n")
    kernel(path, text)
    for folder in ("cpu", "cpu,cpuacct/c"):
        kernel(f"cgroup/{folder}/cpu.cfs_period_us", "100000\n")
    assert machine.available_cores() == cores


def test_no_quota(kernel):
    assert machine._quota() == math.inf


# --- number of threads ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("variables", "count"),
    [
        ({}, 4),
        ({"OMP_NUM_THREADS": "3"}, 3),
        ({"OMP_NUM_THREADS": "3,2"}, 3),
        ({"OMP_NUM_THREADS": "3", "TVM_NUM_THREADS": "5"}, 5),
        ({"OMP_NUM_THREADS": "3", "GLUONLSTM_NUM_THREADS": " 7 "}, 7),
        ({"OMP_NUM_THREADS": "many"}, 4),
        ({"OMP_NUM_THREADS": "0"}, 4),
        ({"OMP_NUM_THREADS": ""}, 4),
    ],
)
def test_default_number_of_threads(kernel, monkeypatch, variables, count):
    for name in worker_threads.VARIABLES:
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert worker_threads.check_count(None) == count
    assert worker_threads.check_count(2) == 2


@pytest.mark.parametrize("count", [0, -1, 1.5, "2", True])
def test_wrong_number_of_threads(count):
    with pytest.raises(InvalidArgumentError, match="must be a whole number of at least 1"):
        worker_threads.check_count(count)
