"""Embedding, fully connected, activations, sums: run time against MXNet 1.9.1, op by op."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("tvm", reason="tvm is not installed")

from gluonlstm import reference
from gluonlstm.codegen.frontend.importer import lower_graph
from gluonlstm.errors import (
    ArgumentTypeError,
    MissingParameterError,
    ShapeMismatchError,
    UnsupportedOperatorError,
)
from gluonlstm.spec import LSTMSpec
from tests.codegen import frontend_cases as cases
from tests.codegen.frontend_cases import GraphWriter, ReferenceEmitter

pytestmark = pytest.mark.tvm
quick = settings(max_examples=12)


@pytest.fixture(scope="module")
def mx():
    from gluonlstm.mxnet_compat import mx

    return mx


def random(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def computed(op, arrays, params=(), dtypes=(), free=True, **attrs):
    """Run one node; ``params`` are its last inputs, the first axis of the others is free."""
    writer = GraphWriter()
    dtype_numbers = {"float32": "0", "float64": "1", "uint8": "3", "int32": "4", "int64": "6"}
    inputs = {f"x{i}": array for i, array in enumerate(arrays)}
    entries = [
        writer.var(name, __dtype__=dtype_numbers[str(array.dtype)])
        for name, array in inputs.items()
    ]
    entries += [writer.var(f"p{i}") for i in range(len(params))]
    texts = {name: str(value) for name, value in attrs.items()}
    graph = writer.graph([writer.call(op, "node", entries, **texts)])
    shapes = {
        name: ("N", *array.shape[1:]) if free else array.shape for name, array in inputs.items()
    }
    weights = {f"p{i}": array for i, array in enumerate(params)}
    lowered = lower_graph(graph, weights, ReferenceEmitter(), shapes=shapes)
    (result,) = cases.run(lowered, inputs)
    return result


@given(
    st.lists(st.integers(1, 4), min_size=2, max_size=4),
    st.integers(1, 5),
    st.booleans(),
    st.booleans(),
)
@quick
@pytest.mark.mxnet
def test_fully_connected(mx, shape, width, bias, flatten):
    depth = int(np.prod(shape[1:])) if flatten else shape[-1]
    x, weight = random(*shape), random(width, depth, seed=1)
    params = [weight, random(width, seed=2)] if bias else [weight]
    attrs = {"num_hidden": width, "no_bias": not bias, "flatten": flatten}
    want = mx.nd.FullyConnected(*map(mx.nd.array, (x, *params)), **attrs).asnumpy()
    got = computed("FullyConnected", [x], params, **attrs)
    np.testing.assert_allclose(got, want, rtol=0, atol=2e-6)


@given(
    st.integers(1, 5),
    st.integers(1, 3),
    st.lists(st.integers(1, 3), min_size=1, max_size=3),
    st.sampled_from(["float32", "float64", "int32", "int64", "uint8"]),
)
@quick
@pytest.mark.mxnet
def test_embedding(mx, rows, columns, shape, dtype):
    ids = np.random.default_rng(0).uniform(-3, rows + 3, shape)
    ids = np.abs(ids).astype(dtype) if dtype == "uint8" else ids.astype(dtype)
    table = random(rows, columns)
    attrs = {"input_dim": rows, "output_dim": columns}
    want = mx.nd.Embedding(mx.nd.array(ids, dtype=dtype), mx.nd.array(table), **attrs).asnumpy()
    np.testing.assert_array_equal(computed("Embedding", [ids], [table], **attrs), want)


def test_embedding_of_what_is_no_number_reads_no_foreign_memory():
    ids = np.array([np.nan, np.inf, -np.inf, 1e30, -1e30, 2.9], np.float32)
    table = random(4, 2)
    rows = computed("Embedding", [ids], [table], input_dim=4, output_dim=2)
    assert all(any((row == known).all() for known in table) for row in rows)
    np.testing.assert_array_equal(rows[2:], table[[0, 3, 0, 2]])


@pytest.mark.mxnet
@pytest.mark.parametrize("kind", ["relu", "sigmoid", "softrelu", "softsign", "tanh"])
def test_activations(mx, kind):
    x = np.array([-100, -20.5, -3, -1e-3, 0, 0.5, 19, 21, 100, np.inf, -np.inf], np.float32)
    if kind == "softsign":
        x = x[:-2]  # inf / inf
    want = mx.nd.Activation(mx.nd.array(x), act_type=kind).asnumpy()
    got = computed("Activation", [x], act_type=kind)
    np.testing.assert_allclose(got, want, rtol=2e-6, atol=1e-7)
    if kind in ("sigmoid", "tanh"):
        np.testing.assert_array_equal(computed(kind, [x]), got)
    np.testing.assert_array_equal(
        np.isnan(computed("Activation", [np.array([np.nan, 1], np.float32)], act_type=kind)),
        [kind != "relu", False],
    )


@pytest.mark.mxnet
@pytest.mark.parametrize("op", ["elemwise_add", "elemwise_sub", "elemwise_mul"])
def test_sums_and_products(mx, op):
    x, y = random(3, 4), random(3, 4, seed=1)
    want = getattr(mx.nd, op)(mx.nd.array(x), mx.nd.array(y)).asnumpy()
    np.testing.assert_array_equal(computed(op, [x, y]), want)
    np.testing.assert_array_equal(computed(op, [x], [y], free=False), want)
    with pytest.raises(ShapeMismatchError):
        computed(op, [x, y[:, :1]])


@pytest.mark.mxnet
@pytest.mark.parametrize("op", ["broadcast_add", "broadcast_sub", "broadcast_mul"])
def test_broadcasting_sums_and_products(mx, op):
    x, y = random(3, 4), random(1, 4, seed=1)
    want = getattr(mx.nd, op)(mx.nd.array(x), mx.nd.array(y)).asnumpy()
    np.testing.assert_array_equal(computed(op, [x], [y]), want)
    np.testing.assert_array_equal(computed(op, [x], [y[0]]), want)
    for shape in ((2, 4), (3,), (1, 3)):
        with pytest.raises(ShapeMismatchError, match="right side of 'node'"):
            computed(op, [x], [random(*shape)])


@pytest.mark.parametrize(
    ("op", "params", "attrs", "match"),
    [
        ("FullyConnected", [random(5, 3)], {"no_bias": True, "num_hidden": 5}, r"\(5, 4\)"),
        ("FullyConnected", [random(6, 4)], {"no_bias": True, "num_hidden": 5}, r"\(5, 4\)"),
        ("FullyConnected", [random(5, 4), random(4)], {"num_hidden": 5}, r"bias of 'node'"),
        ("Embedding", [random(5, 4)], {"input_dim": 5, "output_dim": 3}, r"table of 'node'"),
    ],
)
def test_weights_of_the_wrong_shape(op, params, attrs, match):
    with pytest.raises(ShapeMismatchError, match=match):
        computed(op, [random(2, 4)], params, **attrs)


@pytest.mark.parametrize(
    ("op", "params", "attrs"),
    [
        ("FullyConnected", [random(5, 4).astype("f8")], {"no_bias": True, "num_hidden": 5}),
        ("FullyConnected", [random(5, 4), random(5).astype("f8")], {"num_hidden": 5}),
        ("elemwise_add", [random(2, 4).astype("f8")], {}),
    ],
)
def test_inputs_of_different_dtypes(op, params, attrs):
    with pytest.raises(ArgumentTypeError, match="'node' are float32 and float64"):
        computed(op, [random(2, 4)], params, free=False, **attrs)


@pytest.mark.parametrize(
    ("op", "count", "attrs", "match"),
    [
        ("FullyConnected", 2, {"num_hidden": 5}, r"has 2 input\(s\) and needs 3"),
        ("FullyConnected", 2, {"no_bias": True}, "lacks the attribute num_hidden"),
        ("Activation", 1, {"act_type": "gelu"}, "act_type='gelu' is not supported"),
        ("Embedding", 2, {"input_dim": 0, "output_dim": 3}, "input_dim='0'"),
        ("tanh", 1, {"alpha": 2}, "unknown attribute"),
    ],
)
def test_attributes_that_cannot_be_honoured(op, count, attrs, match):
    with pytest.raises(UnsupportedOperatorError, match=match):
        computed(op, [random(2, 4)] * count, **attrs)


def test_a_free_width_cannot_be_flattened():
    writer = GraphWriter()
    x, w = writer.var("x"), writer.var("w")
    graph = writer.graph([writer.call("FullyConnected", "fc", [x, w], num_hidden="2", no_bias="1")])
    with pytest.raises(UnsupportedOperatorError, match="width of its input is free"):
        lower_graph(graph, {"w": random(2, 3)}, ReferenceEmitter(), shapes={"x": (None, None, 3)})
    with pytest.raises(MissingParameterError, match=r"parameter.* w "):
        lower_graph(graph, {}, ReferenceEmitter())


def test_a_language_model_infers_its_tokens_shape():
    """Embedding, two LSTMs with a residual connection, and a decoder."""
    vocabulary, spec = 7, LSTMSpec(4, input_size=4)
    rng = np.random.default_rng(0)
    layers = [cases.random_params(spec, rng) for _ in range(2)]
    params = {
        f"w{i}": np.concatenate([layer[p.name].ravel() for p in spec.packed_parameters()])
        for i, layer in enumerate(layers)
    }
    params |= {
        "table": random(vocabulary, 4),
        "decoder": random(vocabulary, 4),
        "bias": random(vocabulary),
    }
    writer = GraphWriter()
    tokens = writer.var("tokens")
    sizes = {"input_dim": str(vocabulary), "output_dim": "4"}
    x = embedded = writer.call("Embedding", "embedding", [tokens, writer.var("table")], **sizes)
    for i in range(2):
        zeros = [writer.call("_zeros", f"z{i}{j}", [], shape="(1, 0, 4)") for j in range(2)]
        rnn = {"mode": "lstm", "num_layers": "1", "state_size": "4"}
        y = writer.call("RNN", f"rnn{i}", [x, writer.var(f"w{i}"), *zeros], **rnn)
        x = writer.call("elemwise_add", f"add{i}", [x, y])
    dense = {"num_hidden": str(vocabulary), "flatten": "False"}
    out = writer.call(
        "FullyConnected", "fc", [x, writer.var("decoder"), writer.var("bias")], **dense
    )
    lowered = lower_graph(writer.graph([out]), params, ReferenceEmitter())
    assert [(i.name, i.shape, i.dtype) for i in lowered.inputs] == [
        ("tokens", ("T", "N"), "float32")
    ]
    assert [(o.name, o.shape) for o in lowered.outputs] == [("fc_output", ("T", "N", vocabulary))]
    ids = rng.integers(0, vocabulary, (5, 2))
    want = params["table"][ids]
    for layer in layers:
        want = want + reference.lstm(spec, layer, want)[0]
    want = want @ params["decoder"].T + params["bias"]
    (got,) = cases.run(lowered, {"tokens": ids})
    np.testing.assert_allclose(got, want, rtol=0, atol=5e-6)
    assert embedded.output == 0
    assert lowered.spec is None
