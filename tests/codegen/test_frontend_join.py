"""Concatenate and split, folded and at run time, exactly as MXNet 1.9.1 computes them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("tvm", reason="tvm is not installed")

from gluonlstm import reference
from gluonlstm.codegen.frontend.importer import fold, lower_graph
from gluonlstm.codegen.frontend.operator import Zeros
from gluonlstm.codegen.frontend.program import Program
from gluonlstm.errors import ShapeMismatchError, UnsupportedOperatorError
from gluonlstm.spec import LSTMSpec
from gluonlstm.symbol import Entry
from tests.codegen import frontend_cases as cases
from tests.codegen.frontend_cases import GraphWriter, ReferenceEmitter

pytestmark = pytest.mark.tvm


@pytest.fixture(scope="module")
def mx():
    from gluonlstm.mxnet_compat import mx

    return mx


def array_of(shape):
    return np.arange(np.prod(shape), dtype=np.float32).reshape(shape)


def both_ways(op, arrays, count=1, **attrs):
    """Compute a node when compiling, from parameters, and at run time, from inputs."""
    writer = GraphWriter()
    entry = writer.call(op, "node", [writer.var(f"p{i}") for i in range(len(arrays))], **attrs)
    graph = writer.graph([Entry(entry.node, number) for number in range(count)])
    params = {f"p{i}": array for i, array in enumerate(arrays)}
    known = fold(Program(graph), params)
    folded = [known[head].array for head in graph.heads]
    shapes = {name: array.shape for name, array in params.items()}
    lowered = lower_graph(graph, {}, ReferenceEmitter(), shapes=shapes)
    names = [info.name for info in lowered.outputs]
    return folded, cases.run(lowered, params), names


@given(st.integers(1, 3), st.integers(0, 2), st.lists(st.integers(1, 3), min_size=1, max_size=3))
@settings(max_examples=10)
@pytest.mark.mxnet
def test_concat_equals_mxnet(mx, rank, axis, widths):
    axis = min(axis, rank - 1)
    arrays = [array_of(tuple(width if i == axis else 2 for i in range(rank))) for width in widths]
    want = mx.nd.concat(*map(mx.nd.array, arrays), dim=axis).asnumpy()
    for op in ("Concat", "concat", "_rnn_param_concat"):
        folded, computed, _ = both_ways(op, arrays, dim=str(axis), num_args=str(len(arrays)))
        np.testing.assert_array_equal(folded[0], want)
        np.testing.assert_array_equal(computed[0], want)


@given(st.integers(1, 3), st.integers(-3, 2), st.integers(1, 4), st.booleans())
@settings(max_examples=12)
@pytest.mark.mxnet
def test_split_equals_mxnet(mx, rank, axis, count, squeeze):
    axis = max(-rank, min(axis, rank - 1))
    shape = [2] * rank
    shape[axis] = count if squeeze else 3 * count
    squeeze = squeeze and rank > 1  # MXNet 1.9.1 has no arrays without dimensions
    array = array_of(shape)
    attrs = {"num_outputs": count, "axis": axis, "squeeze_axis": squeeze}
    want = mx.nd.SliceChannel(mx.nd.array(array), **attrs)
    want = [part.asnumpy() for part in (want if count > 1 else [want])]
    text = {name: str(value) for name, value in attrs.items()}
    folded, computed, names = both_ways("SliceChannel", [array], count, **text)
    node = mx.sym.SliceChannel(mx.sym.var("p0"), name="node", **attrs)
    assert names == node.list_outputs()
    for results in (folded, computed):
        for got, expected in zip(results, want, strict=True):
            np.testing.assert_array_equal(got, expected)


def test_concat_that_does_not_fit():
    with pytest.raises(UnsupportedOperatorError, match="do not fit together"):
        both_ways("Concat", [array_of((2, 3)), array_of((3, 2))], dim="0", num_args="2")
    with pytest.raises(UnsupportedOperatorError, match=r"2 input\(s\) and needs 3"):
        both_ways("Concat", [array_of((2,)), array_of((3,))], dim="0", num_args="3")
    with pytest.raises(UnsupportedOperatorError, match="axis 2 of 2 dimensions"):
        lower_run_time("Concat", 2, dim="2", num_args="2")


@pytest.mark.parametrize(
    ("attrs", "reason"),
    [
        ({"num_outputs": "2", "axis": "1"}, "an axis of 3 cannot be split into 2 equal parts"),
        ({"num_outputs": "1", "axis": "1", "squeeze_axis": "1"}, "of 3 .* into 1 parts|of one"),
        ({"num_outputs": "3", "axis": "5"}, "axis 5 of 2 dimensions"),
        ({"num_outputs": "99999"}, "more than 4096"),
        ({"num_outputs": "0"}, "at least 1"),
    ],
)
def test_splits_that_are_impossible(attrs, reason):
    writer = GraphWriter()
    graph = writer.graph([writer.call("SliceChannel", "node", [writer.var("p0")], **attrs)])
    with pytest.raises(UnsupportedOperatorError, match=reason):
        fold(Program(graph), {"p0": array_of((2, 3))})
    with pytest.raises(UnsupportedOperatorError, match=reason):
        lower_graph(graph, {}, ReferenceEmitter(), shapes={"p0": (None, 3)})


def test_an_axis_of_free_size_is_not_split():
    with pytest.raises(UnsupportedOperatorError, match=r"size is free; fix it with shapes"):
        lower_run_time("SliceChannel", 1, num_outputs="2", axis="0")


def lower_run_time(op, count, **attrs):
    writer = GraphWriter()
    inputs = [writer.var(f"x{i}") for i in range(count)]
    graph = writer.graph([writer.call(op, "node", inputs, **attrs)])
    shapes = {f"x{i}": (None, 3) for i in range(count)}
    return lower_graph(graph, {}, ReferenceEmitter(), shapes=shapes)


def test_zeros_of_an_unknown_batch_are_joined_and_split():
    writer = GraphWriter()
    parts = [writer.call("_zeros", f"z{i}", [], shape=f"({i + 1}, 0, 4)") for i in range(2)]
    whole = writer.call("Concat", "whole", parts, dim="0", num_args="2")
    split = writer.call("SliceChannel", "split", [whole], num_outputs="3", axis="0")
    flat = writer.call("split", "flat", [whole], num_outputs="3", axis="0", squeeze_axis="True")
    known = fold(Program(writer.graph([split, flat])), {})
    assert known[whole] == Zeros((3, None, 4), "float32")
    assert known[Entry(split.node, 2)] == Zeros((1, None, 4), "float32")
    assert known[Entry(flat.node, 1)] == Zeros((None, 4), "float32")


@pytest.mark.parametrize("shape", ["(1, 0, 5)", "(1, 4)"])
def test_zeros_that_do_not_fit_together(shape):
    writer = GraphWriter()
    parts = [
        writer.call("_zeros", f"z{i}", [], shape=s) for i, s in enumerate(["(1, 0, 4)", shape])
    ]
    graph = writer.graph([writer.call("Concat", "whole", parts, dim="0", num_args="2")])
    with pytest.raises(UnsupportedOperatorError, match="do not fit together"):
        fold(Program(graph), {})


# --- an LSTM that was exported layer by layer ------------------------------------------------

SPECS = [LSTMSpec(4, input_size=3), LSTMSpec(4, input_size=4)]


def layered_graph(zeros):
    """Two one-layer RNNs whose states are slices of the whole's, with dropout between them."""
    writer = GraphWriter()
    x = writer.var("data0")
    wholes = [
        writer.call("_zeros", f"data{i}", [], shape="(2, 0, 4)")
        if zeros
        else writer.var(f"data{i}")
        for i in (1, 2)
    ]
    h, c = (
        writer.call("SliceChannel", f"split{i}", [whole], axis="0", num_outputs="2")
        for i, whole in enumerate(wholes)
    )
    attrs = {"mode": "lstm", "num_layers": "1", "state_size": "4", "state_outputs": "True"}
    first = writer.call("RNN", "rnn0", [x, writer.var("w0"), h, c], **attrs)
    dropped = writer.call("Dropout", "dropout", [first], p="0.5")
    states = [Entry(h.node, 1), Entry(c.node, 1)]
    second = writer.call("RNN", "rnn1", [dropped, writer.var("w1"), *states], **attrs)
    finals = [
        writer.call("Concat", f"final{i}", [Entry(first.node, i), Entry(second.node, i)],
                    dim="0", num_args="2")
        for i in (1, 2)
    ]  # fmt: skip
    return writer.graph([second, *finals])


