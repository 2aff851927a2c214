"""Graphs that cannot be lowered: one error that names every node, and what would be possible."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("tvm", reason="tvm is not installed")

from tvm import relax

from gluonlstm.codegen.frontend.importer import lower_graph
from gluonlstm.codegen.frontend.registry import OPERATORS
from gluonlstm.errors import (
    ArgumentTypeError,
    GluonLSTMError,
    InvalidArgumentError,
    MissingParameterError,
    ShapeMismatchError,
    SymbolFormatError,
    UnsupportedOperatorError,
)
from gluonlstm.spec import LSTMSpec
from gluonlstm.symbol import Entry
from tests.codegen import frontend_cases as cases
from tests.codegen.frontend_cases import GraphWriter, ReferenceEmitter, Spelling

pytestmark = pytest.mark.tvm

SPEC = LSTMSpec(4, input_size=3, use_sequence_length=True)
ATTRS = {"mode": "lstm", "num_layers": "1", "state_size": "4", "state_outputs": "True"}
PACKED = np.zeros(4 * 4 * (3 + 4 + 2), np.float32)


def lower(graph, params, **options):
    return lower_graph(graph, params, ReferenceEmitter(), **options)


def lstm(spelling=None, spec=SPEC):
    return cases.lstm_graph(
        spec, cases.random_params(spec, np.random.default_rng(0)), spelling or Spelling()
    )


def rnn_graph(heads=(0,), inputs=4, **attrs):
    """One RNN node with free inputs; an attribute of None is left out."""
    writer = GraphWriter()
    names = ["x", "w", "h", "c", "n"][:inputs]
    merged = {key: value for key, value in {**ATTRS, **attrs}.items() if value is not None}
    rnn = writer.call("RNN", "rnn", [writer.var(name) for name in names], **merged)
    return writer.graph([Entry(rnn.node, head) for head in heads])


def test_all_unsupported_nodes_are_reported_at_once():
    writer = GraphWriter()
    x, w = writer.var("x"), writer.var("w")
    conv = writer.call("Convolution", "conv", [x, w], kernel="(3, 3)")
    gru = writer.call("RNN", "gru", [conv, w, x, x], mode="gru", num_layers="1", state_size="4")
    drop = writer.call("Dropout", "noise", [gru], mode="always")
    twice = writer.call("_copy", "copy", [drop, drop])
    unneeded = writer.call("Unheard", "of", [x])
    graph = writer.graph([twice])
    with pytest.raises(UnsupportedOperatorError) as caught:
        lower(graph, {"w": PACKED})
    nodes = {name: (op, reason) for name, op, reason in caught.value.nodes}
    assert nodes.keys() == {"conv", "gru", "noise", "copy"}
    assert nodes["conv"] == ("Convolution", "the operator is not supported")
    assert "'gru' is not supported yet, only 'lstm'" in nodes["gru"][1]
    assert "only training" in nodes["noise"][1]
    assert nodes["copy"][1] == "has 2 input(s) and needs 1"
    assert unneeded.node < len(graph.nodes)


def test_a_message_stays_readable_when_thousands_of_nodes_are_unsupported():
    writer = GraphWriter()
    entry = writer.var("x")
    for number in range(3000):
        entry = writer.call(("where", "stack")[number % 2], f"step{number:04}", [entry])
    with pytest.raises(UnsupportedOperatorError) as caught:
        lower(writer.graph([entry]), {})
    assert len(caught.value.nodes) == 3000
    text = str(caught.value)
    assert len(text.splitlines()) == 22
    assert "step0019 (stack): the operator is not supported" in text
    assert text.endswith("... and 2980 more: stack (1490), where (1490)")


@pytest.mark.parametrize(
    ("attrs", "reason"),
    [
        ({"mode": "rnn_tanh"}, "'rnn_tanh' is not supported yet"),
        ({"mode": "transformer"}, "mode='transformer' is not supported, only lstm or gru"),
        ({"mode": None}, "lacks the attribute mode"),
        ({"state_size": None}, "lacks the attribute state_size"),
        ({"state_size": "0"}, "state_size='0' must be an integer of at least 1"),
        ({"state_size": "four"}, "state_size='four' must be an integer"),
        ({"state_size": "9" * 30}, "must be an integer"),
        ({"num_layers": "-1"}, "num_layers='-1'"),
        ({"bidirectional": "yes"}, "bidirectional='yes' must be True or False"),
        ({"p": "nan"}, "p='nan' must be a number"),
        ({"projection_size": "0"}, "projection_size='0'"),
        ({"lstm_state_clip_min": "-1"}, "must be given together"),
        ({"lstm_state_clip_min": "2", "lstm_state_clip_max": "1"}, "must not exceed"),
        ({"use_sequence_length": "True"}, "has 4 input(s) and needs 5"),
        ({"peephole": "True"}, "unknown attribute(s) peephole='True'"),
    ],
)
def test_attributes_that_cannot_be_honoured(attrs, reason):
    with pytest.raises(UnsupportedOperatorError) as caught:
        lower(rnn_graph(**attrs), {"w": PACKED})
    ((name, op, text),) = caught.value.nodes
    assert (name, op) == ("rnn", "RNN")
    assert reason in text


def test_the_graph_of_a_loop_is_pointed_to_the_exporter():
    writer = GraphWriter()
    graph = writer.graph([writer.call("_foreach", "loop", [writer.var("x")])])
    with pytest.raises(UnsupportedOperatorError, match=r"gluonlstm\.export instead"):
        lower(graph, {})


def test_annotations_are_no_attributes():
    lower(rnn_graph(__profiler_scope__="lstm:"), {"w": PACKED})


def test_an_output_that_the_operator_does_not_have():
    with pytest.raises(SymbolFormatError, match=r"output 1 of 'rnn' \(RNN\), which has 1"):
        lower(rnn_graph(heads=(1,), state_outputs="False"), {"w": PACKED})
    writer = GraphWriter()
    copied = writer.call("_copy", "copy", [writer.var("x")])
    bad = writer.call("_copy", "bad", [Entry(copied.node, 3)])
    with pytest.raises(SymbolFormatError, match=r"node 'bad', field inputs.*output 3 of 'copy'"):
        lower(writer.graph([bad]), {})


def test_missing_parameters_are_reported_at_once():
    graph, checkpoint = lstm()
    del checkpoint["lstm0_l0_h2h_weight"], checkpoint["lstm0_l0_i2h_bias"]
    with pytest.raises(MissingParameterError) as caught:
        lower(graph, checkpoint)
    assert caught.value.missing == ["lstm0_l0_h2h_weight", "lstm0_l0_i2h_bias"]
    with pytest.raises(MissingParameterError, match="nothing"):
        lower(graph, {})


def test_reshape_of_run_time_values_is_named_as_such():
    writer = GraphWriter()
    flat = writer.call("Reshape", "flat", [writer.var("x")], shape="(-1,)")
    also = writer.call("_np_reshape", "also", [flat], newshape="(1, -1)")
    with pytest.raises(UnsupportedOperatorError) as caught:
        lower(writer.graph([also]), {})
    assert [name for name, *_ in caught.value.nodes] == ["also", "flat"]
    assert all("only supported on parameters" in reason for *_, reason in caught.value.nodes)


@pytest.mark.parametrize(
    ("size", "match"),
    [
        (143, r"'w': expected shape \(96 \+ 16 \* input_size,\), got \(143,\)"),
        (96, "input_size"),
        (0, "of 1 layers"),
    ],
)
def test_packed_parameters_of_an_impossible_size(size, match):
    with pytest.raises(ShapeMismatchError, match=match):
        lower(rnn_graph(), {"w": np.zeros(size, np.float32)})


def test_an_absurd_number_of_layers_costs_no_time():
    with pytest.raises(ShapeMismatchError, match="of 100000000000000000 layers"):
        lower(rnn_graph(num_layers="1" + "0" * 17), {"w": PACKED})


def test_parameters_of_an_unsuitable_dtype():
    with pytest.raises(ArgumentTypeError, match="'w' are int8; expected one of float32"):
        lower(rnn_graph(), {"w": PACKED.astype(np.int8)})


def test_parameters_of_different_dtypes():
    graph, checkpoint = lstm()
    checkpoint["lstm0_l0_i2h_bias"] = checkpoint["lstm0_l0_i2h_bias"].astype(np.float64)
    with pytest.raises(UnsupportedOperatorError, match="different dtypes: float32, float64"):
        lower(graph, checkpoint)


def test_a_parameter_that_contradicts_the_symbol_file():
    graph, checkpoint = lstm()
    checkpoint["lstm0_l0_h2h_weight"] = np.zeros((4, 16), np.float32)  # transposed
    match = r"parameter 'lstm0_l0_h2h_weight': expected shape \(16, 0\), got \(4, 16\)"
    with pytest.raises(ShapeMismatchError, match=match):
        lower(graph, checkpoint)


def test_states_of_the_wrong_shape():
    writer = GraphWriter()
    x, w = writer.var("x"), writer.var("w")
    zeros = [writer.call("_zeros", f"z{i}", [], shape="(2, 0, 4)") for i in range(2)]
    rnn = writer.call("RNN", "rnn", [x, w, *zeros], **ATTRS)
    with pytest.raises(ShapeMismatchError, match=r"input 2 of 'rnn' \(RNN\): .* \(1, N, 4\), got"):
        lower(writer.graph([rnn]), {"w": PACKED})


def test_an_input_that_two_users_need_in_different_shapes():
    writer = GraphWriter()
    x, w = writer.var("x"), writer.var("w")
    zeros = [writer.call("_zeros", f"z{i}", [], shape="(1, 0, 4)") for i in range(2)]
    rnn = writer.call("RNN", "rnn", [x, w, *zeros], **ATTRS)
    rest = [writer.var(name) for name in ("w2", "h", "c")]
    other = writer.call("RNN", "other", [x, *rest], **ATTRS)
    size = 4 * 4 * (5 + 4 + 2)
    with pytest.raises(ShapeMismatchError, match=r"input 0 of 'rnn' \(RNN\): .*N, 3\)"):
        lower(writer.graph([rnn, other]), {"w": PACKED, "w2": np.zeros(size, np.float32)})


def test_data_and_weights_of_different_dtypes():
    writer = GraphWriter()
    x = writer.var("x")
    calls = []
    for i in range(2):
        rest = [writer.var(f"{letter}{i}") for letter in "whc"]
        calls.append(writer.call("RNN", f"rnn{i}", [x, *rest], **ATTRS))
    params = {"w0": PACKED, "w1": PACKED.astype(np.float64)}
    with pytest.raises(ArgumentTypeError, match=r"must be float32.*needs float64"):
        lower(writer.graph(calls), params)


def test_zeros_of_unknown_shape_are_only_states():
    writer = GraphWriter()
    zeros = writer.call("_zeros", "z", [], shape="(1, 0, 4)")
    with pytest.raises(
        UnsupportedOperatorError, match=r"\(1, None, 4\) can only be initial states"
    ):
        lower(writer.graph([zeros]), {})


def test_an_input_whose_shape_nothing_tells():
    writer = GraphWriter()
    graph = writer.graph([writer.call("_copy", "copy", [writer.var("x")])])
    with pytest.raises(InvalidArgumentError, match=r"shapes=\{'x': \(\.\.\.\)\}"):
        lower(graph, {})
    lowered = lower(graph, {}, shapes={"x": (None, 3)})
    assert lowered.inputs[0].shape == ("S", 3)


@pytest.mark.parametrize(
    ("shapes", "error", "match"),
    [
        ({"data9": (1,)}, InvalidArgumentError, "'data9', which is no input.*'data0', 'data1'"),
        ({"lstm0_l0_i2h_bias": (16,)}, InvalidArgumentError, "no input of the model"),
        ({"data0": (None, None, 4)}, ShapeMismatchError, r"expected shape \(T, N, 3\)"),
        ({"data0": (None, None)}, ShapeMismatchError, r"got \(None, None\)"),
        ({"data0": (None, 2, 3), "data1": (1, 3, 4)}, ShapeMismatchError, r"shapes\['data1'\]"),
        ({"data0": (0, None, 3)}, InvalidArgumentError, "holds 0; a size is"),
        ({"data0": (-1, None, 3)}, InvalidArgumentError, "holds -1"),
        ({"data0": (True, None, 3)}, InvalidArgumentError, "holds True"),
        ({"data0": (2.5, None, 3)}, InvalidArgumentError, "holds 2.5"),
        ({"data0": ("a b", None, 3)}, InvalidArgumentError, "holds 'a b'"),
    ],
)
def test_shapes_that_do_not_fit(shapes, error, match):
    graph, checkpoint = lstm()
    with pytest.raises(error, match=match):
        lower(graph, checkpoint, shapes=shapes)


@pytest.mark.parametrize("outputs", [["nothing"], [], "lstm0_rnn0_output"])
def test_outputs_that_do_not_exist(outputs):
    graph, checkpoint = lstm()
    with pytest.raises(InvalidArgumentError, match=r"outputs|'lstm0_rnn0_statecell_output'"):
        lower(graph, checkpoint, outputs=outputs)


def test_outputs_may_cut_off_what_is_not_supported():
    graph, checkpoint = lstm()
    extra = GraphWriter([*graph.nodes])
    loss = extra.call("CTCLoss", "loss", [graph.heads[0], graph.heads[0]])
    whole = extra.graph([loss])
    with pytest.raises(UnsupportedOperatorError, match=r"loss \(CTCLoss\)"):
        lower(whole, checkpoint)
    lowered = lower(whole, checkpoint, outputs=["lstm0_rnn0_output"])
    assert [output.name for output in lowered.outputs] == ["lstm0_rnn0_output"]


def test_an_error_while_lowering_leaves_no_scope_open():
    class Broken:
        def emit(self, *args):
            raise RuntimeError("no kernel")

    graph, checkpoint = lstm()
    before = len(relax.BlockBuilder._stack)
    with pytest.raises(RuntimeError, match="no kernel"):
        lower_graph(graph, checkpoint, Broken())
    assert len(relax.BlockBuilder._stack) == before


# --- any graph at all ------------------------------------------------------------------------

ATTRIBUTE_VALUES = [
    *("", "None", "0", "1", "-1", "2", "1e3", "nan", "True", "x", "99999999999999999999"),
    *("(0,)", "(-1,)", "(1, 0)", "(1, 2, 4)", "(-4, 2)", "[-3, 0]"),
    *("lstm", "gru", "float64", "int8"),
]


@st.composite
def damaged(draw):
    """A real graph of one LSTM with a few nodes changed, and parameters that may not fit."""
    spec = LSTMSpec(2, draw(st.integers(1, 2)), draw(st.sampled_from(["TNC", "NTC"])), input_size=3)
    params = cases.random_params(spec, np.random.default_rng(0))
    graph, checkpoint = cases.lstm_graph(spec, params, draw(cases.spellings()))
    nodes = [*graph.nodes]
    for _ in range(draw(st.integers(1, 3))):
        index = draw(st.integers(0, len(nodes) - 1))
        node = nodes[index]
        if node.is_variable:
            continue
        kind = draw(st.sampled_from(["op", "attribute", "input", "inputs"]))
        if kind == "op":
            node = replace(node, op=draw(st.sampled_from(sorted(OPERATORS))))
        elif kind == "attribute":
            key = draw(st.sampled_from([*node.attrs, "axis", "shape"]))
            node = replace(node, attrs={**node.attrs, key: draw(st.sampled_from(ATTRIBUTE_VALUES))})
        elif index:
            entry = st.builds(Entry, st.integers(0, index - 1), st.sampled_from([0, 0, 1, 2]))
            if kind == "input" and node.inputs:
                place = draw(st.integers(0, len(node.inputs) - 1))
                inputs = [*node.inputs]
                inputs[place] = draw(entry)
            else:
                inputs = draw(st.lists(entry, max_size=4))
            node = replace(node, inputs=tuple(inputs))
        nodes[index] = node
    for name in draw(st.lists(st.sampled_from(sorted(checkpoint)), max_size=2)):
        shape = draw(st.lists(st.integers(0, 8), max_size=3))
        checkpoint[name] = np.zeros(shape, draw(st.sampled_from(["float32", "float64", "int8"])))
    return replace(graph, nodes=tuple(nodes)), checkpoint


@given(damaged())
@settings(max_examples=150)
def test_any_graph_is_lowered_or_refused_with_a_sentence(case):
    graph, checkpoint = case
    try:
        lowered = lower(graph, checkpoint)
    except GluonLSTMError as error:
        text = str(error)
    else:
        text = str(lowered.outputs)
    assert len(text) > 20
