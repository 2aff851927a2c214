"""GPU models on an emulated GPU: values, arrays of every kind, streams, devices, installation."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gluonlstm
from gluonlstm import cuda_device, cuda_library
from gluonlstm.errors import (
    ArgumentTypeError,
    ArtifactError,
    ExecutionError,
    InvalidArgumentError,
    MissingDependencyError,
    ShapeMismatchError,
)
from tests.codegen import cuda_cases as cases

pytestmark = pytest.mark.tvm

ROOT = Path(__file__).resolve().parents[1]
WEIGHTS = np.linspace(-1, 1, 8, dtype="float32")
RNG = np.random.default_rng(7)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """A compiled model; the emulated GPU is there from here on."""
    from tests.codegen.emulated import compiling, require_emulator

    require_emulator()
    with compiling():
        return cases.write_small_model(tmp_path_factory.mktemp("cuda") / "small.so", WEIGHTS)


@pytest.fixture(scope="module")
def model(path):
    return gluonlstm.load(path)


@pytest.fixture
def device(model):
    from tests.gpu_libraries import Device

    return Device()


def arguments(steps, batch):
    x = RNG.standard_normal((steps, batch, 8)).astype("float32")
    h0, c0 = RNG.standard_normal((2, 2, batch, 4)).astype("float32")
    return x, h0, c0, RNG.integers(0, steps + 1, batch)


def assert_results(results, x, h0, c0, lengths):
    z, (h, c) = results
    wanted = cases.expected(WEIGHTS, x, h0, c0, lengths)
    for got, want in zip((z, h, c), wanted, strict=True):
        assert got.shape == want.shape
        assert got.dtype == np.float32
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=2e-5)


# --- arrays in the CPU's memory ------------------------------------------------------------


@settings(max_examples=25)
@given(
    steps=st.integers(0, 5),
    batch=st.integers(0, 4),
    with_states=st.booleans(),
    with_lengths=st.booleans(),
    kind=st.sampled_from(["array", "list", "fortran", "reversed", "readonly"]),
)
def test_values(model, steps, batch, with_states, with_lengths, kind):
    x, h0, c0, lengths = arguments(steps, batch)
    spelled = {
        "array": x,
        "list": x.tolist() if x.size else x,
        "fortran": np.asfortranarray(x),
        "reversed": x[::-1, ::-1][::-1, ::-1],
        "readonly": np.frombuffer(x.tobytes(), "float32").reshape(x.shape),
    }[kind]
    given = {"states": (h0, c0)} if with_states else {"states": (0 * h0, 0 * c0)}
    if with_lengths:
        given["sequence_length"] = lengths
    else:
        lengths = np.full(batch, steps)
    results = model(spelled, **given)
    assert_results(results, x, given["states"][0], given["states"][1], lengths)
    assert all(isinstance(array, np.ndarray) for array in (results[0], *results[1]))
    if not with_states:
        np.testing.assert_array_equal(model(spelled, sequence_length=lengths), results[0])


def test_results_are_the_callers(model):
    x, h0, c0, lengths = arguments(3, 2)
    first = model(x, (h0, c0), sequence_length=lengths)
    kept = [array.copy() for array in (first[0], *first[1])]
    for array in (first[0], *first[1]):
        array += 0  # writable
    model(*arguments(3, 2)[:1])
    for array, copy in zip((first[0], *first[1]), kept, strict=True):
        np.testing.assert_array_equal(array, copy)


@pytest.mark.torch
def test_torch_on_the_cpu(model):
    import torch

    x, h0, c0, lengths = arguments(3, 2)
    tensors = [torch.from_numpy(array) for array in (x, h0, c0)]
    z, states = model(tensors[0], tensors[1:], sequence_length=torch.from_numpy(lengths))
    assert z.device.type == "cpu"
    assert_results([z.numpy(), [state.numpy() for state in states]], x, h0, c0, lengths)
    z, states = model(tensors[0].requires_grad_(), tensors[1:], lengths, results="numpy")
    assert_results([z, states], x, h0, c0, lengths)
    assert isinstance(model(x, results="torch"), torch.Tensor)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64", "int32"])
def test_other_dtypes(path, tmp_path, dtype):
    from gluonlstm import bfloat16
    from tests.codegen.emulated import compiling

    with compiling():
        cases.write_moving_model(tmp_path / "m.so", dtype)
    model = gluonlstm.load(tmp_path / "m.so")
    values = RNG.integers(-100, 100, (3, 2, 8)).astype("float32")
    state = RNG.integers(-100, 100, (2, 2, 4)).astype("float32")
    spelled = bfloat16.to_bfloat16 if dtype == "bfloat16" else lambda array: array.astype(dtype)
    for first in (spelled(state), None):
        y, h = model(spelled(values), first)
        np.testing.assert_array_equal(np.asarray(y, "float32"), values.transpose(1, 0, 2))
        np.testing.assert_array_equal(
            np.asarray(h, "float32"), 0 * state if first is None else state
        )
    torch = pytest.importorskip("torch", reason="torch is not installed")
    y, h = model(torch.from_numpy(values).to(getattr(torch, dtype)), None)
    assert str(y.dtype) == f"torch.{dtype}"
    np.testing.assert_array_equal(y.float().numpy(), values.transpose(1, 0, 2))
    assert not h.any()


def test_arguments_are_checked_as_on_the_cpu(model):
    x, h0, c0, _ = arguments(3, 2)
    with pytest.raises(ArgumentTypeError, match="data: expected dtype float32, got float64"):
        model(x.astype("float64"))
    with pytest.raises(ShapeMismatchError, match=r"h0: expected shape \(2, N, 4\)"):
        model(x, (h0[:, :1], c0))
    with pytest.raises(InvalidArgumentError, match=r"lengths\[1\] is 4"):
        model(x, sequence_length=[3, 4])
    with pytest.raises(InvalidArgumentError, match="results='tensorflow' must be one of"):
        model(x, results="tensorflow")
    with pytest.raises(MissingDependencyError, match="results='cupy' needs cupy"):
        model(x, results="cupy")


# --- arrays in the GPU's memory ------------------------------------------------------------


@pytest.fixture
def no_copies(monkeypatch):
    """Fail where data is copied between the GPU's memory and the CPU's."""

    def copied(*arguments):
        pytest.fail("data was copied")

    monkeypatch.setattr(cuda_device.Transfer, "upload", copied)
    monkeypatch.setattr(cuda_device.Transfer, "download", copied)


def test_tensors_that_speak_dlpack_stay_where_they_are(model, device, request):
    x, h0, c0, _ = arguments(3, 2)
    lengths = np.array([3, 1])
    model(x)  # uploads the weights
    tensors = [device.tensor(array) for array in (x, h0, c0)]
    model(tensors[0], tensors[1:])  # uploads the lengths that were left out
    request.getfixturevalue("no_copies")
    z, states = model(tensors[0], tensors[1:])
    assert type(z) is type(tensors[0])
    values = [device.numpy(tensor) for tensor in (z, *states)]
    assert_results([values[0], values[1:]], x, h0, c0, [3, 3])
    request.getfixturevalue("monkeypatch").undo()
    z, states = model(*tensors, device.tensor(lengths), results="numpy")
    assert_results([z, states], x, h0, c0, lengths)


def test_arrays_of_a_library_are_asked_to_be_ready(model, device):
    from tests.gpu_libraries import ForeignArray

    x, h0, c0, lengths = arguments(4, 3)
    arrays = [ForeignArray(device, device.tensor(array)) for array in (x, h0, c0)]
    results = model(arrays[0], arrays[1:], lengths)
    values = [device.numpy(tensor) for tensor in (results[0], *results[1])]
    assert_results([values[0], values[1:]], x, h0, c0, lengths)
    assert [array.streams for array in arrays] == [[1]] * 3  # CUDA's default stream


def test_host_arrays_may_be_mixed_in(model, device):
    x, h0, c0, lengths = arguments(4, 3)
    for pick in range(1, 8):
        mixed = [
            device.tensor(array) if pick >> place & 1 else array
            for place, array in enumerate((x, h0, c0))
        ]
        results = model(mixed[0], mixed[1:], lengths, results="numpy")
        assert_results(results, x, h0, c0, lengths)


def test_torch_tensors_on_their_stream(model, device, request):
    from tests import emulator
    from tests.gpu_libraries import fake_torch

    x, h0, c0, lengths = arguments(3, 2)
    stream = device.new_stream()
    with fake_torch(device, stream) as torch, emulator.settings(lazy_streams=True):
        tensors = [torch.tensor(array) for array in (x, h0, c0)]
        for given in (lengths, torch.tensor(lengths)):
            z, states = model(tensors[0], tensors[1:], given)
            assert isinstance(z, torch.Tensor)
            values = [tensor.numpy(stream) for tensor in (z, *states)]
            assert_results([values[0], values[1:]], x, h0, c0, lengths)
        assert all(set(tensor.streams) == {-1} for tensor in tensors)  # ready on their own stream
        model(*tensors)  # uploads the lengths that were left out
        request.getfixturevalue("no_copies")
        z, states = model(*tensors)
        values = [tensor.numpy(stream) for tensor in (z, *states)]
        assert_results([values[0], values[1:]], x, h0, c0, [3, 3])


def test_cupy_arrays_on_their_stream(model, device, monkeypatch):
    from tests import emulator
    from tests.gpu_libraries import fake_cupy

    x, h0, c0, lengths = arguments(3, 2)
    stream = device.new_stream()
    with fake_cupy(device, stream) as cupy, emulator.settings(lazy_streams=True):
        arrays = [cupy.asarray(array) for array in (x, h0, c0)]
        z, states = model(arrays[0], arrays[1:], lengths)
        assert isinstance(z, cupy.ndarray)
        values = [array.numpy(stream) for array in (z, *states)]
        assert_results([values[0], values[1:]], x, h0, c0, lengths)
        # They are on their own stream, so none has to wait for another one.
        assert all(set(array.streams) == {-1} for array in arrays)
        # Nothing has waited for the GPU until the values were asked for.
        waits = []
        wait = cuda_device.Transfer.wait
        monkeypatch.setattr(
            cuda_device.Transfer, "wait", lambda *a: (waits.append(a[2]), wait(*a))[1]
        )
        model(arrays[0], arrays[1:])
        assert waits == []
        assert_results(model(arrays[0], arrays[1:], results="numpy"), x, h0, c0, [3, 3])
        assert waits == [stream]


def test_cupy_arrays_that_are_not_contiguous_are_copied(model, device):
    from tests.gpu_libraries import CupyArray, fake_cupy

    x, h0, c0, lengths = arguments(3, 2)
    whole = device.tensor(np.concatenate([np.zeros(1, "float32"), x.ravel()]))
    view = device.function("TVMTensorCreateView")
    shifted = view(whole, device.ffi.Shape(x.shape), device.ffi.dtype("float32"), 4)
    with fake_cupy(device, 0):
        z, states = model(CupyArray(device, shifted), (h0, c0), lengths, results="numpy")
    assert_results([z, states], x, h0, c0, lengths)
    with pytest.raises(ArgumentTypeError, match="data must be contiguous, in memory that begins"):
        model(shifted)


def test_lengths_may_be_anywhere(model, device):
    from tests.gpu_libraries import fake_cupy

    x, h0, c0, lengths = arguments(5, 4)
    with fake_cupy(device, 0) as cupy:
        for given in (device.tensor(lengths), cupy.asarray(lengths), lengths.astype("float32")):
            assert_results(model(x, (h0, c0), given), x, h0, c0, lengths)


def test_results_for_another_library_are_complete(model, device):
    from types import SimpleNamespace

    from tests import emulator
    from tests.gpu_libraries import fake_cupy

    x, h0, c0, lengths = arguments(3, 2)
    with (
        fake_cupy(device, device.new_stream()) as cupy,
        emulator.settings(lazy_streams=True),
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setitem(sys.modules, "jax.numpy", SimpleNamespace(from_dlpack=lambda t: ("jax", t)))
        z, states = model(cupy.asarray(x), (h0, c0), lengths, results="jax")
        assert [array[0] for array in (z, *states)] == ["jax"] * 3
        # Another library reads them on a stream of its own, without waiting.
        values = [device.numpy(array[1], device.new_stream()) for array in (z, *states)]
        assert_results([values[0], values[1:]], x, h0, c0, lengths)


# --- streams and threads -------------------------------------------------------------------


def two_calls_on_two_streams(model, device):
    """Send off two calls on two streams, then look at the first one's result."""
    from tests import emulator
    from tests.gpu_libraries import CUPY, fake_cupy

    x, h0, c0, _ = arguments(4, 3)
    lengths = [4, 4, 4]
    others = [arguments(4, 3) for _ in range(3)]
    streams = [device.new_stream() for _ in range(2)]
    with fake_cupy(device, streams[0]) as cupy, emulator.settings(lazy_streams=True):
        arrays = [cupy.asarray(array) for array in (x, h0, c0)]
        other = [cupy.asarray(array[0]) for array in others]
        kept = [model(*arrays)]  # lengths that are left out are uploaded once
        z, states = model(*arrays)
        CUPY.stream = streams[1]
        # To free a result would wait for the GPU.
        kept += [model(array, arrays[1:]) for array in other]
        device.wait(streams[1])
        values = [array.numpy(streams[0]) for array in (z, *states)]
    assert_results([values[0], values[1:]], x, h0, c0, lengths)


