"""Random LSTMs and inputs for them, for tests of whatever computes an LSTM."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from hypothesis import strategies as st

from gluonlstm.spec import LSTMSpec

# Largest absolute error of an implementation against the float64 reference, |x| <= 1 and weights
# below 0.6, a few dozen steps: some ulps of a sum of up to 200 products, in each type.
TOLERANCE = {"float32": 2e-6, "float64": 1e-13, "float16": 4e-3, "bfloat16": 3e-2}


@st.composite
def specs(
    draw,
    *,
    dtypes=("float32", "float64"),
    layouts=("TNC", "NTC"),
    most_layers=3,
    most_units=40,
    clips=True,
    lengths=True,
    biases=(True, False),
):
    """LSTM specifications over the whole configuration space."""
    bounds = sorted(draw(st.tuples(*[st.floats(-0.5, 0.5, width=32)] * 2)))
    clip = draw(st.booleans()) if clips else False
    return LSTMSpec(
        hidden_size=draw(st.integers(1, most_units)),
        num_layers=draw(st.integers(1, most_layers)),
        layout=draw(st.sampled_from(layouts)),
        bidirectional=draw(st.booleans()),
        input_size=draw(st.integers(1, most_units)),
        projection_size=draw(st.none() | st.integers(1, most_units)),
        state_clip_min=bounds[0] if clip else None,
        state_clip_max=bounds[1] if clip else None,
        state_clip_nan=draw(st.booleans()) if clip else False,
        dtype=draw(st.sampled_from(dtypes)),
        use_sequence_length=draw(st.booleans()) if lengths else False,
        bias=draw(st.sampled_from(biases)),
    )


@dataclass
class Call:
    """Arguments of one call: x in the spec's layout, [h0, c0], lengths or None."""

    x: np.ndarray
    states: list[np.ndarray]
    lengths: np.ndarray | None


def parameters(spec, seed=0, scale=0.6):
    """Random parameters by canonical name, in the spec's dtype (float32 for 16-bit types)."""
    rng = np.random.default_rng(seed)
    return {
        p.name: rng.uniform(-scale, scale, p.shape).astype(numpy_dtype(spec))
        for p in spec.parameters()
    }


def call(spec, steps, batch, seed=0):
    """Random arguments of one call."""
    rng = np.random.default_rng(seed)

    def uniform(shape):
        return rng.uniform(-1, 1, shape).astype(numpy_dtype(spec))

    lengths = rng.integers(0, steps + 1, batch).astype("int32")
    return Call(
        uniform(spec.data_shape(steps, batch)),
        [uniform(shape) for shape in spec.state_shapes(batch)],
        lengths if spec.use_sequence_length else None,
    )


def numpy_dtype(spec):
    """The spec's dtype if numpy has it."""
    return "float32" if spec.dtype == "bfloat16" else spec.dtype


def assert_close(got, expected, tolerance):
    """Compare [y, h, c] with [y, h, c]; NaN equals NaN."""
    for name, a, b in zip(("y", "h", "c"), got, expected, strict=True):
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance, err_msg=name)
