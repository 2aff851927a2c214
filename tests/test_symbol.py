"""Symbol JSON -> graph: every spelling gives the same graph, and bad input one typed error."""

from __future__ import annotations

import copy
import dataclasses
import json
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gluonlstm import symbol
from gluonlstm.errors import SymbolFormatError
from gluonlstm.symbol import Entry, Graph, Node

DATA = Path(__file__).parent / "data" / "symbols"
FILES = sorted(DATA.glob("*-symbol.json"))

names = st.text(st.characters(codec="utf-8"), min_size=1, max_size=6)
attributes = st.dictionaries(st.sampled_from(["shape", "__init__", "mode"]), names, max_size=3)


@st.composite
def graphs(draw, depth=1):
    """Any valid graph: unique variables, inputs that point backwards, at least one head."""
    nodes = []
    for index in range(draw(st.integers(1, 8))):
        attrs = draw(attributes)
        if index == 0 or draw(st.booleans()):
            nodes.append(Node(f"{draw(names)}{index}", "null", attrs))
            continue
        bodies = draw(st.lists(graphs(depth=depth - 1), max_size=2)) if depth else []
        inputs = draw(st.lists(entries(nodes), max_size=4))
        name = f"{draw(names)}{index}"
        nodes.append(
            Node(name, draw(names.filter("null".__ne__)), attrs, tuple(inputs), tuple(bodies))
        )
    heads = draw(st.lists(entries(nodes), min_size=1, max_size=3))
    arguments = tuple(node.name for node in nodes if node.is_variable)
    version = draw(st.sampled_from([800, 905, 10300, 10901, 20000]))
    return Graph(tuple(nodes), tuple(heads), arguments, version, draw(st.booleans()))


def entries(nodes):
    return st.integers(0, len(nodes) - 1).flatmap(
        lambda node: st.builds(
            Entry, st.just(node), st.integers(0, 0 if nodes[node].is_variable else 3)
        )
    )


def as_json(graph: Graph, draw) -> dict:
    """Write a graph in a spelling that ``draw`` chooses among those of MXNet's versions."""
    key = draw(st.sampled_from(symbol.ATTRIBUTE_KEYS))
    versions = draw(st.sampled_from([[], [0]]))

    def entry(e: Entry) -> list:
        return [e.node, e.output, *versions]

    nodes = []
    for node in graph.nodes:
        item = {"op": node.op, "name": node.name, "inputs": [entry(e) for e in node.inputs]}
        if node.attrs or draw(st.booleans()):
            item[key] = dict(node.attrs)
        if node.subgraphs:
            item["subgraphs"] = [as_json(body, draw) for body in node.subgraphs]
        nodes.append(item)
    tree = {"nodes": nodes, "heads": [entry(e) for e in graph.heads]}
    if draw(st.booleans()):
        tree["arg_nodes"] = [i for i, node in enumerate(graph.nodes) if node.is_variable]
        tree["node_row_ptr"] = [*range(len(nodes) + 1)]
    tree["attrs"] = {"mxnet_version": ["int", graph.version]}
    if graph.np_shape or draw(st.booleans()):
        tree["attrs"]["is_np_shape"] = ["int", int(graph.np_shape)]
    if graph.version == symbol.ASSUMED_VERSION and not graph.np_shape and draw(st.booleans()):
        del tree["attrs"]
    return tree


@given(graphs(), st.data())
@settings(max_examples=60)
def test_every_spelling_of_a_graph_gives_that_graph(graph, data):
    text = json.dumps(as_json(graph, data.draw), ensure_ascii=data.draw(st.booleans()))
    assert symbol.loads(text) == graph
    assert symbol.loads(text.encode("utf-8-sig")) == graph


@given(st.sampled_from(FILES), st.data())
@settings(max_examples=150)
def test_damaged_text_gives_a_graph_or_one_typed_error(path, data):
    text = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(text) - 1))
        kind = data.draw(st.sampled_from(["cut", "drop", "replace", "repeat"]))
        size = data.draw(st.integers(1, 40))
        if kind == "cut":
            text = text[: max(at, 1)]
        elif kind == "drop":
            text[at : at + size] = b" "
        elif kind == "replace":
            text[at : at + 1] = data.draw(st.sampled_from([b"9", b"-", b'"', b"[", b"\xff", b"0"]))
        else:
            text[at:at] = text[at : at + size]
    _graph_or_error(bytes(text))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=6,
)


