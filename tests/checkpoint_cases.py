"""Specifications, parameters, and every way of naming them, made by this file's own rules."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from gluonlstm.spec import LSTMSpec

SIZES = st.integers(1, 5)
UP_TO_12 = st.integers(1, 12)


@st.composite
def specs(draw, *, bias=None, projection=None, layers=UP_TO_12):
    """Return a specification of what files can tell: sizes, layers, directions, biases, dtype."""
    projection = draw(st.booleans()) if projection is None else projection
    return LSTMSpec(
        draw(SIZES),
        num_layers=draw(layers),
        bidirectional=draw(st.booleans()),
        input_size=draw(SIZES),
        projection_size=draw(SIZES) if projection else None,
        dtype=draw(st.sampled_from(["float32", "float64", "float16"])),
        bias=draw(st.booleans()) if bias is None else bias,
    )


def params_of(spec, seed=0):
    """Return canonical parameters with values that are all different."""
    count = sum(p.size for p in spec.parameters())
    values = np.random.default_rng(seed).permutation(count).astype(spec.dtype)
    ends = np.cumsum([p.size for p in spec.parameters()])[:-1]
    parts = np.split(values, ends)
    return {p.name: part.reshape(p.shape) for p, part in zip(spec.parameters(), parts, strict=True)}


def assert_same_params(actual, expected):
    assert list(actual) == list(expected)
    for name, array in expected.items():
        assert actual[name].dtype == array.dtype
        assert actual[name].shape == array.shape
        assert actual[name].tobytes() == array.tobytes()


def _split(name):
    side, rest = name[0], name[1:]
    layer, kind = rest.split("_", 1)
    return side, int(layer), kind


def structural(spec, params, path=""):
    cell = "{1}.{0}_cell.{2}" if spec.bidirectional else "{1}.{2}"
    return {f"{path}_unfused." + cell.format(*_split(k)): v for k, v in params.items()}


def stack(spec, params, path="", step=2):
    """A HybridSequentialRNNCell with a DropoutCell after each layer but the last (step 2)."""
    names = {}
    for key, value in params.items():
        side, layer, kind = _split(key)
        cell = f"{side}_cell." if spec.bidirectional else ""
        names[f"{path}{layer * step}.{cell}{kind}"] = value
    return names


def prefixed(spec, params, prefix=""):
    return {prefix + key: value for key, value in params.items()}


def torch_names(spec, params, path=""):
    sources = {"i2h": "ih", "h2h": "hh", "h2r": "hr"}
    names = {}
    for key, value in params.items():
        side, layer, kind = _split(key)
        source, what = kind.split("_")
        reverse = "_reverse" if side == "r" else ""
        names[f"{path}{what}_{sources[source]}_l{layer}{reverse}"] = value
    return names


def gates(spec, params, prefix="lstm_"):
    """What mx.rnn.save_rnn_checkpoint writes: every gate by itself."""
    names = {}
    for key, value in params.items():
        source, what = key.rsplit("_", 1)
        if source.endswith("h2r"):
            names[prefix + key] = value
            continue
        for letter, part in zip("ifco", np.split(value, 4), strict=True):
            names[f"{prefix}{source}_{letter}_{what}"] = part
    return names


def packed(spec, params, name="lstm_parameters"):
    """All weights, layer by layer and direction by direction, then all biases."""
    parts = []
    for what in ("weight", "bias"):
        for layer in range(spec.num_layers):
            for side in "lr"[: spec.directions]:
                for source in ("i2h", "h2h", "h2r"):
                    key = f"{side}{layer}_{source}_{what}"
                    if key in params:
                        parts.append(params[key].ravel())
    return {name: np.concatenate(parts)}


# name -> (naming, what is before the names, key in find_lstms)
NAMINGS = {
    "structural": (structural, "", ""),
    "structural in a model": (structural, "encoder.1.", "encoder.1"),
    "structural under a number": (structural, "0.", "0"),
    "stripped prefix": (prefixed, "", ""),
    "prefix": (prefixed, "enc_", "enc_"),
    "prefix in a model": (prefixed, "model0_lstm0_", "model0_lstm0_"),
    "export": (prefixed, "arg:model0_lstm0_", "model0_lstm0_"),
    "aux": (prefixed, "aux:l0_", "l0_"),
    "prefix that looks like a layer": (prefixed, "decoder0_l1_", "decoder0_l1_"),
    "canonical under a path": (prefixed, "encoder.lstm.", "encoder.lstm"),
    "stack": (stack, "", ""),
    "stack in a model": (stack, "decoder.cells.", "decoder.cells"),
    "torch": (torch_names, "", ""),
    "torch in a model": (torch_names, "module.encoder.rnn_.", "module.encoder.rnn_"),
    "gates": (gates, "lstm_", "lstm_"),
    "gates of an export": (gates, "arg:lstm_", "lstm_"),
}
OTHERS = {
    "embedding0_weight": np.ones((7, 3), "f4"),
    "encoder.2.weight": np.ones((2, 2), "f4"),
    "arg:dense0_bias": np.ones(5, "f4"),
    "aux:batchnorm0_moving_mean": np.ones(5, "f4"),
    "gamma": np.ones(2, "f4"),
}
