"""Incomplete, contradictory and foreign checkpoints are refused, naming the tensors."""

from __future__ import annotations

import contextlib
import json
import pickle

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from gluonlstm import checkpoint, npz_file, params_file, safetensors_file
from gluonlstm.bfloat16 import STRUCTURED, to_bfloat16
from gluonlstm.errors import (
    ArgumentTypeError,
    GluonLSTMError,
    InvalidArgumentError,
    MissingParameterError,
    ParamsFormatError,
    ShapeMismatchError,
)
from gluonlstm.naming import parse
from gluonlstm.sparse_array import SparseArray
from gluonlstm.spec import LSTMSpec
from tests.checkpoint_cases import NAMINGS, OTHERS, gates, params_of, prefixed, specs, structural


@pytest.mark.parametrize("naming", NAMINGS)
@given(data=st.data(), spec=specs(layers=st.integers(1, 3)))
@settings(max_examples=25)
def test_a_missing_tensor_is_named(naming, data, spec):
    name, before, _ = NAMINGS[naming]
    arrays = name(spec, params_of(spec), before)
    lost = data.draw(st.sampled_from(list(arrays)))
    del arrays[lost]
    # The only projection, if P = H, leaves no trace.
    assume(spec.projection_size != spec.hidden_size or any("h2r" in k or "hr" in k for k in arrays))
    error = _refused(arrays)
    if isinstance(error, MissingParameterError):
        # Without "arg:", which does not belong to the name.
        assert error.missing in ([lost], [lost.removeprefix("arg:").removeprefix("aux:")])
        assert error.available == sorted(arrays)
    else:
        # Without the projection, the shapes are not those of an LSTM.
        assert "h2r" in lost or "hr_l" in lost
        assert isinstance(error, ShapeMismatchError) or "not of an LSTM" in str(error)
    assert _refused(arrays, spec)


def _refused(arrays, spec=None):
    """Return the error that canonical raises."""
    with pytest.raises(GluonLSTMError) as caught:
        checkpoint.canonical(arrays, spec)
    return caught.value


@pytest.mark.parametrize("naming", NAMINGS)
@given(data=st.data(), spec=specs(layers=st.integers(1, 3)))
@settings(max_examples=25)
def test_a_tensor_of_another_shape_is_named(naming, data, spec):
    name, before, _ = NAMINGS[naming]
    arrays = name(spec, params_of(spec), before)
    changed = data.draw(st.sampled_from(list(arrays)))
    axis = data.draw(st.integers(0, arrays[changed].ndim - 1))
    arrays[changed] = np.repeat(arrays[changed], 2, axis)
    error = _refused(arrays, spec)
    assert isinstance(error, ShapeMismatchError) or "not of an LSTM" in str(error)
    # The first layer's sizes are those that the others are compared with.
    if not any(part in changed for part in ("0.", "l0", "r0")):
        error = _refused(arrays)
        assert isinstance(error, ShapeMismatchError)
        assert error.name == changed


@given(
    spec=specs(),
    change=st.sampled_from(
        ["layers", "fewer", "directions", "projection", "bias", "hidden", "input"]
    ),
)
@settings(max_examples=60)
def test_the_given_spec_must_fit(spec, change):
    other = {
        "layers": spec.replace(num_layers=spec.num_layers + 1),
        "fewer": spec.replace(num_layers=max(spec.num_layers - 1, 1)),
        "directions": spec.replace(bidirectional=not spec.bidirectional),
        "projection": spec.replace(projection_size=None if spec.projection_size else 2),
        "bias": spec.replace(bias=not spec.bias),
        "hidden": spec.replace(hidden_size=spec.hidden_size + 1),
        "input": spec.replace(input_size=spec.input_size + 1),
    }[change]
    if other == spec:
        return
    arrays = structural(spec, params_of(spec), "net.")
    with pytest.raises((MissingParameterError, ShapeMismatchError, InvalidArgumentError)) as caught:
        checkpoint.canonical(arrays, other)
    assert "net._unfused." in str(caught.value) or "net." in str(caught.value)


def test_messages_about_a_spec_that_does_not_fit():
    spec = LSTMSpec(2, num_layers=2, input_size=3)
    arrays = prefixed(spec, params_of(spec), "enc_")
    with pytest.raises(MissingParameterError, match=r"parameter.s. enc_l2_h2h_bias, enc_l2_h2h_w"):
        checkpoint.canonical(arrays, spec.replace(num_layers=3))
    with pytest.raises(
        InvalidArgumentError, match=r"enc_l1_i2h_weight, .* have no place .*layers=1"
    ):
        checkpoint.canonical(arrays, spec.replace(num_layers=1))
    with pytest.raises(
        ShapeMismatchError, match=r"enc_l0_i2h_weight: expected shape \(8, 4\), got"
    ):
        checkpoint.canonical(arrays, spec.replace(input_size=4))


