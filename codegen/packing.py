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


def pack_layer_cuda(spec: LSTMSpec, layer: int, params: Mapping[str, Array]) -> dict[str, Array]:
    """Pack one layer for the CUDA kernels, in float32; the keys are their arguments' names.

    w_i2h (C, D*H*4) and b (D*H*4,) for gemm_cuda.py, w_h2h (D, R, H, 4) and w_h2r (D, H, P) for
    the recurrence: the four gates of a unit lie together, for one 16-byte load.
    """
    gates, hidden = len(GATES), spec.hidden_size
    directions = range(spec.directions)

    def stacked(kind: str) -> Array:  # (D, 4, H, K) of a matrix, (D, 4, H, 1) of a vector
        arrays = [np.asarray(params[parameter_name(layer, d, kind)]) for d in directions]
        return np.stack([array.reshape(gates, hidden, -1) for array in arrays])

    bias = np.zeros((spec.directions, gates, hidden, 1))
    if spec.bias:
        bias = stacked("i2h_bias").astype(np.float64) + stacked("h2h_bias").astype(np.float64)
    i2h = stacked("i2h_weight").transpose(3, 0, 2, 1)  # (C, D, H, 4)
    packed = {
        "w_i2h": i2h.reshape(i2h.shape[0], -1),
        "b": bias.transpose(0, 2, 1, 3).reshape(-1),
        "w_h2h": stacked("h2h_weight").transpose(0, 3, 2, 1),
    }
    if spec.projection_size:
        names = [parameter_name(layer, d, "h2r_weight") for d in directions]
        packed["w_h2r"] = np.stack([np.asarray(params[name]).T for name in names])
    return {name: np.ascontiguousarray(array, np.float32) for name, array in packed.items()}