ROUNDS = 12  # the emulator runs what streams hold in random order


def test_calls_on_several_streams_do_not_share_memory_at_one_time(model, device):
    for _ in range(ROUNDS):
        two_calls_on_two_streams(model, device)


def test_that_test_can_fail(model, device, monkeypatch):
    follow = cuda_device.Transfer.follow

    def only_copies(self, handle, first, second):
        if 0 in (first, second):
            follow(self, handle, first, second)

    monkeypatch.setattr(cuda_device.Transfer, "follow", only_copies)
    failed = 0
    for _ in range(ROUNDS):
        try:
            two_calls_on_two_streams(model, device)
        except AssertionError:
            failed += 1
    assert failed


def test_several_threads(path):
    model = gluonlstm.load(path)
    failures = []

    def work(seed):
        rng = np.random.default_rng(seed)
        for _ in range(4):
            steps, batch = rng.integers(1, 5, 2)
            x = rng.standard_normal((steps, batch, 8)).astype("float32")
            wanted = cases.expected(WEIGHTS, x, np.zeros((2, batch, 4)), 0, [0] * batch)[0]
            if not np.allclose(model(x), wanted, rtol=1e-5, atol=2e-5):
                failures.append((steps, batch))

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_memory_is_given_back(path, monkeypatch):
    from tests import emulator

    monkeypatch.setattr(cuda_device, "_MOST_SHAPES", 4)
    model = gluonlstm.load(path)
    counts = []
    for steps in range(1, 40):
        model(np.zeros((steps * 128, 1, 8), "float32"))
        counts.append(emulator.live_allocations())
    assert max(counts[20:]) <= max(counts[:20])