@given(st.sampled_from(FILES), st.data())
@settings(max_examples=150)
def test_a_wrong_value_anywhere_gives_a_graph_or_one_typed_error(path, data):
    tree = json.loads(path.read_text())
    places = [(tree, key) for key in tree]
    for node in tree["nodes"]:
        places += [(node, key) for key in node]
        places += [(node["inputs"], number) for number in range(len(node["inputs"]))]
    container, key = data.draw(st.sampled_from(places))
    container[key] = data.draw(json_values)
    _graph_or_error(json.dumps(tree))


def _graph_or_error(document) -> None:
    try:
        graph = symbol.loads(document)
    except SymbolFormatError:
        return
    for node in graph.nodes:
        assert all(entry.node < len(graph.nodes) for entry in node.inputs)
    symbol.format_graph(graph)


# --- the files that MXNet wrote --------------------------------------------------------------


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name.removesuffix("-symbol.json"))
def test_real_files(path):
    graph = symbol.load(path)
    tree = json.loads(path.read_text())
    assert [node.name for node in graph.nodes] == [node["name"] for node in tree["nodes"]]
    assert [(e.node, e.output) for e in graph.heads] == [tuple(h[:2]) for h in tree["heads"]]
    assert [i for i, node in enumerate(graph.nodes) if node.is_variable] == tree["arg_nodes"]


def test_a_file_of_1_9_1():
    graph = symbol.load(DATA / "lstm_np_ntc-symbol.json")
    assert (graph.version, graph.np_shape) == (10901, True)
    rnn = next(node for node in graph.nodes if node.op == "RNN")
    assert rnn.attrs["state_size"] == "6"
    assert [graph.nodes[entry.node].name for entry in rnn.inputs][2:] == ["data1", "data2"]
    assert graph.heads == (Entry(22, 0), Entry(21, 1), Entry(21, 2))


def test_a_file_of_0_8():
    graph = symbol.load(DATA / "rnn_0_8-symbol.json")
    assert (graph.version, graph.np_shape) == (800, False)
    assert graph.arguments == ("data", "lstm_parameters", "lstm_init_h", "lstm_init_c")
    rnn = graph.nodes[4]
    assert rnn.attrs["bidirectional"] == "true"
    # Annotations are told apart from the operator's own attributes.
    assert graph.nodes[1].attrs == {"__lr_mult__": "0.5"}
    assert {key for key in rnn.attrs if symbol.is_hidden(key)} == {
        "__ctx_group__",
        "__parameters_wd_mult__",
    }


def test_subgraphs():
    graph = symbol.load(DATA / "lstmcell_foreach-symbol.json")
    (foreach,) = (node for node in graph.nodes if node.op == "_foreach")
    (body,) = foreach.subgraphs
    assert body.arguments[0] == "data-0"
    assert len(body.heads) == 3


def test_newer_spelling_of_attributes_wins():
    node = {"op": "f", "name": "f", "inputs": [], "param": {"a": "1", "b": "1", "c": "1"}}
    node |= {"attr": {"a": "2", "b": "2"}, "attrs": {"a": "3"}}
    graph = symbol.loads(json.dumps({"nodes": [node], "heads": [[0, 0]]}))
    assert graph.nodes[0].attrs == {"a": "3", "b": "2", "c": "1"}


# --- the graph -------------------------------------------------------------------------------


def test_a_graph_cannot_be_changed():
    graph = symbol.load(DATA / "lstm-symbol.json")
    with pytest.raises(dataclasses.FrozenInstanceError):
        graph.version = 1  # type: ignore[misc]
    with pytest.raises(TypeError):
        graph.nodes[0].attrs["shape"] = "(1,)"  # type: ignore[index]


@given(graphs())
@settings(max_examples=30)
def test_walk_yields_what_the_heads_need_once_and_inputs_first(graph):
    seen = []
    for index, node in graph.walk():
        assert node is graph.nodes[index]
        assert all(entry.node in seen for entry in node.inputs)
        seen.append(index)
    needed = set()
    todo = [entry.node for entry in graph.heads]
    while todo:
        index = todo.pop()
        needed.add(index)
        todo += [entry.node for entry in graph.nodes[index].inputs]
    assert seen == sorted(needed)
    assert graph.variables() == tuple(
        graph.nodes[index].name for index in seen if graph.nodes[index].is_variable
    )


