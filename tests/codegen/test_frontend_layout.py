"""Reshape and swap axes: folded with numpy exactly as MXNet 1.9.1 computes them."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("tvm", reason="tvm is not installed")

from gluonlstm.codegen.frontend.attributes import Attributes, Unsupported
from gluonlstm.codegen.frontend.importer import fold, lower_graph
from gluonlstm.codegen.frontend.layout_ops import reshaped
from gluonlstm.codegen.frontend.operator import Constant, Zeros
from gluonlstm.codegen.frontend.program import Program
from gluonlstm.codegen.frontend.registry import OPERATORS
from gluonlstm.errors import UnsupportedOperatorError
from tests.codegen import frontend_cases as cases
from tests.codegen.frontend_cases import GraphWriter, ReferenceEmitter

pytestmark = pytest.mark.tvm

shapes = st.lists(st.integers(1, 4), min_size=1, max_size=4).map(tuple)


@pytest.fixture(scope="module")
def mx():
    from gluonlstm.mxnet_compat import mx

    return mx


def folded(op, *arrays, **attrs):
    """Fold one node of a graph whose inputs are parameters."""
    writer = GraphWriter()
    inputs = [writer.var(f"p{i}") for i in range(len(arrays))]
    entry = writer.call(op, "node", inputs, **attrs)
    params = {f"p{i}": array for i, array in enumerate(arrays)}
    known = fold(Program(writer.graph([entry])), params)[entry]
    assert isinstance(known, Constant)
    assert known.name == "node"
    return known.array


def array_of(shape):
    return np.arange(math.prod(shape), dtype=np.float32).reshape(shape)


# Whole -4 groups only: MXNet 1.9.1 reads beyond its codes, or divides by zero, without them.
sizes_or_rest = st.sampled_from([-1, 1, 2, 3, 4, 6])
groups = st.lists(
    st.integers(-3, 6).map(lambda code: (code,))
    | st.tuples(st.just(-4), sizes_or_rest, sizes_or_rest),
    min_size=1,
    max_size=4,
)


@given(shapes, groups, st.booleans())
@settings(max_examples=250)
@pytest.mark.mxnet
def test_reshape_equals_mxnet(mx, shape, groups, reverse):
    codes = [code for group in groups for code in group]
    codes = codes[::-1] if reverse else codes
    # Shapes only: 1.9.1 does not compare sizes before it copies elements.
    node = mx.sym.Reshape(mx.sym.var("x"), shape=codes, reverse=reverse)
    try:
        want = node.infer_shape(x=shape)[1][0]
    except mx.MXNetError:
        want = None
    if want is not None and math.prod(want) != math.prod(shape):
        want = None
    try:
        attrs = {"shape": str(tuple(codes)), "reverse": str(reverse)}
        got = folded("Reshape", array_of(shape), **attrs).shape
    except UnsupportedOperatorError:
        got = None
    assert got == want or want is None


@pytest.mark.parametrize(
    ("shape", "codes", "result"),
    [
        ((2, 3, 4), (-1,), (24,)),
        ((2, 3, 4), (4, 0, 2), (4, 3, 2)),
        ((2, 3, 4), (6, 1, -1), (6, 1, 4)),
        ((2, 3, 4), (-2,), (2, 3, 4)),
        ((2, 3, 4), (-2, 1, 1), (2, 3, 4, 1, 1)),
        ((2, 3, 4), (-3, 4), (6, 4)),
        ((2, 3, 4, 5), (-3, -3), (6, 20)),
        ((2, 3, 4), (0, -3), (2, 12)),
        ((2, 3, 4), (-4, 1, 2, -2), (1, 2, 3, 4)),
        ((2, 3, 4), (2, -4, -1, 3, -2), (2, 1, 3, 4)),
    ],
)
def test_reshape_codes_of_the_documentation(shape, codes, result):
    assert reshaped(shape, codes) == result


@pytest.mark.parametrize(
    ("codes", "reason"),
    [
        ((5,), "does not fit an array of shape"),
        ((-1, -1), "-1 twice"),
        ((0, 0, 0, 0), "more dimensions than the input has"),
        ((0, 0, -3), "more dimensions than the input has"),
        ((-4, 2), "-4 must be followed by two sizes"),
        ((-4, -1, -1, 0, 0), "at most one of them -1"),
        ((-4, 5, -1, 0, 0), "does not divide a dimension of 2"),
        ((-7,), "-7, which has no meaning"),
    ],
)
def test_reshape_codes_that_mean_nothing(codes, reason):
    with pytest.raises(Unsupported, match=reason):
        reshaped((2, 3, 4), codes)


def test_obsolete_reshape_is_refused():
    attrs = Attributes({"target_shape": "(0, -1)", "keep_highest": "True"})
    with pytest.raises(Unsupported, match="target_shape is obsolete"):
        OPERATORS["Reshape"].read(attrs)


@given(shapes, st.data())
def test_numpy_reshape(shape, data):
    size = math.prod(shape)
    first = data.draw(st.sampled_from([n for n in range(1, size + 1) if size % n == 0]))
    target = data.draw(st.sampled_from([(first, -1), (-1, first), (first, size // first), (-1,)]))
    array = array_of(shape)
    got = folded("_np_reshape", array, newshape=str(target), order="C")
    np.testing.assert_array_equal(got, array.reshape(target))


@pytest.mark.parametrize(
    ("shape", "order", "reason"),
    [
        ("(-2,)", "C", "only sizes and one -1"),
        ("(5,)", "C", "does not fit"),
        ("6", "F", "order='F'"),
    ],
)
def test_numpy_reshape_refuses(shape, order, reason):
    with pytest.raises(UnsupportedOperatorError, match=reason):
        folded("_np_reshape", array_of((2, 3)), newshape=shape, order=order)


@given(st.integers(1, 4), st.data())
@settings(max_examples=50)
@pytest.mark.mxnet
def test_permutations_equal_mxnet(mx, rank, data):
    array = array_of(tuple(range(2, 2 + rank)))
    first, second = (data.draw(st.integers(-rank, rank - 1)) for _ in range(2))
    want = mx.nd.SwapAxis(mx.nd.array(array), dim1=first, dim2=second).asnumpy()
    got = folded("SwapAxis", array, dim1=str(first), dim2=str(second))
    np.testing.assert_array_equal(got, want)
    axes = tuple(data.draw(st.permutations(range(rank))))
    want = mx.nd.transpose(mx.nd.array(array), axes=axes).asnumpy()
    np.testing.assert_array_equal(folded("transpose", array, axes=str(axes)), want)
    np.testing.assert_array_equal(folded("transpose", array), array.transpose())


@pytest.mark.parametrize(
    ("op", "attrs", "reason"),
    [
        ("SwapAxis", {"dim1": "0", "dim2": "2"}, "axes 0 and 2 of 2 dimensions"),
        ("transpose", {"axes": "(0, 0)"}, "do not permute 2 dimensions"),
        ("transpose", {"axes": "(0, 1, 2)"}, "do not permute 2 dimensions"),
    ],
)
def test_permutations_that_are_none(op, attrs, reason):
    with pytest.raises(UnsupportedOperatorError, match=reason):
        folded(op, array_of((2, 3)), **attrs)


@given(st.permutations(range(3)))
@settings(max_examples=6)
def test_permutations_at_run_time(axes):
    writer = GraphWriter()
    x = writer.var("x")
    y = writer.call("transpose", "y", [x], axes=str(tuple(axes)))
    z = writer.call("SwapAxis", "z", [y], dim1="0", dim2="-1")
    lowered = lower_graph(writer.graph([z]), {}, ReferenceEmitter(), shapes={"x": ("A", 3, "B")})
    x = array_of((2, 3, 4))
    (got,) = cases.run(lowered, {"x": x})
    np.testing.assert_array_equal(got, x.transpose(axes).swapaxes(0, -1))


def test_states_keep_their_unknown_batch_through_layout_operators():
    writer = GraphWriter()
    zeros = writer.call("_zeros", "z", [], shape="(0, 2, 4)", dtype="float64")
    swapped = writer.call("SwapAxis", "s", [zeros], dim1="0", dim2="1")
    copied = writer.call("_copy", "c", [swapped])
    known = fold(Program(writer.graph([copied])), {})
    assert known[copied] == Zeros((2, None, 4), "float64")


def test_zeros_of_known_shape_are_parameters_too():
    writer = GraphWriter()
    zeros = writer.call("_zeros", "z", [], shape="(2,)")
    both = writer.call("Concat", "both", [writer.var("p"), zeros], dim="0", num_args="2")
    known = fold(Program(writer.graph([both])), {"p": np.ones(1, np.float32)})[both]
    np.testing.assert_array_equal(known.array, np.array([1, 0, 0], np.float32))
    assert known.array.dtype == np.float32


@pytest.mark.parametrize("attrs", [{"shape": "(1, -2)"}, {"shape": "(1,)", "dtype": "complex64"}])
def test_zeros_refuse(attrs):
    writer = GraphWriter()
    with pytest.raises(UnsupportedOperatorError, match=r"negative size|complex64"):
        Program(writer.graph([writer.call("_zeros", "z", [], **attrs)]))