def test_weights_are_uploaded_once(path, monkeypatch):
    uploads = []
    upload = cuda_device.Transfer.upload
    monkeypatch.setattr(
        cuda_device.Transfer,
        "upload",
        lambda self, *a: (uploads.append(a[0].shape), upload(self, *a))[1],
    )
    model = gluonlstm.load(path)
    assert uploads == []
    model(np.zeros((2, 3, 8), "float32"))
    assert uploads.count((8,)) == 1
    uploads.clear()
    model(np.zeros((2, 3, 8), "float32"))
    assert uploads == [(2, 3, 8)]  # states and lengths are there already


# --- devices -------------------------------------------------------------------------------


def test_a_gpu_that_the_artifact_has_no_code_for(path):
    from tests import emulator

    with emulator.settings(arch="sm_75"):
        model = gluonlstm.load(path)
        with pytest.raises(ArtifactError, match=r"sm_80, sm_90, compute_90.*sm_75.*-arch=sm_75"):
            model(np.zeros((1, 1, 8), "float32"))


@pytest.mark.parametrize(
    ("archs", "ptx", "capability", "runs"),
    [
        (["sm_80", "sm_90"], "compute_90", 80, True),
        (["sm_80", "sm_90"], "compute_90", 86, True),  # of the same generation
        (["sm_80", "sm_90"], "compute_90", 100, True),  # from PTX
        (["sm_80", "sm_90"], None, 100, False),
        (["sm_86"], "compute_86", 80, False),
        (["sm_86"], None, 89, True),
        (["sm_90a"], None, 90, True),
        (["sm_100a"], None, 103, False),
        (["sm_75"], "compute_75", 120, True),
        ([], None, 90, False),
    ],
)
def test_which_code_runs_where(archs, ptx, capability, runs):
    assert cuda_device._runs_on({"archs": archs, "ptx": ptx}, capability) is runs


