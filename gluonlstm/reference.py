"""A float64 numpy LSTM, forward and backward: the oracle that defines the semantics.

Written to be read and checked, not to be fast; only tests and benchmarks use it. One step of one
direction of one layer, for every row of the batch::

    i, f, g, o = split(W_i2h x_t + b_i2h + W_h2h r_{t-1} + b_h2h)      each (N, H)
    c_t = clip(sigmoid(f) * c_{t-1} + sigmoid(i) * tanh(g))             (N, H)
    h_t = sigmoid(o) * tanh(c_t)                                        (N, H)
    r_t = W_h2r h_t  with a projection, else h_t                        (N, R)

r_t is the output, the fed-back value and the h state. A row past its length outputs 0 and keeps
its states; the backward direction starts at the row's last valid step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gluonlstm.errors import InvalidArgumentError, MissingParameterError, ShapeMismatchError
from gluonlstm.spec import LSTMSpec, parameter_name

Array = NDArray[np.float64]
Params = Mapping[str, ArrayLike]


@dataclass
class _Step:
    """What one step of one direction leaves for the backward pass; rows that are valid: ``on``."""

    t: NDArray[np.int64]  # (N,) time index each row reads and writes
    on: NDArray[np.bool_]  # (N, 1)
    x: Array  # (N, C)
    r_prev: Array  # (N, R)
    c_prev: Array  # (N, H)
    gates: tuple[Array, Array, Array, Array]  # i f g o after their activations
    c_raw: Array  # (N, H) before clipping
    c: Array  # (N, H)
    h: Array  # (N, H) before the projection


def lstm(
    spec: LSTMSpec,
    params: Params,
    x: ArrayLike,
    states: Sequence[ArrayLike] | None = None,
    sequence_length: ArrayLike | None = None,
    dropout_masks: Sequence[ArrayLike] = (),
) -> tuple[Array, list[Array]]:
    """Run the LSTM; return the output and the final [h, c].

    ``x`` is (T, N, C) or (N, T, C) by ``spec.layout``, and the output likewise with D * R columns.
    ``params`` maps canonical names to arrays; states default to zeros. ``dropout_masks`` holds,
    for each layer but the last, what its output (T, N, D * R) is multiplied with (inference: none).
    """
    y, finals, _ = _forward(spec, params, x, states, sequence_length, dropout_masks)
    return _to_layout(spec, y), finals


def lstm_gradients(
    spec: LSTMSpec,
    params: Params,
    x: ArrayLike,
    states: Sequence[ArrayLike] | None = None,
    sequence_length: ArrayLike | None = None,
    dropout_masks: Sequence[ArrayLike] = (),
    *,
    d_output: ArrayLike,
    d_states: Sequence[ArrayLike] | None = None,
) -> dict[str, Array]:
    """Backpropagate ``d_output`` (and ``d_states``) through :func:`lstm`.

    Returns gradients by canonical parameter name, and of ``x``, ``h0`` and ``c0`` under those keys.
    """
    _, finals, tape = _forward(spec, params, x, states, sequence_length, dropout_masks)
    weights = _weights(spec, params)
    dy = _to_layout(spec, np.asarray(d_output, np.float64))
    dh, dc = (
        (np.zeros_like(finals[0]), np.zeros_like(finals[1]))
        if d_states is None
        else (np.array(d, np.float64) for d in d_states)
    )
    grads: dict[str, Array] = {p.name: np.zeros(p.shape) for p in spec.parameters()}
    grads["h0"], grads["c0"] = np.zeros_like(dh), np.zeros_like(dc)
    for layer in reversed(range(spec.num_layers)):
        if layer < spec.num_layers - 1 and dropout_masks:
            dy = dy * np.asarray(dropout_masks[layer], np.float64)
        dx = np.zeros((*dy.shape[:2], weights[parameter_name(layer, 0, "i2h_weight")].shape[1]))
        for direction in range(spec.directions):
            row = layer * spec.directions + direction
            columns = slice(direction * spec.direction_size, (direction + 1) * spec.direction_size)
            pair = _backward_direction(
                spec, weights, grads, layer, direction,
                tape[row], dy[:, :, columns], dx, dh[row], dc[row],
            )  # fmt: skip
            grads["h0"][row], grads["c0"][row] = pair
        dy = dx
    grads["x"] = _to_layout(spec, dy)
    return grads


def _forward(
    spec: LSTMSpec,
    params: Params,
    x: ArrayLike,
    states: Sequence[ArrayLike] | None,
    sequence_length: ArrayLike | None,
    dropout_masks: Sequence[ArrayLike],
) -> tuple[Array, list[Array], list[list[_Step]]]:
    data = _to_layout(spec, np.asarray(x, np.float64))  # (T, N, C)
    steps, batch, _ = data.shape
    weights = _weights(spec, params)
    lengths = _lengths(spec, sequence_length, steps, batch)
    h0, c0 = _initial_states(spec, states, batch)
    h_final, c_final = np.empty_like(h0), np.empty_like(c0)
    tape: list[list[_Step]] = []
    for layer in range(spec.num_layers):
        outputs = []
        for direction in range(spec.directions):
            row = layer * spec.directions + direction
            y, h_final[row], c_final[row], record = _forward_direction(
                spec, weights, layer, direction, data, h0[row], c0[row], lengths
            )
            outputs.append(y)
            tape.append(record)
        data = np.concatenate(outputs, axis=2)
        if layer < spec.num_layers - 1 and dropout_masks:
            data = data * np.asarray(dropout_masks[layer], np.float64)
    return data, [h_final, c_final], tape


def _forward_direction(
    spec: LSTMSpec,
    weights: Mapping[str, Array],
    layer: int,
    direction: int,
    data: Array,  # (T, N, C)
    r: Array,  # (N, R)
    c: Array,  # (N, H)
    lengths: NDArray[np.int64],  # (N,)
) -> tuple[Array, Array, Array, list[_Step]]:
    w = {k: weights[parameter_name(layer, direction, k)] for k in ("i2h_weight", "h2h_weight")}
    bias = sum(weights[parameter_name(layer, direction, k)] for k in ("i2h_bias", "h2h_bias"))
    steps, batch, _ = data.shape
    rows = np.arange(batch)
    y = np.zeros((steps, batch, spec.direction_size))
    record = []
    for s in range(steps):
        on = s < lengths
        t = np.where(on, s if direction == 0 else lengths - 1 - s, s)
        x = data[t, rows]
        sums = x @ w["i2h_weight"].T + r @ w["h2h_weight"].T + bias
        i, f, g, o = np.split(sums, 4, axis=1)
        i, f, g, o = _sigmoid(i), _sigmoid(f), np.tanh(g), _sigmoid(o)
        c_raw = f * c + i * g
        c_new = _clip(spec, c_raw)
        h = o * np.tanh(c_new)
        out = h
        if spec.projection_size:
            out = h @ weights[parameter_name(layer, direction, "h2r_weight")].T
        record.append(_Step(t, on[:, None], x, r, c, (i, f, g, o), c_raw, c_new, h))
        y[t, rows] = np.where(on[:, None], out, 0)
        r, c = np.where(on[:, None], out, r), np.where(on[:, None], c_new, c)
    return y, r, c, record


def _backward_direction(
    spec: LSTMSpec,
    weights: Mapping[str, Array],
    grads: dict[str, Array],
    layer: int,
    direction: int,
    record: list[_Step],
    dy: Array,  # (T, N, R)
    dx: Array,  # (T, N, C), added to
    dr: Array,  # (N, R)
    dc: Array,  # (N, H)
) -> tuple[Array, Array]:
    def name(kind: str) -> str:
        return parameter_name(layer, direction, kind)

    rows = np.arange(dy.shape[1])
    for step in reversed(record):
        i, f, g, o = step.gates
        d_out = np.where(step.on, dy[step.t, rows] + dr, 0)
        d_c = np.where(step.on, dc, 0)
        d_h = d_out
        if spec.projection_size:
            grads[name("h2r_weight")] += d_out.T @ np.where(step.on, step.h, 0)
            d_h = d_out @ weights[name("h2r_weight")]
        tanh_c = np.tanh(step.c)
        d_c = (d_c + d_h * o * (1 - tanh_c**2)) * _clip_slope(spec, step.c_raw)
        d_sums = np.concatenate(
            [
                d_c * g * i * (1 - i),
                d_c * step.c_prev * f * (1 - f),
                d_c * i * (1 - g**2),
                d_h * tanh_c * o * (1 - o),
            ],
            axis=1,
        )
        d_sums = np.where(step.on, d_sums, 0)
        grads[name("i2h_weight")] += d_sums.T @ step.x
        grads[name("h2h_weight")] += d_sums.T @ step.r_prev
        if spec.bias:
            grads[name("i2h_bias")] += d_sums.sum(axis=0)
            grads[name("h2h_bias")] += d_sums.sum(axis=0)
        dx[step.t, rows] += d_sums @ weights[name("i2h_weight")]
        dr = np.where(step.on, d_sums @ weights[name("h2h_weight")], dr)
        dc = np.where(step.on, d_c * f, dc)
    return dr, dc


def _sigmoid(x: Array) -> Array:
    return 0.5 * (1 + np.tanh(0.5 * x))  # no overflow for large |x|


def _clip(spec: LSTMSpec, c: Array) -> Array:
    if spec.state_clip_min is None or spec.state_clip_max is None:
        return c
    clipped = np.clip(c, spec.state_clip_min, spec.state_clip_max)  # keeps NaN
    return np.where(np.isnan(c), spec.state_clip_min, clipped) if spec.state_clip_nan else clipped


def _clip_slope(spec: LSTMSpec, c: Array) -> Array | float:
    """Return the clip's slope: 1 inside and on the bounds, 0 outside (and at a replaced NaN)."""
    if spec.state_clip_min is None or spec.state_clip_max is None:
        return 1.0
    inside = (c >= spec.state_clip_min) & (c <= spec.state_clip_max)
    return (inside if spec.state_clip_nan else inside | np.isnan(c)).astype(np.float64)


