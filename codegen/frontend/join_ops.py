"""Operators that put arrays together or take them apart along an axis."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from tvm import relax

from gluonlstm.errors import ShapeMismatchError

from .attributes import Attributes, Unsupported
from .builder import sizes_of
from .operator import Constant, Context, Known, Need, Operator, Value, Zeros, to_array
from .sizes import Size, SizeLike, resolve, unify_shapes

MAX_OUTPUTS = 4096  # of a split; every one is a node of the module

# --- concatenate ----------------------------------------------------------------------------


@dataclass(frozen=True)
class ConcatConfig:
    """Attributes of the concatenations: axis and number of inputs."""

    axis: int
    count: int


def _read_concat(attrs: Attributes) -> ConcatConfig:
    return ConcatConfig(attrs.integer("dim", 1), attrs.integer("num_args", least=1))


def _fold_concat(config: ConcatConfig, name: str, inputs: Sequence[Known]) -> list[Known]:
    zeros = [known for known in inputs if isinstance(known, Zeros)]
    if len(zeros) == len(inputs):
        return [_joined_zeros(zeros, config.axis)]
    arrays = [to_array(known) for known in inputs]
    dtypes = sorted({str(array.dtype) for array in arrays})
    if len(dtypes) > 1:
        raise Unsupported(f"its inputs have different dtypes: {', '.join(dtypes)}")
    try:
        return [Constant(name, np.concatenate(arrays, config.axis))]
    except ValueError as error:
        raise Unsupported(f"its inputs do not fit together: {error}") from None


def _joined_zeros(parts: Sequence[Zeros], axis: int) -> Zeros:
    """Concatenate zeros, of which some sizes may not be known."""
    shapes, dtypes = [part.shape for part in parts], {part.dtype for part in parts}
    axis, fits = _axis(axis, len(shapes[0])), len(dtypes) == len({*map(len, shapes)}) == 1
    result: list[int | None] = []
    for place, sizes in enumerate(zip(*shapes, strict=False)):
        known = [size for size in sizes if size is not None]
        if place == axis:
            result.append(sum(known) if len(known) == len(sizes) else None)
        else:
            fits = fits and len({*known}) <= 1
            result.append(known[0] if known else None)
    if not fits:
        raise Unsupported(f"its inputs do not fit together: {', '.join(map(str, parts))}")
    return Zeros(tuple(result), parts[0].dtype)


def _infer_concat(
    config: ConcatConfig, known: Sequence[Known | None], needs: Sequence[Need | None]
) -> list[Need | None]:
    need = needs[0]
    if need is None:
        return [None] * len(known)
    axis = _axis(config.axis, len(need.shape))

    def part() -> Need:
        shape = [Size() if i == axis else size for i, size in enumerate(need.shape)]
        return Need(tuple(shape), need.dtype)

    return [part() for _ in known]


def _convert_concat(
    config: ConcatConfig, context: Context, inputs: Sequence[Value]
) -> list[relax.Var]:
    tensors: list[relax.Expr] = [context.tensor(value) for value in inputs]
    axis = _axis(config.axis, len(sizes_of(tensors[0])))
    return [context.builder.emit(relax.op.concat(tensors, axis), context.name)]


# --- split ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class SplitConfig:
    """Attributes of ``SliceChannel``: number of equal parts, axis, and whether it vanishes."""

    count: int
    axis: int
    squeeze: bool


def _read_split(attrs: Attributes) -> SplitConfig:
    count = attrs.integer("num_outputs", least=1)
    if count > MAX_OUTPUTS:
        raise Unsupported(f"num_outputs={count} is more than {MAX_OUTPUTS}")
    return SplitConfig(count, attrs.integer("axis", 1), attrs.boolean("squeeze_axis", False))


def _split_outputs(config: SplitConfig) -> tuple[str, ...]:
    return tuple(f"output{number}" for number in range(config.count))


def _fold_split(config: SplitConfig, name: str, inputs: Sequence[Known]) -> list[Known]:
    known = inputs[0]
    if isinstance(known, Zeros):
        return [_part_of_zeros(config, known)] * config.count
    array = known.array
    axis = _axis(config.axis, array.ndim)
    _check_split(config, array.shape[axis])
    parts = np.split(array, config.count, axis)
    if config.squeeze:
        parts = [part.squeeze(axis) for part in parts]
    return [Constant(f"{name}_{number}", part) for number, part in enumerate(parts)]


def _part_of_zeros(config: SplitConfig, zeros: Zeros) -> Zeros:
    shape = list(zeros.shape)
    axis = _axis(config.axis, len(shape))
    size = shape.pop(axis)
    _check_split(config, size)
    if not config.squeeze and size is not None:
        shape.insert(axis, size // config.count)
    return Zeros(tuple(shape), zeros.dtype)


def _infer_split(
    config: SplitConfig, known: Sequence[Known | None], needs: Sequence[Need | None]
) -> list[Need | None]:
    given = [need for need in needs if need is not None]
    if not given:
        return [None]
    first = given[0]
    for need in given[1:]:
        if not unify_shapes(first.shape, need.shape):
            raise ShapeMismatchError("another part of a split", first.shape, need.shape)
    shape: list[SizeLike] = [resolve(size) for size in first.shape]
    if config.squeeze:
        shape.insert(_axis(config.axis, len(shape) + 1), config.count)
    else:
        axis = _axis(config.axis, len(shape))
        size = shape[axis]
        shape[axis] = size * config.count if isinstance(size, int) else Size()
    # Every part being a state, so is the whole: states that are left out are zeros.
    roles = {need.role for need in given} if len(given) == len(needs) else {"data"}
    return [Need(tuple(shape), first.dtype, roles.pop() if len(roles) == 1 else "data")]


def _convert_split(
    config: SplitConfig, context: Context, inputs: Sequence[Value]
) -> list[relax.Var]:
    data = context.tensor(inputs[0])
    sizes = sizes_of(data)
    axis = _axis(config.axis, len(sizes))
    _check_split(config, getattr(sizes[axis], "value", None))
    emit = context.builder.emit
    if config.count == 1:
        parts = [data]
    else:
        split = emit(relax.op.split(data, config.count, axis))
        parts = [emit(relax.TupleGetItem(split, number)) for number in range(config.count)]
    return [emit(relax.op.squeeze(part, [axis])) for part in parts] if config.squeeze else parts


def _check_split(config: SplitConfig, size: int | None) -> None:
    """Check the axis' size; None is not known when compiling."""
    if size is None:
        raise Unsupported("splits an axis whose size is free; fix it with shapes={...}")
    if size % config.count or (config.squeeze and size != config.count):
        parts = "of one" if config.squeeze else "equal"
        raise Unsupported(f"an axis of {size} cannot be split into {config.count} {parts} parts")


def _axis(axis: int, rank: int) -> int:
    if not -rank <= axis < rank:
        raise Unsupported(f"axis {axis} of {rank} dimensions")
    return axis % rank


CONCAT = Operator(
    read=_read_concat,
    inputs=lambda config: config.count,
    fold=_fold_concat,
    infer=_infer_concat,
    convert=_convert_concat,
)
SPLIT = Operator(
    read=_read_split,
    inputs=lambda config: 1,
    outputs=_split_outputs,
    fold=_fold_split,
    infer=_infer_split,
    convert=_convert_split,
)
