"""Symbol JSON of any MXNet version -> an immutable graph.

Nothing here knows an operator: attributes stay the strings that the file holds. A document is::

    {"nodes": [{"op": "null" | operator, "name": ..., "inputs": [entry, ...],
                "attrs": {key: string}, "subgraphs": [document, ...]}, ...],
     "heads": [entry, ...],
     "arg_nodes": [...], "node_row_ptr": [...],                        (redundant, may be absent)
     "attrs": {"mxnet_version": ["int", 10901], "is_np_shape": ["int", 1]}}        (may be absent)

An entry is ``[node, output]`` or ``[node, output, version]`` and points backwards only, so nodes
are in topological order. A node of op ``null`` is an input of the graph or a parameter. Older files
say ``attr`` or ``param`` for ``attrs``, or have both; no top-level ``attrs`` means version 0.8.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from os import PathLike
from pathlib import Path
from types import MappingProxyType
from typing import Any, NoReturn

from gluonlstm.errors import SymbolFormatError

VARIABLE = "null"  # operator name of graph inputs and parameters

# Limits on what is read, far above any real model (an unrolled 3000-node graph is 1 MB) and low
# enough that a hostile file cannot exhaust memory or the stack.
MAX_BYTES = 64 << 20
MAX_SUBGRAPH_DEPTH = 8
MAX_INTEGER_DIGITS = 18
MAX_OUTPUTS = 1 << 16

MOST_INPUTS_SHOWN = 4  # of a node, in format_graph

ASSUMED_VERSION = 800  # of a file that does not say: 0.8.0, as MXNet's own loader assumes
ATTRIBUTE_KEYS = ("attrs", "attr", "param")  # newest first; the first one wins

# Annotations that files before 1.0 wrote beside an operator's own attributes, also with the
# argument's name in front (weight_lr_mult). Newer files wrap them in double underscores.
HIDDEN_KEYS = ("ctx_group", "lr_mult", "wd_mult", "force_mirroring", "mirror_stage")


@dataclass(frozen=True)
class Entry:
    """One output of one node: its index in ``Graph.nodes`` and the output's number."""

    node: int
    output: int = 0


@dataclass(frozen=True)
class Node:
    """One operator call, or a variable (``op == "null"``).

    ``attrs`` are the file's strings; annotations that are no operator attribute have names in
    double underscores. ``subgraphs`` are the bodies of control-flow operators.
    """

    name: str
    op: str
    attrs: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    inputs: tuple[Entry, ...] = ()
    subgraphs: tuple[Graph, ...] = ()

    @property
    def is_variable(self) -> bool:
        """Whether this is a graph input or a parameter."""
        return self.op == VARIABLE


@dataclass(frozen=True)
class Graph:
    """Nodes in topological order, and the entries that are the graph's outputs.

    ``arguments`` are the names of all variables in order; ``version`` is MXNet's as one number
    (1.9.1: 10901); under ``np_shape`` a size of 0 means zero rather than unknown.
    """

    nodes: tuple[Node, ...]
    heads: tuple[Entry, ...]
    arguments: tuple[str, ...]
    version: int = ASSUMED_VERSION
    np_shape: bool = False

    def walk(self) -> Iterator[tuple[int, Node]]:
        """Yield (index, node) of every node that a head needs, inputs before their users."""
        needed = {entry.node for entry in self.heads}
        for index in reversed(range(len(self.nodes))):
            if index in needed:
                needed.update(entry.node for entry in self.nodes[index].inputs)
        return ((index, node) for index, node in enumerate(self.nodes) if index in needed)

    def variables(self) -> tuple[str, ...]:
        """Return the names of the variables that a head needs, in order."""
        return tuple(node.name for _, node in self.walk() if node.is_variable)

    def with_heads(self, heads: Sequence[Entry]) -> Graph:
        """Return the same graph with other outputs."""
        return replace(self, heads=tuple(heads))


def load(path: str | PathLike[str]) -> Graph:
    """Read a ``-symbol.json`` file. Raises SymbolFormatError, or OSError if it cannot be read."""
    with Path(path).open("rb") as stream:
        data = stream.read(MAX_BYTES + 1)
    return loads(data, path)


def loads(document: str | bytes, path: str | PathLike[str] | None = None) -> Graph:
    """Parse symbol JSON; ``path`` is only named in errors. Raises SymbolFormatError."""
    where = _Where(path)
    if len(document) > MAX_BYTES:
        where.fail(f"is larger than {MAX_BYTES >> 20} MiB, which no symbol file is")
    try:
        text = document.decode("utf-8-sig") if isinstance(document, bytes) else document
        tree = json.loads(
            text, object_pairs_hook=_object, parse_int=_integer, parse_constant=_constant
        )
    except UnicodeDecodeError as error:
        where.fail(f"byte {error.start} is not UTF-8 text; a symbol file is JSON")
    except json.JSONDecodeError as error:
        where.fail(f"is not JSON: {error.msg} at line {error.lineno}, column {error.colno}")
    except RecursionError:
        where.fail("is nested too deeply")
    except ValueError as error:  # from the two hooks below
        where.fail(str(error))
    return _graph(tree, where, depth=0)