def test_with_heads_leaves_out_what_is_no_longer_needed():
    graph = symbol.load(DATA / "lstm-symbol.json")
    cut = graph.with_heads([Entry(2)])  # the reshaped l0_i2h_weight
    assert cut.variables() == ("lstm0_l0_i2h_weight",)
    assert cut.nodes is graph.nodes


@pytest.mark.parametrize("name", ["lstm_ntc", "lstmcell_foreach"])
def test_printed_graph(name, golden):
    golden(symbol.format_graph(symbol.load(DATA / f"{name}-symbol.json")))


def test_printing_escapes_and_shortens_what_the_file_says():
    variables = [
        {"op": "null", "name": f"{i}\x1b[31m" + "x" * 9000, "inputs": []} for i in range(9)
    ]
    add = {"op": "add_n", "name": "sum", "inputs": [[i, 0] for i in range(9)]}
    graph = symbol.loads(json.dumps({"nodes": [*variables, add], "heads": [[9, 0]]}))
    text = symbol.format_graph(graph)
    assert "\x1b" not in text
    assert "\\x1b[31mxxx" in text
    assert "(9 in all)" in text
    assert max(map(len, text.splitlines())) < 1000


# --- hostile input ---------------------------------------------------------------------------

VARIABLE = {"op": "null", "name": "x", "inputs": []}
CALL = {"op": "f", "name": "y", "inputs": [[0, 0, 0]], "attrs": {"a": "1"}}
VALID = {"nodes": [VARIABLE, CALL], "heads": [[1, 0, 0]]}


def changed(*path_and_value) -> str:
    """Return VALID with the value at a path replaced."""
    *path, key, value = path_and_value
    tree = copy.deepcopy(VALID)
    item = tree
    for step in path:
        item = item[step]
    item[key] = value
    return json.dumps(tree)


def without(*path) -> str:
    *path, key = path
    tree = copy.deepcopy(VALID)
    item = tree
    for step in path:
        item = item[step]
    del item[key]
    return json.dumps(tree)


def nested(levels: int) -> str:
    tree = VALID
    for _ in range(levels):
        tree = {"nodes": [VARIABLE, {**CALL, "subgraphs": [tree]}], "heads": [[1, 0]]}
    return json.dumps(tree)


