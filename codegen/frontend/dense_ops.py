"""Embedding and fully connected layers, activations, sums and products."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm import relax, tirx

from gluonlstm.errors import ArgumentTypeError, ShapeMismatchError

from .attributes import Attributes, Unsupported
from .builder import dtype_of, sizes_of
from .operator import Constant, Context, Known, Need, Operator, Value, constant

DATA, WEIGHT, BIAS = range(3)  # inputs

# --- fully connected ------------------------------------------------------------------------


@dataclass(frozen=True)
class DenseConfig:
    """Attributes of ``FullyConnected``; ``flatten`` makes one axis of all but the first."""

    width: int
    bias: bool
    flatten: bool


def _read_dense(attrs: Attributes) -> DenseConfig:
    return DenseConfig(
        attrs.integer("num_hidden", least=1),
        not attrs.boolean("no_bias", False),
        attrs.boolean("flatten", True),
    )


def _infer_dense(
    config: DenseConfig, known: Sequence[Known | None], needs: Sequence[Need | None]
) -> list[Need | None]:
    need, weight = needs[0], known[WEIGHT]
    result: list[Need | None] = [None] * len(known)
    if need is not None and isinstance(weight, Constant) and not config.flatten:
        shape = (*need.shape[:-1], *weight.array.shape[1:])
        result[DATA] = Need(shape, str(weight.array.dtype))
    return result


def _convert_dense(
    config: DenseConfig, context: Context, inputs: Sequence[Value]
) -> list[relax.Var]:
    emit, data = context.builder.emit, context.tensor(inputs[DATA])
    weight = constant(inputs[WEIGHT])
    sizes = sizes_of(data)
    if config.flatten and len(sizes) != 2:
        shape: Any = [sizes[0], math.prod(_known_sizes(sizes[1:]))]
        data, sizes = emit(relax.op.reshape(data, shape)), shape
    expected = (config.width, _known_sizes(sizes[-1:])[0])
    if weight.array.shape != expected:
        raise ShapeMismatchError(f"weight of {context.name!r}", expected, weight.array.shape)
    transposed = np.ascontiguousarray(weight.array.T)
    matrix = context.builder.weight(f"{weight.name}_transposed", transposed)
    _check_dtypes(context.name, data, matrix)
    result = emit(relax.op.matmul(data, matrix), context.name)
    if config.bias:
        bias = constant(inputs[BIAS])
        _check_dtypes(context.name, result, context.tensor(bias))
        if bias.array.shape != (config.width,):
            name = f"bias of {context.name!r}"
            raise ShapeMismatchError(name, (config.width,), bias.array.shape)
        result = emit(relax.op.add(result, context.tensor(bias)))
    return [result]


# --- embedding ------------------------------------------------------------------------------


@dataclass(frozen=True)
class EmbeddingConfig:
    """Attributes of ``Embedding``: rows and columns of the table."""

    rows: int
    columns: int


def _read_embedding(attrs: Attributes) -> EmbeddingConfig:
    attrs.ignore("dtype", "sparse_grad")  # the table's own dtype counts
    return EmbeddingConfig(
        attrs.integer("input_dim", least=1), attrs.integer("output_dim", least=1)
    )


def _infer_embedding(
    config: EmbeddingConfig, known: Sequence[Known | None], needs: Sequence[Need | None]
) -> list[Need | None]:
    need = needs[0]
    return [None if need is None else Need(need.shape[:-1]), None]


def _convert_embedding(
    config: EmbeddingConfig, context: Context, inputs: Sequence[Value]
) -> list[relax.Var]:
    emit, ids = context.builder.emit, context.tensor(inputs[DATA])
    table = constant(inputs[WEIGHT])
    if table.array.shape != (config.rows, config.columns):
        expected = (config.rows, config.columns)
        raise ShapeMismatchError(f"table of {context.name!r}", expected, table.array.shape)
    # MXNet takes ids of any dtype, cuts fractions off, and the nearest row for those outside.
    if dtype_of(ids) not in ("int32", "int64"):
        if dtype_of(ids).startswith(("float", "bfloat")):
            last = float(config.rows - 1)
            low, high = (tirx.FloatImm(dtype_of(ids), bound) for bound in (0.0, last))
            ids = emit(relax.op.clip(ids, low, high))
        ids = emit(relax.op.astype(ids, "int64"))
    rows = emit(relax.op.take(context.tensor(table), ids, 0, "clip"), context.name)
    return [rows]


# --- activations ----------------------------------------------------------------------------


def _relu(x: relax.Expr) -> relax.Expr:
    zero = relax.const(0, dtype_of(x))
    return relax.op.where(relax.op.greater(x, zero), x, zero)  # NaN becomes 0 in Activation


def _softsign(x: relax.Expr) -> relax.Expr:
    return relax.op.divide(x, relax.op.add(relax.const(1, dtype_of(x)), relax.op.abs(x)))


ACTIVATIONS: dict[str, Callable[[relax.Expr], relax.Expr]] = {
    "relu": _relu,
    "sigmoid": relax.op.sigmoid,
    "softrelu": relax.op.nn.softplus,
    "softsign": _softsign,
    "tanh": relax.op.tanh,
}


def _read_activation(attrs: Attributes) -> str:
    return attrs.word("act_type", tuple(ACTIVATIONS))


def _infer_same(
    config: Any, known: Sequence[Known | None], needs: Sequence[Need | None]
) -> list[Need | None]:
    need = needs[0]
    same = None if need is None else Need(need.shape, need.dtype)
    return [same] * len(known)


def _convert_activation(config: str, context: Context, inputs: Sequence[Value]) -> list[relax.Var]:
    data = context.tensor(inputs[0])
    return [context.builder.emit(ACTIVATIONS[config](data), context.name)]


def _activation(read: Callable[[Attributes], str]) -> Operator:
    return Operator(
        read=read, inputs=lambda config: 1, infer=_infer_same, convert=_convert_activation
    )


# --- sums and products ----------------------------------------------------------------------

Binary = Callable[[relax.Expr, relax.Expr], relax.Expr]


def _binary(function: Binary, broadcasts: bool) -> Operator:
    def convert(config: None, context: Context, inputs: Sequence[Value]) -> list[relax.Var]:
        left, right = (context.tensor(value) for value in inputs)
        _check_dtypes(context.name, left, right)
        if not _shapes_fit(_text(left), _text(right), broadcasts):
            name = f"right side of {context.name!r}"
            raise ShapeMismatchError(name, _text(left), _text(right))
        return [context.builder.emit(function(left, right), context.name)]

    def read(attrs: Attributes) -> None:
        """Read nothing: these operators have no attributes."""

    infer = None if broadcasts else _infer_same
    return Operator(read=read, inputs=lambda config: 2, infer=infer, convert=convert)


def _shapes_fit(left: Sequence[str], right: Sequence[str], broadcasts: bool) -> bool:
    """Whether sizes are equal, or 1 where they may be broadcast; a free size is only itself."""
    if not broadcasts:
        return left == right
    pairs = zip(reversed(left), reversed(right), strict=False)
    return all(a == b or "1" in (a, b) for a, b in pairs)


def _text(value: relax.Expr) -> tuple[str, ...]:
    return tuple(str(getattr(size, "value", size)) for size in sizes_of(value))


# --- helpers --------------------------------------------------------------------------------


def _check_dtypes(name: str, left: relax.Expr, right: relax.Expr) -> None:
    if dtype_of(left) != dtype_of(right):
        raise ArgumentTypeError(
            f"the inputs of {name!r} are {dtype_of(left)} and {dtype_of(right)}; they must have "
            "one dtype."
        )


def _known_sizes(sizes: Sequence[Any]) -> list[int]:
    values = [getattr(size, "value", size) for size in sizes]
    if not all(isinstance(value, int) for value in values):
        raise Unsupported("the width of its input is free; fix it with shapes={...}")
    return values


def _parameters(config: DenseConfig) -> tuple[int, ...]:
    return (WEIGHT, BIAS) if config.bias else (WEIGHT,)


FULLY_CONNECTED = Operator(
    read=_read_dense,
    inputs=lambda config: 3 if config.bias else 2,
    constants=_parameters,
    infer=_infer_dense,
    convert=_convert_dense,
)
EMBEDDING = Operator(
    read=_read_embedding,
    inputs=lambda config: 2,
    constants=lambda config: (WEIGHT,),
    infer=_infer_embedding,
    convert=_convert_embedding,
)
ACTIVATION = _activation(_read_activation)
SIGMOID = _activation(lambda attrs: "sigmoid")
TANH = _activation(lambda attrs: "tanh")
ELEMWISE_ADD = _binary(relax.op.add, broadcasts=False)
ELEMWISE_SUB = _binary(relax.op.subtract, broadcasts=False)
ELEMWISE_MUL = _binary(relax.op.multiply, broadcasts=False)
BROADCAST_ADD = _binary(relax.op.add, broadcasts=True)
BROADCAST_SUB = _binary(relax.op.subtract, broadcasts=True)
BROADCAST_MUL = _binary(relax.op.multiply, broadcasts=True)
