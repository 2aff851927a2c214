"""The flat parameter vector of MXNet's RNN operator <-> the parameters one by one.

Names of such vectors are ``lstm_parameters`` (mx.rnn.FusedRNNCell), ``..._parameters`` (sym.RNN)
and ``rnn_param`` (MXNet 2). The order is that of :meth:`LSTMSpec.packed_parameters`: every weight,
layer by layer and direction by direction, then every bias. The length alone does not tell the
hidden size, layers, directions and projection; given these, it tells the input size.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from gluonlstm.errors import InvalidArgumentError, MissingParameterError, ShapeMismatchError
from gluonlstm.spec import LSTMSpec


def unpack(spec: LSTMSpec, vector: np.ndarray, name: str = "vector") -> dict[str, np.ndarray]:
    """Return canonical name -> view of the flat ``vector``, in the order of ``spec.parameters()``.

    ``spec.input_size`` may be 0: it then follows from the length (the shape of ``l0_i2h_weight``
    holds it). With ``spec.bias`` False the vector's biases must be zeros. Raises
    ShapeMismatchError, naming the vector ``name``, when the length does not fit.
    """
    spec = spec.replace(input_size=input_size(spec, vector, name))
    params, end = {}, 0
    for parameter in spec.packed_parameters():
        begin, end = end, end + parameter.size
        params[parameter.name] = vector[begin:end].reshape(parameter.shape)
    if not spec.bias:
        params = without_zero_biases(params, name)
    return {parameter.name: params[parameter.name] for parameter in spec.parameters()}


def pack(spec: LSTMSpec, params: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return the flat vector of canonically named parameters; missing biases become zeros.

    Raises MissingParameterError or ShapeMismatchError for parameters that ``spec`` does not have.
    """
    first = params.get("l0_i2h_weight")
    if not spec.input_size and first is not None and first.ndim == 2:
        spec = spec.replace(input_size=first.shape[1])
    needed = [parameter.name for parameter in spec.parameters()]
    missing = [name for name in needed if name not in params]
    if missing:
        raise MissingParameterError(missing, params)
    dtype = params[needed[0]].dtype
    parts = []
    for parameter in spec.packed_parameters():
        part = params.get(parameter.name) if parameter.name in needed else None
        if part is not None and part.shape != parameter.shape:
            raise ShapeMismatchError(parameter.name, parameter.shape, part.shape)
        parts.append(np.zeros(parameter.size, dtype) if part is None else part.reshape(-1))
    return np.concatenate(parts)


def input_size(spec: LSTMSpec, vector: np.ndarray, name: str = "vector") -> int:
    """Return C, from the vector's length where ``spec`` leaves it open; else check the length."""
    if vector.ndim != 1:
        raise ShapeMismatchError(name, "(parameters,)", vector.shape, "It must be a flat vector.")
    if spec.input_size:
        if vector.size != spec.packed_size:
            raise ShapeMismatchError(name, (spec.packed_size,), vector.shape, _given(spec))
        return spec.input_size
    rows = 4 * spec.hidden_size * spec.directions
    size, rest = divmod(vector.size - spec.packed_size, rows)
    if rest or size < 1:
        expected = f"({spec.packed_size} + {rows} * input_size,)"
        raise ShapeMismatchError(name, expected, vector.shape, _given(spec))
    return size


def without_zero_biases(params: Mapping[str, np.ndarray], where: str) -> dict[str, np.ndarray]:
    """Leave out the biases; InvalidArgumentError if one is not zero."""
    for name, array in params.items():
        if name.endswith("bias") and np.any(array):
            raise InvalidArgumentError(
                f"{name} of {where} is not zero, but the specification says bias=False."
            )
    return {name: array for name, array in params.items() if not name.endswith("bias")}


def _given(spec: LSTMSpec) -> str:
    return (
        f"These follow from hidden_size={spec.hidden_size}, num_layers={spec.num_layers}, "
        f"bidirectional={spec.bidirectional}, projection_size={spec.projection_size}, "
        f"input_size={spec.input_size or 'unknown'}."
    )
