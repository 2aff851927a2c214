"""Graphs of one LSTM, in every spelling, lower to a module that computes the reference."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("tvm", reason="tvm is not installed")

from gluonlstm import reference, symbol
from gluonlstm.codegen.frontend.importer import lower_graph
from gluonlstm.spec import LSTMSpec
from gluonlstm.symbol import Entry
from tests.codegen import frontend_cases as cases
from tests.codegen.frontend_cases import GraphWriter, ReferenceEmitter, Spelling

pytestmark = pytest.mark.tvm
DATA = Path(__file__).parents[1] / "data" / "symbols"


def expected(spec, params, x, h0, c0, lengths):
    valid = lengths if spec.use_sequence_length else None
    y, (h, c) = reference.lstm(spec, params, x, None if h0 is None else [h0, c0], valid)
    return y, h, c


@given(cases.specs(), cases.spellings(), st.integers(0, 4), st.integers(0, 3), st.integers(0, 99))
@settings(max_examples=30)
def test_every_spelling_computes_the_reference(spec, spelling, steps, batch, seed):
    rng = np.random.default_rng(seed)
    batch = spelling.batch or batch
    params = cases.random_params(spec, rng)
    x, h0, c0, lengths = cases.random_arrays(spec, rng, steps, batch)
    graph, checkpoint = cases.lstm_graph(spec, params, spelling)
    lowered = lower_graph(graph, checkpoint, ReferenceEmitter())

    arrays = {"data0": x, "data3": lengths}
    if spelling.states == "free":
        arrays |= {"data1": h0, "data2": c0}
    else:
        h0 = c0 = None
    got = cases.run(lowered, arrays)
    all_outputs = expected(spec, params, x, h0, c0, lengths)
    assert len(got) == len(spelling.heads)
    for head, value in zip(spelling.heads, got, strict=True):
        np.testing.assert_allclose(value, all_outputs[head], rtol=0, atol=2e-6)

    assert lowered.spec == spec.replace(dropout=0.0)
    assert [info.role for info in lowered.inputs] == (
        ["data"]
        + ["hidden", "cell"] * (spelling.states == "free")
        + ["lengths"] * spec.use_sequence_length
    )
    n = spelling.batch or "N"
    assert lowered.inputs[0].shape == spec.data_shape("T", n)
    assert all(info.dtype == spec.dtype for info in lowered.inputs if info.role != "lengths")


# --- files that MXNet wrote ------------------------------------------------------------------


def fill(graph, rng, sizes):
    """Make parameters for every variable whose name ends like a parameter's."""
    return {
        name: rng.standard_normal(sizes[name.split("_", 1)[1]]).astype(np.float32) / 2
        for name in graph.arguments
        if name.split("_", 1)[-1] in sizes
    }


FILES = {
    # file: (spec, free inputs, heads: y, h, c)
    "lstm": (LSTMSpec(8, input_size=3), ["data"], [0]),
    "lstm_ntc": (LSTMSpec(8, input_size=3, layout="NTC"), ["data"], [0]),
    "lstm_clip": (
        LSTMSpec(8, input_size=3, state_clip_min=-1, state_clip_max=1, state_clip_nan=True),
        ["data"],
        [0],
    ),
    "lstm_projection": (LSTMSpec(8, input_size=3, projection_size=4), ["data"], [0]),
    "lstm_sequence_length": (
        LSTMSpec(8, input_size=3, use_sequence_length=True),
        ["data", "len"],
        [0],
    ),
    "lstm_explicit_states": (LSTMSpec(8, input_size=3), ["data", "h", "c"], [0, 1, 2]),
    "lstm_2layer_bidirectional_dropout": (
        LSTMSpec(8, 2, input_size=3, bidirectional=True, dropout=0.3),
        ["data"],
        [0],
    ),
    "lstm_np_ntc": (LSTMSpec(6, 2, "NTC", input_size=4), ["data0", "data1", "data2"], [0, 1, 2]),
    "lstm_1_3": (LSTMSpec(4, input_size=3), ["data0"], [0]),
}


@pytest.mark.parametrize("name", FILES)
def test_files_of_gluon(name):
    spec, inputs, heads = FILES[name]
    graph = symbol.load(DATA / f"{name}-symbol.json")
    rng = np.random.default_rng(0)
    params = cases.random_params(spec, rng)
    x, h0, c0, lengths = cases.random_arrays(spec, rng, 5, 3)
    prefix = next(n for n in graph.arguments if n.endswith("_l0_i2h_weight"))[
        : -len("l0_i2h_weight")
    ]
    emitter = ReferenceEmitter()
    lowered = lower_graph(graph, {f"arg:{prefix}{k}": v for k, v in params.items()}, emitter)
    assert [info.name for info in lowered.inputs] == inputs
    assert lowered.spec == spec
    values = [x, lengths] if spec.use_sequence_length else [x, h0, c0]
    got = cases.run(lowered, dict(zip(inputs, values, strict=False)))
    states = [h0, c0] if len(inputs) == 3 else [None, None]
    everything = expected(spec, params, x, *states, lengths)
    for head, value in zip(heads, got, strict=True):
        np.testing.assert_allclose(value, everything[head], rtol=0, atol=2e-6)


