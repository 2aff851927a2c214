"""One LSTM layer on a GPU, one persistent kernel for the whole sequence, float32.

Regime
    Medium H (about 128 to 1024), any T, small to medium N. W_h2h stays in registers for the whole
    sequence; every step reads nothing from memory but the gates of the step and r.

Layout
    As in lstm_cuda_cta.py; two workspaces come after the outputs: r_work (2, D, N, R),
    double-buffered, and with a projection h_work (D, N, H). The eight warps of a CTA read
    neighbouring columns of w_h2r, so that they share its 32-byte sectors.

Algorithm
    Warp w of CTA b of direction d owns unit u = 8 b + w. Lane l keeps W_h2h[k, u, gate] for
    k = l, l + 32, ... of all four gates. For each step, for each tile of 8 batch rows:
        the CTA copies the tile's r from r_work[step % 2] to shared memory;
        each lane sums r[k] W_h2h[k] over its k: 8 rows x 4 gates = 32 partial sums;
        a reduce-scatter over the warp (31 shuffles) leaves lane l with the whole sum of
        row l / 4, gate l % 4, to which it adds gates[t];
        the first of a row's four lanes fetches the other three, computes c and h, and stores
        h as r to r_work[(step + 1) % 2] and y.
    A barrier across the grid ends the step. With a projection h goes to h_work, a barrier follows,
    and warps take columns of W_h2r in turn to compute r.

Schedule
    D * ceil(H / 8) CTAs of 256 threads, all of them resident: one CTA for each multiprocessor, a
    cooperative launch.

Cost
    Registers: 4 ceil(R / 32) weights + 32 sums for each lane: 160 at R = 1024. Shared memory:
    32 max(R, H) bytes. A step moves N R floats from L2 to each CTA, and takes at least one barrier
    of the grid (about 1 us).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import tvm
from tvm.script.ir_builder import IRBuilder

from .cuda_layer import GATE_COUNT, CUDALayer, argument
from .layer import LSTMLayerShape
from .simt import (
    WARP,
    Expr,
    kernel_attributes,
    reduce_scatter,
    shuffle,
    sync_grid,
    sync_threads,
    warp_sum,
    when,
)
from .tir import T, tirx

UNITS = 8  # units of a CTA, one a warp
THREADS = UNITS * WARP
ROWS = WARP // GATE_COUNT  # rows of a tile: a warp has a lane for each row and gate
MOST_UNITS = 1024  # so that the weights fit a lane's 255 registers


def ctas(shape: LSTMLayerShape) -> int:
    """Return how many CTAs must be resident at once."""
    return shape.directions * -(-shape.hidden_size // UNITS)


def supports(shape: LSTMLayerShape) -> bool:
    """Whether the weights of a unit fit a warp's registers."""
    return max(shape.output_size, shape.hidden_size) <= MOST_UNITS


def lstm_layer_grid(shape: LSTMLayerShape) -> tvm.tirx.PrimFunc:
    """Return the layer as a PrimFunc over symbolic T and N.

    Arguments in order: gates, w_h2h, [w_h2r], h0, c0, [lengths], row0 (int64), then the outputs
    y, h_n, c_n, r_work, [h_work].
    """
    if not supports(shape):
        raise ValueError(f"R and H must be at most {MOST_UNITS}: {shape}")
    return _GridKernel(shape).build()


