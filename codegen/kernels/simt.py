"""A small vocabulary for writing CUDA kernels with TVM's IRBuilder (the tirx dialect)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from .layer import LSTMLayerShape
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


# --- what the LSTM kernels have in common ------------------------------------------------------


def declare_states(kernel: Any, shape: LSTMLayerShape, argument: Callable[..., Any]) -> None:
    """Declare h0, c0, [lengths], row0, y, h_n, c_n, in this order, as attributes of ``kernel``.

    ``argument(name, shape, dtype)`` declares one; ``kernel.steps`` and ``.batch`` are T and N.
    """
    steps, batch, d = kernel.steps, kernel.batch, shape.directions
    rows = shape.layers * d
    kernel.h0 = argument("h0", (rows, batch, shape.output_size))
    kernel.c0 = argument("c0", (rows, batch, shape.hidden_size))
    if shape.lengths:
        kernel.lengths = argument("lengths", (batch,), "int32")
    kernel.row0 = T.arg("row0", tirx.Var("row0", "int64"))
    kernel.y = argument("y", (steps, batch, d * shape.output_size))
    kernel.h_n = argument("h_n", (d, batch, shape.output_size))
    kernel.c_n = argument("c_n", (d, batch, shape.hidden_size))


def output_time(
    kernel: Any, shape: LSTMLayerShape, d: Expr, step: Expr, n: Expr
) -> tuple[Expr, Expr]:
    """Return whether row ``n`` runs at ``step`` of direction ``d``, and the time it then reads.

    Backward, step s is time length - 1 - s; a row past its length writes zeros at time s.
    """
    length = kernel.steps
    active: Expr = tirx.const(True, "bool")
    if shape.lengths:
        length = T.bind(T.cast(tirx.BufferLoad(kernel.lengths, [n]), "int64"))
        active = T.bind(step < length)
    if shape.directions == 1:
        return active, step
    backward = tirx.And(d == 1, active)
    return active, T.bind(T.if_then_else(backward, length - 1 - step, step))


def lstm_cell(shape: LSTMLayerShape, sums: Sequence[Expr], c: Expr) -> tuple[Expr, Expr]:
    """Return (c, h) of one cell from the sums of its gates i f g o and its previous c."""
    i, f, o = (T.sigmoid(sums[gate]) for gate in (0, 1, 3))
    state = T.alloc_local((1,), "float32")
    T.buffer_store(state, f * c + i * T.tanh(sums[2]), [0])
    new = tirx.BufferLoad(state, [0])
    if shape.clip is not None:
        low, high = (tirx.const(bound, "float32") for bound in shape.clip)
        if shape.clip_nan:  # new >= low is false for NaN, which becomes low
            T.buffer_store(state, tirx.Select(new >= low, new, low), [0])
        T.buffer_store(state, tirx.Select(new < low, low, new), [0])
        T.buffer_store(state, tirx.Select(new > high, high, new), [0])
    return new, T.bind(o * T.tanh(new))
