"""One LSTM layer, all its directions, on a CPU with vector registers.

Regime
    Any T, N >= 0 (free at run time), any C, H, P; float32 and float64. One call runs a layer's
    whole sequence.

Layout (V lanes of a vector, J = ceil(H / V) unit blocks, Q = ceil(P / 4V) projection blocks)
    x        (T, N, C)             y        (T, N, D*R)
    w_i2h    (D, J, C, 4, V)       the 4 gates of V units lie together: one pass over the K axis
    w_h2h    (D, J, R, 4, V)       yields all that the V cells need, and streams through memory
    bias     (D, J, 4, V)          i2h + h2h
    w_h2r    (D, Q, H, 4, V)       with a projection
    h0, c0   (L*D, N, R), (L*D, N, H)   rows [row0, row0 + D) are this layer's
    lengths  (N,) int32            with sequence lengths
    h_n, c_n (D, N, R), (D, N, H)

Algorithm
    for each chunk of steps:                    chunk_rows bounds steps * N, and so the workspace
        gates = x W_i2h + b                     a GEMM over all rows of the chunk, hoisted
        for each step s of the chunk:
            sums  = gates[s] + r W_h2h          GEMM tile: rows x 4V accumulators in registers
            c     = clip(sigmoid(f) c + sigmoid(i) tanh(g))
            h     = sigmoid(o) tanh(c)
            r     = h W_h2r                     with a projection, else r = h
    Step s is time s forward and time T-1-s backward; with lengths, backward is length-1-s, and a
    row whose length is used up keeps its states and outputs 0.

Schedule
    Unit blocks (direction x J) are split over the threads once: the same thread computes a block's
    gates, its recurrent sums and its cells in every step, so that its slice of the weights stays
    in its own cache, and only r crosses threads: one barrier per step (two with a projection), in
    one parallel region per sequence. r is double-buffered. The batch is cut into nearly equal
    tiles of at most ``rows`` rows (32 rows with tiles of 6 are 6 6 5 5 5 5); each height has its
    own code. A single row uses two accumulator chains, to hide the latency of the FMA.

Cost
    2 T N 4H (C + R) flop, plus 2 T N H P; weights are read once per row tile and step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, cast

import tvm
from tvm.script.ir_builder import IRBuilder

from gluonlstm.spec import GATES

from .activations import sigmoid_fraction, tanh_fraction
from .layer import LSTMLayerShape
from .simd import Accumulators, Expr, Simd, dispatch_rows, quotient, remainder, scalar_load, when
from .tir import T, tirx

GATE_COUNT = len(GATES)


@dataclass(frozen=True)
class CPUTiles:
    """Tuning constants of the kernel.

    ``lanes``: V, elements of a vector register. ``rows``: batch rows of a register tile (its
    accumulators, 4 * rows vectors, must leave room for 4 weights and a broadcast).
    ``chunk_rows``: rows (steps * N) of one hoisted input GEMM.
    """

    lanes: int
    rows: int
    chunk_rows: int

    def __post_init__(self) -> None:
        """Reject tiles that make no sense."""
        if min(self.lanes, self.rows, self.chunk_rows) < 1:
            raise ValueError(f"every tile constant must be at least 1: {self}")


def lstm_layer(shape: LSTMLayerShape, tiles: CPUTiles) -> tvm.tirx.PrimFunc:
    """Return the layer as a PrimFunc over symbolic T and N.

    Arguments in order: x, w_i2h, w_h2h, bias, [w_h2r], h0, c0, [lengths], row0 (int64; an argument
    so that equal layers share their code), then the outputs y, h_n, c_n.
    """
    return _Layer(shape, tiles).build()


class _Layer:
    """Builds the PrimFunc; one method per part of the algorithm."""

    def __init__(self, shape: LSTMLayerShape, tiles: CPUTiles) -> None:
        self.shape, self.tiles = shape, tiles
        self.simd = Simd(shape.dtype, tiles.lanes)
        lanes = tiles.lanes
        self.unit_blocks = -(-shape.hidden_size // lanes)  # J
        self.projection_blocks = -(-(shape.projection_size or 0) // (GATE_COUNT * lanes))  # Q
        self.hidden_padded = self.unit_blocks * lanes
        self.output_padded = self.projection_blocks * GATE_COUNT * lanes or self.hidden_padded
        self.threaded = shape.directions * self.unit_blocks > 1

    def build(self) -> tvm.tirx.PrimFunc:
        """Emit the whole function."""
        with IRBuilder() as builder, T.prim_func(s_tir=True):
            T.func_name("lstm_layer")
            T.func_attr({"tirx.noalias": True, "tirx.is_scheduled": True})
            self._declare_arguments()
            self._allocate_workspace()
            with self._parallel_region():
                self._load_states()
                chunks = T.bind(quotient(self.steps + self.chunk_steps - 1, self.chunk_steps))
                with T.serial(0, chunks) as chunk:
                    self._run_chunk(chunk)
                self._store_states()
        return cast(tvm.tirx.PrimFunc, builder.get())

    # --- arguments and workspace -----------------------------------------------------------

    def _declare_arguments(self) -> None:
        s, lanes = self.shape, self.tiles.lanes
        self.steps, self.batch = tirx.Var("T", "int64"), tirx.Var("N", "int64")
        steps, batch, d, rows = self.steps, self.batch, s.directions, s.layers * s.directions
        blocks = (d, self.unit_blocks)
        self.x = self._argument("x", (steps, batch, s.input_size))
        self.w_i2h = self._argument("w_i2h", (*blocks, s.input_size, GATE_COUNT, lanes))
        self.w_h2h = self._argument("w_h2h", (*blocks, s.output_size, GATE_COUNT, lanes))
        self.bias = self._argument("bias", (*blocks, GATE_COUNT, lanes))
        if s.projection_size:
            shape = (d, self.projection_blocks, s.hidden_size, GATE_COUNT, lanes)
            self.w_h2r = self._argument("w_h2r", shape)
        self.h0 = self._argument("h0", (rows, batch, s.output_size))
        self.c0 = self._argument("c0", (rows, batch, s.hidden_size))
        if s.lengths:
            self.lengths = self._argument("lengths", (batch,), "int32")
        self.row0 = T.arg("row0", tirx.Var("row0", "int64"))
        self.y = self._argument("y", (steps, batch, d * s.output_size))
        self.h_n = self._argument("h_n", (d, batch, s.output_size))
        self.c_n = self._argument("c_n", (d, batch, s.hidden_size))

    def _argument(self, name: str, shape: tuple[Any, ...], dtype: str | None = None) -> Any:
        return T.arg(name, tirx.decl_buffer(shape, dtype or self.shape.dtype, name))

    def _allocate_workspace(self) -> None:
        """Allocate padded states and the gates of one chunk of steps."""
        s, dtype = self.shape, self.shape.dtype
        self.rows = rows = T.bind(T.max(self.batch, 1))
        limit = T.bind(T.max(quotient(T.int64(self.tiles.chunk_rows), rows), 1))
        self.chunk_steps = T.bind(T.max(T.min(self.steps, limit), 1))
        chunk_rows = T.bind(self.chunk_steps * rows)
        d, j, lanes = s.directions, self.unit_blocks, self.tiles.lanes
        self.gates = T.alloc_buffer((d, j, chunk_rows, GATE_COUNT, lanes), dtype)
        self.r = T.alloc_buffer((2, d, rows, self.output_padded), dtype)
        self.c = T.alloc_buffer((d, j, rows, lanes), dtype)
        if s.projection_size:
            self.h = T.alloc_buffer((d, rows, self.hidden_padded), dtype)

    # --- threads ---------------------------------------------------------------------------

    @contextmanager
    def _parallel_region(self) -> Iterator[None]:
        """Start the threads once for the whole sequence."""
        if not self.threaded:
            yield
            return
        with T.attr(0, "pragma_parallel_launch_point", 1):
            yield

    @contextmanager
    def _each_block(self, blocks: int, *, barrier: bool) -> Iterator[tuple[Expr, Expr]]:
        """Spread (direction, block) over the threads; wait for all of them if ``barrier``."""
        extent = self.shape.directions * blocks
        if not self.threaded:
            with T.serial(0, extent) as task:
                yield quotient(task, blocks), remainder(task, blocks)
            return
        wait = T.attr(0, "pragma_parallel_barrier_when_finish", 1) if barrier else nullcontext()
        # TVM takes a loop of extent 1 for no loop, and then every thread would run its body.
        with wait, T.parallel(0, max(extent, 2)) as task, when(task < extent):
            yield quotient(task, blocks), remainder(task, blocks)

    # --- states ----------------------------------------------------------------------------

    def _load_states(self) -> None:
        """Copy h0 and c0 into the padded buffers; padding is 0."""
        s, lanes = self.shape, self.tiles.lanes
        with self._each_block(self.unit_blocks, barrier=True) as (d, j):
            with T.grid(self.batch, lanes) as (n, lane):
                value = self._padded_load(
                    self.c0, (self.row0 + d, n), j * lanes + lane, s.hidden_size
                )
                T.buffer_store(self.c, value, [d, j, n, lane])
            with when(j == 0), T.grid(self.batch, self.output_padded) as (n, k):
                value = self._padded_load(self.h0, (self.row0 + d, n), k, s.output_size)
                T.buffer_store(self.r, value, [0, d, n, k])

    def _padded_load(self, buffer: Any, row: tuple[Expr, Expr], column: Expr, width: int) -> Expr:
        zero = self.simd.scalar(0.0)
        return T.if_then_else(column < width, scalar_load(buffer, (*row, column)), zero)

    def _store_states(self) -> None:
        """Copy the final states out."""
        s, lanes = self.shape, self.tiles.lanes
        last = remainder(self.steps, 2)
        with self._each_block(self.unit_blocks, barrier=True) as (d, j):
            with T.grid(self.batch, lanes) as (n, lane):
                column = j * lanes + lane
                with when(column < s.hidden_size):
                    value = scalar_load(self.c, (d, j, n, lane))
                    T.buffer_store(self.c_n, value, [d, n, column])
            with when(j == 0), T.grid(self.batch, s.output_size) as (n, k):
                T.buffer_store(self.h_n, scalar_load(self.r, (last, d, n, k)), [d, n, k])

    # --- the sequence ----------------------------------------------------------------------

    def _run_chunk(self, chunk: Expr) -> None:
        first = T.bind(chunk * self.chunk_steps)
        count = T.bind(T.min(self.chunk_steps, self.steps - first))
        with self._each_block(self.unit_blocks, barrier=False) as (d, j):
            self._input_gemm(d, j, first, count)
        with T.serial(0, count) as s:
            step = T.bind(first + s)
            # Between these barriers threads share r (and h) alone: the gates, the c and the
            # weights of block (d, j) belong to the thread that runs it in every loop.
            with self._each_block(self.unit_blocks, barrier=True) as (d, j):
                self._recurrent_step(d, j, step, self._slot(d, s, count))
            if self.shape.projection_size:
                with self._each_block(self.projection_blocks, barrier=True) as (d, q):
                    self._project(d, q, step)

    def _slot(self, d: Expr, s: Expr, count: Expr) -> Expr:
        """Return where in the chunk's gates step ``first + s`` lies.

        Without lengths the gates of the backward direction lie in the order of time (see
        _input_row), so that the GEMM reads x in one sweep; a chunk is then walked backwards.
        """
        if self.shape.lengths or self.shape.directions == 1:
            return s
        return T.if_then_else(d == 0, s, count - 1 - s)

    def _input_gemm(self, d: Expr, j: Expr, first: Expr, count: Expr) -> None:
        """Compute gates = x W_i2h + b for the chunk's rows, for one block of units."""

        def tile(start: Expr, rows: int) -> None:
            sources = [self._input_row(d, first, count, start + row) for row in range(rows)]
            sums = self._accumulate(
                rows,
                self.shape.input_size,
                lambda row, k: scalar_load(self.x, (*sources[row], k)),
                lambda k, gate: self.simd.load(self.w_i2h, (d, j, k, gate, 0)),
            )
            for row in range(rows):
                for gate in range(GATE_COUNT):
                    value = sums(row, gate) + self.simd.load(self.bias, (d, j, gate, 0))
                    self.simd.store(self.gates, value, (d, j, start + row, gate, 0))

        def rows_of(start: Expr, rows: Expr) -> None:
            dispatch_rows(rows, self.tiles.rows, lambda static_rows: tile(start, static_rows))

        self._each_row_tile(count * self.batch, rows_of)

    def _input_row(self, d: Expr, first: Expr, count: Expr, row: Expr) -> tuple[Expr, Expr]:
        """Return (time, batch row) of x that row ``row`` of the chunk's gates belongs to."""
        step = quotient(row, self.rows)
        n = T.bind(remainder(row, self.rows))
        if self.shape.directions == 1:
            return T.bind(first + step), n
        if self.shape.lengths:
            backward = T.max(self._length(n) - 1 - (first + step), T.int64(0))
        else:
            backward = self.steps - first - count + step
        return T.bind(T.if_then_else(d == 0, first + step, backward)), n

    def _allocate_sums(self) -> list[Any]:
        """Allocate a tile's sums, one buffer a gate: private to the thread, so inside its task.

        Each is small enough for the stack, see Accumulators.
        """
        shape = (self.tiles.rows, self.tiles.lanes)
        return [T.alloc_buffer(shape, self.shape.dtype) for _ in range(GATE_COUNT)]

    def _recurrent_step(self, d: Expr, j: Expr, step: Expr, slot: Expr) -> None:
        """Advance the V cells of block j of direction d by one step, for the whole batch."""
        previous = T.bind(remainder(step, 2))
        self.sums = self._allocate_sums()

        def tile(start: Expr, rows: int) -> None:
            sums = self._accumulate(
                rows,
                self.shape.output_size,
                lambda row, k: scalar_load(self.r, (previous, d, start + row, k)),
                lambda k, gate: self.simd.load(self.w_h2h, (d, j, k, gate, 0)),
            )
            for row in range(rows):
                for gate in range(GATE_COUNT):
                    self.simd.store(self.sums[gate], sums(row, gate), (row, 0))

        def rows_of(start: Expr, count: Expr) -> None:
            dispatch_rows(count, self.tiles.rows, lambda rows: tile(start, rows))
            with T.serial(0, count) as row:
                self._cell(d, j, step, slot, row, T.bind(start + row))

        self._each_row_tile(self.batch, rows_of)

    def _cell(self, d: Expr, j: Expr, step: Expr, slot: Expr, row: Expr, n: Expr) -> None:
        """Update the V cells of one batch row from their gate sums."""
        simd = self.simd
        gates = [
            T.bind(simd.load(self.sums[g], (row, 0))
                   + simd.load(self.gates, (d, j, slot * self.batch + n, g, 0)))
            for g in range(GATE_COUNT)
        ]  # fmt: skip
        (i_n, i_d), (f_n, f_d), (o_n, o_d) = (sigmoid_fraction(simd, gates[g]) for g in (0, 1, 3))
        g_n, g_d = tanh_fraction(simd, gates[2])
        old = T.bind(simd.load(self.c, (d, j, n, 0)))
        # f c + i g over one common denominator: one division instead of three.
        ig_d = T.bind(i_d * g_d)
        new = T.bind((f_n * ig_d * old + i_n * g_n * f_d) / (f_d * ig_d))
        new = self._clip(new)
        c_n, c_d = tanh_fraction(simd, new)
        hidden = T.bind((o_n * c_n) / (o_d * c_d))
        active = self._active(step, n)
        if active is not None:
            new = simd.select(simd.splat(active), new, old)
        simd.store(self.c, new, (d, j, n, 0))
        column = j * self.tiles.lanes
        if self.shape.projection_size:
            simd.store(self.h, hidden, (d, n, column))
        else:
            self._output(d, step, n, column, hidden, active)

    def _clip(self, c: Expr) -> Expr:
        if self.shape.clip is None:
            return c
        low, high = self.shape.clip
        if self.shape.clip_nan:  # c >= low is false for NaN, which becomes low
            c, low_v = self.simd.opaque(c), self.simd.splat(low)
            c = tirx.Select(c >= low_v, c, low_v)
        return self.simd.clamp(c, low, high)

    def _project(self, d: Expr, q: Expr, step: Expr) -> None:
        """Compute r = h W_h2r for 4V columns of the projection, for the whole batch."""
        self.sums = self._allocate_sums()

        def tile(start: Expr, rows: int) -> None:
            sums = self._accumulate(
                rows,
                self.shape.hidden_size,
                lambda row, k: scalar_load(self.h, (d, start + row, k)),
                lambda k, v: self.simd.load(self.w_h2r, (d, q, k, v, 0)),
            )
            for row in range(rows):
                for v in range(GATE_COUNT):
                    self.simd.store(self.sums[v], sums(row, v), (row, 0))

        def rows_of(start: Expr, count: Expr) -> None:
            dispatch_rows(count, self.tiles.rows, lambda rows: tile(start, rows))
            with T.serial(0, count) as row:
                n = T.bind(start + row)
                for v in range(GATE_COUNT):
                    value = T.bind(self.simd.load(self.sums[v], (row, 0)))
                    column = (q * GATE_COUNT + v) * self.tiles.lanes
                    self._output(d, step, n, column, value, self._active(step, n))

        self._each_row_tile(self.batch, rows_of)

    # --- pieces ----------------------------------------------------------------------------

    def _each_row_tile(self, rows: Expr, body: Callable[[Expr, Expr], None]) -> None:
        """Cut ``rows`` into the fewest tiles of at most ``tiles.rows``, of nearly equal height."""
        rows = T.bind(rows)
        tiles = T.bind(quotient(rows + (self.tiles.rows - 1), self.tiles.rows))
        divisor = T.bind(T.max(tiles, 1))  # a compiler may divide before the loop, even for N = 0
        with T.serial(0, tiles) as tile:
            start = T.bind(quotient(tile * rows, divisor))
            body(start, T.bind(quotient((tile + 1) * rows, divisor) - start))

    def _accumulate(
        self,
        rows: int,
        depth: int,
        scalar: Callable[[int, Expr], Expr],
        weights: Callable[[Expr, int], Expr],
    ) -> Callable[[int, int], Expr]:
        """Emit sum over k < depth of scalar(row, k) * weights(k, column), 4 columns of V lanes.

        Returns a function (row, column) -> the sum's vector.
        """
        chains = 2 if rows == 1 and depth > 1 else 1
        sums = Accumulators(self.simd, rows * chains, GATE_COUNT)
        for row in range(rows * chains):
            for column in range(GATE_COUNT):
                sums[row, column] = self.simd.splat(0.0)

        def multiply(k: Expr, chain: int) -> None:
            vectors = [T.bind(weights(k, column)) for column in range(GATE_COUNT)]
            for row in range(rows):
                value = T.bind(self.simd.splat(scalar(row, k)))
                for column in range(GATE_COUNT):
                    at = (chain * rows + row, column)
                    sums[at] = value * vectors[column] + sums[at]

        with T.serial(0, depth // chains) as k:
            for chain in range(chains):
                multiply(k * chains + chain, chain)
        for k in range(depth // chains * chains, depth):
            multiply(k, 0)

        def total(row: int, column: int) -> Expr:
            value = sums[row, column]
            return value + sums[row + rows, column] if chains == 2 else value

        return total

    def _length(self, n: Expr) -> Expr:
        return T.cast(scalar_load(self.lengths, (n,)), "int64")

    def _active(self, step: Expr, n: Expr) -> Expr | None:
        """Return whether row n still runs at ``step``; None without lengths: always."""
        return T.bind(step < self._length(n)) if self.shape.lengths else None

    def _output(
        self, d: Expr, step: Expr, n: Expr, column: Expr, value: Expr, active: Expr | None
    ) -> None:
        """Store V columns of r: to the next step's input, and to y."""
        s, simd, lanes = self.shape, self.simd, self.tiles.lanes
        following = remainder(step + 1, 2)
        carried = value
        if active is not None:
            kept = simd.load(self.r, (remainder(step, 2), d, n, column))
            carried = T.bind(simd.select(simd.splat(active), value, kept))
            value = T.bind(simd.select(simd.splat(active), value, simd.splat(0.0)))
        simd.store(self.r, carried, (following, d, n, column))
        t = self._output_time(d, step, n, active)
        base = d * s.output_size + column
        if s.output_size % lanes == 0 and not s.projection_size:
            simd.store(self.y, value, (t, n, base))
            return
        with T.If(column + lanes <= s.output_size):
            with T.Then():
                simd.store(self.y, value, (t, n, base))
            with T.Else(), T.serial(0, T.max(s.output_size - column, 0)) as lane:
                element = scalar_load(self.r, (following, d, n, column + lane))
                if active is not None:
                    element = tirx.Select(active, element, simd.scalar(0.0))
                T.buffer_store(self.y, element, [t, n, base + lane])

    def _output_time(self, d: Expr, step: Expr, n: Expr, active: Expr | None) -> Expr:
        if self.shape.directions == 1:
            return step
        if active is None:
            return T.bind(T.if_then_else(d == 0, step, self.steps - 1 - step))
        backward = T.if_then_else(active, self._length(n) - 1 - step, step)
        return T.bind(T.if_then_else(d == 0, step, backward))