def test_zero_biases_fit_an_lstm_without():
    spec = LSTMSpec(2, input_size=3)
    params = params_of(spec)
    params |= {name: np.zeros(8, "f4") for name in params if name.endswith("bias")}
    bare, found = checkpoint.canonical(params, spec.replace(bias=False))
    assert bare == spec.replace(bias=False)
    assert list(found) == ["l0_i2h_weight", "l0_h2h_weight"]
    params["l0_h2h_bias"][7] = 1e-30
    with pytest.raises(InvalidArgumentError, match="l0_h2h_bias of the LSTM is not zero"):
        checkpoint.canonical(params, spec.replace(bias=False))


@pytest.mark.parametrize("gates_", [1, 3])
@pytest.mark.parametrize("naming", [name for name in NAMINGS if "gates" not in name])
def test_a_gru_or_rnn_is_no_lstm(naming, gates_):
    name, before, _ = NAMINGS[naming]
    spec = LSTMSpec(8, num_layers=2, bidirectional=True, input_size=4)
    params = {k: v[: 8 * gates_] for k, v in params_of(spec).items()}
    cell = "plain RNN" if gates_ == 1 else "GRU"
    with pytest.raises(InvalidArgumentError, match=f"is of a {cell}"):
        checkpoint.canonical(name(spec, params, before))
    assert checkpoint.find_lstms(name(spec, params, before) | OTHERS) == {}
    lstm = structural(spec, params_of(spec), "other.")
    assert list(checkpoint.find_lstms(name(spec, params, before) | lstm)) == ["other"]


def test_a_gru_by_gates_is_no_lstm():
    spec = LSTMSpec(2, input_size=3)
    arrays = gates(spec, params_of(spec), "gru_")
    arrays = {
        k.replace("_i_", "_r_").replace("_f_", "_z_"): v
        for k, v in arrays.items()
        if "_c_" not in k
    }
    assert checkpoint.find_lstms(arrays) == {}
    with pytest.raises(InvalidArgumentError, match="of a GRU"):
        checkpoint.canonical(arrays)


def test_a_convolutional_cell_is_no_lstm():
    arrays = {f"cell.{k}_weight": np.zeros((8, 2, 3, 3)) for k in ("i2h", "h2h")}
    arrays |= {f"cell.{k}_bias": np.zeros(8) for k in ("i2h", "h2h")}
    assert checkpoint.find_lstms(arrays) == {}
    with pytest.raises(InvalidArgumentError, match="convolutional"):
        checkpoint.canonical(arrays)


def test_gaps_between_layers_are_named_a_few_at_a_time():
    spec = LSTMSpec(1, num_layers=2, input_size=1)
    arrays = {k.replace("l1_", "l999999_"): v for k, v in params_of(spec).items()}
    with pytest.raises(MissingParameterError) as caught:
        checkpoint.canonical(arrays)
    assert caught.value.missing[0] == "l1_h2h_bias"
    assert len(caught.value.missing) == 8 * 4
    with pytest.raises(MissingParameterError, match="l0_i2h_weight"):
        checkpoint.canonical({"l1_i2h_weight": np.ones((4, 4))})


def test_two_names_of_one_parameter():
    params = params_of(LSTMSpec(2, input_size=3))
    with pytest.raises(InvalidArgumentError, match="'l0_i2h_weight' and 'arg:l0_i2h_weight' name"):
        checkpoint.canonical(params | prefixed(None, params, "arg:"))
    whole_and_gates = params | gates(None, params, "")
    with pytest.raises(InvalidArgumentError, match="hold the same parameter"):
        checkpoint.canonical(whole_and_gates)
    both = params | structural(LSTMSpec(2), params)
    with pytest.raises(InvalidArgumentError, match="two LSTMs begin with ''"):
        checkpoint.find_lstms(both)


def test_dtypes():
    params = params_of(LSTMSpec(2, input_size=3))
    mixed = params | {"l0_h2h_bias": params["l0_h2h_bias"].astype("f8")}
    with pytest.raises(
        ArgumentTypeError, match="l0_i2h_weight is float32 and l0_h2h_bias is float64"
    ):
        checkpoint.canonical(mixed)
    with pytest.raises(ArgumentTypeError, match="l0_i2h_weight is int8"):
        checkpoint.canonical({k: v.astype("i1") for k, v in params.items()})
    pytest.importorskip("ml_dtypes")
    half = {k: to_bfloat16(v) for k, v in params.items()}
    assert checkpoint.canonical(half)[0].dtype == "bfloat16"
    stored = {k: v.view("u2").view(STRUCTURED) for k, v in half.items()}
    assert checkpoint.canonical(stored)[0].dtype == "bfloat16"


def test_what_is_no_array():
    params = params_of(LSTMSpec(2, input_size=3))
    with pytest.raises(ArgumentTypeError, match="l0_h2h_bias must be an array, not list"):
        checkpoint.canonical(params | {"l0_h2h_bias": [0.0] * 8})
    row = SparseArray("row_sparse", (8, 3), np.ones((1, 3)), np.array([1]))
    with pytest.raises(ArgumentTypeError, match="row_sparse"):
        checkpoint.canonical(params | {"l0_i2h_weight": row})
    with pytest.raises(ArgumentTypeError, match="the name 3"):
        checkpoint.find_lstms({3: np.ones(2)})
    with pytest.raises(MissingParameterError, match="l0_h2h_bias"):
        checkpoint.canonical(params | {"l0_h2h_bias": None})
    with pytest.raises(MissingParameterError, match="it holds gamma"):
        checkpoint.canonical({"gamma": np.ones(2)})
    with pytest.raises(InvalidArgumentError, match="prefix='decoder' names no LSTM; there are ''"):
        checkpoint.canonical(params, prefix="decoder")


