"""Damaged and hostile NDArray-list files: one typed error with the offset, and little memory."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gluonlstm import params_file
from gluonlstm.errors import ParamsFormatError
from gluonlstm.sparse_array import SparseArray
from tests.hostile.params_bytes import CASES, head


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_hostile_files(case, tmp_path):
    path = tmp_path / "x.params"
    path.write_bytes(case.data)
    tracemalloc.start()
    with pytest.raises(ParamsFormatError, match=case.reason) as caught:
        params_file.load(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert caught.value.offset == case.offset
    assert str(path) in str(caught.value)
    assert peak < 500_000 + 200 * len(case.data)
    with pytest.raises(ParamsFormatError, match=case.reason):
        params_file.loads(case.data)


SAMPLE = {"weight": np.arange(6, dtype="f4").reshape(2, 3), "bias": np.ones(3, "f8"), "n": None}
# name -> sizes of the fields of its record
RECORDS = {"weight": (4, 4, 4, 16, 8, 4, 24), "bias": (4, 4, 4, 8, 8, 4, 24), "n": (4, 4, 4)}


def test_truncation_at_every_byte_names_the_field():
    data = params_file.dumps(SAMPLE)
    fields = [16, 8, *(size for record in RECORDS.values() for size in record)]
    names_at = sum(fields)
    fields += [8, *(size for name in SAMPLE for size in (8, len(name)))]
    starts = np.cumsum([0, *fields])
    assert starts[-1] == len(data)
    for length in range(len(data)):
        expected = max(start for start in starts if start <= length)
        if 24 <= length < 24 + 4 * 3:
            expected = 16  # so few bytes cannot hold 3 arrays
        if names_at + 8 <= length < names_at + 8 + 8 * 3:
            expected = names_at
        with pytest.raises(ParamsFormatError) as caught:
            params_file.loads(data[:length])
        assert caught.value.offset == expected, length


def _offset_of_defect(data):
    try:
        params_file.loads(data)
    except ParamsFormatError as error:
        return error.offset
    return 0


ROW = SparseArray("row_sparse", (9, 2), np.ones((2, 2), "f4"), np.array([3, 5]))
CSR = SparseArray("csr", (2, 4), np.ones(2, "f4"), np.array([1, 3]), np.array([0, 1, 2]))
SEEDS = [
    params_file.dumps(SAMPLE | {"row": ROW, "csr": CSR}),
    params_file.dumps(list(SAMPLE.values()), version=0),
    params_file.dumps(SAMPLE, version=1),
    params_file.dumps(SAMPLE | {"scalar": np.array(1, "i2")}, version=3),
]
EDITS = st.lists(
    st.tuples(st.integers(0, 400), st.sampled_from([1, 4, 8]), st.integers(0, 2**64 - 1)),
    min_size=1,
    max_size=3,
)


@given(st.sampled_from(SEEDS), EDITS, st.integers(0, 40))
@example(SEEDS[1], [(24, 4, 0)], 0)
@settings(max_examples=600)
def test_mutated_files_raise_nothing_else_and_allocate_little(seed, edits, cut):
    data = bytearray(seed)
    for at, size, value in edits:
        data[at : at + size] = value.to_bytes(8, "little")[:size]
    data = bytes(data[: len(data) - cut])
    tracemalloc.start()
    offset = _offset_of_defect(data)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert 0 <= offset <= len(data)
    assert peak < 100_000 + 100 * len(data)


@given(st.binary(max_size=200))
@settings(max_examples=200)
def test_random_bytes_after_the_header(data):
    assert _offset_of_defect(head(len(data) % 3) + data) <= 24 + len(data)