@pytest.mark.parametrize("zeros", [False, True])
def test_layers_one_by_one_compute_the_whole(zeros):
    spec = LSTMSpec(4, 2, input_size=3)
    rng = np.random.default_rng(0)
    params = cases.random_params(spec, rng)
    packed = {
        f"w{layer}": np.concatenate(
            [params[f"l{layer}_{p.kind}"].ravel() for p in SPECS[layer].packed_parameters()]
        )
        for layer in (0, 1)
    }
    lowered = lower_graph(layered_graph(zeros), packed, ReferenceEmitter())
    states = [] if zeros else [("data1", (2, "N", 4), "hidden"), ("data2", (2, "N", 4), "cell")]
    assert [(i.name, i.shape, i.role) for i in lowered.inputs] == [
        ("data0", ("T", "N", 3), "data"),
        *states,
    ]
    x, h0, c0, _ = cases.random_arrays(spec, rng, 5, 3)
    given_states = None if zeros else [h0, c0]
    arrays = {"data0": x} if zeros else {"data0": x, "data1": h0, "data2": c0}
    y, (h, c) = reference.lstm(spec, params, x, given_states)
    for got, want in zip(cases.run(lowered, arrays), (y, h, c), strict=True):
        np.testing.assert_allclose(got, want, rtol=0, atol=2e-6)