# --- names and arrays at random -------------------------------------------------------------------

PARTS = [
    "l0_",
    "r1_",
    "0.",
    "1.",
    "_unfused.",
    "l_cell.",
    "r_cell.",
    "enc_",
    "a.",
    "arg:",
    "lstm0_",
    "l12345678_",
]
ENDS = [
    "i2h_weight",
    "h2h_weight",
    "h2h_bias",
    "h2r_weight",
    "h2r_bias",
    "i2h_i_weight",
    "h2h_r_bias",
]
ENDS += [
    "weight_ih_l0",
    "bias_hh_l1_reverse",
    "weight_hr_l0",
    "bias_hr_l0",
    "weight_ih",
    "parameters",
]
RANDOM_NAMES = st.builds(
    lambda parts, end: "".join(parts) + end,
    st.lists(st.sampled_from(PARTS), max_size=3),
    st.sampled_from(ENDS),
)
RANDOM_SHAPES = st.lists(st.sampled_from([0, 1, 2, 4, 8, 12]), max_size=3)


@given(
    st.dictionaries(RANDOM_NAMES, RANDOM_SHAPES, max_size=12),
    st.none() | specs(layers=st.integers(1, 2)),
)
@settings(max_examples=500)
def test_random_checkpoints_raise_nothing_else(shapes, spec):
    arrays = {name: np.zeros(shape, "f4") for name, shape in shapes.items()}
    for call in (checkpoint.find_lstms, checkpoint.canonical):
        with contextlib.suppress(GluonLSTMError):
            call(arrays, spec)


@given(st.text(st.sampled_from("lr0_.i2h_weighthbas:\n"), max_size=30) | st.text(max_size=20))
def test_any_text_can_be_a_name(name):
    place = parse(name)
    assert (
        place is None
        or name.endswith(("weight", "bias", "parameters", "rnn_param"))
        or "_l" in name
    )


# --- files ----------------------------------------------------------------------------------------


def test_files_of_every_format(tmp_path):
    spec = LSTMSpec(2, input_size=3, bidirectional=True)
    params = params_of(spec)
    writers = {"a.params": params_file.save, "b.npz": npz_file.save, "c": safetensors_file.save}
    for name, save in writers.items():
        save(tmp_path / name, params)
        arrays = checkpoint.read(tmp_path / name)
        assert all(array.flags.writeable for array in arrays.values())
        assert checkpoint.canonical(arrays)[0] == spec
        with checkpoint.open(tmp_path / name) as file:
            assert file.info("l0_i2h_weight").shape == (8, 3)
            assert checkpoint.canonical(file)[0] == spec


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "begins with b''"),
        (b"\x89HDF\r\n\x1a\n", "no NDArray list"),
        (json.dumps({"nodes": []}).encode(), "no NDArray list"),
        (pickle.dumps({"w": 1}, protocol=2), "safetensors.torch.save_file"),
        (pickle.dumps({"w": 1}), "safetensors.torch.save_file"),
        (params_file.dumps({"w": np.ones(2)})[:-1], "byte 88"),
    ],
    ids=["empty", "HDF5", "JSON", "torch before 1.6", "pickle", "truncated"],
)
def test_files_of_other_kinds_are_refused(tmp_path, data, reason):
    (tmp_path / "x").write_bytes(data)
    with pytest.raises(ParamsFormatError, match=reason):
        checkpoint.read(tmp_path / "x")


def test_read_makes_sparse_arrays_dense_within_a_bound(tmp_path):
    path = tmp_path / "x.params"
    row = SparseArray("row_sparse", (6, 2), np.ones((1, 2), "f4"), np.array([3]))
    params_file.save(path, {"embedding_weight": row, "none": None})
    assert checkpoint.read(path)["embedding_weight"][:, 0].tolist() == [0, 0, 0, 1, 0, 0]
    assert list(checkpoint.read(path)) == ["embedding_weight"]
    huge = SparseArray("row_sparse", (2**30, 2), np.ones((1, 2), "f4"), np.array([3]))
    params_file.save(path, {"embedding_weight": huge})
    with pytest.raises(InvalidArgumentError, match="embedding_weight: a row_sparse array"):
        checkpoint.read(path)


def test_lists_have_no_meaning(tmp_path):
    params_file.save(tmp_path / "x", [np.ones(2)])
    with pytest.raises(InvalidArgumentError, match="list of 1 arrays without names"):
        checkpoint.read(tmp_path / "x")
    params_file.save(tmp_path / "x", [])
    assert checkpoint.read(tmp_path / "x") == {}
