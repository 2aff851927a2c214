"""Time calls: how often, from a time budget; and what is said about the samples.

A call is timed as a whole, with ``time.perf_counter``, from Python: what its caller waits. Loops
are not amortised, so each sample holds one call and some 50 ns for reading the clock.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

FEWEST_SAMPLES = 3  # of a call that is longer than the whole budget
MOST_SAMPLES = 1000  # more would only make the files larger
WARM_UP_SHARE = 0.2  # of the budget, before the first sample that counts


@dataclass(frozen=True)
class Schedule:
    """How often to make a call: ``warm_ups`` uncounted times, then ``samples`` counted ones."""

    warm_ups: int
    samples: int


@dataclass(frozen=True)
class Summary:
    """Samples in short; all times in seconds."""

    samples: int
    median_s: float
    low_s: float  # 10 % of the samples are faster
    high_s: float  # 10 % of the samples are slower
    fastest_s: float


def schedule(estimate_s: float, budget_s: float) -> Schedule:
    """Return the numbers of calls of about ``estimate_s`` seconds that fill ``budget_s``.

    Both are bounded: at least one warm-up and FEWEST_SAMPLES, at most MOST_SAMPLES of either.
    """
    calls = MOST_SAMPLES if estimate_s <= 0 else budget_s / estimate_s
    return Schedule(
        warm_ups=max(1, min(MOST_SAMPLES, int(WARM_UP_SHARE * calls))),
        samples=max(FEWEST_SAMPLES, min(MOST_SAMPLES, int(calls))),
    )


def estimate(call: Callable[[], Any], calls: int = 5, budget_s: float = 0.2) -> float:
    """Return about how many seconds a call takes: the fastest of a few.

    Fewer than ``calls`` are made if they take longer than ``budget_s`` together. The first, which
    may allocate or compile, counts only if it is the only one.
    """
    first = time_once(call)
    times: list[float] = []
    while len(times) < calls - 1 and first + sum(times) < budget_s:
        times.append(time_once(call))
    return min(times, default=first)


def time_once(call: Callable[[], Any]) -> float:
    """Return the seconds that one call takes."""
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def measure(call: Callable[[], Any], budget_s: float, estimate_s: float = 0.0) -> list[float]:
    """Return the seconds of each of as many calls as fill the budget, after a warm-up.

    ``estimate_s`` is about what a call takes, 0 if that is not known.
    """
    plan = schedule(estimate_s or estimate(call), budget_s)
    for _ in range(plan.warm_ups):
        call()
    return [time_once(call) for _ in range(plan.samples)]


def summarise(blocks: Sequence[Sequence[float]]) -> Summary:
    """Summarise blocks of samples: the median is that of the blocks' medians.

    So every block counts alike, however many calls fitted into it. The other quantiles are those of
    all samples. Raises ValueError if there are no samples, or an empty block.
    """
    if not blocks or not all(blocks):
        raise ValueError("there must be samples in every block.")
    samples = sorted(sample for block in blocks for sample in block)
    return Summary(
        samples=len(samples),
        median_s=statistics.median(map(statistics.median, blocks)),
        low_s=quantile(samples, 0.1),
        high_s=quantile(samples, 0.9),
        fastest_s=samples[0],
    )


def quantile(ordered: Sequence[float], share: float) -> float:
    """Return the value that ``share`` of the ordered samples lie below, interpolated."""
    place = share * (len(ordered) - 1)
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (place - low) * (ordered[high] - ordered[low])


def geometric_mean(ratios: Sequence[float]) -> float:
    """Return the geometric mean, NaN of nothing."""
    return math.exp(statistics.fmean(map(math.log, ratios))) if ratios else math.nan
