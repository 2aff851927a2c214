"""Conversion of checkpoints: names, order, files, whole models, reports."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gluonlstm import checkpoint, npz_file, params_file, safetensors_file
from gluonlstm.bfloat16 import to_bfloat16
from gluonlstm.errors import (
    ArgumentTypeError,
    InvalidArgumentError,
    MissingParameterError,
    ParamsFormatError,
    ShapeMismatchError,
)
from gluonlstm.sparse_array import SparseArray
from gluonlstm.spec import LSTMSpec
from tests.checkpoint_cases import (
    NAMINGS,
    assert_same_params,
    packed,
    params_of,
    prefixed,
    specs,
    stack,
    structural,
    torch_names,
)

same_folder = settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
TARGETS = ("gluon", "torch", "npz", "safetensors")
SUFFIXES = {"gluon": ".params", "torch": ".safetensors", "npz": ".npz", "safetensors": ".st"}


def _fits_torch(spec):
    return not spec.projection_size or spec.projection_size < spec.hidden_size


@given(spec=specs(), chain=st.lists(st.sampled_from(TARGETS), min_size=1, max_size=4))
@same_folder
def test_chains_of_conversions_keep_every_bit(tmp_path, spec, chain):
    params = params_of(spec)
    path = tmp_path / "start"
    params_file.save(path, prefixed(spec, params, "lstm0_"))
    for i, to in enumerate(chain):
        if to == "torch" and not _fits_torch(spec):
            continue
        target = tmp_path / f"{i}{SUFFIXES[to]}"
        report = checkpoint.convert(path, target, to)
        assert [lstm.spec for lstm in report.lstms] == [spec]
        assert report.unchanged == ()
        if to == "gluon" and not spec.bias:
            assert "zeros were written" in report.notes[0]
            spec = spec.replace(bias=True)
            zeros = {p.name: np.zeros(p.shape, spec.dtype) for p in spec.parameters()}
            params = zeros | params
            params = {p.name: params[p.name] for p in spec.parameters()}
        path = target
    found_spec, found = checkpoint.canonical(checkpoint.read(path))
    assert found_spec == spec
    assert_same_params(found, params)


@given(spec=specs(bias=True))
@same_folder
def test_names_and_order(tmp_path, spec):
    params = params_of(spec)
    path = tmp_path / "x"
    expected = {
        "gluon": structural(spec, params, "encoder."),
        "torch": torch_names(spec, params, "encoder."),
        "npz": prefixed(spec, params, "encoder."),
        "safetensors": prefixed(spec, params, "encoder."),
    }
    for to, arrays in expected.items():
        if to == "torch" and not _fits_torch(spec):
            with pytest.raises(InvalidArgumentError, match=r"torch.nn.LSTM only takes less than"):
                checkpoint.write(path, spec, params, to, owner="encoder")
            continue
        checkpoint.write(path, spec, params, to, owner="encoder")
        assert_same_params(checkpoint.read(path), arrays)
        # the same from every naming in the same place
        for source in (structural, stack, torch_names, prefixed):
            params_file.save(tmp_path / "in", source(spec, params, "encoder."))
            checkpoint.convert(tmp_path / "in", tmp_path / "out", to)
            assert (tmp_path / "out").read_bytes() == path.read_bytes()


@pytest.mark.parametrize("naming", NAMINGS)
@pytest.mark.parametrize("to", TARGETS)
def test_whole_models(tmp_path, naming, to):
    name, before, key = NAMINGS[naming]
    spec = LSTMSpec(4, num_layers=2, bidirectional=True, input_size=3, projection_size=2)
    params, gru = params_of(spec), {f"gru0_l0_{kind}": np.ones((6, 2)) for kind in ("h2h_weight",)}
    first, last = {"embedding0_weight": np.ones((5, 3))}, {"dense.bias": np.zeros(7), **gru}
    params_file.save(tmp_path / "in", {**first, **name(spec, params, before), **last})
    report = checkpoint.convert(tmp_path / "in", tmp_path / "out", to)
    arrays = checkpoint.read(tmp_path / "out")
    assert set(report.unchanged) == {*first, *last}
    assert "of a GRU" in report.notes[0]
    (lstm,) = report.lstms
    assert (lstm.name, lstm.spec) == (key, spec)
    assert {old for olds in lstm.renamed.values() for old in olds} == set(
        name(spec, params, before)
    )
    if to == "gluon":  # the order of the file, the LSTM's names in the place of the old ones
        assert list(arrays) == [*first, *lstm.renamed, *last]
    assert arrays.keys() == {*first, *lstm.renamed, *last}
    assert arrays["embedding0_weight"].shape == (5, 3)
    ((found_key, (found_spec, found)),) = checkpoint.find_lstms(arrays).items()
    assert found_spec == spec
    assert_same_params(found, params)
    assert found_key == (key.rstrip("_") if to == "torch" and "." not in before else key)


def test_prefixes_stay_where_gluon_needs_them(tmp_path):
    spec = LSTMSpec(4, input_size=3)
    export = prefixed(spec, params_of(spec), "arg:net0_lstm0_")
    params_file.save(tmp_path / "in", {**export, "arg:net0_dense0_weight": np.ones((2, 4))})
    checkpoint.convert(tmp_path / "in", tmp_path / "out", "gluon")
    assert (tmp_path / "out").read_bytes() == (tmp_path / "in").read_bytes()
    checkpoint.convert(tmp_path / "in", tmp_path / "out.safetensors", "torch")
    assert "net0_lstm0.weight_ih_l0" in checkpoint.read(tmp_path / "out.safetensors")
    params_file.save(tmp_path / "in", export)
    checkpoint.convert(tmp_path / "in", tmp_path / "out", "gluon")
    assert next(iter(checkpoint.read(tmp_path / "out"))) == "_unfused.0.i2h_weight"


def test_several_lstms_and_flat_vectors(tmp_path):
    spec = LSTMSpec(4, num_layers=2, input_size=3)
    other = LSTMSpec(2, input_size=4)
    model = {**packed(spec, params_of(spec)), **torch_names(other, params_of(other), "dec.")}
    params_file.save(tmp_path / "in", model)
    report = checkpoint.convert(tmp_path / "in", tmp_path / "out", "npz")
    assert [lstm.name for lstm in report.lstms] == ["dec"]
    assert report.unchanged == ("lstm_parameters",)
    assert "does not tell hidden size" in report.notes[0]
    report = checkpoint.convert(tmp_path / "in", tmp_path / "out", "npz", {"lstm_": spec})
    assert {lstm.name for lstm in report.lstms} == {"lstm_", "dec"}
    found = checkpoint.find_lstms(checkpoint.read(tmp_path / "out"))
    assert {key: value[0] for key, value in found.items()} == {"lstm_": spec, "dec": other}
    with pytest.raises(InvalidArgumentError, match="one LSTMSpec for several LSTMs"):
        checkpoint.convert(tmp_path / "in", tmp_path / "out", "npz", spec)


def test_numbered_cells_with_a_spec(tmp_path):
    spec = LSTMSpec(3, input_size=3, bidirectional=True)
    cells = {
        k.replace("l0_", "lstm0_").replace("r0_", "lstm1_"): v for k, v in params_of(spec).items()
    }
    params_file.save(tmp_path / "in", cells)
    checkpoint.convert(tmp_path / "in", tmp_path / "out", "gluon", spec)
    assert_same_params(checkpoint.read(tmp_path / "out"), structural(spec, params_of(spec)))


def test_sparse_and_missing_arrays(tmp_path):
    spec = LSTMSpec(2, input_size=3)
    row = SparseArray("row_sparse", (5, 2), np.ones((1, 2), "f4"), np.array([3]))
    model = {**prefixed(spec, params_of(spec), "a_"), "embedding": row, "unknown": None}
    params_file.save(tmp_path / "in", model)
    checkpoint.convert(tmp_path / "in", tmp_path / "out", "gluon")
    kept = params_file.load(tmp_path / "out")
    assert isinstance(kept["embedding"], SparseArray)
    assert kept["unknown"] is None
    for to in ("torch", "npz", "safetensors"):
        report = checkpoint.convert(tmp_path / "in", tmp_path / f"out{SUFFIXES[to]}", to)
        arrays = checkpoint.read(tmp_path / f"out{SUFFIXES[to]}")
        assert np.array_equal(arrays["embedding"], row.todense())
        assert "unknown" not in arrays
        assert report.notes == ("unknown has no value and was left out",)
    huge = SparseArray("row_sparse", (2**30, 2), np.ones((1, 2), "f4"), np.array([3]))
    params_file.save(tmp_path / "in", {**model, "embedding": huge})
    checkpoint.convert(tmp_path / "in", tmp_path / "out", "gluon")
    with pytest.raises(InvalidArgumentError, match="embedding: a row_sparse array"):
        checkpoint.convert(tmp_path / "in", tmp_path / "out", "npz")


def test_bfloat16_survives(tmp_path):
    pytest.importorskip("ml_dtypes")
    spec = LSTMSpec(2, input_size=3, dtype="bfloat16")
    params = {k: to_bfloat16(v) for k, v in params_of(spec.replace(dtype="float32")).items()}
    for to in TARGETS:
        path = tmp_path / f"x{SUFFIXES[to]}"
        checkpoint.write(path, spec, params, to)
        found_spec, found = checkpoint.canonical(checkpoint.read(path))
        assert found_spec == spec
        assert_same_params(found, params)


def test_torch_names_in_an_npz_file(tmp_path):
    spec = LSTMSpec(2, input_size=3)
    checkpoint.write(tmp_path / "x.npz", spec, params_of(spec), "torch")
    assert npz_file.is_zip((tmp_path / "x.npz").read_bytes())
    with np.load(tmp_path / "x.npz") as arrays:
        assert list(arrays) == ["weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0"]


def test_metadata_for_torch(tmp_path):
    spec = LSTMSpec(2, input_size=3)
    for to, form in (("torch", "pt"), ("safetensors", "np")):
        checkpoint.write(tmp_path / "x", spec, params_of(spec), to)
        with checkpoint.open(tmp_path / "x") as file:
            assert isinstance(file, safetensors_file.SafetensorsFile)
            assert file.metadata == {"format": form}


def test_in_place(tmp_path):
    spec = LSTMSpec(2, input_size=3)
    for to in TARGETS:
        path = tmp_path / "x"
        params_file.save(path, prefixed(spec, params_of(spec), "a_"))
        checkpoint.convert(path, path, to)
        assert_same_params(checkpoint.canonical(checkpoint.read(path))[1], params_of(spec))
    assert [item.name for item in tmp_path.iterdir()] == ["x"]


def test_refusals(tmp_path):
    spec = LSTMSpec(2, input_size=3)
    source, target = tmp_path / "in", tmp_path / "out"
    params_file.save(source, {"dense_weight": np.ones((2, 2))})
    with pytest.raises(InvalidArgumentError, match="in holds no LSTM: no tensor is named like one"):
        checkpoint.convert(source, target)
    params_file.save(source, {"lstm_parameters": np.ones(spec.packed_size)})
    with pytest.raises(InvalidArgumentError, match="does not tell hidden size"):
        checkpoint.convert(source, target)
    params_file.save(source, params_of(spec))
    with pytest.raises(InvalidArgumentError, match="to='onnx' must be one of"):
        checkpoint.convert(source, target, "onnx")
    with pytest.raises(InvalidArgumentError, match="pickles"):
        checkpoint.convert(source, tmp_path / "x.pt", "torch")
    params_file.save(source, [np.ones(2)])
    with pytest.raises(InvalidArgumentError, match="list of 1 arrays"):
        checkpoint.convert(source, target)
    clash = prefixed(spec, params_of(spec), "a_") | {"a.weight_ih_l0.x": np.ones(1)}
    params_file.save(source, clash | {"a.weight_ih": np.ones(1), "a.weight_ih_l0": np.ones(1)})
    with pytest.raises((InvalidArgumentError, MissingParameterError)):
        checkpoint.convert(source, tmp_path / "x.npz", "torch")
    source.write_bytes(b"garbage")
    with pytest.raises(ParamsFormatError):
        checkpoint.convert(source, target)
    with pytest.raises(MissingParameterError, match="l0_i2h_weight"):
        checkpoint.write(target, spec, {})
    with pytest.raises(ArgumentTypeError, match="complex"):
        checkpoint.write(target, spec, {k: v.astype("c8") for k, v in params_of(spec).items()})
    with pytest.raises(ShapeMismatchError, match="l0_h2h_bias"):
        checkpoint.write(target, spec, {**params_of(spec), "l0_h2h_bias": np.ones(7, "f4")})
    with pytest.raises(InvalidArgumentError, match="l1_h2h_bias have no place"):
        checkpoint.write(target, spec, {**params_of(spec), "l1_h2h_bias": np.ones(8, "f4")})
    assert [item.name for item in tmp_path.iterdir()] == ["in"]


def test_the_input_size_may_be_left_open(tmp_path):
    spec = LSTMSpec(2, input_size=3)
    checkpoint.write(tmp_path / "x", spec.replace(input_size=0), params_of(spec))
    assert checkpoint.canonical(checkpoint.read(tmp_path / "x"))[0] == spec


def test_names_that_would_clash(tmp_path):
    spec = LSTMSpec(2, input_size=3)
    model = prefixed(spec, params_of(spec), "a_") | prefixed(spec, params_of(spec), "a__")
    params_file.save(tmp_path / "in", model)
    with pytest.raises(InvalidArgumentError, match=r"two tensors would have the name 'a.weight_ih"):
        checkpoint.convert(tmp_path / "in", tmp_path / "out.npz", "torch")
