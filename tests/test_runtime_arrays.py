"""Arrays of every kind as arguments of a compiled model."""

from __future__ import annotations

import sys
import types

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gluonlstm
from gluonlstm.artifact import InputInfo
from gluonlstm.bfloat16 import STRUCTURED, to_bits
from gluonlstm.errors import ArgumentTypeError, InvalidArgumentError, ShapeMismatchError
from gluonlstm.input_arrays import COPIED_BYTES, InputArray, lengths_array
from gluonlstm.tensors import KEPT_BYTES, Staging, TensorLibrary, aligned_array
from gluonlstm.tvm_library import load_runtime
from tests import artifact_cases as cases

pytestmark = pytest.mark.tvm

LARGE = COPIED_BYTES // 32 + 1  # rows of 8 float32 that are not copied if they need not be


@pytest.fixture(scope="module")
def library():
    return TensorLibrary(load_runtime())


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return gluonlstm.load(cases.stub_lstm(tmp_path_factory.mktemp("models") / "layer.so"))


def lend(library, value, dtype="float32", shape=("N", 8)):
    """Return what compiled code would get for ``value``: the tensor, and its values."""
    array = InputArray(InputInfo("x", shape, dtype), library)
    source = array.source(value)
    array.check_shape(source.shape, {})
    tensor = array.lend(source, Staging(library))
    return tensor, library.storage(tensor)


def aligned(shape, dtype="float32"):
    array = aligned_array(shape, np.dtype(dtype))
    array[...] = np.arange(array.size).reshape(shape)
    return array


# --- NumPy --------------------------------------------------------------------------------------


@st.composite
def numpy_variants(draw):
    """Arrays (N, 8) with every memory layout, and what is in them."""
    rows = draw(st.sampled_from([0, 1, 3, LARGE, 2 * LARGE]))
    base = aligned((rows, 8))
    how = draw(st.sampled_from(sorted(VARIANTS)))
    return how, VARIANTS[how](base)


