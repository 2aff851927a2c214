"""``.npz`` files: NumPy's, those of MXNet 2, and hostile ones."""

from __future__ import annotations

import io
import struct
import sys
import tracemalloc
import zipfile

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from gluonlstm import npz_file, params_file
from gluonlstm.bfloat16 import STRUCTURED, to_bfloat16
from gluonlstm.errors import ArgumentTypeError, ParamsFormatError

same_folder = settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
NUMBERS = st.sampled_from(["f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "?"])
ARRAYS = hnp.arrays(NUMBERS, hnp.array_shapes(min_dims=0, min_side=0, max_side=4))
NAMES = st.text("ab./_0é", min_size=1, max_size=6)


def npy(array, header=None):
    """Return a ``.npy`` file, perhaps with a header of one's own."""
    if header is None:
        file = io.BytesIO()
        np.save(file, array)
        return file.getvalue()
    text = header.encode() + b"\n"
    return b"\x93NUMPY\1\0" + struct.pack("<H", len(text)) + text + array.tobytes()


def archive(members, method=zipfile.ZIP_STORED):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as zip_file:
        for name, data in members.items():
            zip_file.writestr(name, data)
    return file.getvalue()


def assert_same(actual, expected):
    assert actual.dtype == expected.dtype.newbyteorder("=")
    assert actual.shape == expected.shape
    assert actual.tobytes() == np.asarray(expected, actual.dtype, order="C").tobytes()
    assert actual.flags.writeable


@given(data=st.dictionaries(NAMES, ARRAYS, max_size=3), compressed=st.booleans())
@same_folder
def test_reads_what_numpy_writes(tmp_path, data, compressed):
    path = tmp_path / "x.npz"
    (np.savez_compressed if compressed else np.savez)(path, **data)
    loaded = params_file.load(path)
    assert list(loaded or {}) == list(data)
    for name, array in data.items():
        assert_same(loaded[name], array)


@given(data=st.dictionaries(NAMES, ARRAYS, max_size=3))
@same_folder
def test_numpy_reads_what_is_written(tmp_path, data):
    path = tmp_path / "x.params"  # any name, kept as it is
    npz_file.save(path, data)
    with np.load(path, allow_pickle=False) as loaded:
        assert list(loaded) == list(data)
        for name, array in data.items():
            assert loaded[name].dtype == array.dtype
            assert loaded[name].tobytes() == array.tobytes()


def test_equal_arrays_give_equal_bytes(tmp_path):
    for name in "ab":
        npz_file.save(tmp_path / name, {"w": np.ones(3)})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize("array", [np.arange(6).reshape(2, 3).T, np.ones((2, 3), ">f4")])
def test_orders_of_axes_and_bytes(array):
    header = "{'descr': '%s', 'fortran_order': %s, 'shape': (%d, %d), }"
    header %= (array.dtype.str, array.flags.f_contiguous, *array.shape)
    data = archive({"w.npy": npy(array.copy("F") if array.flags.f_contiguous else array)})
    assert_same(params_file.loads(data)["w"], array)
    handmade = archive(
        {"w.npy": npy(array.T.copy() if array.flags.f_contiguous else array, header)}
    )
    assert_same(params_file.loads(handmade)["w"], array)


def _mxnet2(arrays):
    """Return what MXNet 2 writes: deflated, with its invalid header for the format's name."""
    broken = "{'descr': '|s10{'descr': '<i8', 'fortran_order': False, 'shape': (), }"
    members = {}
    for name, parts in arrays.items():
        for part, array in parts.items() if isinstance(parts, dict) else [("", parts)]:
            member = f"{name}/{part}.npy" if part else f"{name}.npy"
            text = np.frombuffer(array, "u1") if isinstance(array, bytes) else array
            members[member] = npy(text, broken if isinstance(array, bytes) else None)
    return archive(members, zipfile.ZIP_DEFLATED)


def test_files_of_mxnet_2():
    data = _mxnet2(
        {
            "0.i2h_weight": np.arange(6, dtype="f4").reshape(2, 3),
            "embed": {
                "data": np.ones((1, 2), "f4"),
                "indices": np.array([3]),
                "shape": np.array([5, 2]),
                "format": b"row_sparse",
            },
            "graph": {
                "data": np.array([7, 8], "f4"),
                "indptr": np.array([0, 1, 2]),
                "indices": np.array([2, 0]),
                "shape": np.array([2, 3]),
                "format": b"csr",
            },
            "half": np.array([0x3F80, 0xC000], "<u2").view(STRUCTURED),
        }
    )
    loaded = params_file.loads(data)
    assert list(loaded) == ["0.i2h_weight", "embed", "graph", "half"]
    assert loaded["embed"].todense()[3].tolist() == [1, 1]
    assert loaded["graph"].todense().tolist() == [[0, 0, 7], [8, 0, 0]]
    assert loaded["half"].astype("f4").tolist() == [1, -2]


@pytest.mark.parametrize("installed", [True, False])
def test_bfloat16(tmp_path, monkeypatch, installed):
    if installed:
        pytest.importorskip("ml_dtypes")
    else:
        monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    path = tmp_path / "x.npz"
    npz_file.save(path, {"w": to_bfloat16(np.array([[1, -2]], "f4"))})
    with params_file.open(path) as file:
        assert file.info("w").dtype == "bfloat16"
        assert file["w"].dtype.name == ("bfloat16" if installed else "float32")
        assert file["w"].astype("f4").tolist() == [[1, -2]]
    with np.load(path) as loaded:
        assert loaded["w"]["bfloat16"].tolist() == [[0x3F80, 0xC000]]
    if installed:  # numpy.save loses the name of the dtype
        data = archive({"w.npy": npy(to_bfloat16(np.array([1], "f4")))})
        assert params_file.loads(data)["w"].dtype.name == "bfloat16"


def test_what_no_reader_could_take_is_refused(tmp_path):
    for array in (np.array([None]), np.array(["a"]), np.zeros(1, "f4,f4"), np.zeros(1, "c8")):
        with pytest.raises(ArgumentTypeError, match="'w' of dtype"):
            npz_file.save(tmp_path / "x", {"w": array})
    assert not list(tmp_path.iterdir())


GOOD = npy(np.ones((2, 3)))
PLAIN = "{'descr': '<f8', 'fortran_order': False, 'shape': %s, }"


def _header(text, values=48):
    return archive({"w.npy": npy(np.zeros(values, "u1"), text)})


def _patched(data, offset_in_entry, layout, value):
    """Change a field of the only entry of the central directory."""
    at = data.rindex(b"PK\1\2") + offset_in_entry
    return data[:at] + struct.pack(layout, value) + data[at + struct.calcsize(layout) :]


def _without_byte(data):
    """Cut a byte out, so that by the central directory the entry begins at -1."""
    return data[:10] + data[11:]


def _twice():
    return archive({"w.npy": GOOD, "v.npy": GOOD}).replace(b"v.npy", b"w.npy")


HOSTILE = {
    "object array": (lambda: archive({"w.npy": npy(np.array([{}]))}), "not numbers"),
    "text array": (lambda: archive({"w.npy": npy(np.array(["a"]))}), "not numbers"),
    "structured": (lambda: archive({"w.npy": npy(np.zeros(2, "f4,f4"))}), "not numbers"),
    "pickle of torch": (lambda: archive({"archive/data.pkl": b"x"}), "safetensors.torch"),
    "no arrays": (lambda: archive({"a.txt": b"x"}), "without .npy"),
    "code in header": (lambda: _header("__import__('os').abort()"), "not NumPy's"),
    "deep header": (lambda: _header("(" * 60000), "not NumPy's"),
    "field twice": (
        lambda: _header("{'shape': (6,), 'shape': (6,), 'descr': '<f8'}"),
        "not NumPy's",
    ),
    "order": (lambda: _header(PLAIN.replace("False", "'x'") % "(6,)"), "not NumPy's"),
    "shape is a list": (lambda: _header(PLAIN % "[6]"), "not NumPy's"),
    "huge shape": (lambda: _header(PLAIN % "(4611686018427387904, 4)"), "does not fit"),
    "very long number": (lambda: _header(PLAIN % f"({'9' * 5000},)"), "not NumPy's"),
    "negative size": (lambda: _header(PLAIN % "(-1,)"), "not NumPy's"),
    "huge rank": (lambda: _header(PLAIN % f"({'1,' * 33})"), "33 dimensions"),
    "too few values": (lambda: _header(PLAIN % "(7,)"), "does not fit"),
    "too many values": (lambda: _header(PLAIN % "(5,)"), "does not fit"),
    "long header": (lambda: archive({"w.npy": GOOD[:8] + b"\xff\xff" + GOOD[10:]}), "longer than"),
    "no header": (lambda: archive({"w.npy": b"\x93NUM"}), "not a .npy file"),
    "version 9": (lambda: archive({"w.npy": GOOD[:6] + b"\x09" + GOOD[7:]}), "not a .npy file"),
    "name twice": (_twice, "occurs twice"),
    "bzip2": (lambda: archive({"w.npy": GOOD}, zipfile.ZIP_BZIP2), "neither stored nor deflated"),
    "claimed size": (lambda: _patched(_header(PLAIN % "(6,)"), 24, "<I", 2**31), "cannot hold"),
    "claimed packed": (lambda: _patched(archive({"w.npy": GOOD}), 20, "<I", 2**31), "cannot hold"),
    "encrypted": (lambda: _patched(archive({"w.npy": GOOD}), 8, "<H", 1), "damaged zip"),
    "offset": (lambda: _patched(archive({"w.npy": GOOD}), 42, "<I", 2**31), "outside of the file"),
    "other offset": (lambda: _patched(archive({"w.npy": GOOD}), 42, "<I", 7), "damaged zip"),
    "before the file": (lambda: _without_byte(archive({"w.npy": GOOD})), "outside of the file"),
    "crc": (lambda: _patched(archive({"w.npy": GOOD}), 16, "<I", 1), "damaged zip"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_files(case, tmp_path):
    make, reason = HOSTILE[case]
    path = tmp_path / "x.npz"
    path.write_bytes(make())
    tracemalloc.start()
    with pytest.raises(ParamsFormatError, match=reason) as caught:
        params_file.load(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert str(path) in str(caught.value)
    assert peak < 2 << 20


def test_what_deflate_can_do_is_accepted():
    zeros = np.zeros(10 << 20, "u1")
    data = archive({"w.npy": npy(zeros)}, zipfile.ZIP_DEFLATED)
    assert len(data) < 11_000
    assert params_file.loads(data)["w"].shape == zeros.shape


def test_archives_that_expand_too_much_are_refused(monkeypatch):
    data = archive(
        {f"{i}.npy": npy(np.zeros(1 << 20, "u1")) for i in range(16)}, zipfile.ZIP_DEFLATED
    )
    monkeypatch.setattr(npz_file, "SMALL", 8 << 20)
    monkeypatch.setattr(npz_file, "MAX_RATIO", 100)
    with pytest.raises(ParamsFormatError, match="more than 100 times the"):
        params_file.loads(data)
    monkeypatch.setattr(npz_file, "SMALL", 16 << 20)
    assert len(params_file.loads(data)) == 16


SEEDS = [
    archive({"w.npy": GOOD, "b.npy": npy(np.ones(3, "f4"))}),
    archive({"w.npy": GOOD, "b.npy": npy(np.ones(300, "f4"))}, zipfile.ZIP_DEFLATED),
    _mxnet2(
        {
            "e": {
                "data": np.ones((1, 2), "f4"),
                "indices": np.array([3]),
                "shape": np.array([5, 2]),
                "format": b"row_sparse",
            }
        }
    ),
]
EDITS = st.lists(
    st.tuples(st.integers(0, 1200), st.sampled_from([1, 1, 4]), st.integers(0, 2**32 - 1)),
    min_size=1,
    max_size=3,
)


@given(st.sampled_from(SEEDS), EDITS, st.integers(0, 60))
@settings(max_examples=500)
def test_mutated_files_raise_nothing_else_and_allocate_little(seed, edits, cut):
    data = bytearray(seed)
    for at, size, value in edits:
        at %= len(seed)
        data[at : at + size] = value.to_bytes(4, "little")[:size]
    data = b"PK\3\4" + bytes(data[4 : len(data) - cut])
    offset = 0
    tracemalloc.start()
    try:
        params_file.loads(data)
    except ParamsFormatError as error:
        offset = error.offset
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert 0 <= offset < len(seed)
    assert peak < 4 << 20
