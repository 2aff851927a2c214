"""One LSTM layer on a GPU, each CTA running some rows of the batch by itself, float32.

Regime
    Small H, where the weights stay in the caches near the CTA and a barrier across the grid would
    cost more than the step; and the fallback for whatever the other kernels cannot take: it needs
    no co-resident CTAs, and only (R + H) * rows floats of shared memory.

Layout
    gates    (T, N, D * H * 4)     x W_i2h + b from gemm_cuda.py, a unit's 4 gates together
    w_h2h    (D, R, H, 4)          one 16-byte load brings a unit's 4 gates of one k
    w_h2r    (D, H, P)             with a projection
    h0, c0   (L*D, N, R), (L*D, N, H)   rows [row0, row0 + D) are this layer's
    lengths  (N,) int32            with sequence lengths
    y        (T, N, D*R)           h_n, c_n  (D, N, R), (D, N, H); c_n holds c all the time

Algorithm
    CTA (rows, direction): for each step, each thread takes units u, u + threads, ...:
        sums  = gates[t] + sum over k of r[k] W_h2h[k]        4 sums for each row
        c     = clip(sigmoid(f) c + sigmoid(i) tanh(g))
        h     = sigmoid(o) tanh(c)
    then r = h W_h2r or h, and the next step. r and h lie in shared memory; a barrier of the CTA
    after each of the two phases.

Cost
    A step reads all of W_h2h (4 H R floats) for each group of ``rows`` rows, from L1 or L2:
    8 H R rows flop for 16 H R bytes, so the rate grows with ``rows``.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import cast

import tvm
from tvm.script.ir_builder import IRBuilder

from .cuda_layer import GATE_COUNT, CUDALayer
from .layer import LSTMLayerShape
from .simt import (
    Expr,
    kernel_attributes,
    sync_threads,
    when,
)
from .tir import T, tirx


@dataclass(frozen=True)
class CTATiles:
    """Tuning constants: batch rows of a CTA, and its threads."""

    rows: int
    threads: int

    def __post_init__(self) -> None:
        """Reject what cannot be launched."""
        if self.rows < 1 or not 32 <= self.threads <= 1024 or self.threads % 32:
            raise ValueError(f"impossible tiles: {self}")

    def shared_bytes(self, shape: LSTMLayerShape) -> int:
        """Shared memory of a CTA."""
        return 4 * self.rows * (shape.output_size + shape.hidden_size)


def lstm_layer_cta(shape: LSTMLayerShape, tiles: CTATiles) -> tvm.tirx.PrimFunc:
    """Return the layer as a PrimFunc over symbolic T and N.

    Arguments in order: gates, w_h2h, [w_h2r], h0, c0, [lengths], row0 (int64), then the outputs
    y, h_n, c_n.
    """
    return _CTAKernel(shape, tiles).build()


class _CTAKernel(CUDALayer):
    """Builds the PrimFunc; one method per part of the algorithm."""

    def __init__(self, shape: LSTMLayerShape, tiles: CTATiles) -> None:
        super().__init__(shape)
        self.tiles = tiles

    def build(self) -> tvm.tirx.PrimFunc:
        s, rows = self.shape, self.tiles.rows
        with IRBuilder() as builder, T.prim_func():
            T.func_name("lstm_layer")
            T.func_attr(kernel_attributes())
            p = s.projection_size
            self.declare((s.directions, s.hidden_size, p) if p else None)
            T.device_entry()
            T.attr({"tirx.launch_bounds_min_blocks_per_sm": 1})
            groups = T.max((self.batch + (rows - 1)) // rows, 1)
            group, self.d = T.cta_id([T.cast(groups, "int32"), s.directions])
            self.thread = T.thread_id([self.tiles.threads])
            self.first_row = T.cast(group, "int64") * rows
            self.r = T.alloc_shared((rows, s.output_size), "float32")
            self.h = T.alloc_shared((rows, s.hidden_size), "float32")
            self.sums = T.alloc_local((rows * GATE_COUNT,), "float32")
            self.weights = T.alloc_local((GATE_COUNT,), "float32")
            self._load_states()
            with T.serial(self.steps) as step:
                self._advance(step)
            self._store_states()
        return cast(tvm.tirx.PrimFunc, builder.get())

    # --- who does what -----------------------------------------------------------------------

    @contextmanager
    def _each_column(self, width: int) -> Iterator[Expr]:
        """Share columns 0..width-1 among the CTA's threads."""
        threads = self.tiles.threads
        with T.serial(-(-width // threads)) as slot:
            column = slot * threads + self.thread
            with when(column < width):
                yield column

    @contextmanager
    def _each_row(self) -> Iterator[tuple[Expr, Expr]]:
        """Run over the CTA's rows: (row in the CTA, row in the batch).

        Unrolled, because ``sums`` must be indexed by constants to stay in registers.
        """
        with T.unroll(self.tiles.rows) as row:
            n = self.first_row + row
            with when(n < self.batch):
                yield row, n

    # --- states ------------------------------------------------------------------------------

    def _load_states(self) -> None:
        with self._each_column(self.shape.output_size) as k, T.serial(self.tiles.rows) as row:
            n = self.first_row + row
            value = tirx.BufferLoad(self.h0, [self.row0 + self.d, n, k])
            value = T.if_then_else(n < self.batch, value, T.float32(0))
            T.buffer_store(self.r, value, [row, k])
        with self._each_column(self.shape.hidden_size) as u, self._each_row() as (_, n):
            value = tirx.BufferLoad(self.c0, [self.row0 + self.d, n, u])
            T.buffer_store(self.c_n, value, [self.d, n, u])
        sync_threads()

    def _store_states(self) -> None:
        with self._each_column(self.shape.output_size) as k, self._each_row() as (row, n):
            T.buffer_store(self.h_n, tirx.BufferLoad(self.r, [row, k]), [self.d, n, k])

    # --- one step ----------------------------------------------------------------------------

    def _advance(self, step: Expr) -> None:
        s = self.shape
        with self._each_column(s.hidden_size) as u:
            self._accumulate(u)
            with self._each_row() as (row, n):
                self._cell(step, u, row, n)
        sync_threads()
        with self._each_column(s.output_size) as k:
            if s.projection_size:
                self._project(k)
            with self._each_row() as (row, n):
                self._output(step, k, row, n)
        sync_threads()

    def _accumulate(self, u: Expr) -> None:
        """Sum r W_h2h of unit u's gates for all rows, into ``sums``."""
        rows = self.tiles.rows
        with T.unroll(rows * GATE_COUNT) as i:
            T.buffer_store(self.sums, T.float32(0), [i])
        with T.serial(self.shape.output_size) as k:
            vector = tirx.BufferLoad(self.w_h2h, [self.d, k, u, T.Ramp(0, 1, GATE_COUNT)])
            T.buffer_store(self.weights, vector, [T.Ramp(0, 1, GATE_COUNT)])
            for row in range(rows):
                value = T.bind(tirx.BufferLoad(self.r, [row, k]))
                for gate in range(GATE_COUNT):
                    self._add(
                        row * GATE_COUNT + gate, value * tirx.BufferLoad(self.weights, [gate])
                    )

    def _add(self, index: int, value: Expr) -> None:
        T.buffer_store(self.sums, tirx.BufferLoad(self.sums, [index]) + value, [index])

    def _cell(self, step: Expr, u: Expr, row: Expr, n: Expr) -> None:
        s = self.shape
        active, t = self.time(self.d, step, n)
        column = (self.d * s.hidden_size + u) * GATE_COUNT
        sums = [
            T.bind(
                tirx.BufferLoad(self.sums, [row * GATE_COUNT + gate])
                + tirx.BufferLoad(self.gates, [t, n, column + gate])
            )
            for gate in range(GATE_COUNT)
        ]
        c, h = self.cell(sums, tirx.BufferLoad(self.c_n, [self.d, n, u]))
        with when(active):
            T.buffer_store(self.c_n, c, [self.d, n, u])
        T.buffer_store(self.h, h, [row, u])

    def _project(self, p: Expr) -> None:
        """Sum h W_h2r of column p for all rows, into the first of ``sums``."""
        rows = self.tiles.rows
        with T.unroll(rows) as i:
            T.buffer_store(self.sums, T.float32(0), [i])
        with T.serial(self.shape.hidden_size) as k:
            weight = T.bind(tirx.BufferLoad(self.w_h2r, [self.d, k, p]))
            for row in range(rows):
                self._add(row, tirx.BufferLoad(self.h, [row, k]) * weight)

    def _output(self, step: Expr, k: Expr, row: Expr, n: Expr) -> None:
        s = self.shape
        active, t = self.time(self.d, step, n)
        if s.projection_size:
            value = tirx.BufferLoad(self.sums, [row])
        else:
            value = tirx.BufferLoad(self.h, [row, k])
        with when(active):
            T.buffer_store(self.r, value, [row, k])
        column = self.d * s.output_size + k
        T.buffer_store(self.y, T.if_then_else(active, value, T.float32(0)), [t, n, column])