def _offset(array):
    memory = np.empty(array.nbytes + 64, np.uint8)
    start = -memory.ctypes.data % 64 + 4
    shifted = memory[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    shifted[...] = array
    return shifted


def _read_only(array):
    array = array.copy()
    array.flags.writeable = False
    return array


VARIANTS = {
    "aligned": lambda a: a,
    "copied": np.copy,
    "unaligned": _offset,
    "read-only": _read_only,
    "fortran": np.asfortranarray,
    "transposed": lambda a: np.ascontiguousarray(a.T).T,
    "every other row": lambda a: np.repeat(a, 2, 0)[::2],
    "every other column": lambda a: np.repeat(a, 2, 1)[:, ::2],
    "upside down": lambda a: a[::-1].copy()[::-1],
    "broadcast": lambda a: np.broadcast_to(a[:1], a.shape) if len(a) else a,
    "other byte order": lambda a: a.astype(a.dtype.newbyteorder()),
    "subclass": lambda a: a.view(type("Sub", (np.ndarray,), {})),
    "in a record": lambda a: _field(a),
}


def _field(array):
    """Return a view whose items are not at multiples of their size."""
    record = np.zeros(array.shape, [("pad", "i1"), ("value", array.dtype)])
    record["value"] = array
    return record["value"]


@settings(max_examples=150)
@given(numpy_variants())
def test_numpy_in_any_layout(library, variant):
    how, array = variant
    tensor, values = lend(library, array)
    np.testing.assert_array_equal(values, np.asarray(array))
    assert tensor.data_ptr() % 64 == 0 or array.size == 0
    assert tensor.is_contiguous()
    assert values.flags.c_contiguous
    if how == "aligned" and array.nbytes > COPIED_BYTES:
        assert tensor.data_ptr() == array.ctypes.data


def test_compiled_code_gets_aligned_memory_only(library):
    for rows in (1, LARGE, 4 * LARGE):
        array = _offset(aligned((rows, 8)))
        assert array.ctypes.data % 64 == 4
        tensor, values = lend(library, array)
        assert tensor.data_ptr() % 64 == 0
        np.testing.assert_array_equal(values, array)


@pytest.mark.parametrize("dtype", ["float64", "float16", "int8", "uint8", "int32", "int64"])
def test_every_dtype(library, dtype):
    for rows in (2, LARGE):
        array = aligned((rows, 8)).astype(dtype)
        tensor, values = lend(library, array, dtype)
        assert str(tensor.dtype) == dtype
        np.testing.assert_array_equal(values, array)


@pytest.mark.parametrize("rows", [0, 3, 2 * LARGE])
def test_bfloat16(library, rows):
    ml_dtypes = pytest.importorskip("ml_dtypes")
    array = np.arange(rows * 8).reshape(rows, 8).astype(ml_dtypes.bfloat16)
    for variant in (array, array.view(STRUCTURED), np.asfortranarray(array), array[::-1][::-1]):
        tensor, bits = lend(library, variant, "bfloat16")
        assert str(tensor.dtype) == "bfloat16"
        np.testing.assert_array_equal(bits, to_bits(array))
        result = library.numpy(tensor, None)
        assert result.dtype == ml_dtypes.bfloat16
        np.testing.assert_array_equal(result, array)
        np.testing.assert_array_equal(library.numpy(library.copy(tensor), None), array)
    with pytest.raises(ArgumentTypeError, match="expected dtype bfloat16, got float16"):
        lend(library, np.zeros((1, 8), "float16"), "bfloat16")
    tensor, bits = lend(library, [[0.5] * 8], "bfloat16")
    np.testing.assert_array_equal(bits, [[0x3F00] * 8])


# --- Python numbers and lists ---------------------------------------------------------------------


@given(st.lists(st.lists(st.integers(-99, 99) | st.floats(-1, 1), min_size=8, max_size=8)))
def test_lists_take_the_inputs_dtype(rows):
    library = TensorLibrary(load_runtime())
    if rows:
        for dtype in ("float32", "float64", "float16"):
            _, values = lend(library, rows, dtype)
            np.testing.assert_array_equal(values, np.array(rows).astype(dtype))


def test_whole_numbers_keep_their_value(library):
    assert lend(library, [1, 2], "int8", ("N",))[1].tolist() == [1, 2]
    for wrong in ([1, 128], [-129, 1], [1.0, 2.0], [True, False]):
        with pytest.raises(ArgumentTypeError, match="x: expected dtype int8, got a list of"):
            lend(library, wrong, "int8", ("N",))


def test_numbers_are_arrays_without_axes(library):
    for value in (3, 3.0, np.float64(3), np.int8(3)):
        assert lend(library, value, shape=())[1] == 3


def test_anything_that_numpy_can_read(library):
    class Wrapper:
        def __array__(self, dtype=None, copy=None):
            return aligned((2, 8))

    np.testing.assert_array_equal(lend(library, Wrapper())[1], aligned((2, 8)))


# --- DLPack ---------------------------------------------------------------------------------------


class DLPackArray:
    """An array of a library that speaks nothing but DLPack."""

    def __init__(self, array, device=(1, 0)):
        self.array, self.device = array, device

    def __dlpack__(self, **options):
        return self.array.__dlpack__(**options)

    def __dlpack_device__(self):
        return self.device


@pytest.mark.parametrize("how", ["aligned", "unaligned", "fortran", "every other column"])
def test_dlpack(library, how):
    for rows in (0, 2, LARGE):
        array = VARIANTS[how](aligned((rows, 8)))
        tensor, values = lend(library, DLPackArray(array))
        np.testing.assert_array_equal(values, array)
        assert tensor.data_ptr() % 64 == 0 or rows == 0
        assert tensor.is_contiguous()
        if how == "aligned" and rows:
            assert tensor.data_ptr() == array.ctypes.data  # lent, however small


def test_dlpack_that_does_not_fit(library):
    array = aligned((2, 8))
    with pytest.raises(
        ArgumentTypeError, match="x is on device 3 of DLPack type 2; this model was"
    ):
        lend(library, DLPackArray(array, device=(2, 3)))
    with pytest.raises(ArgumentTypeError, match="expected dtype float32, got float64"):
        lend(library, DLPackArray(array.astype("float64")))


def test_read_only_dlpack(library):
    array = aligned((2, 8))
    array.flags.writeable = False
    if np.lib.NumpyVersion(np.__version__) < "2.1.0":  # later ones lend it to each other
        with pytest.raises(ArgumentTypeError, match=r"x cannot be taken by DLPack: .*readonly"):
            lend(library, DLPackArray(array))
    else:
        np.testing.assert_array_equal(lend(library, DLPackArray(array))[1], array)


def test_results_go_back_in(model):
    x = np.ones((4, 3, 8), "float32")
    y = model(x, results="dlpack")
    np.testing.assert_array_equal(model(y), model(model(x)))


# --- torch ----------------------------------------------------------------------------------------


@pytest.mark.torch
def test_torch_is_lent_and_returned_without_copies(library):
    import torch

    for rows in (1, LARGE):
        value = torch.rand(rows, 8)
        tensor, values = lend(library, value)
        assert tensor.data_ptr() == value.data_ptr()
        np.testing.assert_array_equal(values, value.numpy())
        result = library.torch(tensor)
        assert result.data_ptr() == value.data_ptr()


@pytest.mark.torch
def test_torch_in_any_layout(library):
    import torch

    base = torch.arange(5 * 8, dtype=torch.float32).reshape(5, 8)
    shifted = torch.empty(41)[1:].copy_(base.flatten()).reshape(5, 8)
    variants = [base, base.t().contiguous().t(), base.repeat_interleave(2, 1)[:, ::2], shifted,
                base.flip(0).flip(0), base[:0], base[1:2].expand(3, 8), base.clone()[1:],
                torch.nn.Parameter(base.clone())]  # fmt: skip
    for variant in variants:
        tensor, values = lend(library, variant)
        np.testing.assert_array_equal(values, variant.detach().numpy())
        assert tensor.data_ptr() % 64 == 0 or len(variant) == 0
        assert tensor.is_contiguous()


@pytest.mark.torch
def test_torch_dtypes(library):
    import torch

    for dtype in ("float64", "float16", "bfloat16", "int32"):
        value = torch.arange(16).reshape(2, 8).to(getattr(torch, dtype))
        tensor, _ = lend(library, value, dtype)
        assert torch.equal(library.torch(tensor), value)
        assert torch.equal(library.torch(library.copy(tensor)), value)
        with pytest.raises(
            ArgumentTypeError, match=rf"got torch.{dtype}\. Convert it with \.to\(t"
        ):
            lend(library, value)


@pytest.mark.torch
def test_torch_elsewhere(library):
    import torch

    with pytest.raises(
        ArgumentTypeError, match="x is on meta; this model was compiled for the CPU"
    ):
        lend(library, torch.empty(2, 8, device="meta"))
    with pytest.raises(ArgumentTypeError, match=r"x is sparse; use \.to_dense\(\)"):
        lend(library, torch.eye(8).to_sparse())


def test_torch_may_be_half_imported(model, monkeypatch):
    """Another thread may be importing it, so that its modules are there and empty."""
    for name in ("torch", "torch.nn.utils.rnn"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    x = np.ones((1, 1, 8), "float32")
    assert model([x]).shape == (1, 1, 8)


# --- MXNet ----------------------------------------------------------------------------------------


@pytest.mark.mxnet
def test_mxnet(model):
    import gluonlstm.mxnet_compat  # noqa: F401, I001 - makes the next import work
    import mxnet

    x = np.random.default_rng(0).normal(size=(3, 2, 8)).astype("float32")
    state = np.ones((2, 2, 4), "float32")
    wanted, wanted_states = model(x, (state, state), [1, 3])
    for array in (mxnet.nd.array, mxnet.np.array):
        # MXNet's lengths are float32.
        y, states = model(array(x), [array(state)] * 2, array([1, 3]))
        for one, other in ((y, wanted), *zip(states, wanted_states, strict=True)):
            assert type(one) is np.ndarray
            np.testing.assert_array_equal(one, other)
    with pytest.raises(ArgumentTypeError, match="expected dtype float32, got float64"):
        model(mxnet.nd.array(x, dtype="float64"))


# --- lengths --------------------------------------------------------------------------------------

integers = st.sampled_from(["int8", "uint8", "int16", "int32", "int64", "uint64"])
floats = st.sampled_from(["float16", "float32", "float64"])


@given(st.lists(st.integers(0, 100), max_size=300), integers | floats)
def test_lengths_of_any_dtype(lengths, dtype):
    array = lengths_array("n", np.array(lengths, dtype), len(lengths), 100)
    assert array.dtype == np.int32
    assert array.tolist() == lengths
    assert lengths_array("n", list(lengths), len(lengths), 100).tolist() == lengths


@given(
    st.lists(st.integers(0, 100), min_size=1, max_size=300),
    st.sampled_from([-1, 101, 0.5, float("nan"), float("inf"), -float("inf"), 1e30]),
    st.data(),
)
def test_wrong_lengths_are_found(lengths, wrong, data):
    row = data.draw(st.integers(0, len(lengths) - 1))
    array = np.array(lengths, "float64" if isinstance(wrong, float) else "int64")
    array[row] = wrong
    with pytest.raises(
        InvalidArgumentError, match=rf"n\[{row}\] is .*whole number from 0 to T=100"
    ):
        lengths_array("n", array, len(lengths), 100)


def test_lengths_of_other_libraries():
    class Lengths:
        def asnumpy(self):
            return np.array([1.0, 2.0], "float32")

    for value in (Lengths(), DLPackArray(np.array([1, 2])), (1, 2), [1.0, 2.0]):
        assert lengths_array("n", value, 2, 3).tolist() == [1, 2]
    assert lengths_array("n", [], 0, 3).tolist() == []
    for value in ([[1, 2]], np.ones((2, 1)), 1, [1]):
        with pytest.raises(ShapeMismatchError, match="One length for each row of N"):
            lengths_array("n", value, 2, 3)


@pytest.mark.torch
def test_lengths_of_torch():
    import torch

    assert lengths_array("n", torch.tensor([2, 1]), 2, 3).tolist() == [2, 1]
    for value in (torch.zeros(2, device="meta"), torch.eye(2).to_sparse()):
        with pytest.raises(ArgumentTypeError, match="n cannot be read: "):
            lengths_array("n", value, 2, 3)


def test_scalars_that_speak_dlpack_are_numbers(library):
    value = np.float32(3)
    assert lend(library, value, shape=())[1] == 3


# --- staging --------------------------------------------------------------------------------------


def test_small_memory_is_kept_and_large_is_not(library):
    staging = Staging(library)
    small = staging.place("x", (2, 8), "float32")
    assert staging.place("x", (2, 8), "float32") is small
    assert staging.place("x", (3, 8), "float32") is not small
    assert staging.place("y", (2, 8), "float32") is not small
    shape = (KEPT_BYTES // 4 + 1,)
    assert staging.place("z", shape, "float32") is not staging.place("z", shape, "float32")


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 5)), max_size=8))
def test_constants(calls):
    library = TensorLibrary(load_runtime())
    staging = Staging(library)
    for rows, value in calls:
        tensor = staging.constant("n", (rows,), "int32", value)
        assert library.storage(tensor).tolist() == [value] * rows
