"""NDArray-list files: the bytes, every dtype and version, hostile files, laziness."""

from __future__ import annotations

import mmap
import os
import struct
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from gluonlstm import bfloat16, params_file
from gluonlstm.array_file import ArrayInfo
from gluonlstm.errors import ArgumentTypeError, InvalidArgumentError
from gluonlstm.sparse_array import SparseArray
from tests.hostile.params_bytes import CPU, GOOD, V1, V2, V3, dense, head, names, shape

DTYPES = ("f4", "f8", "f2", "u1", "i4", "i1", "i8", "?", "i2", "u2", "u4", "u8")  # by number
ROW = SparseArray("row_sparse", (9, 2), np.ones((2, 2), "f4"), np.array([3, 5]))
CSR = SparseArray("csr", (2, 4), np.ones(2, "f4"), np.array([1, 3]), np.array([0, 1, 2]))
SAMPLE = {"weight": np.arange(6, dtype="f4").reshape(2, 3), "bias": np.ones(3, "f8"), "n": None}
NAMES = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=8)


@st.composite
def arrays(draw, scalars=False):
    least = 0 if scalars else 1
    shapes = hnp.array_shapes(min_dims=least, max_dims=4, min_side=least, max_side=4)
    dtype = np.dtype(draw(st.sampled_from(DTYPES))).newbyteorder(draw(st.sampled_from("<>")))
    array = draw(hnp.arrays(dtype, shapes))
    return array.T if draw(st.booleans()) else array


def assert_same(actual, expected):
    assert actual.dtype == expected.dtype.newbyteorder("=")
    assert actual.shape == expected.shape
    # Bits, so that NaNs and negative zeros count.
    assert actual.tobytes() == np.ascontiguousarray(expected, actual.dtype).tobytes()


# --- the bytes ------------------------------------------------------------------------------------


def test_golden_bytes_of_a_dict():
    written = params_file.dumps({"w": np.array([[1, 2, 3]], np.float32), "b": np.array([7], "i8")})
    assert written == bytes.fromhex(
        "1201000000000000 0000000000000000 0200000000000000"
        "c9fa93f9 00000000 02000000 0100000000000000 0300000000000000 01000000 00000000 00000000"
        "0000803f 00000040 00004040"
        "c9fa93f9 00000000 01000000 0100000000000000 01000000 00000000 06000000 0700000000000000"
        "0200000000000000 0100000000000000 77 0100000000000000 62"
    )


def test_golden_bytes_of_sparse_arrays():
    # As mx.nd.save of MXNet 1.9.1 wrote them.
    row = SparseArray("row_sparse", (2, 3), np.array([[1, 2, 3]], "f4"), np.array([1], "i8"))
    csr = SparseArray(
        *("csr", (2, 3), np.array([1, 2], "f4")),
        indices=np.array([0, 2], "i8"),
        indptr=np.array([0, 1, 2], "i8"),
    )
    assert params_file.dumps([row, csr])[24:].hex() == (
        "c9fa93f9010000000200000001000000000000000300000000000000020000000200000000000000"
        "03000000000000000100000000000000000000000600000001000000010000000000000000"
        "00803f0000004000004040" + "0100000000000000"
        "c9fa93f902000000010000000200000000000000020000000200000000000000030000000000000001000000"
        "0000000000000000060000000100000003000000000000000600000001000000020000000000000000"
        "00803f00000040" + "000000000000000001000000000000000200000000000000"
        "00000000000000000200000000000000" + "0000000000000000"
    )


