"""Calling a compiled model: what goes in, what comes back, what is refused."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import gluonlstm
from gluonlstm.artifact import read
from gluonlstm.errors import (
    ArgumentTypeError,
    ArtifactError,
    ExecutionError,
    InvalidArgumentError,
    ShapeMismatchError,
)
from tests import artifact_cases as cases

pytestmark = pytest.mark.tvm


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module")
def layer(folder):
    return gluonlstm.load(cases.stub_lstm(folder / "layer.so"))


@pytest.fixture(scope="module")
def fixed(folder):
    """T=3 and N=2 are fixed, states required, layout NTC, no lengths."""
    path = cases.stub_lstm(
        folder / "fixed.so", sizes=(3, 2), optional=False, layout="NTC", with_lengths=False
    )
    return gluonlstm.load(path)


def arrays(steps=3, rows=2, dtype="float32", seed=0):
    generator = np.random.default_rng(seed)
    shapes = ((steps, rows, 8), (2, rows, 4), (2, rows, 4))
    return [generator.normal(size=shape).astype(dtype) for shape in shapes]


def expected(x, h0=None, c0=None, lengths=None, scale=1):
    """Compute what the stub LSTM computes."""
    zeros = np.zeros((2, x.shape[1], 4), x.dtype)
    steps = np.full(x.shape[1], x.shape[0]) if lengths is None else np.asarray(lengths)
    h = (zeros if h0 is None else h0) + 1 + steps.astype(x.dtype)[:, None]
    return x + np.arange(8, dtype=x.dtype), h, (zeros if c0 is None else c0) * scale


def check(actual, wanted):
    assert len(actual) == len(wanted)
    for one, other in zip(actual, wanted, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6)
        assert one.dtype == other.dtype
        assert one.shape == other.shape


# --- structure of the results ----------------------------------------------------------------


def test_layer_returns_states_if_states_were_given(layer):
    x, h, c = arrays()
    y = layer(x)
    check([y], expected(x)[:1])
    for call in (layer(x, (h, c)), layer(x, states=[h, c]), layer(x, h, c)):
        y, states = call
        assert isinstance(states, list)
        check([y, *states], expected(x, h, c))
    y, states = layer(x, (h, c), sequence_length=[1, 2])
    check([y, *states], expected(x, h, c, [1, 2]))


def test_torch_returns_states_always(folder):
    model = gluonlstm.load(cases.stub_lstm(folder / "torch.so", returns="torch"))
    x, h, c = arrays()
    for args, wanted in (((x,), expected(x)), ((x, (h, c)), expected(x, h, c))):
        y, states = model(*args)
        assert isinstance(states, tuple)
        check([y, *states], wanted)


def test_heads_are_a_list_and_one_head_an_array(folder):
    model = gluonlstm.load(cases.stub_lstm(folder / "heads.so", returns="heads"))
    x, h, c = arrays()
    outputs = model(x, h, c)
    assert isinstance(outputs, list)
    check(outputs, expected(x, h, c))
    single = gluonlstm.load(cases.busy(folder / "busy.so"))
    assert isinstance(single(np.ones(3, "float32")), np.ndarray)


@pytest.mark.parametrize("dtype", ["float64", "float16"])
def test_other_dtypes(folder, dtype):
    model = gluonlstm.load(cases.stub_lstm(folder / f"{dtype}.so", dtype=dtype))
    x, h, c = arrays(dtype=dtype)
    y, states = model(x, (h, c), [1, 2])
    check([y, *states], expected(x, h, c, [1, 2]))
    with pytest.raises(ArgumentTypeError, match=f"data: expected dtype {dtype}, got float32"):
        model(x.astype("float32"))


def test_attributes_and_repr(layer, fixed):
    assert layer.input_names == ("data", "h0", "c0", "lengths")
    assert layer.output_names == ("y", "h", "c")
    assert layer.inputs[0].shape == ("T", "N", 8)
    assert layer.spec.hidden_size == 4
    assert layer.path.name == "layer.so"
    assert repr(layer).splitlines()[1:] == [
        "  in   data: float32 (T, N, 8)",
        "  in   h0: float32 (2, N, 4), optional",
        "  in   c0: float32 (2, N, 4), optional",
        "  in   lengths: int32 (N,), optional",
        "  out  y: float32 (T, N, 8)",
        "  out  h: float32 (2, N, 4)",
        "  out  c: float32 (2, N, 4)",
    ]
    assert fixed.inputs[0].shape == (2, 3, 8)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(st.integers(0, 40), st.integers(0, 40), st.booleans(), st.data())
def test_all_sizes(layer, steps, rows, with_states, data):
    """Any T and N, empty ones too; arrays small enough to be copied and large ones."""
    x, h, c = arrays(steps, rows, seed=steps + rows)
    states = (h, c) if with_states else None
    lengths = data.draw(
        st.none() | st.lists(st.integers(0, steps), min_size=rows, max_size=rows).map(np.array)
    )
    lengths = None if lengths is None else lengths.reshape(rows).astype(int)
    result = layer(x, states, lengths)
    wanted = expected(x, *(states or (None, None)), lengths)
    check(
        [result[0], *result[1]] if with_states else [result], wanted if with_states else wanted[:1]
    )


# --- what is refused ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"x": np.zeros((3, 2), "float32")}, ShapeMismatchError,
         r"data: expected shape \(T, N, 8\), got \(3, 2\)\.$"),
        ({"x": np.zeros((3, 2, 9), "float32")}, ShapeMismatchError,
         r"data: expected shape \(T, N, 8\), got \(3, 2, 9\)"),
        ({"h": np.zeros((2, 5, 4), "float32")}, ShapeMismatchError,
         r"h0: expected shape \(2, N, 4\), got \(2, 5, 4\)\. In this call N=2"),
        ({"c": np.zeros((1, 2, 4), "float32")}, ShapeMismatchError,
         r"c0: expected shape \(2, N, 4\), got \(1, 2, 4\)"),
        ({"n": [1, 2, 3]}, ShapeMismatchError, r"lengths: expected shape \(2,\), got \(3,\)"),
        ({"n": 2}, ShapeMismatchError, r"lengths: expected shape \(2,\), got \(\)"),
        ({"n": [1, 4]}, InvalidArgumentError, r"lengths\[1\] is 4; .* from 0 to T=3"),
        ({"n": [-1, 1]}, InvalidArgumentError, r"lengths\[0\] is -1"),
        ({"n": [1.5, 1]}, InvalidArgumentError, r"lengths\[0\] is 1\.5"),
        ({"n": [1, float("nan")]}, InvalidArgumentError, r"lengths\[1\] is nan"),
        ({"n": [1, float("inf")]}, InvalidArgumentError, r"lengths\[1\] is inf"),
        ({"n": np.array([1, 2**63], "uint64")}, InvalidArgumentError, r"lengths\[1\] is 9223"),
        ({"n": [True, False]}, ArgumentTypeError, r"lengths: expected whole numbers, got dtype bo"),
        ({"n": np.array([1, 2], "complex64")}, ArgumentTypeError, r"lengths: expected whole num"),
        ({"n": ["a", "b"]}, ArgumentTypeError, r"lengths must be an array"),
        ({"x": np.zeros((3, 2, 8))}, ArgumentTypeError,
         r"data: expected dtype float32, got float64\. Convert it with \.astype\('float32'\)"),
        ({"x": np.zeros((3, 2, 8), int)}, ArgumentTypeError, r"data: expected dtype float32, got "),
        ({"x": "text"}, ArgumentTypeError, r"data must be an array, got str"),
        ({"x": object()}, ArgumentTypeError, r"data must be an array, got object"),
        ({"x": {"a": 1}}, ArgumentTypeError, r"data must be an array, got dict"),
        ({"x": [[1], [1, 2]]}, ArgumentTypeError, r"data (is not|must be) an array"),
        ({"x": np.array([None])}, ArgumentTypeError, r"data: expected dtype float32, got object"),
        ({"x": None}, ArgumentTypeError, r"input\(s\) data missing"),
        ({"c": None}, InvalidArgumentError, r"h0 was given without c0"),
    ],
)  # fmt: skip
def test_wrong_arguments(layer, change, error, message):
    x, h, c = arrays()
    values = {"x": x, "h": h, "c": c, "n": [1, 2], **change}
    with pytest.raises(error, match=message):
        layer(values["x"], (values["h"], values["c"]), lengths=values["n"])
    # A call that failed leaves nothing behind.
    y, states = layer(x, (h, c), [1, 2])
    check([y, *states], expected(x, h, c, [1, 2]))


def test_fixed_sizes_are_checked(fixed):
    x, h, c = (np.zeros(shape, "float32") for shape in ((2, 3, 8), (2, 2, 4), (2, 2, 4)))
    fixed(x, h, c)
    with pytest.raises(
        ShapeMismatchError, match=r"data: expected shape \(2, 3, 8\), got \(2, 4, 8"
    ):
        fixed(np.zeros((2, 4, 8), "float32"), h, c)
    with pytest.raises(ArgumentTypeError, match=r"input\(s\) h0, c0 missing"):
        fixed(x)
    with pytest.raises(ArgumentTypeError, match=r"no input 'sequence_length'"):
        fixed(x, h, c, sequence_length=[1, 2])


def test_fixed_steps_bound_the_lengths(folder):
    path = cases.stub_lstm(folder / "fixed-lengths.so", sizes=(3, 2), layout="NTC")
    model = gluonlstm.load(path)
    x = np.zeros((2, 3, 8), "float32")
    model(x, sequence_length=[3, 0])
    with pytest.raises(InvalidArgumentError, match="from 0 to T=3"):
        model(x, sequence_length=[4, 0])


def test_results_must_be_known(layer):
    with pytest.raises(InvalidArgumentError, match="results='tensorflow' must be one of"):
        layer(arrays()[0], results="tensorflow")


# --- memory -------------------------------------------------------------------------------------


def test_results_are_writable_and_independent(layer):
    x, h, c = arrays()
    first = layer(x, (h, c))
    kept = [array.copy() for array in (first[0], *first[1])]
    for array in (first[0], *first[1]):
        assert array.flags.writeable
        assert array.flags.c_contiguous
    second = layer(x + 1, (h, c))
    check([first[0], *first[1]], kept)
    second[0][:] = 0
    check([first[0]], kept[:1])


def test_results_outlive_the_model(folder):
    path = cases.stub_lstm(folder / "short-lived.so")
    x, h, c = arrays(200, 20)
    model = gluonlstm.load(path)
    y, states = model(x, (h, c))
    lent = model(x, results="dlpack")
    del model
    path.unlink()
    check([y, *states], expected(x, h, c))
    np.testing.assert_array_equal(np.from_dlpack(lent), expected(x)[0])


@pytest.mark.parametrize("rows", [3, 10_000])
@pytest.mark.parametrize("results", ["numpy", "dlpack"])
def test_results_are_never_the_arguments_or_weights(folder, rows, results):
    """A graph may return its inputs and weights as they are."""
    model = gluonlstm.load(cases.identity(folder / "identity.so"))
    x = np.arange(2 * rows, dtype="float32").reshape(rows, 2)
    a, b, w = (np.asarray(_writable(one)) for one in model(x, results=results))
    for one, wanted in ((a, x), (b, x), (w, [5, 6])):
        np.testing.assert_array_equal(one, wanted)
    assert not any(np.shares_memory(one, other) for one, other in ((a, b), (a, x), (b, x)))
    a[:], w[:] = -1, -1
    np.testing.assert_array_equal(b, x)
    np.testing.assert_array_equal(np.asarray(_writable(model(x, results=results)[2])), [5, 6])


def _writable(array):
    """Return DLPack tensors as arrays that can be written to, also with NumPy 1.x."""
    if isinstance(array, np.ndarray):
        return array
    address, shape = array.data_ptr(), array.shape
    interface = {"data": (address, False), "shape": shape, "typestr": "<f4", "version": 3}
    return type("Memory", (), {"__array_interface__": interface, "tensor": array})()


def test_dlpack_results(layer):
    import tvm_ffi

    x, h, c = arrays()
    y, states = layer(x, (h, c), results="dlpack")
    assert isinstance(y, tvm_ffi.Tensor)
    check([np.from_dlpack(tensor) for tensor in (y, *states)], expected(x, h, c))
    again = layer(y, states)  # and back in
    check([again[0], *again[1]], expected(*expected(x, h, c)))


# --- files --------------------------------------------------------------------------------------


def test_saving_over_a_loaded_model(folder):
    path = folder / "replaced.so"
    x, h, c = arrays()
    models = []
    for scale in (2, 3, 4):
        cases.stub_lstm(path, scale=scale)
        models.append(gluonlstm.load(path))
    for scale, model in zip((2, 3, 4), models, strict=True):
        y, states = model(x, (h, c))
        check([y, *states], expected(x, h, c, scale=scale))


def test_new_code_replaces_old_code_of_the_same_name(folder):
    """Weights apart, the machine code itself must be the new file's."""
    path = folder / "code.so"
    cases.stub_lstm(path)
    old = gluonlstm.load(path)
    cases.busy(path)
    new = gluonlstm.load(path)
    assert new.input_names == ("x",)
    np.testing.assert_allclose(
        new(np.zeros(1, "float32")), np.sqrt(np.arange(2e4)).sum(), rtol=1e-3
    )
    x = arrays()[0]
    check([old(x)], expected(x)[:1])