def test_small_gpus_take_the_entry_for_any_device(tmp_path, path):
    from gluonlstm.codegen.build import write_artifact
    from gluonlstm.codegen.target import resolve
    from tests import emulator
    from tests.codegen.emulated import compiling

    both = cases.small_model(WEIGHTS).with_variant(
        cuda_device.MAIN_ANY_DEVICE, cases.small_model(WEIGHTS, prefix="general_", sign=-1)
    )
    with compiling():
        write_artifact(
            both, resolve("cuda"), tmp_path / "m.so", returns="layer", facts={"resident_ctas": 40}
        )
    x = np.ones((2, 1, 8), "float32")
    answers = {}
    for multiprocessors in (132, 40, 39):
        with emulator.settings(multiprocessors=multiprocessors):
            answers[multiprocessors] = gluonlstm.load(tmp_path / "m.so")(x)
    np.testing.assert_array_equal(answers[132], answers[40])
    np.testing.assert_allclose(answers[39], -answers[132], rtol=1e-6)


def test_arrays_on_several_gpus(model):
    from gluonlstm.cuda_arrays import DeviceArray

    sources = [DeviceArray(None, (1, 1, 8), number, "torch") for number in (0, 1)]
    with pytest.raises(ArgumentTypeError, match="h0 is on cuda:1, and another array on cuda:0"):
        model._engine._first([*sources, None, None])