def test_golden_bytes_of_every_version():
    values = struct.pack("<2f", 1, 2)
    record = CPU + struct.pack("<i", 0) + values
    expected = {
        0: struct.pack("<II", 1, 2) + record,
        1: struct.pack("<I", V1) + shape(2) + record,
        2: struct.pack("<Ii", V2, 0) + shape(2) + record,
        3: struct.pack("<Ii", V3, 0) + shape(2) + record,
    }
    nothing = {
        0: bytes(4),
        1: struct.pack("<Ii", V1, 0),
        2: struct.pack("<Iii", V2, 0, 0),
        3: struct.pack("<Iii", V3, 0, -1),
    }
    for version, bytes_ in expected.items():
        file = head(2) + bytes_ + nothing[version] + names(b"x", b"n")
        assert params_file.dumps({"x": np.array([1, 2], "f4"), "n": None}, version=version) == file
        loaded = params_file.loads(file)
        assert loaded["n"] is None
        assert loaded["x"].tolist() == [1, 2]


def test_types_are_numbered_as_mxnet_numbers_them():
    for number, code in enumerate(DTYPES):
        array = np.array([1, 0], code)
        data = head(1) + dense(2, data=array.tobytes(), type_=number) + names()
        assert params_file.dumps(array) == data
        assert_same(params_file.loads(data)[0], array)


@given(st.dictionaries(NAMES, arrays(), max_size=4) | st.lists(arrays(), max_size=4))
@settings(max_examples=60)
def test_what_is_written_is_read(data):
    for version in (0, 1, 2, 3):
        loaded = params_file.loads(params_file.dumps(data, version=version))
        pairs = zip(data, loaded, strict=True) if isinstance(data, list) else None
        if pairs is None:
            assert list(loaded) == list(data)  # an empty dict is written as an empty list
            pairs = [(data[name], loaded[name]) for name in data]
        for written, read in pairs:
            assert_same(read, written)


@given(arrays(scalars=True))
@settings(max_examples=40)
def test_scalars_and_empty_arrays_make_a_v3_file(array):
    data = params_file.dumps({"a": array, "one": np.ones(1, "f4")})
    small = not array.size or not array.ndim
    assert data[24:28] == struct.pack("<I", V3 if small else V2)
    assert_same(params_file.loads(data)["a"], array)
    if small:
        with pytest.raises(InvalidArgumentError, match="version 3"):
            params_file.dumps([array], version=2)


def test_empty_files_are_lists_as_in_mxnet():
    assert params_file.dumps({}) == params_file.dumps([]) == head(0) + names()
    assert params_file.loads(head(0) + names()) == []


def test_records_of_different_versions_may_follow_each_other():
    # What np_shape on and off, or a hand-made file, may hold.
    data = head(3) + dense(1, data=b"\0\0\x80?") + dense(data=b"\0\0\x80?", magic=V3)
    data += struct.pack("<Iii", V3, 0, -1) + names(b"a", b"b", b"c")
    loaded = params_file.loads(data)
    assert loaded["a"].shape == (1,)
    assert loaded["b"].shape == ()
    assert loaded["c"] is None


def test_the_context_is_ignored():
    data = bytearray(params_file.dumps([np.ones(2, "f4")]))
    data[24 + 20 : 24 + 28] = struct.pack("<ii", 2, 7)  # gpu(7)
    assert params_file.loads(data)[0].tolist() == [1, 1]


def test_bytes_that_are_no_bool_are_true():
    data = head(1) + dense(3, data=b"\0\1\7", type_=7) + names()
    loaded = params_file.loads(data)[0]
    assert loaded.tolist() == [False, True, True]
    assert loaded.view("u1").tolist() == [0, 1, 1]


@pytest.mark.parametrize(
    ("value", "error", "match"),
    [
        ({"w": np.array(["a"])}, ArgumentTypeError, "'w' has dtype <U1"),
        ({"w": np.array([None])}, ArgumentTypeError, "object"),
        ([np.zeros(2, "c8")], ArgumentTypeError, "array 0 has dtype complex64"),
        ({3: np.zeros(2)}, ArgumentTypeError, "the name 3"),
        ({"a\0b": np.zeros(2)}, InvalidArgumentError, "zero byte"),
        ({"\ud800": np.zeros(2)}, InvalidArgumentError, "UTF-8"),
    ],
)
def test_what_the_format_cannot_hold_is_refused(value, error, match):
    with pytest.raises(error, match=match):
        params_file.dumps(value)


