"""Operators that make constants."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .attributes import Attributes, Unsupported
from .operator import Known, Operator, Zeros

DTYPES = ("float32", "float64", "float16", "uint8", "int32", "int8", "int64")


@dataclass(frozen=True)
class ZerosConfig:
    """Attributes of ``_zeros``; a size of None follows from the use."""

    shape: tuple[int | None, ...]
    dtype: str


def _read(attrs: Attributes) -> ZerosConfig:
    shape = attrs.shape("shape", ())
    dtype = attrs.word("dtype", DTYPES, "float32")
    attrs.ignore("ctx")
    if any(size < -1 for size in shape):
        raise Unsupported(f"shape={shape} has a negative size")
    # 0 is "unknown" in MXNet's first shape semantics and -1 in np_shape's. A begin_state that was
    # traced under np_shape holds a literal 0 for the batch, which only makes sense as unknown too.
    sizes = tuple(size if size > 0 else None for size in shape)
    return ZerosConfig(sizes, dtype)


def _fold(config: ZerosConfig, name: str, inputs: Sequence[Known]) -> list[Known]:
    return [Zeros(config.shape, config.dtype)]


# --- zeros broadcast to another value's sizes: how states get the batch size of the data --------


def _read_broadcast(attrs: Attributes) -> tuple[int, ...] | None:
    attrs.ignore("rhs_axes")
    return attrs.shape("lhs_axes", None)


def _fold_broadcast(
    config: tuple[int, ...] | None, name: str, inputs: Sequence[Known | None]
) -> list[Known]:
    zeros = inputs[0]
    if not isinstance(zeros, Zeros):
        raise Unsupported("is only supported for zeros")
    rank = len(zeros.shape)
    if config is not None and not all(-rank <= axis < rank for axis in config):
        raise Unsupported(f"lhs_axes={config} of {rank} dimensions")
    axes = range(rank) if config is None else [axis % rank for axis in config]
    # The other value's sizes come out where these zeros are used: an LSTM's batch is its data's.
    sizes = [
        None if axis in axes and size in (None, 1) else size
        for axis, size in enumerate(zeros.shape)
    ]
    return [Zeros(tuple(sizes), zeros.dtype)]


ZEROS = Operator(read=_read, inputs=lambda config: 0, fold=_fold)
BROADCAST_LIKE = Operator(
    read=_read_broadcast,
    inputs=lambda config: 2,
    fold=_fold_broadcast,
    shape_inputs=frozenset({1}),
)
