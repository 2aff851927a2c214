"""Operators that hand their input on unchanged at inference."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .attributes import Attributes
from .operator import Context, Known, Need, Operator, Value


def _read_nothing(attrs: Attributes) -> None:
    """Read nothing: these operators have no attributes."""


def _read_dropout(attrs: Attributes) -> None:
    attrs.word("mode", ("training",), "training")  # "always" drops at inference too
    attrs.ignore("p", "axes", "cudnn_off")


def _read_loss(attrs: Attributes) -> None:
    attrs.ignore("grad_scale", "valid_thresh", "normalization")  # they shape the gradient


def _fold(config: Any, name: str, inputs: Sequence[Known]) -> Sequence[Known]:
    return inputs


def _infer(
    config: Any, known: Sequence[Known | None], needs: Sequence[Need | None]
) -> Sequence[Need | None]:
    return needs[:1]


def _convert(config: Any, context: Context, inputs: Sequence[Value]) -> Sequence[Value]:
    return inputs


def _identity(read: Any) -> Operator:
    return Operator(
        read=read,
        inputs=lambda config: 1,
        fold=_fold,
        infer=_infer,
        convert=_convert,
        permutation=lambda config, rank: tuple(range(rank)),
    )


IDENTITY = _identity(_read_nothing)
DROPOUT = _identity(_read_dropout)
MAKE_LOSS = _identity(_read_loss)