def test_sparse_arrays_need_v2():
    row = SparseArray("row_sparse", (2, 1), np.ones((1, 1), "f4"), np.array([1]))
    for version in (0, 1, 3):
        with pytest.raises(InvalidArgumentError, match="dense arrays only"):
            params_file.dumps([row], version=version)
    with pytest.raises(InvalidArgumentError, match="version=4"):
        params_file.dumps([], version=4)


# --- bfloat16 -------------------------------------------------------------------------------------


@pytest.mark.parametrize("installed", [True, False])
def test_bfloat16(installed, monkeypatch):
    if installed:
        pytest.importorskip("ml_dtypes")
    else:
        monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    values = np.array([[1, -2.5, 0], [np.inf, 3e38, -0.0]], np.float32)
    data = params_file.dumps({"w": bfloat16.to_bfloat16(values)})
    assert data[24 + 8 + 20 + 8 :][:4] == struct.pack("<i", 12)
    read = params_file.loads(data)["w"]
    assert read.dtype.name == ("bfloat16" if installed else "float32")
    expected = (((values.view("u4") + 0x7FFF + ((values.view("u4") >> 16) & 1)) >> 16) << 16).view(
        "f4"
    )
    assert np.array_equal(read.astype("f4"), expected)
    if installed:
        assert params_file.dumps({"w": read}) == data


@given(hnp.arrays(np.float32, 5, elements=st.floats(width=32)))
def test_bfloat16_rounds_like_ml_dtypes(values):
    ml_dtypes = pytest.importorskip("ml_dtypes")
    with np.errstate(all="ignore"):
        expected = values.astype(ml_dtypes.bfloat16)
    rounded = bfloat16.to_bfloat16(values)
    assert np.array_equal(rounded.astype("f4"), expected.astype("f4"), equal_nan=True)


# --- sparse arrays --------------------------------------------------------------------------------


def test_sparse_arrays_become_dense_within_a_bound():
    loaded = params_file.loads(params_file.dumps({"row": ROW, "csr": CSR}))
    expected = np.zeros((9, 2))
    expected[[3, 5]] = 1
    assert np.array_equal(loaded["row"].todense(), expected)
    assert loaded["csr"].todense().tolist() == [[0, 1, 0, 0], [0, 0, 0, 1]]
    huge = SparseArray("row_sparse", (2**40, 2), np.ones((1, 2), "f4"), np.array([2**40 - 1]))
    data = params_file.dumps([huge])
    assert len(data) < 200
    with pytest.raises(InvalidArgumentError, match="8796093022208 bytes"):
        params_file.loads(data)[0].todense()
    with pytest.raises(InvalidArgumentError, match="max_bytes=71"):
        ROW.todense(max_bytes=71)
    assert ROW.todense(max_bytes=72).shape == (9, 2)


def test_unsigned_indices_that_descend_are_refused():
    # Their difference, taken in uint64, would be positive.
    with pytest.raises(InvalidArgumentError, match="ascend"):
        SparseArray("row_sparse", (9, 1), np.ones((2, 1)), np.array([5, 3], "u8"))


