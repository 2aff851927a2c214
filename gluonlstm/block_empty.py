"""No time steps or no rows: the block's answer, as a graph that works for any T and N.

MXNet's operators were not made for empty arrays: RNN divides by N (and takes the process down),
loops return unset memory for T = 0. The functions here put one step of zeros where there is none,
and one row of zeros where there is none, before the operators run, and take both away afterwards.
What to add follows from the shapes inside the graph, so that one graph serves empty and other
inputs; gradients flow, and are zero for parameters and input.

Only operators that are safe for empty arrays are used: no Reshape, no reductions over an axis
that is not the empty one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from gluonlstm.spec import LSTMSpec

Tensor = Any


@dataclass
class Filled:
    """Inputs without empty axes, and how to take the added parts out of the results."""

    x: Tensor  # (max(T, 1), max(N, 1), C)
    h0: Tensor  # (L*D, max(N, 1), R)
    c0: Tensor  # (L*D, max(N, 1), H)
    lengths: Tensor | None  # (max(N, 1),)
    restore: Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]


def zero_states(F: Any, spec: LSTMSpec, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return zero states for ``x`` of the spec's layout, whose N only the graph knows."""
    batch = spec.layout.index("N")
    h0, c0 = (
        F.broadcast_like(F.zeros(shape, dtype=spec.dtype), x, lhs_axes=(1,), rhs_axes=(batch,))
        for shape in spec.state_shapes(1)
    )
    return h0, c0


def fill(
    F: Any, spec: LSTMSpec, x: Tensor, h0: Tensor, c0: Tensor, lengths: Tensor | None
) -> Filled:
    """Add a step of zeros if x (T, N, C) has none, and a row of zeros if it has none."""
    zero = F.zeros((1, 1, 1), dtype=spec.dtype)
    one_step = F.broadcast_like(zero, x, lhs_axes=(1, 2), rhs_axes=(1, 2))  # (1, N, C)
    extra_step = _if_empty(F, x, one_step, axis=0)  # (1 or 0, N, C)
    x1 = F.concat(x, extra_step, dim=0)
    x2, h2, c2 = (F.concat(a, _if_empty(F, a, _row(F, a), axis=1), dim=1) for a in (x1, h0, c0))
    if lengths is not None:
        lengths = F.concat(
            lengths, _if_empty(F, lengths, F.zeros_like(_row(F, lengths, 0)), 0), dim=0
        )
    first = F.slice_axis(x, axis=0, begin=0, end=1)  # (0 if T = 0 else 1, N, C)

    def state(new: Tensor, old: Tensor, given: Tensor) -> Tensor:
        """Return the new state if there was a step, else the old one."""
        choices = (
            F.slice_like(F.expand_dims(choice, axis=0), size, axes=(0,))
            for choice, size in ((new, first), (old, extra_step))
        )
        return F.slice_like(F.squeeze(F.concat(*choices, dim=0), axis=0), given, axes=(1,))

    def restore(y: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return F.slice_like(y, x, axes=(0, 1)), state(h, h2, h0), state(c, c2, c0)

    return Filled(x2, h2, c2, lengths, restore)


def _row(F: Any, a: Tensor, axis: int = 1) -> Tensor:
    """Return zeros of a's shape but for a 1 along ``axis``, the only axis that may be empty."""
    return F.sum(F.zeros_like(a), axis=axis, keepdims=True)


def _if_empty(F: Any, a: Tensor, one: Tensor, axis: int) -> Tensor:
    """Return ``one``, of size 1 along ``axis``, if ``a`` is empty along it, else nothing of it."""
    # Size 1 if a is empty, else 2; from its end to position 1, that leaves 1 or 0.
    joined = F.concat(F.slice_axis(a, axis=axis, begin=0, end=1), one, dim=axis)
    skipped = (None,) * axis
    return F.slice(joined, begin=(*skipped, -1), end=(*skipped, 1))
