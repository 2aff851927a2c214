"""LSTMSpec: what it accepts, what it derives."""

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gluonlstm import LSTMSpec
from gluonlstm.errors import ArgumentTypeError, InvalidArgumentError
from tests.lstm_cases import specs


def test_names_shapes_and_order_are_gluons():
    spec = LSTMSpec(6, num_layers=2, bidirectional=True, input_size=4, projection_size=3)
    assert [(p.name, p.shape) for p in spec.parameters()][:6] == [
        ("l0_i2h_weight", (24, 4)),
        ("l0_h2h_weight", (24, 3)),
        ("l0_i2h_bias", (24,)),
        ("l0_h2h_bias", (24,)),
        ("l0_h2r_weight", (3, 6)),
        ("r0_i2h_weight", (24, 4)),
    ]
    assert spec.parameters()[10].shape == (24, 6)  # layer 1 reads both directions' projections
    assert [p.name for p in spec.packed_parameters()][:4] == [
        "l0_i2h_weight", "l0_h2h_weight", "l0_h2r_weight", "r0_i2h_weight",
    ]  # fmt: skip
    assert [p.name for p in spec.packed_parameters()][-2:] == ["r1_i2h_bias", "r1_h2h_bias"]
    assert spec.state_shapes(5) == ((4, 5, 3), (4, 5, 6))
    assert spec.output_size == 6


def test_the_packed_vector_holds_biases_always():
    with_bias = LSTMSpec(6, input_size=4)
    assert with_bias.replace(bias=False).packed_size == with_bias.packed_size
    assert len(with_bias.replace(bias=False).parameters()) == 2


@given(specs())
def test_survives_json(spec):
    assert LSTMSpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec


@pytest.mark.parametrize("bounds", [(-math.inf, math.inf), (-1.0, math.inf), (-math.inf, 0.5)])
def test_infinite_clip_bounds_survive_json(bounds):
    spec = LSTMSpec(6, state_clip_min=bounds[0], state_clip_max=bounds[1])
    text = json.dumps(spec.to_dict(), allow_nan=False)
    assert LSTMSpec.from_dict(json.loads(text)) == spec


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"hidden_size": 0}, "hidden_size=0"),
        ({"hidden_size": True}, "hidden_size=True"),
        ({"num_layers": -1}, "num_layers=-1"),
        ({"layout": "CTN"}, "layout='CTN'"),
        ({"dropout": 1.0}, "dropout=1.0"),
        ({"dropout": -0.1}, "dropout=-0.1"),
        ({"state_clip_min": -1.0}, "must be given together"),
        ({"state_clip_max": 1.0}, "must be given together"),
        ({"state_clip_min": 1.0, "state_clip_max": -1.0}, "must not exceed"),
        ({"state_clip_min": float("nan"), "state_clip_max": 1.0}, "must not be NaN"),
    ],
)
def test_impossible_values_are_refused(values, message):
    with pytest.raises(InvalidArgumentError, match=message):
        LSTMSpec(**{"hidden_size": 2, **values})


@pytest.mark.parametrize(
    "values", [{"hidden_size": 2.5}, {"dtype": "int8"}, {"dropout": "much"}, {"input_size": None}]
)
def test_wrong_types_are_refused(values):
    with pytest.raises(ArgumentTypeError):
        LSTMSpec(**{"hidden_size": 2, **values})


def test_spellings_are_normalised():
    spec = LSTMSpec(np.int64(3), input_size=np.int32(2), projection_size=0)
    assert type(spec.hidden_size) is int
    assert spec.projection_size is None


@given(st.dictionaries(st.text(max_size=3), st.integers(), min_size=1))
def test_unknown_fields_are_refused(values):
    with pytest.raises(InvalidArgumentError):
        LSTMSpec.from_dict(values)