# --- lazy reading ---------------------------------------------------------------------------------


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * mmap.PAGESIZE


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs /proc")
def test_a_large_file_opens_without_being_read(tmp_path):
    path, count = tmp_path / "big.params", 350_000_000
    first = head(2) + dense(count, data=b"")
    with path.open("wb") as file:
        file.write(first)
        file.seek(4 * count - 4, os.SEEK_CUR)  # a hole: the file takes no room on the disk
        file.write(struct.pack("<f", 5) + GOOD + names(b"big", b"small"))
    assert path.stat().st_size > 1.3e9
    before = _resident_bytes()
    with params_file.open(path) as file:
        assert list(file) == ["big", "small"]
        assert file.info("big") == ArrayInfo("big", "dense", (count,), "float32", 4 * count)
        big, small = file["big"], file["small"]
    assert big[-1] == 5  # after the file was closed
    assert big[count // 2] == 0
    assert small.tolist() == [[1, 2], [3, 4]]
    assert _resident_bytes() - before < 32 << 20
    assert not big.flags.owndata
    assert not big.flags.writeable


def test_modes_of_opening(tmp_path):
    path = tmp_path / "x.params"
    params_file.save(path, SAMPLE | {"row": ROW})
    before = path.read_bytes()
    file = params_file.open(path)
    assert file.named
    assert len(file) == 4
    assert "bias" in file
    assert "x" not in file
    with pytest.raises(ValueError, match="read-only"):
        file["weight"][0] = 9
    with params_file.open(path, "c") as copy:
        copy["weight"][0, 0] = 9
        assert copy["weight"][0, 0] == 9
    assert file["weight"][0, 0] == 0
    assert path.read_bytes() == before
    with pytest.raises(InvalidArgumentError, match="mode='w'"):
        params_file.open(path, "w")
    file.close()
    with pytest.raises(InvalidArgumentError, match="closed"):
        file["weight"]
    with pytest.raises(KeyError):
        file["x"]
    with params_file.open(path) as file:
        assert file.info("row").storage == "row_sparse"
        assert file.info("n") == ArrayInfo("n", "none", (), "", 0)


def test_lists_open_under_their_positions(tmp_path):
    path = tmp_path / "x.params"
    params_file.save(path, [np.ones(2), np.zeros(3)])
    with params_file.open(path) as file:
        assert not file.named
        assert {name: array.shape for name, array in file.items()} == {"0": (2,), "1": (3,)}


def test_loaded_arrays_are_their_own(tmp_path):
    path = tmp_path / "x.params"
    params_file.save(path, {"pad": np.ones(1, "u1"), "w": np.ones(3, "f8"), "row": ROW})
    data = bytearray(path.read_bytes())
    for loaded in (params_file.load(path), params_file.loads(data), params_file.loads(bytes(data))):
        for array in (loaded["w"], loaded["row"].data, loaded["row"].indices):
            assert array.flags.owndata
            assert array.flags.aligned
            assert array.flags.writeable
    loaded = params_file.loads(data)
    data[:] = bytes(len(data))
    assert loaded["w"].tolist() == [1, 1, 1]


def test_pipes_can_be_read(tmp_path):
    read, write = os.pipe()
    with os.fdopen(write, "wb") as file:
        file.write(params_file.dumps({"w": np.ones(2)}))
    assert params_file.load(f"/dev/fd/{read}")["w"].tolist() == [1, 1]
    os.close(read)


# --- writing --------------------------------------------------------------------------------------


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "x.params"
    params_file.save(path, {"w": np.ones(2)})
    before = path.read_bytes()
    with pytest.raises(ArgumentTypeError):
        params_file.save(path, {"w": np.zeros(2), "bad": np.array(["text"])})
    calls = iter([memoryview(b"half")])
    monkeypatch.setattr("gluonlstm.params_writer.encode", lambda array: next(calls))
    with pytest.raises(RuntimeError, match="StopIteration"):  # a full disk, in the second array
        params_file.save(path, [np.zeros(2), np.zeros(2)])
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_saving_over_the_file_that_is_mapped(tmp_path):
    path = tmp_path / "x.params"
    params_file.save(path, {"w": np.arange(5)})
    with params_file.open(path) as file:
        params_file.save(path, {"again": file["w"]})
        assert file["w"].tolist() == [0, 1, 2, 3, 4]
    assert params_file.load(path)["again"].tolist() == [0, 1, 2, 3, 4]
