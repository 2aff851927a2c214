"""The error bounds that codegen/kernels/activations.py states, measured on compiled code."""

import numpy as np
import pytest

pytestmark = pytest.mark.tvm

LANES = 8
BOUNDS = {  # (function, dtype) -> (absolute, relative) error
    ("tanh", "float32"): (3.0e-7, 3.0e-7),
    ("sigmoid", "float32"): (2.5e-7, np.inf),
    ("tanh", "float64"): (1e-15, 1e-13),
    ("sigmoid", "float64"): (1e-15, np.inf),
}


def compiled(function, dtype):
    """Compile y = n / d over vectors."""
    import tvm
    from tvm.script.ir_builder import IRBuilder

    from gluonlstm.codegen.kernels import activations
    from gluonlstm.codegen.kernels.simd import Simd
    from gluonlstm.codegen.kernels.tir import T, tirx
    from gluonlstm.codegen.target import resolve

    simd = Simd(dtype, LANES)
    fraction = getattr(activations, f"{function}_fraction")
    with IRBuilder() as builder, T.prim_func(s_tir=True):
        T.func_name("main")
        count = tirx.Var("n", "int64")
        x = T.arg("x", tirx.decl_buffer((count, LANES), dtype, "x"))
        y = T.arg("y", tirx.decl_buffer((count, LANES), dtype, "y"))
        with T.serial(0, count) as row:
            numerator, denominator = fraction(simd, simd.load(x, (row, 0)))
            simd.store(y, numerator / denominator, (row, 0))
    return tvm.compile(tvm.IRModule({"main": builder.get()}), target=resolve("llvm").tvm())["main"]


def evaluate(kernel, values):
    import tvm

    padded = np.resize(values, (-(-values.size // LANES), LANES))
    out = tvm.runtime.tensor(np.empty_like(padded))
    kernel(tvm.runtime.tensor(padded), out)
    return out.numpy().ravel()[: values.size]


def exact(function, x):
    wide = x.astype(np.longdouble)
    return np.tanh(wide) if function == "tanh" else (1 + np.tanh(wide / 2)) / 2


def inputs(dtype):
    """Floats of every magnitude and sign, infinities, and a dense grid where the curve bends."""
    rng = np.random.default_rng(0)
    bits = rng.integers(0, 2**32, 400_000, dtype=np.uint32).view(np.float32)
    grid = np.linspace(-25, 25, 1_000_001)
    return np.concatenate([bits[~np.isnan(bits)], grid, [0.0, -0.0, np.inf, -np.inf]]).astype(dtype)


@pytest.mark.parametrize(("function", "dtype"), BOUNDS)
def test_error_is_within_the_stated_bound(function, dtype):
    x = inputs(dtype)
    got, expected = evaluate(compiled(function, dtype), x), exact(function, x)
    absolute, relative = BOUNDS[function, dtype]
    error = np.abs(got - expected)
    assert error.max() <= absolute
    normal = np.abs(expected) > np.finfo(dtype).tiny
    assert (error[normal] <= relative * np.abs(expected[normal])).all()
    assert np.abs(got).max() <= 1


@pytest.mark.parametrize(("function", "dtype"), BOUNDS)
def test_nan_in_nan_out(function, dtype):
    x = np.full(LANES, 0.25, dtype)
    x[3] = np.nan
    got = evaluate(compiled(function, dtype), x)
    np.testing.assert_array_equal(np.isnan(got), np.isnan(x))
