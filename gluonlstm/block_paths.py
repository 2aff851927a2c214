"""The ways in which the block computes an LSTM with MXNet's operators, and which one when.

MXNet 1.9.1 has one operator for a whole LSTM, ``RNN``. What it does depends on where it runs:

* on a GPU (cuDNN) it does everything but projections wider than the cells, and lengths of 0;
* on a CPU in float32 (oneDNN) it is fast, and silently ignores dropout, clipping and lengths;
* on a CPU otherwise (native code: float64, or any projection) it cannot clip, take lengths or train
  a projection; a projection wider than the cells makes it write past its buffers; its backward pass
  is wrong for two layers or more when the input needs no gradient; it applies dropout whenever
  gradients are recorded; it cannot add to an existing gradient.

So there are four paths, each a function of (F, spec, x, h0, c0, lengths, params) on legacy arrays
or symbols with x (T, N, C), h0 (L*D, N, R), c0 (L*D, N, H), lengths (N,) or None; each returns
y (T, N, D*R), h (L*D, N, R) and c (L*D, N, H). Only :attr:`Path.STOCK` is not here: it is the code
of ``mxnet.gluon.rnn.LSTM`` itself.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Mapping
from enum import Enum
from typing import Any, TypeAlias

from gluonlstm.mxnet_compat import mx
from gluonlstm.spec import LSTMSpec, parameter_name

# An mx.nd.NDArray or mx.sym.Symbol (mx.nd or mx.sym as F says).
Tensor: TypeAlias = Any
Params: TypeAlias = Mapping[str, Tensor]
Result: TypeAlias = tuple[Tensor, Tensor, Tensor]

# Added to a gate before its sigmoid, this makes the gate exactly 1 (negated: 0) whatever the
# weights add to it, and its gradient exactly 0.
SATURATING = 2.0**30


class Path(Enum):
    """How a call is computed; each says what it consists of."""

    STOCK = "one RNN operator for the whole stack, as mxnet.gluon.rnn.LSTM has it"
    LAYERED = "one RNN operator for each layer, with Dropout between them"
    PADDED = "RNN operators whose gates hold each row's state beyond its length"
    STEPPED = "a loop over time of elementary operators"


@functools.cache
def has_onednn() -> bool:
    """Whether float32 LSTMs on the CPU run in oneDNN."""
    enabled = os.environ.get("MXNET_USE_MKLDNN_RNN", "1").strip() not in ("0", "")
    return enabled and mx.runtime.Features().is_enabled("MKLDNN")


def choose_path(
    spec: LSTMSpec,
    device_type: str,
    *,
    gradients: bool | None,
    onednn: bool,
    static_shape: bool = False,
    empty_rows: bool = False,
) -> Path:
    """Return the fastest path that computes ``spec`` right.

    ``gradients`` says whether the call is recorded or in training mode; None is for a graph that
    must do for both. ``onednn`` as :func:`has_onednn`. ``static_shape``: the graph is hybridized
    so. ``empty_rows``: some length is known to be 0.
    """
    projection = spec.projection_size or 0
    if device_type == "gpu":
        beyond_cudnn = projection > spec.hidden_size or empty_rows
        return Path.STEPPED if beyond_cudnn else Path.STOCK
    if spec.clips:
        return Path.STEPPED
    if projection:
        # With static_shape, MXNet 1.9.1 leaves it to chance whether the operator takes a call for
        # a training one, and then it refuses projections.
        possible = (
            projection <= spec.hidden_size
            and spec.dtype != "float16"
            and not spec.use_sequence_length
        )
        return Path.STOCK if possible and gradients is False and not static_shape else Path.STEPPED
    if spec.use_sequence_length:
        return Path.PADDED
    native = spec.dtype != "float32" or not onednn
    return Path.LAYERED if native or (spec.dropout and spec.num_layers > 1) else Path.STOCK


def layered(
    F: Any, spec: LSTMSpec, x: Tensor, h0: Tensor, c0: Tensor, lengths: None, params: Params
) -> Result:
    """Run one RNN operator for each layer."""
    del lengths
    x, h0, c0 = _own(F, spec, x, h0, c0)
    h0s, c0s = (_split(F, state, spec.num_layers) for state in (h0, c0))
    hs, cs = [], []
    for layer in range(spec.num_layers):
        weights = _packed(F, spec, params, layer, range(spec.directions))
        x, h, c = _rnn(F, spec, x, weights, h0s[layer], c0s[layer], spec.bidirectional)
        hs.append(h)
        cs.append(c)
        x = _dropout(F, spec, x, layer)
    return x, _join(F, hs, 0), _join(F, cs, 0)


def padded(
    F: Any, spec: LSTMSpec, x: Tensor, h0: Tensor, c0: Tensor, lengths: Tensor, params: Params
) -> Result:
    """Run one RNN operator for each layer and direction, with lengths.

    The input gets a column that is 1 past a row's length and 0 before. Its weights open the forget
    gate and close the input gate, so that c stays what it was at the row's last step. The h state
    is taken from the outputs. The backward direction is a forward one over reversed rows.
    """
    x, h0, c0 = _own(F, spec, x, h0, c0)
    steps = _LengthMask(F, x, lengths)
    gate = {"shape": (spec.hidden_size, 1), "dtype": spec.dtype}
    hold = F.concat(
        F.full(val=-SATURATING, **gate), F.full(val=SATURATING, **gate),
        F.zeros(**gate), F.zeros(**gate), dim=0,
    )  # fmt: skip  # (4H, 1)
    rows = spec.num_layers * spec.directions
    h0s, c0s = _split(F, h0, rows), _split(F, c0, rows)
    hs, cs = [], []
    x = steps.mask(x)
    for layer in range(spec.num_layers):
        outputs = []
        for direction in range(spec.directions):
            row = layer * spec.directions + direction
            data = steps.reverse(x) if direction else x
            data = F.concat(data, steps.beyond, dim=2)  # (T, N, C + 1)
            weights = _packed(F, spec, params, layer, [direction], hold)
            y, _, c = _rnn(F, spec, data, weights, h0s[row], c0s[row], bidirectional=False)
            y = steps.mask(y)
            hs.append(steps.last(y, h0s[row]))
            cs.append(c)
            outputs.append(steps.reverse(y) if direction else y)
        x = _dropout(F, spec, _join(F, outputs, 2), layer)
    return x, _join(F, hs, 0), _join(F, cs, 0)


def stepped(
    F: Any,
    spec: LSTMSpec,
    x: Tensor,
    h0: Tensor,
    c0: Tensor,
    lengths: Tensor | None,
    params: Params,
) -> Result:
    """Run a loop over time for each layer and direction."""
    steps = None if lengths is None else _LengthMask(F, x, lengths)
    rows = spec.num_layers * spec.directions
    h0s = [F.squeeze(h, axis=0) for h in _split(F, h0, rows)]
    c0s = [F.squeeze(c, axis=0) for c in _split(F, c0, rows)]
    hs, cs = [], []
    x = steps.mask(x) if steps else x  # whatever is there, NaN too, must not reach the gradients
    for layer in range(spec.num_layers):
        outputs = []
        for direction in range(spec.directions):
            row = layer * spec.directions + direction
            y, h, c = _loop(F, spec, x, h0s[row], c0s[row], steps, params, layer, direction)
            outputs.append(y)
            hs.append(F.expand_dims(h, axis=0))
            cs.append(F.expand_dims(c, axis=0))
        x = _dropout(F, spec, _join(F, outputs, 2), layer)
    return x, _join(F, hs, 0), _join(F, cs, 0)


KERNELS: Mapping[Path, Callable[..., Result]] = {
    Path.LAYERED: layered,
    Path.PADDED: padded,
    Path.STEPPED: stepped,
}


class _LengthMask:
    """Lengths (N,) as what the loops and operators over (T, N, ...) need.

    A length below 0 counts as 0, one above T as T, so that no operator reads beyond its input.
    """

    def __init__(self, F: Any, x: Tensor, lengths: Tensor) -> None:
        ones = F.ones_like(F.slice_axis(x, axis=2, begin=0, end=1))
        inside = F.SequenceMask(ones, lengths, use_sequence_length=True)
        self.F = F
        self.beyond = 1 - inside  # (T, N, 1)
        self.inside = F.squeeze(inside, axis=2)  # (T, N)
        self.lengths = F.sum(self.inside, axis=0)  # (N,)

    def mask(self, x: Tensor) -> Tensor:
        """Return ``x`` (T, N, ...) with zeros past the lengths."""
        return self.F.SequenceMask(x, self.lengths, use_sequence_length=True)

    def reverse(self, x: Tensor) -> Tensor:
        """Return ``x`` (T, N, ...) with each row's valid steps in reverse order."""
        return self.F.SequenceReverse(x, self.lengths, use_sequence_length=True)

    def last(self, y: Tensor, initial: Tensor) -> Tensor:
        """Return (1, N, R): the last valid step of ``y``, ``initial`` where there is none."""
        F = self.F
        last = F.SequenceLast(y, F.maximum(self.lengths, 1), use_sequence_length=True)
        last = F.where(self.lengths, last, F.squeeze(initial, axis=0))
        return F.expand_dims(last, axis=0)


