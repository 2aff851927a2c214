"""Operators without inputs that make constants."""

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


ZEROS = Operator(read=_read, inputs=lambda config: 0, fold=_fold)
