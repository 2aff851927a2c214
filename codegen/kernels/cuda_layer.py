"""What the CUDA kernels of an LSTM layer have in common: their arguments, the cell, the time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gluonlstm.spec import GATES

from .layer import LSTMLayerShape
from .simt import Expr
from .tir import T, tirx

GATE_COUNT = len(GATES)


class CUDALayer:
    """Base of the builders of kernels that run a layer's recurrence, in float32.

    Arguments in order: gates (T, N, D*H*4), w_h2h (D, R, H, 4), with a projection w_h2r (shape as
    the kernel wants it), h0 (L*D, N, R), c0 (L*D, N, H), with lengths (N,) int32, row0 (int64, the
    layer's first row in the states), then the outputs y (T, N, D*R), h_n (D, N, R), c_n (D, N, H).
    """

    def __init__(self, shape: LSTMLayerShape) -> None:
        """Build a kernel for ``shape``."""
        self.shape = shape
        self.steps, self.batch = tirx.Var("T", "int64"), tirx.Var("N", "int64")

    def declare(self, w_h2r_shape: tuple[int, ...] | None) -> None:
        """Declare the arguments as attributes."""
        s, steps, batch = self.shape, self.steps, self.batch
        d, rows = s.directions, s.layers * s.directions
        width = d * s.hidden_size * GATE_COUNT
        self.gates = argument("gates", (steps, batch, width))
        self.w_h2h = argument("w_h2h", (d, s.output_size, s.hidden_size, GATE_COUNT))
        if w_h2r_shape is not None:
            self.w_h2r = argument("w_h2r", w_h2r_shape)
        self.h0 = argument("h0", (rows, batch, s.output_size))
        self.c0 = argument("c0", (rows, batch, s.hidden_size))
        if s.lengths:
            self.lengths = argument("lengths", (batch,), "int32")
        self.row0 = T.arg("row0", tirx.Var("row0", "int64"))
        self.y = argument("y", (steps, batch, d * s.output_size))
        self.h_n = argument("h_n", (d, batch, s.output_size))
        self.c_n = argument("c_n", (d, batch, s.hidden_size))

    def time(self, d: Expr, step: Expr, n: Expr) -> tuple[Expr, Expr]:
        """Return whether row ``n`` runs at ``step`` of direction ``d``, and its time then.

        Backward, step s is time length - 1 - s; a row past its length writes zeros at time s.
        """
        length = self.steps
        active: Expr = tirx.const(True, "bool")
        if self.shape.lengths:
            length = T.bind(T.cast(tirx.BufferLoad(self.lengths, [n]), "int64"))
            active = T.bind(step < length)
        if self.shape.directions == 1:
            return active, step
        backward = tirx.And(d == 1, active)
        return active, T.bind(T.if_then_else(backward, length - 1 - step, step))

    def cell(self, sums: Sequence[Expr], c: Expr) -> tuple[Expr, Expr]:
        """Return (c, h) of one cell from the sums of its gates i f g o and its previous c."""
        i, f, o = (T.sigmoid(sums[gate]) for gate in (0, 1, 3))
        state = T.alloc_local((1,), "float32")
        T.buffer_store(state, f * c + i * T.tanh(sums[2]), [0])
        new = tirx.BufferLoad(state, [0])
        if self.shape.clip is not None:
            low, high = (tirx.const(bound, "float32") for bound in self.shape.clip)
            if self.shape.clip_nan:  # new >= low is false for NaN, which becomes low
                T.buffer_store(state, tirx.Select(new >= low, new, low), [0])
            T.buffer_store(state, tirx.Select(new < low, low, new), [0])
            T.buffer_store(state, tirx.Select(new > high, high, new), [0])
        return new, T.bind(o * T.tanh(new))


def argument(name: str, shape: tuple[Any, ...], dtype: str = "float32") -> Any:
    """Declare one argument of the function under construction."""
    return T.arg(name, tirx.decl_buffer(shape, dtype, name))