def format_graph(graph: Graph) -> str:
    """Draw the graph as a text table, one node a line, subgraphs indented below their node."""
    heads = {entry.node for entry in graph.heads}
    rows = [("#", "op", "name", "inputs", "attributes")]
    for index, node in enumerate(graph.nodes):
        inputs = [
            _printable(graph.nodes[entry.node].name) + (f":{entry.output}" if entry.output else "")
            for entry in node.inputs[:MOST_INPUTS_SHOWN]
        ]
        if len(node.inputs) > MOST_INPUTS_SHOWN:
            inputs.append(f"... ({len(node.inputs)} in all)")
        shown = " ".join(
            f"{_printable(key)}={_printable(value)}"
            for key, value in sorted(node.attrs.items())
            if not is_hidden(key)
        )
        mark = f"{index}*" if index in heads else str(index)
        rows.append((mark, _printable(node.op), _printable(node.name), " ".join(inputs), shown))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    lines = []
    for index, row in enumerate(rows, start=-1):
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)]
        lines.append("  ".join([*cells, row[4]]).rstrip())
        for subgraph in graph.nodes[index].subgraphs if index >= 0 else ():
            lines += ["    " + line for line in format_graph(subgraph).splitlines()]
    return "\n".join(lines) + "\n"


def is_hidden(key: str) -> bool:
    """Whether an attribute is an annotation (``__shape__``) and not the operator's own."""
    return len(key) > 4 and key.startswith("__") and key.endswith("__")


# --- parsing -------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Where:
    """A place in the document, for errors."""

    path: str | PathLike[str] | None
    place: str = ""

    def at(self, place: str) -> _Where:
        return _Where(self.path, f"{self.place}, {place}" if self.place else place)

    def fail(self, reason: str) -> NoReturn:
        raise SymbolFormatError(self.path, self.place or "document", reason) from None


class _Object(dict[str, Any]):
    """A JSON object that remembers the first key it held twice."""

    duplicate: str | None = None


def _object(pairs: list[tuple[str, Any]]) -> _Object:
    result = _Object(pairs)
    if len(result) != len(pairs):
        result.duplicate = _first_duplicate(key for key, _ in pairs)
    return result


def _first_duplicate(names: Iterable[str]) -> str | None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            return name
        seen.add(name)
    return None


def _integer(text: str) -> int:
    if len(text) > MAX_INTEGER_DIGITS:
        raise ValueError(f"holds an integer of {len(text)} digits ({text[:12]}...)")
    return int(text)


def _constant(text: str) -> NoReturn:
    raise ValueError(f"holds {text}, which JSON does not allow")


def _graph(tree: Any, where: _Where, depth: int) -> Graph:
    if depth > MAX_SUBGRAPH_DEPTH:
        where.fail(f"subgraphs are nested more than {MAX_SUBGRAPH_DEPTH} deep")
    tree = _mapping(tree, where)
    nodes: list[Node] = []
    for index, item in enumerate(_sequence(tree, "nodes", where)):
        nodes.append(_node(item, index, nodes, where.at(f"node {index}"), depth))
    heads = _entries(_sequence(tree, "heads", where), nodes, where, "heads")
    if not heads:
        where.at("field heads").fail("is empty; a graph has at least one output")
    _check_arguments(tree, nodes, where)
    arguments = tuple(node.name for node in nodes if node.is_variable)
    twice = _first_duplicate(arguments)
    if twice is not None:
        where.fail(f"two variables are named {_short(twice)}")
    version, np_shape = _properties(tree, where.at("field attrs"))
    return Graph(tuple(nodes), heads, arguments, version, np_shape)


def _node(item: Any, index: int, before: list[Node], where: _Where, depth: int) -> Node:
    item = _mapping(item, where)
    name = _text(item.get("name"), where.at("field name"))
    where = where.at(_short(name))
    op = _text(item.get("op"), where.at("field op"))
    inputs = _entries(_sequence(item, "inputs", where, ()), before, where, "inputs")
    if op == VARIABLE and inputs:
        where.at("field inputs").fail("a variable (op 'null') has no inputs")
    if not name or not op:
        where.at(f"field {'op' if name else 'name'}").fail("is empty")
    bodies = _sequence(item, "subgraphs", where, ())
    subgraphs = tuple(
        _graph(body, where.at(f"subgraphs[{number}]"), depth + 1)
        for number, body in enumerate(bodies)
    )
    return Node(name, op, MappingProxyType(_attributes(item, where)), inputs, subgraphs)