def _to_layout(spec: LSTMSpec, data: Array) -> Array:
    """Swap between the spec's layout and TNC (its own inverse)."""
    return data.swapaxes(0, 1) if spec.layout == "NTC" else data


def _weights(spec: LSTMSpec, params: Params) -> dict[str, Array]:
    """Take the parameters as float64, missing biases as zeros (``bias=False``)."""
    missing = [p.name for p in spec.parameters() if p.name not in params]
    if missing:
        raise MissingParameterError(missing, params)
    weights = {}
    for p in spec.packed_parameters():
        given = p.name in params and (spec.bias or not p.kind.endswith("bias"))
        weights[p.name] = np.asarray(params[p.name], np.float64) if given else np.zeros(p.shape)
        if weights[p.name].shape[0] != p.shape[0]:
            raise ShapeMismatchError(p.name, p.shape, weights[p.name].shape)
    return weights


def _initial_states(
    spec: LSTMSpec, states: Sequence[ArrayLike] | None, batch: int
) -> tuple[Array, Array]:
    shapes = spec.state_shapes(batch)
    if states is None:
        return np.zeros(shapes[0]), np.zeros(shapes[1])
    h0, c0 = (np.array(state, np.float64) for state in states)
    for name, state, shape in (("h0", h0, shapes[0]), ("c0", c0, shapes[1])):
        if state.shape != shape:
            raise ShapeMismatchError(name, shape, state.shape)
    return h0, c0


def _lengths(
    spec: LSTMSpec, sequence_length: ArrayLike | None, steps: int, batch: int
) -> NDArray[np.int64]:
    if not spec.use_sequence_length:
        return np.full(batch, steps, np.int64)
    if sequence_length is None:
        raise InvalidArgumentError("use_sequence_length=True needs sequence_length.")
    lengths = np.asarray(sequence_length).astype(np.int64)
    if lengths.shape != (batch,):
        raise ShapeMismatchError("sequence_length", (batch,), lengths.shape)
    if batch and (lengths.min() < 0 or lengths.max() > steps):
        raise InvalidArgumentError(
            f"sequence_length must lie in [0, {steps}], got values in "
            f"[{lengths.min()}, {lengths.max()}]."
        )
    return lengths
