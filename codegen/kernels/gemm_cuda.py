"""The input GEMM of an LSTM layer on a GPU: gates = x W + b for every step at once, float32.

Regime
    Strict float32 on the SIMT cores (no tensor core computes float32 products exactly). Any T, N.

Layout
    x      (T, N, C)                  read as M = T * N rows
    w      (C, K)   K = D * H * 4     column (d, unit, gate): a unit's four gates are neighbours
    b      (K,)                       i2h + h2h
    gates  (T, N, K)

Algorithm
    C = A B + b, tiled: each CTA computes block_m x block_n, in steps of block_k through shared
    memory; each thread thread_m x thread_n in registers.

Schedule
    Rows along grid x, whose limit is 2^31, columns along grid y. The A tile lies transposed in
    shared memory, padded by one column against bank conflicts of the transposing stores, so that
    a thread reads neighbours. The next tile of A and B is fetched into registers while the current
    one is multiplied.

Cost
    2 M K C flop. A CTA reads (block_m + block_n) * C floats for 2 * block_m * block_n * C flop.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import tvm
from tvm.script.ir_builder import IRBuilder

from .cuda_layer import argument
from .simt import Expr, each_slice, kernel_attributes, sync_threads
from .tir import T, tirx


@dataclass(frozen=True)
class GEMMTiles:
    """Tuning constants: the CTA's tile, the depth of a step, and a thread's tile."""

    block_m: int = 64
    block_n: int = 64
    block_k: int = 16
    thread_m: int = 4
    thread_n: int = 4

    @property
    def threads(self) -> int:
        """Threads of a CTA."""
        return (self.block_m // self.thread_m) * (self.block_n // self.thread_n)

    def __post_init__(self) -> None:
        """Reject tiles that do not divide."""
        if self.block_m % self.thread_m or self.block_n % self.thread_n:
            raise ValueError(f"a thread's tile must divide the CTA's: {self}")
        for block in (self.block_m, self.block_n):
            if (block * self.block_k) % self.threads:
                raise ValueError(f"the threads must share a tile's loads evenly: {self}")


def input_gemm(depth: int, columns: int, tiles: GEMMTiles) -> tvm.tirx.PrimFunc:
    """Return the GEMM as a PrimFunc (x, w, b, gates) over symbolic T and N.

    ``depth`` is C, ``columns`` is K.
    """
    return _GEMM(depth, columns, tiles).build()


class _GEMM:
    """Builds the PrimFunc."""

    def __init__(self, depth: int, columns: int, tiles: GEMMTiles) -> None:
        self.depth, self.columns, self.tiles = depth, columns, tiles

    def build(self) -> tvm.tirx.PrimFunc:
        t = self.tiles
        with IRBuilder() as builder, T.prim_func():
            T.func_name("input_gemm")
            T.func_attr(kernel_attributes())
            steps, batch = tirx.Var("T", "int64"), tirx.Var("N", "int64")
            self._declare(steps, batch)
            T.device_entry()
            self.rows = steps * batch
            extents = [
                T.cast(T.max((self.rows + (t.block_m - 1)) // t.block_m, 1), "int32"),
                -(-self.columns // t.block_n),
            ]
            block_m, block_n = T.cta_id(extents)
            self.thread = T.thread_id([t.threads])
            self.row0 = T.cast(block_m, "int64") * t.block_m
            self.column0 = block_n * t.block_n
            self._allocate()
            self._run()
        return cast(tvm.tirx.PrimFunc, builder.get())

    def _declare(self, steps: Expr, batch: Expr) -> None:
        self.x = argument("x", (steps, batch, self.depth))
        self.w = argument("w", (self.depth, self.columns))
        self.bias = argument("b", (self.columns,))
        self.gates = argument("gates", (steps, batch, self.columns))

    def _allocate(self) -> None:
        t = self.tiles
        self.a = T.alloc_shared((t.block_k, t.block_m + 1), "float32")
        self.b = T.alloc_shared((t.block_k, t.block_n), "float32")
        self.next_a = T.alloc_local((t.block_m * t.block_k // t.threads,), "float32")
        self.next_b = T.alloc_local((t.block_n * t.block_k // t.threads,), "float32")
        self.sums = T.alloc_local((t.thread_m * t.thread_n,), "float32")

    def _run(self) -> None:
        t = self.tiles
        with T.unroll(t.thread_m * t.thread_n) as i:
            T.buffer_store(self.sums, T.float32(0), [i])
        self._fetch(T.int32(0))
        slices = -(-self.depth // t.block_k)
        with T.serial(slices) as s:
            self._publish()
            sync_threads()
            self._fetch((s + 1) * t.block_k)
            self._multiply()
            sync_threads()
        self._write()

    def _fetch(self, first: Expr) -> None:
        """Load the tiles of depth ``first`` and on into registers; 0 beyond the matrices."""
        t = self.tiles
        for i, flat in each_slice(self.thread, t.threads, t.block_m * t.block_k):
            row, k = self.row0 + flat // t.block_k, first + flat % t.block_k
            inside = tirx.And(row < self.rows, k < self.depth)
            value = tirx.BufferLoad(self.x, [0, 0, row * self.depth + k])
            T.buffer_store(self.next_a, T.if_then_else(inside, value, T.float32(0)), [i])
        for i, flat in each_slice(self.thread, t.threads, t.block_n * t.block_k):
            k, column = first + flat // t.block_n, self.column0 + flat % t.block_n
            inside = tirx.And(k < self.depth, column < self.columns)
            value = tirx.BufferLoad(self.w, [k, column])
            T.buffer_store(self.next_b, T.if_then_else(inside, value, T.float32(0)), [i])

    def _publish(self) -> None:
        """Store the fetched tiles to shared memory."""
        t = self.tiles
        for i, flat in each_slice(self.thread, t.threads, t.block_m * t.block_k):
            value = tirx.BufferLoad(self.next_a, [i])
            T.buffer_store(self.a, value, [flat % t.block_k, flat // t.block_k])
        for i, flat in each_slice(self.thread, t.threads, t.block_n * t.block_k):
            value = tirx.BufferLoad(self.next_b, [i])
            T.buffer_store(self.b, value, [flat // t.block_n, flat % t.block_n])

    def _place(self) -> tuple[Expr, Expr]:
        """Return where this thread's tile begins in the CTA's."""
        across = self.tiles.block_n // self.tiles.thread_n
        return (
            self.thread // across * self.tiles.thread_m,
            self.thread % across * self.tiles.thread_n,
        )

    def _multiply(self) -> None:
        t = self.tiles
        m0, n0 = self._place()
        with T.unroll(t.block_k) as k:
            for m in range(t.thread_m):
                for n in range(t.thread_n):
                    at = [m * t.thread_n + n]
                    product = tirx.BufferLoad(self.a, [k, m0 + m]) * tirx.BufferLoad(
                        self.b, [k, n0 + n]
                    )
                    T.buffer_store(self.sums, tirx.BufferLoad(self.sums, at) + product, at)

    def _write(self) -> None:
        t = self.tiles
        m0, n0 = self._place()
        for m in range(t.thread_m):
            for n in range(t.thread_n):
                row, column = self.row0 + m0 + m, self.column0 + n0 + n
                with T.If(tirx.And(row < self.rows, column < self.columns)), T.Then():
                    value = tirx.BufferLoad(self.sums, [m * t.thread_n + n])
                    value = value + tirx.BufferLoad(self.bias, [column])
                    T.buffer_store(self.gates, value, [0, 0, row * self.columns + column])
