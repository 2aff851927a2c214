"""``.safetensors`` files against the safetensors package, and hostile ones."""

from __future__ import annotations

import json
import struct
import sys
import tracemalloc

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from gluonlstm import safetensors_file
from gluonlstm.array_file import ArrayInfo, map_file
from gluonlstm.bfloat16 import to_bfloat16
from gluonlstm.errors import ArgumentTypeError, InvalidArgumentError, ParamsFormatError
from gluonlstm.safetensors_file import SafetensorsFile

same_folder = settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
NUMBERS = st.sampled_from(["f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "?"])
ARRAYS = hnp.arrays(NUMBERS, hnp.array_shapes(min_dims=0, min_side=0, max_side=4))
NAMES = st.text('ab._0é\\"', max_size=6)


def read(path):
    return SafetensorsFile(map_file(path), path)


def raw(header, values=b"", length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + values


def entry(dtype="F32", shape=(2,), offsets=(0, 8)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


def test_golden_bytes(tmp_path):
    safetensors_file.save(
        tmp_path / "x",
        {"b": np.array([1], "i1"), "w": np.array([[1, 2]], ">f4")},
        metadata={"format": "pt"},
    )
    header = b'{"__metadata__":{"format":"pt"},'
    header += b'"w":{"dtype":"F32","shape":[1,2],"data_offsets":[0,8]},'
    header += b'"b":{"dtype":"I8","shape":[1],"data_offsets":[8,9]}}'
    header += b" " * (184 - len(header))  # so that the values begin at a multiple of 64
    assert (tmp_path / "x").read_bytes() == raw(header, struct.pack("<2fb", 1, 2, 1))


@given(data=st.dictionaries(NAMES, ARRAYS, max_size=4))
@same_folder
def test_both_ways_with_the_safetensors_package(tmp_path, data):
    package = pytest.importorskip("safetensors.numpy")
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    safetensors_file.save(ours, data, metadata={"format": "np"})
    package.save_file(data, theirs)
    for loaded in (package.load_file(ours), dict(read(theirs)), dict(read(ours))):
        assert loaded.keys() == data.keys()
        for name, array in data.items():
            assert (loaded[name].dtype, loaded[name].shape) == (array.dtype, array.shape)
            assert loaded[name].tobytes() == array.tobytes()


@pytest.mark.parametrize("installed", [True, False])
def test_bfloat16(tmp_path, monkeypatch, installed):
    if installed:
        pytest.importorskip("ml_dtypes")
    else:
        monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    safetensors_file.save(tmp_path / "x", {"w": to_bfloat16(np.array([1, -2], "f4"))})
    with read(tmp_path / "x") as file:
        assert file.info("w") == ArrayInfo("w", "dense", (2,), "bfloat16", 4)
        assert file["w"].dtype.name == ("bfloat16" if installed else "float32")
        assert file["w"].astype("f4").tolist() == [1, -2]


def test_arrays_are_mapped(tmp_path):
    safetensors_file.save(tmp_path / "x", {"w": np.ones(3), "b": np.ones(3, "u1")})
    with read(tmp_path / "x") as file:
        mapped, own = file["w"], file.read("w")
    assert not mapped.flags.owndata
    assert mapped.flags.aligned
    assert mapped.tolist() == own.tolist() == [1, 1, 1]
    own[0] = 2
    with pytest.raises(InvalidArgumentError, match="closed"):
        file["b"]


def test_what_the_format_cannot_hold_is_refused(tmp_path):
    with pytest.raises(ArgumentTypeError, match="'w' has dtype complex64"):
        safetensors_file.save(tmp_path / "x", {"w": np.zeros(1, "c8")})
    with pytest.raises(InvalidArgumentError, match="__metadata__"):
        safetensors_file.save(tmp_path / "x", {"__metadata__": np.zeros(1)})
    assert not list(tmp_path.iterdir())


HOSTILE = {
    "empty": (b"", 0, "too few"),
    "header beyond the file": (raw({}, length=2**63), 0, "exceeds"),
    "not JSON": (raw(b"{]"), 8, "JSON"),
    "not UTF-8": (raw(b'{"\xff":1}'), 8, "JSON"),
    "deep": (raw(b'{"a":' + b"[" * 100_000), 8, "JSON"),
    "long number": (raw(b'{"a":' + b"9" * 5000 + b"}"), 8, "JSON|lacks"),
    "list": (raw([]), 8, "not a JSON object"),
    "name twice": (raw(b'{"a":1,"a":1}'), 8, "twice"),
    "metadata": (raw({"__metadata__": {"a": 1}}), 8, "strings to strings"),
    "no dict": (raw({"a": 3}), 8, "lacks a valid"),
    "field missing": (raw({"a": {"dtype": "F32", "shape": [2]}}), 8, "lacks a valid"),
    "true as size": (raw({"a": entry(shape=(True,), offsets=(0, 4))}, bytes(4)), 8, "lacks"),
    "negative size": (raw({"a": entry(shape=(-2,))}, bytes(8)), 8, "lacks"),
    "float size": (raw({"a": entry(shape=(2.0,))}, bytes(8)), 8, "lacks"),
    "three offsets": (raw({"a": entry(offsets=(0, 8, 9))}, bytes(9)), 8, "lacks"),
    "unknown dtype": (raw({"a": entry("F99")}, bytes(8)), 8, "dtype 'F99'"),
    "list as dtype": (raw({"a": entry(["F32"])}, bytes(8)), 8, "dtype"),
    "wrong length": (raw({"a": entry(shape=(3,))}, bytes(8)), 8, "cannot lie"),
    "huge rank": (raw({"a": entry(shape=(1,) * 33, offsets=(0, 4))}, bytes(4)), 8, "cannot lie"),
    "overflow": (raw({"a": entry(shape=(2**62, 4), offsets=(0, 0))}), 8, "cannot lie"),
    "descends": (raw({"a": entry(offsets=(8, 0))}, bytes(8)), 8, "cannot lie"),
}


def _lies():
    """Files whose arrays overlap, leave a gap, end late or leave bytes over."""
    two = {"a": entry(), "b": entry(offsets=(8, 16))}
    start = len(raw(two))
    yield raw(two, bytes(15)), start + 8, "'b' lies"
    yield raw(two, bytes(17)), start + 16, "1 bytes follow"
    overlapping = {"a": entry(), "b": entry(offsets=(4, 12))}
    start = len(raw(overlapping))
    yield raw(overlapping, bytes(12)), start + 4, "'b' lies"
    gap = {"a": entry(), "b": entry(offsets=(9, 17))}
    start = len(raw(gap))
    yield raw(gap, bytes(17)), start + 9, "'b' lies"


@pytest.mark.parametrize(
    ("data", "offset", "reason"), [*HOSTILE.values(), *_lies()], ids=[*HOSTILE, *("lies",) * 4]
)
def test_hostile_files(data, offset, reason):
    tracemalloc.start()
    with pytest.raises(ParamsFormatError, match=reason) as caught:
        SafetensorsFile(memoryview(data), "x.safetensors")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert caught.value.offset == offset
    assert peak < 1 << 20


SEED = raw(
    {"a": entry(), "b": entry("BOOL", (3,), (8, 11)), "s": entry("I64", (), (11, 19))}, bytes(19)
)


@given(
    st.lists(st.tuples(st.integers(0, len(SEED) - 1), st.integers(0, 255)), min_size=1, max_size=4),
    st.integers(0, 40),
)
@settings(max_examples=400)
def test_mutated_files_raise_nothing_else(edits, cut):
    data = bytearray(SEED)
    for at, value in edits:
        data[at] = value
    try:
        file = SafetensorsFile(memoryview(bytes(data[: len(data) - cut])), None)
    except ParamsFormatError:
        return
    assert sum(array.nbytes for array in file.values()) <= len(data)