def test_overwriting_in_place_does_not_change_loaded_code(folder):
    path = cases.stub_lstm(folder / "in-place.so", scale=1)
    size = path.stat().st_size
    model = gluonlstm.load(path)
    with path.open("r+b") as file:
        file.write(bytes(read(path).stored[0].offset))  # all of the code
    assert path.stat().st_size == size
    x = arrays()[0]
    check([model(x)], expected(x)[:1])
    with pytest.raises(ArtifactError, match="do not match their checksum"):
        model.save(folder / "copy.so")


def test_save_and_temporary(folder):
    path = cases.stub_lstm(folder / "temporary.so")
    model = gluonlstm.runtime.load(path, temporary=True)
    assert not path.exists()
    assert model.path is None
    assert "not saved" in repr(model)
    x, h, c = arrays()
    model.save(folder / "saved.so")
    for one in (model, gluonlstm.load(folder / "saved.so")):
        y, states = one(x, (h, c))
        check([y, *states], expected(x, h, c))


def test_code_for_another_cpu_is_not_loaded(folder):
    target = {"kind": "llvm", "mcpu": "zen99", "cpu_features": ["sse2", "teleport", "avx9"]}
    path = cases.stub_lstm(folder / "other-cpu.so", target=target)
    with pytest.raises(ArtifactError, match=r"a CPU \(zen99\) with avx9, teleport, which this one"):
        gluonlstm.load(path)


