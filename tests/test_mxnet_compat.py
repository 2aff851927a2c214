"""MXNet imports on every NumPy, and NumPy stays what it was."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parent.parent
pytestmark = pytest.mark.mxnet


def run(code, *flags):
    """Run ``code`` in a fresh process in which every warning is an error; return its output."""
    done = subprocess.run(
        [sys.executable, "-W", "error", *flags, "-c", textwrap.dedent(code)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_numpy_keeps_its_names():
    out = run(
        """
        import numpy, sys
        before = dict(vars(numpy))
        import gluonlstm.mxnet_compat
        import mxnet
        changed = {k for k, v in before.items() if vars(numpy).get(k) is not v}
        added = {k for k in set(vars(numpy)) - set(before)
                 if not k.startswith("_") and not hasattr(vars(numpy)[k], "__path__")}
        print(mxnet.__version__, sorted(changed), sorted(added))
        """
    )
    assert out == "1.9.1 [] []"


def test_import_needs_no_cached_bytecode_and_no_distutils(tmp_path):
    # Without cached bytecode, compiling MXNet's sources warns about their escape sequences.
    out = run(
        f"""
        import sys
        sys.pycache_prefix = {str(tmp_path)!r}
        import gluonlstm.mxnet_compat
        import mxnet.gluon.contrib.estimator.event_handler as lazily
        print(type(lazily.np).__name__)
        """
    )
    assert out == "_NumpyView"


def test_recovers_from_a_plain_import_that_failed():
    out = run(
        """
        import sys, types
        sys.modules["mxnet.numpy"] = types.ModuleType("mxnet.numpy")  # left over, unusable
        import gluonlstm.mxnet_compat
        import mxnet as mx
        print(mx.np.ones((2,)).shape, mx.nd.ones((2, 1)).shape)
        """
    )
    assert out == "(2,) (2, 1)"


def test_an_mxnet_imported_before_is_used_as_it_is():
    out = run(
        """
        import sys, types
        sys.modules["mxnet"] = fake = types.ModuleType("mxnet")
        from gluonlstm.mxnet_compat import mx
        print(mx is fake)
        """
    )
    assert out == "True"


def test_absent_mxnet_is_a_missing_dependency():
    out = run(
        """
        import importlib.util
        find = importlib.util.find_spec
        importlib.util.find_spec = lambda name, *a: None if name == "mxnet" else find(name, *a)
        try:
            import gluonlstm.mxnet_compat
        except ImportError as error:
            print(type(error).__name__, error)
        """
    )
    assert out.startswith("MissingDependencyError This needs MXNet 1.9.1")
    assert "pip install" in out


def test_a_missing_shared_library_is_a_missing_dependency():
    out = run(
        """
        import ctypes
        class CDLL(ctypes.CDLL):
            def __init__(self, name, *args, **kwargs):
                if "libmxnet" in str(name):
                    raise OSError("libcuda.so.1: cannot open shared object file")
                super().__init__(name, *args, **kwargs)
        ctypes.CDLL = CDLL
        try:
            import gluonlstm.mxnet_compat
        except ImportError as error:
            print(type(error).__name__, error)
        """
    )
    assert out.startswith("MissingDependencyError")
    assert "libcuda.so.1" in out
    assert "mxnet-cu112" in out


def test_what_mxnet_looks_up_later_works():
    from gluonlstm.mxnet_compat import mx

    mx.npx.set_np()
    try:
        a = mx.np.array([[1.0, -2.0], [3.0, 4.0]])
        assert a[a > 0].asnumpy().tolist() == [1, 3, 4]
        assert np.round(a).asnumpy().tolist() == [[1, -2], [3, 4]]
        assert float(np.sum(a)) == 6
        assert float(mx.np.trapz(a[0])) == -0.5
    finally:
        mx.npx.reset_np()
    assert mx.nd.moveaxis(mx.nd.zeros((2, 3, 4)), 0, 1).shape == (3, 2, 4)


def test_orthogonal_initialiser_of_a_layer():
    from gluonlstm.mxnet_compat import mx

    layer = mx.gluon.rnn.LSTM(4, input_size=3, h2h_weight_initializer=mx.init.Orthogonal(scale=1))
    layer.initialize()
    w = layer.l0_h2h_weight.data().asnumpy()
    np.testing.assert_allclose(w.T @ w, np.eye(4), atol=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("initializer", ["uniform", "normal", "xavier"])
def test_initialisers_under_numpy_semantics(dtype, initializer):
    from gluonlstm.mxnet_compat import mx

    mx.npx.set_np()
    try:
        dense = mx.gluon.nn.Dense(3, in_units=2, dtype=dtype, weight_initializer=initializer)
        dense.initialize()
        weight = dense.weight.data().asnumpy()
    finally:
        mx.npx.reset_np()
    assert weight.dtype == dtype
    assert weight.std() > 0


def test_names_that_numpy_dropped():
    from gluonlstm import mxnet_compat

    names = mxnet_compat._old_names()
    assert names["in1d"]([1, 2], [[2]]).tolist() == [False, True]
    assert names["msort"](np.array([[3, 1], [2, 5]])).tolist() == [[2, 1], [3, 5]]
    assert names["sometrue"] is not np.any
    with pytest.raises(NotImplementedError, match=r"numpy\.pmt left NumPy"):
        names["pmt"](1, 2, 3)


@pytest.mark.parametrize(
    ("low", "high"), [("1.9", "1.17"), ("1.26.4", "2.0.0"), ("2.0.0", "2.5.5"), ("1.15", "1.26.4")]
)
def test_version_order(low, high):
    from gluonlstm.mxnet_compat import _Version

    assert _Version(low) < _Version(high)
    assert _Version(high) >= _Version(low)
    assert _Version(high) > _Version(low)
    assert _Version(low) <= high


def test_cuda_libraries_are_loaded_in_order(tmp_path):
    from gluonlstm import mxnet_compat

    present = {
        "cudnn": "libcudnn.so.8",
        "cublas": "libcublas.so.11",
        "cuda_nvrtc": "libnvrtc.so.11.2",
    }
    for package, name in present.items():
        (tmp_path / package / "lib").mkdir(parents=True)
        (tmp_path / package / "lib" / name).touch()
    files = []
    loaded, absent = mxnet_compat._preload_cuda(
        [tmp_path / "no such folder", tmp_path], files.append
    )
    assert loaded == ["libnvrtc.so.11.2", "libcublas.so.11", "libcudnn.so.8"]
    assert [Path(file).name for file in files] == loaded
    assert set(loaded) | set(absent) == set(mxnet_compat.CUDA_LIBRARIES)