HOSTILE = {
    "empty": ("", "document", "not JSON"),
    "garbage": ("\x00\x01", "document", "not JSON"),
    "not text": (b"\xff\xfe{", "document", "UTF-8"),
    "not an object": ("[1]", "document", "must be an object"),
    "a params file": (b"\x12\x01\0\0\0\0\0\0", "document", "not JSON"),
    "nested lists": ("[" * 100_000, "document", "nested too deeply"),
    "nested objects": ('{"a":' * 100_000, "document", "nested too deeply"),
    "nested subgraphs": (nested(9), "subgraphs[0]", "nested more than 8"),
    "NaN": (changed("heads", float("nan")), "document", "NaN"),
    "huge integer": ('{"heads": [[' + "9" * 5000 + ", 0]]}", "document", "5000 digits"),
    "no nodes": (without("nodes"), "field nodes", "missing"),
    "nodes is null": (changed("nodes", None), "field nodes", "must be a list"),
    "no heads": (without("heads"), "field heads", "missing"),
    "empty heads": (changed("heads", []), "field heads", "empty"),
    "head beyond": (changed("heads", [[2, 0, 0]]), "heads[0]", "node 2"),
    "node is text": (changed("nodes", 0, "x"), "node 0", "must be an object"),
    "no name": (without("nodes", 1, "name"), "node 1, field name", "missing"),
    "empty name": (changed("nodes", 1, "name", ""), "field name", "empty"),
    "name is a number": (changed("nodes", 1, "name", 7), "field name", "must be a string, got 7"),
    "half a surrogate": (changed("nodes", 1, "name", "\ud800"), "field name", "surrogate"),
    "no op": (without("nodes", 1, "op"), "'y', field op", "missing"),
    "empty op": (changed("nodes", 1, "op", ""), "'y', field op", "empty"),
    "inputs is an object": (changed("nodes", 1, "inputs", {}), "field inputs", "must be a list"),
    "itself as input": (changed("nodes", 1, "inputs", [[1, 0]]), "'y', inputs[0]", "no cycles"),
    "forward reference": (changed("nodes", 0, {**CALL, "inputs": [[1, 0]]}), "inputs[0]", "node 1"),
    "negative node": (changed("nodes", 1, "inputs", [[-1, 0]]), "inputs[0]", "at least 0"),
    "negative output": (changed("nodes", 1, "inputs", [[0, -1]]), "inputs[0]", "at least 0"),
    "boolean node": (changed("nodes", 1, "inputs", [[False, 0]]), "inputs[0]", "integers"),
    "fraction": (changed("nodes", 1, "inputs", [[0.5, 0]]), "inputs[0]", "integers"),
    "infinite": (changed("nodes", 1, "inputs", [[0, 1]]).replace("[0, 1]", "[0, 1e999]"),
                 "inputs[0]", "integers"),
    "one element": (changed("nodes", 1, "inputs", [[0]]), "inputs[0]", "[node, output]"),
    "four elements": (changed("nodes", 1, "inputs", [[0, 0, 0, 0]]), "inputs[0]", "version]"),
    "a bare number": (changed("nodes", 1, "inputs", [0]), "inputs[0]", "got 0"),
    "output of a variable": (changed("nodes", 1, "inputs", [[0, 1]]), "inputs[0]", "output 1"),
    "absurd output": (changed("heads", [[1, 10**9]]), "heads[0]", "output 1000000000"),
    "variable with inputs": (changed("nodes", 1, "op", "null"), "field inputs", "no inputs"),
    "two variables": (changed("nodes", 1, VARIABLE), "document", "two variables are named 'x'"),
    "attrs is a list": (changed("nodes", 1, "attrs", []), "field attrs", "must be an object"),
    "attribute is a number": (changed("nodes", 1, "attrs", {"a": 1}), "'a'", "must be a string"),
    "attribute twice": (json.dumps(VALID).replace('"a": "1"', '"a": "1", "a": "2"'),
                        "'y', field attrs", "'a' twice"),
    "field twice": (json.dumps(VALID).replace('"op": "f"', '"op": "f", "op": "g"'),
                    "node 1", "'op' twice"),
    "document field twice": ('{"nodes": [], "nodes": []}', "document", "'nodes' twice"),
    "arg_nodes is text": (changed("arg_nodes", "0"), "field arg_nodes", "must be a list"),
    "arg_nodes lists a call": (changed("arg_nodes", [1]), "field arg_nodes", "not a variable"),
    "arg_nodes beyond": (changed("arg_nodes", [2]), "field arg_nodes", "not a variable"),
    "node_row_ptr of text": (changed("node_row_ptr", ["0"]), "field node_row_ptr", "integers"),
    "subgraphs is an object": (changed("nodes", 1, "subgraphs", {}), "subgraphs", "must be a list"),
    "subgraph without nodes": (changed("nodes", 1, "subgraphs", [{}]),
                               "'y', subgraphs[0], field nodes", "missing"),
    "version is a number": (changed("attrs", {"mxnet_version": 9}), "'mxnet_version'", "number"),
    "version is text": (changed("attrs", {"mxnet_version": ["int", "1"]}), "field attrs", "number"),
}  # fmt: skip


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_input(case):
    document, where, reason = HOSTILE[case]
    with pytest.raises(SymbolFormatError) as caught:
        symbol.loads(document, "m-symbol.json")
    assert where in caught.value.where
    assert reason in caught.value.reason
    assert str(caught.value).startswith("m-symbol.json, ")
    assert len(str(caught.value)) < 400
    assert isinstance(caught.value, ValueError)


def test_the_valid_document_behind_the_hostile_ones():
    assert symbol.loads(json.dumps(VALID)).arguments == ("x",)


def test_memory_stays_in_proportion_to_the_file():
    # 300 kB: long names that errors and tables would repeat, and entries that share nodes.
    long = {"op": "null", "name": "x" * 100_000, "inputs": []}
    calls = [{"op": "f", "name": "y" * 100, "inputs": [[0, 0]] * 50} for _ in range(200)]
    document = json.dumps({"nodes": [long, *calls], "heads": [[200, 0]]})
    tracemalloc.start()
    symbol.format_graph(symbol.loads(document))
    with pytest.raises(SymbolFormatError):
        symbol.loads(document.replace("[200, 0]", "[201, 0]"))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 60 * len(document)


def test_a_file_that_is_too_large_is_not_read_whole(tmp_path):
    path = tmp_path / "sparse"
    with path.open("wb") as stream:
        stream.truncate(1 << 40)  # takes no space on disk
    tracemalloc.start()
    with pytest.raises(SymbolFormatError, match="larger than 64 MiB"):
        symbol.load(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3 * symbol.MAX_BYTES


def test_a_missing_file_is_an_os_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        symbol.load(tmp_path / "absent-symbol.json")