PACKED_FILES = {
    "rnn_0_8": (
        LSTMSpec(5, input_size=4, bidirectional=True),
        ["lstm_output", "lstm_state_output", "lstm_statecell_output"],
    ),
    "fused_cell_ntc": (
        LSTMSpec(6, 2, "NTC", input_size=4, bidirectional=True),
        ["swapaxes1_output"],
    ),
}


@pytest.mark.parametrize("name", PACKED_FILES)
def test_files_with_one_packed_parameter(name):
    spec, outputs = PACKED_FILES[name]
    graph = symbol.load(DATA / f"{name}-symbol.json")
    rng = np.random.default_rng(0)
    params = cases.random_params(spec, rng)
    packed = np.concatenate([params[p.name].reshape(-1) for p in spec.packed_parameters()])
    lowered = lower_graph(graph, {"lstm_parameters": packed}, ReferenceEmitter())
    assert [info.name for info in lowered.outputs] == outputs
    assert lowered.spec == spec
    x, *_ = cases.random_arrays(spec, rng, 5, 3)
    got = cases.run(lowered, {"data": x})
    for value, want in zip(got, expected(spec, params, x, None, None, None), strict=False):
        np.testing.assert_allclose(value, want, rtol=0, atol=2e-6)


# --- inputs: names, roles, shapes ------------------------------------------------------------

SPEC = LSTMSpec(4, input_size=3)


def lowered_with(spec=SPEC, spelling=None, **options):
    params = cases.random_params(spec, np.random.default_rng(0))
    graph, checkpoint = cases.lstm_graph(spec, params, spelling or Spelling())
    return lower_graph(graph, checkpoint, ReferenceEmitter(), **options)


def test_states_that_only_the_lstm_reads_may_be_left_out():
    lowered = lowered_with()
    assert [(i.name, i.role, i.optional) for i in lowered.inputs] == [
        ("data0", "data", False),
        ("data1", "hidden", True),
        ("data2", "cell", True),
    ]
    assert [i.shape for i in lowered.inputs] == [("T", "N", 3), (1, "N", 4), (1, "N", 4)]
    assert [o.shape for o in lowered.outputs] == [("T", "N", 4), (1, "N", 4), (1, "N", 4)]


def test_a_state_that_is_an_output_too_cannot_be_left_out():
    graph, checkpoint = cases.lstm_graph(
        SPEC, cases.random_params(SPEC, np.random.default_rng(0)), Spelling()
    )
    state = next(i for i, node in enumerate(graph.nodes) if node.name == "data1")
    graph = graph.with_heads([*graph.heads, Entry(state)])
    lowered = lower_graph(graph, checkpoint, ReferenceEmitter())
    assert [(i.name, i.role, i.optional) for i in lowered.inputs][1] == ("data1", "data", False)
    h0 = np.ones((1, 2, 4), np.float32)
    *_, same = cases.run(lowered, {"data0": np.ones((5, 2, 3)), "data1": h0})
    np.testing.assert_array_equal(same, h0)


def test_shapes_fix_sizes_everywhere():
    lowered = lowered_with(shapes={"data0": (35, None, 3), "data1": (1, 2, None)})
    assert [i.shape for i in lowered.inputs] == [(35, 2, 3), (1, 2, 4), (1, 2, 4)]
    assert [o.shape for o in lowered.outputs] == [(35, 2, 4), (1, 2, 4), (1, 2, 4)]


def test_shapes_name_and_join_sizes():
    lowered = lowered_with(shapes={"data0": ("steps", "steps", None)})
    assert lowered.inputs[0].shape == ("steps", "steps", 3)
    assert lowered.inputs[1].shape == lowered.inputs[2].shape == (1, "steps", 4)


def test_zero_states_of_a_known_batch_fix_it():
    lowered = lowered_with(spelling=Spelling(states="fixed", batch=3))
    assert [i.shape for i in lowered.inputs] == [("T", 3, 3)]


