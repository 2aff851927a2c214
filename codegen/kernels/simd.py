"""A small vocabulary for writing vector code with TVM's IRBuilder.

One :class:`Simd` stands for one vector register shape (element type and lanes) of the target; the
kernels are written against it, so that AVX-512, AVX2 and NEON differ in two integers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from .tir import T, tirx

Expr = Any  # a TIR expression or a Python number
Index = Sequence[Expr]


@dataclass(frozen=True)
class Simd:
    """Vectors of ``lanes`` elements of ``dtype``."""

    dtype: str
    lanes: int

    @property
    def vector_dtype(self) -> str:
        """TVM's name of the vector type, such as float32x16."""
        return f"{self.dtype}x{self.lanes}"

    def scalar(self, value: float) -> Expr:
        """Return a scalar constant."""
        return tirx.const(value, self.dtype)

    def splat(self, value: Expr) -> Expr:
        """Return a vector whose lanes all hold ``value``."""
        return T.Broadcast(
            self.scalar(value) if isinstance(value, (int, float)) else value, self.lanes
        )

    def load(self, buffer: Any, index: Index) -> Expr:
        """Load ``lanes`` neighbours along the last axis of ``buffer``, from ``index`` on."""
        return tirx.BufferLoad(buffer, self._ramp(index))

    def store(self, buffer: Any, value: Expr, index: Index) -> None:
        """Store a vector to ``lanes`` neighbours along the last axis of ``buffer``."""
        T.buffer_store(buffer, value, self._ramp(index))

    def select(self, condition: Expr, yes: Expr, no: Expr) -> Expr:
        """Choose lane by lane; ``condition`` is a vector (or the splat of a scalar)."""
        return tirx.Select(condition, yes, no)

    def clamp(self, value: Expr, low: float, high: float) -> Expr:
        """Limit each lane to [low, high]; NaN stays NaN (every comparison with NaN is false)."""
        low_v, high_v = self.splat(low), self.splat(high)
        value = self.opaque(value)
        value = self.opaque(tirx.Select(low_v > value, low_v, value))
        return T.bind(tirx.Select(high_v < value, high_v, value))

    def opaque(self, value: Expr) -> Expr:
        """Hold a vector in a one-element buffer (a register, after LLVM) TVM cannot see through.

        TVM 0.27's simplifier tries to prove every comparison by substituting bound variables,
        which takes exponential time on a chain of activations; a load ends the substitution.
        """
        slot = T.alloc_buffer((1,), self.vector_dtype, scope="global")
        T.buffer_store(slot, value, [0])
        return tirx.BufferLoad(slot, [0])

    def _ramp(self, index: Index) -> list[Expr]:
        return [*index[:-1], T.Ramp(index[-1], 1, self.lanes)]


def scalar_load(buffer: Any, index: Index) -> Expr:
    """Load one element."""
    return tirx.BufferLoad(buffer, list(index))


@contextmanager
def when(condition: Expr) -> Iterator[None]:
    """Run the body if ``condition`` holds."""
    with T.If(condition), T.Then():
        yield


def quotient(dividend: Expr, divisor: Expr) -> Expr:
    """Divide sizes: neither is negative, the divisor not 0.

    A floor division whose signs TVM cannot prove becomes a nest of lets and selects, which its
    simplifier then rewrites for seconds; a truncating one is a single instruction.
    """
    return tirx.truncdiv(dividend, divisor)


def remainder(dividend: Expr, divisor: Expr) -> Expr:
    """Return what :func:`quotient` leaves."""
    return tirx.truncmod(dividend, divisor)


class Accumulators:
    """A block of ``rows`` x ``columns`` vector registers, all indices static.

    Each row is a stack buffer of less than 1 KiB in scope "global": TVM keeps such a buffer as an
    alloca, which LLVM promotes to registers. (Scope "local" or a larger buffer would become a
    heap workspace, and every accumulation a store.)
    """

    def __init__(self, simd: Simd, rows: int, columns: int) -> None:
        self.rows, self.columns = rows, columns
        self._registers = [
            T.alloc_buffer((columns,), simd.vector_dtype, scope="global") for _ in range(rows)
        ]

    def __getitem__(self, at: tuple[int, int]) -> Expr:
        row, column = at
        return tirx.BufferLoad(self._registers[row], [column])

    def __setitem__(self, at: tuple[int, int], value: Expr) -> None:
        row, column = at
        T.buffer_store(self._registers[row], value, [column])


def dispatch_rows(count: Expr, most: int, body: Callable[[int], None]) -> None:
    """Emit ``body(rows)`` for each static number of rows 1..most, chosen by ``count`` at run time.

    Register blocks need static extents and the batch is free, so each block height gets its code.
    """
    if most == 1:
        body(1)
        return
    with T.If(count == most):
        with T.Then():
            body(most)
        with T.Else():
            dispatch_rows(count, most - 1, body)
