"""NDArray-list files against MXNet 1.9.1 itself."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from gluonlstm import params_file
from gluonlstm.bfloat16 import to_bfloat16
from gluonlstm.errors import ParamsFormatError
from gluonlstm.sparse_array import SparseArray

pytestmark = pytest.mark.mxnet
same_folder = settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
MXNET_DTYPES = ("f4", "f8", "f2", "u1", "i4", "i1", "i8", "?")  # those that its arrays can have
NAMES = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=8)


def arrays(least=1):
    return hnp.arrays(
        st.sampled_from(MXNET_DTYPES), hnp.array_shapes(min_dims=least, min_side=least, max_side=5)
    )


@pytest.fixture(scope="module")
def mx():
    from gluonlstm.mxnet_compat import mx

    return mx


def assert_same(actual, expected):
    assert (actual.dtype, actual.shape) == (expected.dtype, expected.shape)
    assert actual.tobytes() == expected.tobytes()


@given(data=st.dictionaries(NAMES, arrays(), max_size=4) | st.lists(arrays(), max_size=4))
@same_folder
def test_bytes_are_those_of_mx_nd_save(mx, tmp_path, data):
    def stock(array):
        return mx.nd.array(array, dtype=array.dtype)

    stock_path, path = str(tmp_path / "stock"), tmp_path / "ours"
    if isinstance(data, dict):
        mx.nd.save(stock_path, {name: stock(array) for name, array in data.items()})
    else:
        mx.nd.save(stock_path, [stock(array) for array in data])
    params_file.save(path, data)
    assert path.read_bytes() == (tmp_path / "stock").read_bytes()


@pytest.mark.parametrize("version", [0, 1, 2])
@given(data=st.lists(arrays(), min_size=1, max_size=3))
@same_folder
def test_mxnet_reads_every_version(mx, tmp_path, version, data):
    path = tmp_path / "ours"
    params_file.save(path, data, version=version)
    for loaded, array in zip(mx.nd.load(str(path)), data, strict=True):
        assert_same(loaded.asnumpy(), array)


@given(data=st.dictionaries(NAMES, arrays(least=0), min_size=1, max_size=4))
@same_folder
def test_numpy_semantics(mx, tmp_path, data):
    stock_path, path = tmp_path / "stock", tmp_path / "ours"
    with mx.util.np_shape(True), mx.util.np_array(True):
        wrapped = {name: mx.np.array(array, dtype=array.dtype) for name, array in data.items()}
        mx.npx.save(str(stock_path), wrapped)
        params_file.save(path, data, version=3)
        loaded = {name: array.asnumpy() for name, array in mx.npx.load(str(path)).items()}
    assert path.read_bytes() == stock_path.read_bytes()
    for name, array in data.items():
        assert_same(loaded[name], array)
        assert_same(params_file.load(stock_path)[name], array)


def test_sparse_arrays(mx, tmp_path):
    stock_path, path = str(tmp_path / "stock"), tmp_path / "ours"
    rng = np.random.default_rng(0)
    full = rng.normal(size=(6, 5)).astype("f4") * (rng.random((6, 5)) < 0.3)
    stock = {
        "csr": mx.nd.array(full).tostype("csr"),
        "row": mx.nd.array(full).tostype("row_sparse"),
        "no_csr": mx.nd.sparse.zeros("csr", (3, 4)),
        "no_rows": mx.nd.sparse.zeros("row_sparse", (3, 4)),
    }
    mx.nd.waitall()  # MXNet writes the sizes before it waits for the arrays
    mx.nd.save(stock_path, stock)
    loaded = params_file.load(stock_path)
    for name, array in stock.items():
        assert isinstance(loaded[name], SparseArray)
        assert np.array_equal(loaded[name].todense(), array.asnumpy())
    params_file.save(path, loaded)
    assert path.read_bytes() == (tmp_path / "stock").read_bytes()


def test_bfloat16_bits(mx, tmp_path):
    path = tmp_path / "x"
    params_file.save(path, [to_bfloat16(np.array([1, -2], "f4"))])
    loaded = mx.nd.load(str(path))[0].asnumpy()
    assert loaded.tobytes() == np.array([0x3F80, 0xC000], "<u2").tobytes()


def test_what_mxnet_refuses_is_refused(mx, tmp_path):
    path = tmp_path / "x"
    data = params_file.dumps({"w": np.ones(3, "f4")})
    for length in range(0, len(data), 7):
        path.write_bytes(data[:length])
        with pytest.raises(mx.MXNetError):
            mx.nd.load(str(path))
        with pytest.raises(ParamsFormatError):
            params_file.load(path)