def _loop(
    F: Any,
    spec: LSTMSpec,
    x: Tensor,  # (T, N, C)
    h0: Tensor,  # (N, R)
    c0: Tensor,  # (N, H)
    steps: _LengthMask | None,
    params: Params,
    layer: int,
    direction: int,
) -> Result:
    """Run one direction of one layer step by step; return y (T, N, R), h (N, R), c (N, H)."""

    def parameter(kind: str) -> Tensor:
        return params[parameter_name(layer, direction, kind)]

    rows = 4 * spec.hidden_size
    h2h, h2r = parameter("h2h_weight"), spec.projection_size and parameter("h2r_weight")
    reverse = steps.reverse if steps else functools.partial(F.reverse, axis=0)
    x = reverse(x) if direction else x
    bias = [parameter("i2h_bias") + parameter("h2h_bias")] if spec.bias else []
    sums = F.FullyConnected(
        x, parameter("i2h_weight"), *bias, num_hidden=rows, flatten=False, no_bias=not bias
    )  # (T, N, 4H)

    def step(data: Tensor, states: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        h, c = states
        sums, inside = data if steps else (data, None)
        sums = sums + F.FullyConnected(h, h2h, no_bias=True, num_hidden=rows)
        i, f, g, o = F.split(sums, num_outputs=4, axis=1)
        new_c = _clip(F, spec, F.sigmoid(f) * c + F.sigmoid(i) * F.tanh(g))
        new_h = F.sigmoid(o) * F.tanh(new_c)
        if spec.projection_size:
            new_h = F.FullyConnected(new_h, h2r, no_bias=True, num_hidden=spec.projection_size)
        if steps:
            new_h, new_c = F.where(inside, new_h, h), F.where(inside, new_c, c)
        return new_h, [new_h, new_c]

    y, (h, c) = F.contrib.foreach(step, [sums, steps.inside] if steps else sums, [h0, c0])
    y = steps.mask(y) if steps else y
    return reverse(y) if direction else y, h, c


def _clip(F: Any, spec: LSTMSpec, c: Tensor) -> Tensor:
    if not spec.clips:
        return c
    low, high = spec.state_clip_min, spec.state_clip_max
    # Not clip, whose bounds are float32, and must be normal numbers.
    clipped = F.minimum(F.maximum(c, low), high)  # NaN is still NaN
    if not spec.state_clip_nan:
        return clipped
    number = F.broadcast_equal(c, c)  # only NaN differs from itself
    return F.where(number, clipped, F.ones_like(c) * low)


def _rnn(
    F: Any, spec: LSTMSpec, x: Tensor, weights: Tensor, h0: Tensor, c0: Tensor, bidirectional: bool
) -> Result:
    """Apply the RNN operator for a single layer, without what some back end of it ignores."""
    outputs = F.RNN(
        x, weights, h0, c0,
        mode="lstm", state_size=spec.hidden_size, num_layers=1,
        bidirectional=bidirectional, state_outputs=True,
    )  # fmt: skip
    return outputs[0], outputs[1], outputs[2]


def _packed(
    F: Any,
    spec: LSTMSpec,
    params: Params,
    layer: int,
    directions: Any,
    column: Tensor | None = None,
) -> Tensor:
    """Return the RNN operator's flat weights of one layer, without projection.

    ``column`` (4H, 1) is appended to the input weights.
    """
    zeros = None if spec.bias else F.zeros((4 * spec.hidden_size,), dtype=spec.dtype)
    parts = []
    for kind in ("weight", "bias"):
        for direction in directions:
            for name in (f"i2h_{kind}", f"h2h_{kind}"):
                if kind == "bias" and not spec.bias:
                    parts.append(zeros)
                    continue
                part = params[parameter_name(layer, direction, name)]
                if column is not None and name == "i2h_weight":
                    # Unlike concat, it infers a C that is not known yet from the output.
                    part = F._internal._rnn_param_concat(part, column, dim=1)
                parts.append(F.reshape(part, shape=(-1,)))
    return F._internal._rnn_param_concat(*parts, dim=0)


def _own(F: Any, spec: LSTMSpec, *tensors: Tensor) -> tuple[Tensor, ...]:
    """Return copies for the native RNN operator, which cannot add to a caller's gradient."""
    onednn = spec.dtype == "float32" and has_onednn()
    return tensors if onednn else tuple(F.identity(tensor) for tensor in tensors)


def _dropout(F: Any, spec: LSTMSpec, x: Tensor, layer: int) -> Tensor:
    last = layer == spec.num_layers - 1
    return x if last or not spec.dropout else F.Dropout(x, p=spec.dropout)


def _split(F: Any, x: Tensor, parts: int) -> list[Tensor]:
    return [x] if parts == 1 else list(F.split(x, num_outputs=parts, axis=0))


def _join(F: Any, parts: list[Tensor], axis: int) -> Tensor:
    return parts[0] if len(parts) == 1 else F.concat(*parts, dim=axis)