def test_code_for_another_device_is_not_loaded(folder):
    path = cases.stub_lstm(folder / "other.so", target={"kind": "vulkan"})
    with pytest.raises(ArtifactError, match="compiled for target 'vulkan'"):
        gluonlstm.load(path)


def test_code_that_is_no_executable(tmp_path):
    import subprocess

    (tmp_path / "empty.c").write_text("int nothing;")
    library = tmp_path / "empty.so"
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", library, tmp_path / "empty.c"], check=True)
    for code in (library.read_bytes(), cases.ELF + b"nonsense"):
        library.write_bytes(code)
        gluonlstm.artifact.write(tmp_path / "m.so", library, {}, cases.simple_info())
        with pytest.raises(ArtifactError, match="its code cannot be loaded"):
            gluonlstm.load(tmp_path / "m.so")


def test_code_that_takes_other_arrays(folder, tmp_path):
    source = read(cases.stub_lstm(folder / "arity.so"))
    library = tmp_path / "code.so"
    library.write_bytes(source.code)
    gluonlstm.artifact.write(tmp_path / "m.so", library, {}, source.info)
    with pytest.raises(ArtifactError, match="its code takes 6 arrays, its metadata lists 4"):
        gluonlstm.load(tmp_path / "m.so")


def test_failure_inside_the_code_is_an_error(folder):
    """Metadata that promises more than the code can take: TVM's own checks answer."""
    path = cases.stub_lstm(folder / "fails.so", sizes=(3, 2))
    artifact = read(path)
    free = cases.simple_info(
        inputs=tuple(
            type(info)(info.name, tuple("N" if size == 2 and i else size
                                        for i, size in enumerate(info.shape)),
                       info.dtype, info.role, False)
            for info in artifact.info.inputs[:1]
        ) + artifact.info.inputs[1:],
        outputs=artifact.info.outputs,
        spec=artifact.info.spec,
    )  # fmt: skip
    library = folder / "fails-code.so"
    library.write_bytes(artifact.code)
    gluonlstm.artifact.write(path, library, artifact.weights, free)
    model = gluonlstm.load(path)
    with pytest.raises(ExecutionError, match="the compiled model failed"):
        model(np.zeros((3, 5, 8), "float32"))
    model(np.zeros((3, 2, 8), "float32"))
