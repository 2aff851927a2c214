"""A small vocabulary for writing CUDA kernels with TVM's IRBuilder (the tirx dialect)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from .tir import T, tirx

Expr = Any  # a TIR expression or a Python number

WARP = 32
FULL_MASK = 0xFFFFFFFF
CUDA_KERNEL = "gluonlstm.cuda_kernel"  # marks what the tirx pipeline, not a scheduler, lowers


def kernel_attributes(*, cooperative: bool = False) -> dict[str, Any]:
    """Return the attributes of a PrimFunc that is one kernel.

    ``cooperative``: all its CTAs must run at once, because it has a barrier across the grid.
    """
    attributes: dict[str, Any] = {
        "tirx.noalias": True,
        "tirx.is_scheduled": True,
        CUDA_KERNEL: True,
    }
    if cooperative:
        attributes["tirx.kernel_launch_params"] = ["tirx.use_cooperative_launch"]
    return attributes


def each_slice(thread: Expr, threads: int, count: int) -> Iterator[tuple[int, Expr]]:
    """Share ``count`` items among ``threads``: yield (number of the slice, this thread's item).

    ``threads`` must divide ``count``; neighbours in a slice go to neighbouring threads.
    """
    for number in range(count // threads):
        yield number, thread + number * threads


def sync_threads() -> None:
    """Wait for the CTA's threads; what they wrote to memory is visible after it."""
    T.evaluate(T.cuda.cta_sync())


def sync_grid() -> None:
    """Wait for all the grid's threads; needs a cooperative launch."""
    T.evaluate(T.cuda.grid_sync())


def shuffle_xor(value: Expr, mask: int) -> Expr:
    """Return ``value`` of the lane whose number differs from this one's in the bits of ``mask``."""
    return getattr(T.cuda, "__shfl_xor_sync")(T.uint32(FULL_MASK), value, mask, WARP)


def shuffle(value: Expr, lane: Expr) -> Expr:
    """Return ``value`` of lane ``lane``."""
    return getattr(T.cuda, "__shfl_sync")(T.uint32(FULL_MASK), value, lane, WARP)


def warp_sum(value: Expr) -> Expr:
    """Return the sum of ``value`` over the warp's lanes, in each of them."""
    mask = WARP // 2
    while mask:
        value = T.bind(value + shuffle_xor(value, mask))
        mask //= 2
    return value


def reduce_scatter(sums: Any, count: int, lane: Expr) -> None:
    """Sum each of ``count`` = 32 registers over the warp; lane l gets the l-th sum, in sums[0].

    Each round halves the registers: a lane keeps the half that its number's bit selects, and gives
    the other half to the lane that keeps that. 31 shuffles in place of 5 * 32.
    """
    half = count // 2
    while half:
        upper = T.bind((lane // half) % 2 == 1)
        for index in range(half):
            low, high = (tirx.BufferLoad(sums, [index + offset]) for offset in (0, half))
            kept = tirx.Select(upper, high, low)
            given = T.bind(tirx.Select(upper, low, high))
            T.buffer_store(sums, kept + shuffle_xor(given, half), [index])
        half //= 2


@contextmanager
def when(condition: Expr) -> Iterator[None]:
    """Run the body if ``condition`` holds."""
    with T.If(condition), T.Then():
        yield
