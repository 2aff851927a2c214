"""From a spec to an artifact to numbers: one artifact, any T and N, against the reference."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gluonlstm import LSTMSpec
from gluonlstm.errors import CompilationError
from gluonlstm.reference import lstm
from tests.lstm_cases import TOLERANCE, assert_close, call, parameters, specs

pytestmark = pytest.mark.tvm


def compiled(spec, params, folder, **options):
    from gluonlstm.codegen.api import compile_lstm
    from gluonlstm.runtime import load

    path = folder / "model.so"
    compile_lstm(spec, params, path, **options)
    return load(path)


def check(model, spec, params, steps, batch, seed=0):
    args = call(spec, steps, batch, seed)
    y, states = lstm(spec, params, args.x, args.states, args.lengths)
    lengths = {} if args.lengths is None else {"sequence_length": args.lengths}
    got, (h, c) = model(args.x, args.states, **lengths)
    assert got.dtype == args.x.dtype
    assert_close([got, h, c], [y, *states], TOLERANCE[spec.dtype])


@settings(max_examples=25)
@given(specs(), st.lists(st.tuples(st.integers(0, 30), st.integers(0, 20)), min_size=1, max_size=4))
def test_any_configuration_any_sizes(tmp_path_factory, spec, sizes):
    params = parameters(spec, scale=0.4)
    model = compiled(spec, params, tmp_path_factory.mktemp("compiled"))
    for seed, (steps, batch) in enumerate([*sizes, (1, 1)]):
        check(model, spec, params, steps, batch, seed)


def test_float16_is_computed_in_float32(tmp_path):
    spec = LSTMSpec(20, input_size=12, num_layers=2, bidirectional=True, dtype="float16")
    params = parameters(spec, scale=0.3)
    model = compiled(spec, params, tmp_path)
    args = call(spec, 9, 4)
    y, states = lstm(spec, params, args.x, args.states)
    got, (h, c) = model(args.x, args.states)
    assert got.dtype == np.float16
    # Nothing but the results is rounded to 16 bits.
    ulp = np.spacing(np.abs(np.asarray(y)).astype("float16"))
    assert (np.abs(got - y) <= ulp).all()
    assert_close([got, h, c], [y, *states], TOLERANCE["float16"])


def test_twelve_layers(tmp_path):
    spec = LSTMSpec(4, num_layers=12, input_size=3)
    params = parameters(spec)
    model = compiled(spec, params, tmp_path)
    check(model, spec, params, 5, 3)


@pytest.mark.parametrize("clip_nan", [False, True])
def test_infinite_clip_bounds(tmp_path, clip_nan):
    spec = LSTMSpec(
        5, input_size=4, state_clip_min=-np.inf, state_clip_max=0.1, state_clip_nan=clip_nan
    )
    params = parameters(spec)
    model = compiled(spec, params, tmp_path)
    assert model.spec == spec
    check(model, spec, params, 5, 3)


def test_states_left_out_are_zeros(tmp_path):
    spec = LSTMSpec(10, input_size=4, layout="NTC")
    params = parameters(spec)
    model = compiled(spec, params, tmp_path)
    x = call(spec, 6, 3).x
    y, states = lstm(spec, params, x)
    np.testing.assert_allclose(model(x), y, rtol=0, atol=2e-6)
    zeros = [np.zeros(shape, "float32") for shape in spec.state_shapes(3)]
    np.testing.assert_array_equal(model(x), model(x, zeros)[0])
    assert len(states) == 2


def test_fixed_sizes(tmp_path):
    spec = LSTMSpec(10, input_size=4)
    params = parameters(spec)
    model = compiled(spec, params, tmp_path, shapes={"data": (6, 3, 4)})
    check(model, spec, params, 6, 3)
    with pytest.raises(ValueError, match="expected"):
        model(call(spec, 5, 3).x)


def test_the_artifact_records_the_plan(tmp_path):
    spec = LSTMSpec(10, num_layers=2, input_size=4)
    info = compiled(spec, parameters(spec), tmp_path).info
    assert [row["layer"] for row in info.plan] == [0, 1]
    assert all(row["kernel"] == "lstm_cpu" and row["reason"] for row in info.plan)
    assert info.spec == spec
    assert info.target["kind"] == "llvm"


def test_the_module_can_be_dumped_between_phases(tmp_path):
    spec = LSTMSpec(10, input_size=4)
    compiled(spec, parameters(spec), tmp_path, dump=tmp_path / "dump")
    names = sorted(path.name for path in (tmp_path / "dump").iterdir())
    assert [name[0] for name in names] == ["1", "2", "3", "4"]
    assert "lstm_cpu" in (tmp_path / "dump" / names[0]).read_text()


def test_a_failing_linker_is_one_error_and_leaves_no_file(tmp_path, monkeypatch):
    spec = LSTMSpec(10, input_size=4)
    monkeypatch.setenv("CXX", "/nonexistent/c++")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(CompilationError, match="cannot compile the model"):
        compiled(spec, parameters(spec), tmp_path)
    assert not (tmp_path / "model.so").exists()