def test_parts_of_a_split_that_are_needed_in_different_shapes():
    writer = GraphWriter()
    split = writer.call("SliceChannel", "split", [writer.var("s")], axis="0", num_outputs="2")
    attrs = {"mode": "lstm", "num_layers": "1", "state_size": "4"}
    x, w = writer.var("x"), writer.var("w")
    size = sum(p.size for p in SPECS[0].packed_parameters())
    other = sum(p.size for p in LSTMSpec(5, input_size=3).packed_parameters())
    calls = [
        writer.call("RNN", "a", [x, w, split, writer.var("c")], **attrs),
        writer.call(
            "RNN",
            "b",
            [x, writer.var("v"), Entry(split.node, 1), writer.var("d")],
            **{**attrs, "state_size": "5"},
        ),
    ]
    params = {"w": np.zeros(size, np.float32), "v": np.zeros(other, np.float32)}
    with pytest.raises(ShapeMismatchError, match="another part of a split"):
        lower_graph(writer.graph(calls), params, ReferenceEmitter())


# --- zeros that take the data's batch --------------------------------------------------------


@pytest.mark.parametrize("attrs", [{"lhs_axes": "(1,)", "rhs_axes": "(0,)"}, {"lhs_axes": "(-2,)"}])
def test_states_broadcast_to_the_batch_of_the_data(attrs):
    spec = LSTMSpec(4, input_size=3, layout="NTC")
    rng = np.random.default_rng(0)
    params = cases.random_params(spec, rng)
    writer = GraphWriter()
    x = writer.var("data")
    swapped = writer.call("SwapAxis", "swap", [x], dim1="0", dim2="1")
    states = []
    for i in range(2):
        zeros = writer.call("_zeros", f"zeros{i}", [], shape="(1, 1, 4)")
        states.append(writer.call("broadcast_like", f"state{i}", [zeros, x], **attrs))
    rnn_attrs = {"mode": "lstm", "num_layers": "1", "state_size": "4"}
    rnn = writer.call("RNN", "rnn", [swapped, writer.var("w"), *states], **rnn_attrs)
    y = writer.call("SwapAxis", "back", [rnn], dim1="0", dim2="1")
    packed = np.concatenate([params[p.name].ravel() for p in spec.packed_parameters()])
    lowered = lower_graph(writer.graph([y]), {"w": packed}, ReferenceEmitter())
    assert [(i.name, i.shape) for i in lowered.inputs] == [("data", ("N", "T", 3))]
    assert lowered.spec == spec
    x, *_ = cases.random_arrays(spec, rng, 5, 2)
    (got,) = cases.run(lowered, {"data": x})
    np.testing.assert_allclose(got, reference.lstm(spec, params, x)[0], rtol=0, atol=2e-6)


def test_broadcasting_of_anything_but_zeros():
    writer = GraphWriter()
    x, w = writer.var("x"), writer.var("w")
    graph = writer.graph([writer.call("broadcast_like", "wide", [w, x])])
    with pytest.raises(UnsupportedOperatorError, match=r"wide \(broadcast_like\).*only.*for zeros"):
        fold(Program(graph), {"w": np.ones((1, 3), np.float32)})
    zeros = writer.call("_zeros", "zeros", [], shape="(1, 4)")
    graph = writer.graph([writer.call("broadcast_like", "wide", [zeros, x], lhs_axes="(2,)")])
    with pytest.raises(UnsupportedOperatorError, match=r"lhs_axes=\(2,\) of 2 dimensions"):
        fold(Program(graph), {})