def test_learned_initial_states():
    rng = np.random.default_rng(0)
    params = cases.random_params(SPEC, rng)
    graph, checkpoint = cases.lstm_graph(SPEC, params, Spelling())
    h0, c0 = (rng.standard_normal((1, 2, 4)).astype(np.float32) for _ in range(2))
    checkpoint |= {"arg:data1": h0, "arg:data2": c0}
    lowered = lower_graph(graph, checkpoint, ReferenceEmitter())
    assert [i.shape for i in lowered.inputs] == [("T", 2, 3)]
    x = rng.standard_normal((4, 2, 3)).astype(np.float32)
    y, h, c = cases.run(lowered, {"data0": x})
    for got, want in zip((y, h, c), expected(SPEC, params, x, h0, c0, None), strict=True):
        np.testing.assert_allclose(got, want, atol=2e-6)


def test_outputs_cut_the_graph():
    lowered = lowered_with(outputs=["lstm0_rnn0_statecell_output", "lstm0_rnn0"])
    names = ["lstm0_rnn0_statecell_output", "lstm0_rnn0_output"]
    assert [o.name for o in lowered.outputs] == names
    assert [o.shape for o in lowered.outputs] == [(1, "N", 4), ("T", "N", 4)]


def test_a_head_that_comes_twice_gets_two_names():
    lowered = lowered_with(spelling=Spelling(heads=(1, 1, 0)))
    names = [o.name for o in lowered.outputs]
    assert len(set(names)) == 3
    assert names[0] == "lstm0_rnn0_state_output"


def test_stacked_lstms_share_time_and_batch():
    # Encoder and decoder: the states of the first are those of the second.
    writer = GraphWriter()
    x, w0 = writer.var("source"), writer.var("w0")
    zeros = [writer.call("_zeros", f"z{i}", [], shape="(1, 0, 4)") for i in range(2)]
    attrs = {"mode": "lstm", "num_layers": "1", "state_size": "4", "state_outputs": "1"}
    first = writer.call("RNN", "encoder", [x, w0, *zeros], **attrs)
    states = [Entry(first.node, 1), Entry(first.node, 2)]
    target, w1 = writer.var("target"), writer.var("w1")
    second = writer.call("RNN", "decoder", [target, w1, *states], **attrs)
    third_zeros = [writer.call("_zeros", f"y{i}", [], shape="(1, 0, 4)") for i in range(2)]
    third = writer.call("RNN", "top", [second, writer.var("w2"), *third_zeros], **attrs)
    graph = writer.graph([third])
    rng = np.random.default_rng(0)
    specs = [LSTMSpec(4, input_size=size) for size in (3, 5, 4)]
    params = [cases.random_params(spec, rng) for spec in specs]
    packed = {
        f"w{i}": np.concatenate([p[q.name].ravel() for q in specs[i].packed_parameters()])
        for i, p in enumerate(params)
    }
    lowered = lower_graph(graph, packed, ReferenceEmitter())
    assert [i.shape for i in lowered.inputs] == [("T", "N", 3), ("T2", "N", 5)]
    assert lowered.spec is None  # not one LSTM
    source, target = rng.standard_normal((4, 2, 3)), rng.standard_normal((6, 2, 5))
    _, states = reference.lstm(specs[0], params[0], source)
    y, _ = reference.lstm(specs[1], params[1], target, states)
    want, _ = reference.lstm(specs[2], params[2], y)
    (got,) = cases.run(lowered, {"source": source, "target": target})
    np.testing.assert_allclose(got, want, atol=2e-6)


def test_nothing_but_what_the_heads_need_is_an_input():
    spec = SPEC.replace(use_sequence_length=True)
    graph, checkpoint = cases.lstm_graph(
        spec, cases.random_params(spec, np.random.default_rng(0)), Spelling()
    )
    label = symbol.Node("label", "null")
    loss = symbol.Node("loss", "SoftmaxOutput", {}, (Entry(0),))
    graph = symbol.Graph(
        (*graph.nodes, label, loss), graph.heads, (*graph.arguments, "label"), graph.version
    )
    lowered = lower_graph(graph, checkpoint, ReferenceEmitter())
    assert [i.name for i in lowered.inputs] == ["data0", "data1", "data2", "data3"]


def test_json_of_these_graphs_is_what_the_reader_takes():
    # The graphs above are built in memory; this one goes through text, as a check of the writer.
    graph, _ = cases.lstm_graph(
        SPEC, cases.random_params(SPEC, np.random.default_rng(0)), Spelling()
    )
    nodes = [
        {
            "op": node.op,
            "name": node.name,
            "attrs": dict(node.attrs),
            "inputs": [[e.node, e.output, 0] for e in node.inputs],
        }
        for node in graph.nodes
    ]
    heads = [[e.node, e.output, 0] for e in graph.heads]
    attrs = {"mxnet_version": ["int", graph.version]}
    assert symbol.loads(json.dumps({"nodes": nodes, "heads": heads, "attrs": attrs})) == graph
