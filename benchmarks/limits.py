"""What the machine can do at most, measured; and the least time that a case can take on it."""

from __future__ import annotations

import itertools
import math
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from benchmarks.cases import Case

SOURCE = Path(__file__).with_name("machine_limits.c")
FLAGS = ("-O3", "-march=native", "-ffp-contract=fast", "-pthread")
# Read by each thread: the last one is larger than any cache but a server's.
SIZES_BYTES = tuple(
    kib << 10
    for kib in (
        *(16, 32, 64, 128, 256, 512, 768, 1024, 1536, 2048, 4096),
        *(8192, 12288, 16384, 24576, 32768, 65536, 131072),
    )
)
ROUND_MS = 10
LONGEST_S = 120


@dataclass(frozen=True)
class Limits:
    """Rates of ``threads`` threads together, each pinned to a core of its own.

    ``read`` holds (bytes that each thread reads again and again, GB/s of all), smallest first.
    """

    threads: int
    fma_gflops: float
    read: tuple[tuple[int, float], ...]

    def read_gb_per_s(self, bytes_per_thread: float) -> float:
        """Return the bandwidth for a working set of this many bytes.

        Between two sizes that were measured it is interpolated over the logarithm of the size:
        where a cache ends, neighbours differ by a factor of two, and either would mislead.
        """
        sizes, rates = zip(*self.read, strict=True)
        place = math.log(max(1.0, bytes_per_thread))
        return float(np.interp(place, [math.log(size) for size in sizes], rates))


def measure(cpus: Sequence[Sequence[int]], compiler: str = "cc") -> Iterator[Limits]:
    """Measure the limits with a thread on each of these CPUs, one list after the other.

    Raises RuntimeError if the C program cannot be compiled or run, and says why.
    """
    with TemporaryDirectory(prefix="gluonlstm-") as folder:
        program = str(Path(folder, "machine_limits"))
        _run([compiler, *FLAGS, str(SOURCE), "-o", program])
        for chosen in cpus:
            command = [program, ",".join(map(str, chosen))]
            fma = _rates(_run([*command, "fma", str(ROUND_MS)]))
            read = _rates(_run([*command, "read", str(ROUND_MS), *map(str, SIZES_BYTES)]))
            yield Limits(len(chosen), fma[0], tuple(zip(SIZES_BYTES, read, strict=True)))


def _rates(text: str) -> list[float]:
    return [float(line) for line in text.split()]


def _run(command: Iterable[str]) -> str:
    words = list(command)
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=LONGEST_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise RuntimeError(f"{words[0]}: {error}") from error
    if done.returncode:
        raise RuntimeError(f"{words[0]} ended with {done.returncode}: {done.stderr.strip()[-300:]}")
    return done.stdout


@dataclass(frozen=True)
class Bound:
    """The least seconds that a case can take, and what they go to.

    ``input_s`` is the input GEMMs, ``steps_s`` the recurrence; each is limited either by the FMA
    units or by reading the weights. ``limit`` says by which the larger part is.
    """

    input_s: float
    steps_s: float
    limit: str  # "FMA" or "weights"

    @property
    def total_s(self) -> float:
        """Both parts."""
        return self.input_s + self.steps_s


def bound(case: Case, limits: Limits) -> Bound:
    """Return the roofline of a case on a machine.

    That is::

        sum over layers of   max(input_flops / F,  input_weight_bytes / B(slice of them))
                     + T *   max(step_flops  / F,  step_weight_bytes  / B(slice of them))

    F is the FMA rate. B(slice) is the read bandwidth for a working set of the weights' bytes
    divided by the threads: each thread keeps its slice in the cache that is large enough for it.
    The input's weights are read once for all steps, the recurrent ones (and the projection's) in
    each. Left out, so that it is a bound: the cell update, reading and writing activations, the
    barrier of each step, and what other layers' weights push out of the caches.
    """
    parts: dict[str, list[tuple[float, float]]] = {"input": [], "steps": []}
    for cost in case.layers():
        parts["input"].append(_times(cost.input_flops, cost.input_weight_bytes, limits))
        step = _times(cost.step_flops, cost.step_weight_bytes, limits)
        parts["steps"].append((case.T * step[0], case.T * step[1]))
    input_s, steps_s = (sum(map(max, pairs)) for pairs in parts.values())
    larger = parts["input"] if input_s > steps_s else parts["steps"]
    by_fma = sum(flops_s for flops_s, _ in larger) >= sum(weights_s for _, weights_s in larger)
    return Bound(input_s, steps_s, "FMA" if by_fma else "weights")


def _times(flops: int, weight_bytes: int, limits: Limits) -> tuple[float, float]:
    """Return the seconds for the operations, and those for reading the weights."""
    bandwidth = limits.read_gb_per_s(weight_bytes / limits.threads)
    return flops / (limits.fma_gflops * 1e9), weight_bytes / (bandwidth * 1e9)


def spread(cpus: Sequence[int], threads: int) -> list[int]:
    """Choose CPUs for some threads: the first ones, again from the start if there are too few."""
    return list(itertools.islice(itertools.cycle(cpus), threads))