class _GridKernel(CUDALayer):
    """Builds the PrimFunc; one method per part of the algorithm."""

    def __init__(self, shape: LSTMLayerShape) -> None:
        super().__init__(shape)
        self.blocks = -(-shape.hidden_size // UNITS)  # CTAs of a direction
        self.slices = -(-shape.output_size // WARP)  # values of k of a lane

    def build(self) -> tvm.tirx.PrimFunc:
        s = self.shape
        with IRBuilder() as builder, T.prim_func():
            T.func_name("lstm_layer")
            T.func_attr(kernel_attributes(cooperative=True))
            p = s.projection_size
            self.declare((s.directions, s.hidden_size, p) if p else None)
            self._declare_workspace()
            T.device_entry()
            T.attr({"tirx.launch_bounds_min_blocks_per_sm": 1})
            cta = T.cta_id([ctas(s)])
            self.thread = T.thread_id([THREADS])
            self.warp, self.lane = self.thread // WARP, self.thread % WARP
            self.block, self.d = cta % self.blocks, cta // self.blocks
            self.u = self.block * UNITS + self.warp
            self.staged = T.alloc_shared((ROWS, max(s.output_size, s.hidden_size)), "float32")
            self.weights = T.alloc_local((GATE_COUNT * self.slices,), "float32")
            self.sums = T.alloc_local((WARP,), "float32")
            self._load_weights()
            self._load_states()
            sync_grid()
            with T.serial(self.steps, annotations={"disable_unroll": True}) as step:
                self._advance(step)
            self._store_states()
        return cast(tvm.tirx.PrimFunc, builder.get())

    def _declare_workspace(self) -> None:
        s, d = self.shape, self.shape.directions
        self.r_work = argument("r_work", (2, d, self.batch, s.output_size))
        if s.projection_size:
            self.h_work = argument("h_work", (d, self.batch, s.hidden_size))

    # --- weights and states ------------------------------------------------------------------

    def _load_weights(self) -> None:
        s = self.shape
        for number in range(self.slices):
            k = number * WARP + self.lane
            inside = tirx.And(k < s.output_size, self.u < s.hidden_size)
            for gate in range(GATE_COUNT):
                value = tirx.BufferLoad(self.w_h2h, [self.d, k, self.u, gate])
                value = T.if_then_else(inside, value, T.float32(0))
                T.buffer_store(self.weights, value, [gate * self.slices + number])

    @contextmanager
    def _own_columns(self, width: int) -> Iterator[tuple[Expr, Expr]]:
        """Share (batch row, column < width) of this direction among its CTAs."""
        columns = self.blocks * THREADS
        with T.serial(self.batch) as n, T.serial(-(-width // columns)) as slot:
            column = (slot * self.blocks + self.block) * THREADS + self.thread
            with when(column < width):
                yield n, column

    def _load_states(self) -> None:
        """Copy h0 to r_work; c_n holds c from the start."""
        with self._own_columns(self.shape.output_size) as (n, k):
            value = tirx.BufferLoad(self.h0, [self.row0 + self.d, n, k])
            T.buffer_store(self.r_work, value, [0, self.d, n, k])
        with self._own_columns(self.shape.hidden_size) as (n, u):
            value = tirx.BufferLoad(self.c0, [self.row0 + self.d, n, u])
            T.buffer_store(self.c_n, value, [self.d, n, u])

    def _store_states(self) -> None:
        with self._own_columns(self.shape.output_size) as (n, k):
            value = tirx.BufferLoad(self.r_work, [self.steps % 2, self.d, n, k])
            T.buffer_store(self.h_n, value, [self.d, n, k])

    # --- one step ----------------------------------------------------------------------------

    def _advance(self, step: Expr) -> None:
        with self._each_tile() as first:
            self._stage(first, self.shape.output_size, self._r(step))
            self._accumulate()
            reduce_scatter(self.sums, WARP, self.lane)
            self._cell(step, first)
            sync_threads()  # before the next tile overwrites what is staged
        sync_grid()
        if self.shape.projection_size:
            with self._each_tile() as first:
                self._stage(first, self.shape.hidden_size, self._h)
                self._project(step, first)
                sync_threads()
            sync_grid()

    @contextmanager
    def _each_tile(self) -> Iterator[Expr]:
        tiles = (self.batch + (ROWS - 1)) // ROWS
        with T.serial(tiles, annotations={"disable_unroll": True}) as tile:
            yield tile * ROWS

    def _r(self, step: Expr) -> Any:
        return lambda n, k: tirx.BufferLoad(self.r_work, [step % 2, self.d, n, k])

    def _h(self, n: Expr, k: Expr) -> Expr:
        return tirx.BufferLoad(self.h_work, [self.d, n, k])

    def _stage(self, first: Expr, width: int, source: Any) -> None:
        """Copy rows first..first+7 to shared memory, zeros beyond the batch."""
        with T.serial(-(-width // THREADS)) as slot:
            k = slot * THREADS + self.thread
            with when(k < width), T.unroll(ROWS) as row:
                n = first + row
                value = T.if_then_else(n < self.batch, source(n, k), T.float32(0))
                T.buffer_store(self.staged, value, [row, k])
        sync_threads()

    def _accumulate(self) -> None:
        """Sum this lane's r W_h2h: sums[row * 4 + gate]."""
        for index in range(WARP):
            T.buffer_store(self.sums, T.float32(0), [index])
        for number in range(self.slices):
            k = number * WARP + self.lane
            partial = (number + 1) * WARP > self.shape.output_size
            for row in range(ROWS):
                value = tirx.BufferLoad(self.staged, [row, k])
                if partial:
                    value = T.if_then_else(k < self.shape.output_size, value, T.float32(0))
                value = T.bind(value)
                for gate in range(GATE_COUNT):
                    weight = tirx.BufferLoad(self.weights, [gate * self.slices + number])
                    total = tirx.BufferLoad(self.sums, [row * GATE_COUNT + gate]) + value * weight
                    T.buffer_store(self.sums, total, [row * GATE_COUNT + gate])

    def _cell(self, step: Expr, first: Expr) -> None:
        """Update unit u of the row that this lane's four neighbours have summed."""
        s = self.shape
        row, gate = self.lane // GATE_COUNT, self.lane % GATE_COUNT
        n = first + row
        inside = T.bind(tirx.And(n < self.batch, self.u < s.hidden_size))
        active, t = self._row_time(step, n)
        column = (self.d * s.hidden_size + self.u) * GATE_COUNT + gate
        with when(inside):
            value = tirx.BufferLoad(self.sums, [0]) + tirx.BufferLoad(self.gates, [t, n, column])
            T.buffer_store(self.sums, value, [0])
        own = tirx.BufferLoad(self.sums, [0])
        gathered = [T.bind(shuffle(own, row * GATE_COUNT + g)) for g in range(GATE_COUNT)]
        with when(tirx.And(inside, gate == 0)):
            c, h = self.cell(gathered, tirx.BufferLoad(self.c_n, [self.d, n, self.u]))
            with when(active):
                T.buffer_store(self.c_n, c, [self.d, n, self.u])
            if s.projection_size:
                T.buffer_store(self.h_work, h, [self.d, n, self.u])
            else:
                self._output(step, n, self.u, h, active, t)

    def _project(self, step: Expr, first: Expr) -> None:
        """Compute columns of r = h W_h2r for a tile, a warp at a time."""
        s = self.shape
        width = s.projection_size or 0
        warps = self.blocks * UNITS
        with T.serial(-(-width // warps)) as slot:
            p = slot * warps + self.u
            with when(p < width):
                for row in range(ROWS):
                    T.buffer_store(self.sums, T.float32(0), [row])
                with T.serial(-(-s.hidden_size // WARP)) as number:
                    k = number * WARP + self.lane
                    with when(k < s.hidden_size):
                        weight = T.bind(tirx.BufferLoad(self.w_h2r, [self.d, k, p]))
                        for row in range(ROWS):
                            value = tirx.BufferLoad(self.staged, [row, k]) * weight
                            total = tirx.BufferLoad(self.sums, [row]) + value
                            T.buffer_store(self.sums, total, [row])
                for row in range(ROWS):
                    total = warp_sum(tirx.BufferLoad(self.sums, [row]))
                    T.buffer_store(self.sums, total, [row])
                    n = first + row
                    with when(tirx.And(self.lane == row, n < self.batch)):
                        active, t = self._row_time(step, n)
                        self._output(step, n, p, tirx.BufferLoad(self.sums, [row]), active, t)

    def _row_time(self, step: Expr, n: Expr) -> tuple[Expr, Expr]:
        """Return time() of row n, or of the last row beyond the batch."""
        return self.time(self.d, step, T.min(n, self.batch - 1))

    def _output(self, step: Expr, n: Expr, k: Expr, value: Expr, active: Expr, t: Expr) -> None:
        s = self.shape
        old = tirx.BufferLoad(self.r_work, [step % 2, self.d, n, k])
        carried = T.if_then_else(active, value, old) if s.lengths else value
        T.buffer_store(self.r_work, carried, [(step + 1) % 2, self.d, n, k])
        output = T.if_then_else(active, value, T.float32(0)) if s.lengths else value
        T.buffer_store(self.y, output, [t, n, self.d * s.output_size + k])