def test_a_gpu_that_is_not_there(model):
    with pytest.raises(ArtifactError, match="there is no GPU cuda:3"):
        model._engine._device(3)


def test_a_driver_without_a_gpu(path, monkeypatch):
    monkeypatch.setattr(cuda_library, "facts", lambda ffi, number: None)
    with pytest.raises(
        ArtifactError, match=r"there is no NVIDIA GPU to be used here \(no device\)"
    ):
        gluonlstm.load(path)
    monkeypatch.setattr(cuda_library, "problem", lambda: "driver version is insufficient")
    with pytest.raises(ArtifactError, match=r"here \(driver version is insufficient\)"):
        gluonlstm.load(path)


def test_code_that_fails(tmp_path, path):
    from tests.codegen.emulated import compiling

    def without_barrier(source):
        assert "grid_sync()" in source
        return source.replace("tvm_builtin_cuda_grid_sync();", "")

    broken, x = tmp_path / "m.so", np.ones((2, 1, 8), "float32")
    with compiling(without_barrier):
        cases.write_small_model(broken, WEIGHTS)
    model = gluonlstm.load(broken)
    for _ in range(2):
        with pytest.raises(ExecutionError, match=r"m\.so: the compiled model failed: "):
            model(x)
    assert_results(
        gluonlstm.load(path)(x, (x[:, :, :4], x[:, :, :4])), x, x[:, :, :4], x[:, :, :4], [2]
    )


def test_threads_of_the_cpu_are_no_option(path):
    with pytest.raises(InvalidArgumentError, match=r"num_threads=2: .*only models for the CPU"):
        gluonlstm.load(path, num_threads=2)


def test_the_model_tells_its_archs(model, path):
    assert model.info.target["archs"] == ["sm_80", "sm_90"]
    assert model.num_threads == 1
    assert str(path) in repr(model)


# --- what must be installed ----------------------------------------------------------------


def run(code, **environment):
    """Run ``code`` in a fresh interpreter and return what it printed."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **environment},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


DEPLOYED = """
import ctypes, sys
for library in {libraries}:
    ctypes.CDLL(library, ctypes.RTLD_GLOBAL)