def _attributes(item: Mapping[str, Any], where: _Where) -> dict[str, str]:
    result: dict[str, str] = {}
    for source in reversed(ATTRIBUTE_KEYS):
        place = where.at(f"field {source}")
        for key, value in _mapping(item.get(source, {}), place).items():
            _text(key, place)
            hidden = any(key == word or key.endswith(f"_{word}") for word in HIDDEN_KEYS)
            text = _text(value, place.at(_short(key)))
            result[f"__{key}__" if hidden and not is_hidden(key) else key] = text
    return result


def _entries(
    items: Sequence[Any], nodes: Sequence[Node], where: _Where, key: str
) -> tuple[Entry, ...]:
    result = []
    for number, item in enumerate(items):
        place = where.at(f"{key}[{number}]")
        if not isinstance(item, list) or len(item) not in (2, 3):
            place.fail(f"must be [node, output] or [node, output, version], got {_short(item)}")
        for value in item:
            if type(value) is not int or value < 0:
                place.fail(f"must hold integers of at least 0, got {_short(item)}")
        if item[0] >= len(nodes):
            place.fail(
                f"points at node {item[0]}, but only the {len(nodes)} node(s) before it exist "
                "(a graph has no cycles and no forward references)"
            )
        if item[1] >= MAX_OUTPUTS or (nodes[item[0]].is_variable and item[1]):
            place.fail(f"asks for output {item[1]} of {_short(nodes[item[0]].name)}")
        result.append(Entry(item[0], item[1]))
    return tuple(result)


def _check_arguments(tree: Mapping[str, Any], nodes: Sequence[Node], where: _Where) -> None:
    """Check the two redundant lists; what they say follows from the nodes."""
    for key in ("arg_nodes", "node_row_ptr"):
        place = where.at(f"field {key}")
        for value in _sequence(tree, key, where, ()):
            if type(value) is not int or value < 0:
                place.fail(f"must hold integers of at least 0, got {_short(value)}")
            if key == "arg_nodes" and not (value < len(nodes) and nodes[value].is_variable):
                place.fail(f"lists node {value}, which is not a variable")


def _properties(tree: Mapping[str, Any], where: _Where) -> tuple[int, bool]:
    """Read (version, np_shape) from ``{"mxnet_version": ["int", 10901], ...}``."""
    values = {"mxnet_version": ASSUMED_VERSION, "is_np_shape": 0}
    for key, value in _mapping(tree.get("attrs", {}), where).items():
        if key not in values:
            continue  # 0.9 wrote more here (inferred shapes, storage types); nothing needs it
        if not isinstance(value, list) or len(value) != 2 or type(value[1]) is not int:
            where.at(repr(key)).fail(f'must be ["int", number], got {_short(value)}')
        values[key] = value[1]
    return values["mxnet_version"], bool(values["is_np_shape"])


_REQUIRED: Any = object()


def _sequence(
    tree: Mapping[str, Any], key: str, where: _Where, default: Sequence[Any] = _REQUIRED
) -> Sequence[Any]:
    value = tree.get(key, default)
    if value is _REQUIRED:
        where.at(f"field {key}").fail("is missing")
    if value is not default and not isinstance(value, list):
        where.at(f"field {key}").fail(f"must be a list, got {_short(value)}")
    return value


def _mapping(value: Any, where: _Where) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        where.fail(f"must be an object, got {_short(value)}")
    if isinstance(value, _Object) and value.duplicate is not None:
        where.fail(f"holds the key {_short(value.duplicate)} twice")
    return value


def _text(value: Any, where: _Where) -> str:
    if value is None:
        where.fail("is missing")
    if not isinstance(value, str):
        where.fail(f"must be a string, got {_short(value)}")
    if not value.isascii() and any("\ud800" <= letter <= "\udfff" for letter in value):
        where.fail("holds half of a UTF-16 surrogate pair, which is no text")
    return value


def _short(value: Any) -> str:
    """Show a value of the document in a few words, however large or deep it is."""
    if isinstance(value, dict):
        return f"an object of {len(value)} items"
    if isinstance(value, list):
        if len(value) > 4 or any(isinstance(item, (list, dict)) for item in value):
            return f"a list of {len(value)} items"
        return f"[{', '.join(map(_short, value))}]"
    return repr(_cut(value)) if isinstance(value, str) else json.dumps(value)


def _cut(text: str, most: int = 60) -> str:
    return text if len(text) <= most else text[: most - 3] + "..."


def _printable(text: str) -> str:
    """Escape control characters (names come from a file and go to a terminal); cut long text."""
    text = _cut(text)
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
