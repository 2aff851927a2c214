"""Weights in Gluon's layout -> each kernel's layout, done once at compile time."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from gluonlstm.spec import GATES, LSTMSpec, parameter_name

Array = NDArray[np.generic]


def interleave(matrix: Array, groups: int, lanes: int) -> Array:
    """Arrange the rows of ``matrix`` (groups * M, K) as (ceil(M / lanes), K, groups, lanes).

    Row g * M + b * lanes + v goes to [b, :, g, v]: for each k, the same ``lanes`` rows of every
    group are neighbours. Rows that pad M to a multiple of ``lanes`` are 0.
    """
    rows, depth = matrix.shape
    per_group = rows // groups
    blocks = -(-per_group // lanes)
    padded = np.zeros((groups, blocks * lanes, depth), matrix.dtype)
    padded[:, :per_group] = matrix.reshape(groups, per_group, depth)
    packed = padded.reshape(groups, blocks, lanes, depth).transpose(1, 3, 0, 2)
    return np.ascontiguousarray(packed)


def interleave_columns(matrix: Array, groups: int, lanes: int) -> Array:
    """Arrange the rows of ``matrix`` (M, K) as (ceil(M / (groups * lanes)), K, groups, lanes).

    Row (b * groups + g) * lanes + v goes to [b, :, g, v]; padding rows are 0.
    """
    rows, depth = matrix.shape
    blocks = -(-rows // (groups * lanes))
    padded = np.zeros((blocks * groups * lanes, depth), matrix.dtype)
    padded[:rows] = matrix
    packed = padded.reshape(blocks, groups, lanes, depth).transpose(0, 3, 1, 2)
    return np.ascontiguousarray(packed)


def pack_layer(
    spec: LSTMSpec, layer: int, params: Mapping[str, Array], lanes: int, dtype: str
) -> dict[str, Array]:
    """Pack one layer for kernels/lstm_cpu.py; the keys are that kernel's argument names.

    ``params`` holds canonical names. Missing biases (``bias=False``) count as zeros. The two
    biases are added in float64 and rounded once.
    """
    gates = len(GATES)
    names = ["w_i2h", "w_h2h", "bias"] + ["w_h2r"] * bool(spec.projection_size)
    packed: dict[str, list[Array]] = {name: [] for name in names}
    for direction in range(spec.directions):

        def weight(kind: str, direction: int = direction) -> Array:
            return np.asarray(params[parameter_name(layer, direction, kind)])

        packed["w_i2h"].append(interleave(weight("i2h_weight").astype(dtype), gates, lanes))
        packed["w_h2h"].append(interleave(weight("h2h_weight").astype(dtype), gates, lanes))
        bias = np.zeros(gates * spec.hidden_size)
        if spec.bias:
            bias = weight("i2h_bias").astype(np.float64) + weight("h2h_bias").astype(np.float64)
        packed["bias"].append(interleave(bias.astype(dtype)[:, None], gates, lanes)[:, 0])
        if spec.projection_size:
            projection = weight("h2r_weight").astype(dtype)
            packed["w_h2r"].append(interleave_columns(projection, gates, lanes))
    return {name: np.stack(arrays) for name, arrays in packed.items()}