import numpy as np, gluonlstm
model = gluonlstm.load({path!r})
z = model(np.ones((2, 1, 8), "float32"))
print(z.tolist())
print(*sorted({{"tvm", "torch", "mxnet"}} & sys.modules.keys()))
print([line.split()[-1] for line in open("/proc/self/maps") if "libtvm_compiler" in line])
"""


def test_a_process_without_the_compiler(path):
    from tests.emulator import toolchain

    folder = toolchain.driver_folder()
    libraries = [str(folder / name) for name in toolchain.LIBRARIES]
    printed = run(DEPLOYED.format(libraries=libraries, path=str(path))).splitlines()
    x = np.ones((2, 1, 8), "float32")
    wanted = cases.expected(WEIGHTS, x, np.zeros((2, 1, 4)), 0, [0])[0]
    np.testing.assert_allclose(eval(printed[0]), wanted, rtol=1e-5)
    assert printed[1:] == ["", "[]"]


def test_a_machine_without_a_driver(path, tmp_path):
    if Path("/dev/nvidiactl").exists():
        pytest.skip("this machine has NVIDIA's driver")
    code = (
        "import gluonlstm\n"
        f"try: gluonlstm.load({str(path)!r})\n"
        "except gluonlstm.errors.MissingDependencyError as error: print(error)"
    )
    message = run(code)
    assert "needs NVIDIA's driver (libcuda.so.1" in message
    assert "compile the model for target='llvm'" in message
    code = (
        "import gluonlstm\n"
        f"model = gluonlstm.load({str(path)!r}, deferred=True)\n"
        "print(model.input_names, model.info.target['archs'])\n"
        f"model.save({str(tmp_path / 'copy.so')!r})\n"
        "try: model([[[0.] * 8]])\n"
        "except gluonlstm.errors.MissingDependencyError as error: print(error)"
    )
    names, message = run(code).splitlines()
    assert names == "('data', 'h0', 'c0', 'lengths') ['sm_80', 'sm_90']"
    assert "needs NVIDIA's driver" in message
    assert (tmp_path / "copy.so").read_bytes() == path.read_bytes()


def test_places_of_the_cuda_runtime(tmp_path, monkeypatch):
    from types import SimpleNamespace

    spec = SimpleNamespace(submodule_search_locations=[str(tmp_path)])
    monkeypatch.setattr(cuda_library.importlib.util, "find_spec", lambda name: spec)
    places = [str(place) for place in cuda_library._runtimes("libcudart.so.13")]
    assert places[0] == str(tmp_path / "cu13" / "lib" / "libcudart.so.13")
    assert "/usr/local/cuda-13/lib64/libcudart.so.13" in places


def test_a_missing_cuda_runtime(tmp_path, monkeypatch):
    library = tmp_path / "needs.c"
    library.write_text("int cudaGetDevice(int*); int call(int* p) { return cudaGetDevice(p); }")
    (tmp_path / "cudart.c").write_text("int cudaGetDevice(int* p) { return *p = 0; }")

    def shared(source, output, *flags):
        command = ["gcc", "-shared", "-fPIC", "-o", output, source, *flags]
        subprocess.run(command, check=True, cwd=tmp_path)

    name = "libcudart.so.99"
    shared("cudart.c", name, f"-Wl,-soname,{name}")
    shared("needs.c", "libneeds.so", name)
    moved = tmp_path / "moved" / name
    moved.parent.mkdir()
    (tmp_path / name).rename(moved)
    monkeypatch.setattr(cuda_library, "_runtimes", lambda missing: iter([tmp_path / missing]))
    with pytest.raises(MissingDependencyError, match=r"CUDA runtime libcudart.so.99 was not found"):
        cuda_library._open(tmp_path / "libneeds.so")
    monkeypatch.setattr(cuda_library, "_runtimes", lambda missing: iter([moved]))
    cuda_library._open(tmp_path / "libneeds.so")
    (tmp_path / "not.so").write_text("nothing")
    with pytest.raises(MissingDependencyError, match=r"not\.so cannot be loaded"):
        cuda_library._open(tmp_path / "not.so")
