"""Schedules for the operators around an LSTM, which TVM generates as plain loops."""

from __future__ import annotations

from typing import Any

from tvm import s_tir, tirx
from tvm.s_tir import dlight
from tvm.s_tir.dlight.analysis import normalize_prim_func
from tvm.s_tir.dlight.base import try_inline

THREADS = 256  # of a CTA
MOST_CTAS = 528  # enough for 4 CTAs on each of 132 multiprocessors


class GridStride(dlight.base.ScheduleRule):
    """Share independent elements among a fixed number of CTAs, each striding over the grid.

    For functions without reductions: casts, transpositions, concatenation, zeros. The number of
    CTAs does not depend on free sizes, because a launch of none, for N = 0, is an error.
    """

    def apply(self, func: tirx.PrimFunc, target: Any, tunable: bool) -> s_tir.Schedule | None:
        """Return the scheduled function; None if it reduces, or is no plain loops."""
        schedule = s_tir.Schedule(func)
        infos = normalize_prim_func(schedule)
        if infos is None:
            return None
        infos = try_inline(schedule, infos)
        if not all(info.is_injective() for info in infos):
            return None
        for info in infos:
            _bind(schedule, info.block_rv)
        return schedule


def default_schedules() -> Any:
    """Return the pass that schedules every function that is not scheduled already.

    Reductions and products get TVM's general rules. Its rule for matrix products is left out: for
    float16 it ends the compiler with a segmentation fault (TVM 0.27), and no LSTM needs it.
    """
    gpu = dlight.gpu
    rules = (GridStride(), gpu.Reduction(), gpu.GeneralReduction(), gpu.Fallback())
    return dlight.ApplyDefaultSchedule(*rules)


def _bind(schedule: Any, block: Any) -> None:
    loops = schedule.get_loops(block) or [schedule.add_unit_loop(block)]
    fused = schedule.fuse(*loops)
    extent = schedule.get(fused).extent
    ctas = MOST_CTAS
    if isinstance(extent, tirx.IntImm):
        ctas = min(ctas, max(1, -(-int(extent.value) // THREADS)))
    stride, cta, thread = schedule.split(fused, [None, ctas, THREADS])
    schedule.reorder(cta, thread, stride)
    schedule.bind(cta, "blockIdx.x")
    schedule.bind(thread, "threadIdx.x")
