"""Operators that give elements another place: reshape, swap axes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from tvm import relax

from .attributes import Attributes, Unsupported
from .builder import sizes_of
from .operator import Constant, Context, Known, Need, Operator, Value, Zeros, to_array

# --- reshape: only of parameters ------------------------------------------------------------


@dataclass(frozen=True)
class ReshapeConfig:
    """Attributes of ``Reshape``: the target with its special codes, read from the right or left."""

    shape: tuple[int, ...]
    reverse: bool


def _read_reshape(attrs: Attributes) -> ReshapeConfig:
    shape = attrs.shape("shape", ())
    if not shape:
        raise Unsupported("lacks the attribute shape (target_shape is obsolete and not supported)")
    attrs.ignore("target_shape", "keep_highest")  # without effect beside shape
    return ReshapeConfig(shape, attrs.boolean("reverse", False))


def _fold_reshape(config: ReshapeConfig, name: str, inputs: Sequence[Known]) -> list[Known]:
    array = to_array(inputs[0])
    if config.reverse:
        target = reshaped(array.shape[::-1], config.shape[::-1])[::-1]
    else:
        target = reshaped(array.shape, config.shape)
    return [Constant(name, array.reshape(target))]


def reshaped(shape: tuple[int, ...], codes: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape that MXNet's Reshape codes make of ``shape``.

    n > 0: n; 0: copy the next size; -1: whatever remains (once); -2: copy all that are left; -3:
    the product of the next two; -4, a, b: split the next into a and b, one of which may be -1.
    Raises Unsupported where MXNet fails.
    """
    rest, result, todo = list(shape), [], list(codes)
    inferred = None
    while todo:
        code = todo.pop(0)
        if code == -2:
            result += rest
            rest = []
        elif code == -3:
            result.append(_take(rest, codes) * _take(rest, codes))
        elif code == -4:
            result += _split(_take(rest, codes), todo[:2], codes)
            del todo[:2]
        elif code == -1:
            if inferred is not None:
                raise Unsupported(f"shape={codes} holds -1 twice")
            inferred = len(result)
            result.append(1)
            del rest[:1]
        elif code == 0:
            result.append(_take(rest, codes))
        elif code > 0:
            result.append(code)
            del rest[:1]
        else:
            raise Unsupported(f"shape={codes} holds {code}, which has no meaning")
    if inferred is not None:
        result[inferred] = math.prod(shape) // max(math.prod(result), 1)
    if math.prod(result) != math.prod(shape):
        raise Unsupported(f"shape={codes} does not fit an array of shape {shape}")
    return tuple(result)


def _take(rest: list[int], codes: tuple[int, ...]) -> int:
    if not rest:
        raise Unsupported(f"shape={codes} uses more dimensions than the input has")
    return rest.pop(0)


def _split(size: int, parts: Sequence[int], codes: tuple[int, ...]) -> list[int]:
    known = [part for part in parts if part > 0]
    if len(parts) != 2 or not known or min(parts) < -1:
        raise Unsupported(
            f"shape={codes}: -4 must be followed by two sizes, at most one of them -1"
        )
    left, right = (part if part > 0 else size // known[0] for part in parts)
    if left * right != size:
        raise Unsupported(f"shape={codes} does not divide a dimension of {size}")
    return [left, right]


def _read_np_reshape(attrs: Attributes) -> tuple[int, ...]:
    attrs.word("order", ("C",), "C")
    shape = attrs.shape("newshape")
    if attrs.boolean("reverse", False) or min(shape, default=0) < -1:
        raise Unsupported(f"newshape={shape}: only sizes and one -1 are supported")
    return shape


def _fold_np_reshape(config: tuple[int, ...], name: str, inputs: Sequence[Known]) -> list[Known]:
    array = to_array(inputs[0])
    try:
        return [Constant(name, array.reshape(config))]
    except ValueError:
        reason = f"newshape={config} does not fit an array of shape {array.shape}"
        raise Unsupported(reason) from None


# --- permute axes ---------------------------------------------------------------------------


@dataclass(frozen=True)
class SwapConfig:
    """The two axes that ``SwapAxis`` exchanges."""

    first: int
    second: int

    def order(self, rank: int) -> tuple[int, ...]:
        """Return the permutation of ``rank`` axes. Raises Unsupported for an axis too many."""
        if not all(-rank <= axis < rank for axis in (self.first, self.second)):
            raise Unsupported(f"axes {self.first} and {self.second} of {rank} dimensions")
        axes = list(range(rank))
        axes[self.first], axes[self.second] = axes[self.second], axes[self.first]
        return tuple(axes)


@dataclass(frozen=True)
class TransposeConfig:
    """The permutation of ``transpose``; empty: reverse all axes."""

    axes: tuple[int, ...]

    def order(self, rank: int) -> tuple[int, ...]:
        """Return the permutation of ``rank`` axes. Raises Unsupported if it is none."""
        axes = tuple(axis % rank for axis in self.axes) if rank else self.axes
        axes = axes or tuple(reversed(range(rank)))
        if sorted(axes) != list(range(rank)):
            raise Unsupported(f"axes={self.axes} do not permute {rank} dimensions")
        return axes


def _read_swap(attrs: Attributes) -> SwapConfig:
    return SwapConfig(attrs.integer("dim1", 0), attrs.integer("dim2", 0))


def _read_transpose(attrs: Attributes) -> TransposeConfig:
    return TransposeConfig(attrs.shape("axes", ()))


def _fold_permute(config: Any, name: str, inputs: Sequence[Known]) -> list[Known]:
    known = inputs[0]
    if isinstance(known, Zeros):
        order = config.order(len(known.shape))
        return [Zeros(tuple(known.shape[axis] for axis in order), known.dtype)]
    return [Constant(name, known.array.transpose(config.order(known.array.ndim)))]


def _infer_permute(
    config: Any, known: Sequence[Known | None], needs: Sequence[Need | None]
) -> list[Need | None]:
    need = needs[0]
    if need is None:
        return [None]
    shape = list(need.shape)
    for axis, source in enumerate(config.order(len(shape))):
        shape[source] = need.shape[axis]
    return [Need(tuple(shape), need.dtype, need.role)]


def _convert_permute(config: Any, context: Context, inputs: Sequence[Value]) -> list[Value]:
    data = context.tensor(inputs[0])
    order = config.order(len(sizes_of(data)))
    return [context.builder.emit(relax.op.permute_dims(data, list(order)), context.name)]


def _permuting(read: Callable[[Attributes], Any]) -> Operator:
    return Operator(
        read=read,
        inputs=_one_input,
        fold=_fold_permute,
        infer=_infer_permute,
        convert=_convert_permute,
        permutation=lambda config, rank: config.order(rank),
    )


def _one_input(config: Any) -> int:
    return 1


RESHAPE = Operator(_read_reshape, _one_input, fold=_fold_reshape)
NP_RESHAPE = Operator(_read_np_reshape, _one_input, fold=_fold_np_reshape)
SWAP_AXES = _permuting(_read_swap)
TRANSPOSE = _permuting(_read_transpose)
