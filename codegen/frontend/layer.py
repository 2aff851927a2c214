"""One LSTM that is given as a spec and weights -> a Relax module."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tvm import relax

from gluonlstm.errors import (
    InvalidArgumentError,
    MissingParameterError,
    ShapeMismatchError,
)
from gluonlstm.spec import LSTMSpec

from .builder import LoweredModel, LSTMEmitter, ModelBuilder
from .inference import FixedShapes, given_shape
from .sizes import Letters, Shape, Size, unify_shapes

DATA, H0, C0, LENGTHS = "data", "h0", "c0", "sequence_length"
OUTPUTS = ("output", "h", "c")
SWAPPED = [1, 0, 2]  # NTC <-> TNC


def lower_lstm(
    spec: LSTMSpec,
    params: Mapping[str, NDArray[Any]],
    emitter: LSTMEmitter,
    *,
    shapes: FixedShapes | None = None,
    optional_lengths: bool = False,
) -> LoweredModel:
    """Lower one LSTM; ``params`` maps canonical names to arrays.

    Inputs: ``data`` in the spec's layout, ``h0`` (L*D, N, R) and ``c0`` (L*D, N, H), which may be
    left out, and ``sequence_length`` (N,) if the spec uses it or ``optional_lengths`` is set (then
    it may be left out). Outputs: ``output`` in the spec's layout, ``h``, ``c``. ``shapes`` fixes
    sizes of inputs. Raises MissingParameterError, ShapeMismatchError, InvalidArgumentError.
    """
    weights = _checked_weights(spec, params)
    inputs = _input_shapes(spec, optional_lengths)
    _fix(inputs, shapes or {})
    letters = Letters()
    with ModelBuilder() as builder:

        def declare(name: str, dtype: str, role: str, optional: bool = False) -> relax.Var:
            return builder.input(name, letters.shape(inputs[name]), dtype, role, optional)

        x = declare(DATA, spec.dtype, "data")
        h0 = declare(H0, spec.dtype, "hidden", optional=True)
        c0 = declare(C0, spec.dtype, "cell", optional=True)
        lengths = None
        if LENGTHS in inputs:
            lengths = declare(LENGTHS, "int32", "lengths", optional_lengths)
        swaps = spec.layout == "NTC"
        x = builder.emit(relax.op.permute_dims(x, SWAPPED)) if swaps else x
        y, h, c = emitter.emit(builder, "lstm", spec, weights, x, h0, c0, lengths)
        y = builder.emit(relax.op.permute_dims(y, SWAPPED)) if swaps else y
        return builder.finish(zip(OUTPUTS, (y, h, c), strict=True), spec)


def _input_shapes(spec: LSTMSpec, optional_lengths: bool) -> dict[str, Shape]:
    steps, batch = Size("T"), Size("N")
    h_shape, c_shape = spec.state_shapes(batch)
    shapes: dict[str, Shape] = {DATA: spec.data_shape(steps, batch), H0: h_shape, C0: c_shape}
    if spec.use_sequence_length or optional_lengths:
        shapes[LENGTHS] = (batch,)
    return shapes


def _fix(inputs: Mapping[str, Shape], shapes: FixedShapes) -> None:
    named: dict[str, Size] = {}
    for name, shape in shapes.items():
        if name not in inputs:
            raise InvalidArgumentError(
                f"shapes has an entry {name!r}, which is no input of the model; its inputs are "
                f"{', '.join(map(repr, inputs))}."
            )
        if not unify_shapes(inputs[name], given_shape(name, shape, named)):
            raise ShapeMismatchError(
                f"shapes[{name!r}]", inputs[name], tuple(shape), "The LSTM needs this."
            )


def _checked_weights(spec: LSTMSpec, params: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Return every parameter in the spec's dtype, and zeros for biases that the spec lacks."""
    if not spec.input_size:
        raise InvalidArgumentError(f"{spec} has input_size=0; it must be known when compiling.")
    own = {parameter.name for parameter in spec.parameters()}
    missing = own - params.keys()
    if missing:
        raise MissingParameterError(missing, params, "the parameters given")
    weights = {}
    for parameter in spec.packed_parameters():
        array = np.zeros(parameter.shape, spec.dtype)
        if parameter.name in own:
            array = np.asarray(params[parameter.name], spec.dtype)
        if array.shape != parameter.shape:
            raise ShapeMismatchError(
                f"parameter {parameter.name!r} of {spec}", parameter.shape, array.shape
            )
        weights[parameter.name] = array
    return weights
