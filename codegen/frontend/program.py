"""A graph whose every node is known: its operator, its configuration, its outputs' names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gluonlstm.errors import InvalidArgumentError, SymbolFormatError, UnsupportedOperatorError
from gluonlstm.symbol import Entry, Graph, Node

from .attributes import Attributes, Unsupported
from .operator import Operator
from .registry import OPERATORS

Problem = tuple[str, str, str]  # node name, operator, reason

# What the graphs of gluonlstm.LSTM hold where MXNet's own operator cannot do the work on a CPU.
LOOP_OPERATORS = ("_foreach", "SequenceMask", "SequenceReverse")
LOOP_REMEDY = (
    "If net.export wrote this file for a gluonlstm.LSTM, write it with gluonlstm.export instead, "
    "which keeps an LSTM one operator."
)


@dataclass(frozen=True)
class Call:
    """One node that is not a variable, with its attributes read."""

    index: int
    node: Node
    operator: Operator
    config: Any

    @property
    def outputs(self) -> tuple[str, ...]:
        """The outputs' names, without the node's."""
        return self.operator.outputs(self.config)


class Program:
    """The part of a graph that its heads need, checked: every entry exists.

    Raises UnsupportedOperatorError with all nodes that cannot be lowered as far as the graph alone
    tells, SymbolFormatError for an output that an operator does not have, InvalidArgumentError for
    names in ``outputs`` (which replace the heads) that the graph does not have.
    """

    def __init__(self, graph: Graph, outputs: Sequence[str] | None = None) -> None:
        """Check ``graph``, cut at ``outputs``."""
        self.graph = graph if outputs is None else _cut(graph, outputs)
        self.calls: dict[int, Call] = {}
        self.variables: list[tuple[Entry, Node]] = []
        problems: list[Problem] = []
        for index, node in self.graph.walk():
            if node.is_variable:
                self.variables.append((Entry(index), node))
                continue
            try:
                self.calls[index] = read_call(index, node)
            except Unsupported as problem:
                problems.append((node.name, node.op, str(problem)))
        if problems:
            loops = any(op in LOOP_OPERATORS for _, op, _ in problems)
            raise UnsupportedOperatorError(problems, LOOP_REMEDY if loops else "")
        for call in self.calls.values():
            self._check_entries(call.node.inputs, f"node {call.node.name!r}, field inputs")
        self._check_entries(self.graph.heads, "field heads")

    @property
    def heads(self) -> tuple[Entry, ...]:
        """The graph's outputs."""
        return self.graph.heads

    def head_names(self) -> list[str]:
        """Name the heads as MXNet does, numbered where a name comes twice."""
        names: list[str] = []
        for entry in self.heads:
            call = self.calls.get(entry.node)
            name = self.graph.nodes[entry.node].name
            unique = name = f"{name}_{call.outputs[entry.output]}" if call else name
            while unique in names:
                unique = f"{name}_{names.count(name) + len(names)}"
            names.append(unique)
        return names

    def above(self, calls: Mapping[int, Sequence[int]]) -> set[int]:
        """Return the nodes that compute these inputs (node index -> input numbers)."""
        result: set[int] = set()
        for index, call in reversed(self.calls.items()):
            inputs = call.node.inputs
            numbers = range(len(inputs)) if index in result else calls.get(index, ())
            result.update(inputs[number].node for number in numbers)
        return result

    def _check_entries(self, entries: Sequence[Entry], where: str) -> None:
        for entry in entries:
            node, call = self.graph.nodes[entry.node], self.calls.get(entry.node)
            count = 1 if call is None else len(call.outputs)
            if entry.output >= count:
                raise SymbolFormatError(
                    None,
                    where,
                    f"asks for output {entry.output} of {node.name!r} ({node.op}), which has "
                    f"{count}",
                )


def read_call(index: int, node: Node) -> Call:
    """Read one node's attributes. Raises Unsupported."""
    operator = OPERATORS.get(node.op)
    if operator is None:
        raise Unsupported("the operator is not supported")
    attrs = Attributes(node.attrs)
    config = operator.read(attrs)
    attrs.finish()
    needed = operator.inputs(config)
    if len(node.inputs) != needed:
        raise Unsupported(f"has {len(node.inputs)} input(s) and needs {needed}")
    return Call(index, node, operator, config)


def _cut(graph: Graph, outputs: Sequence[str]) -> Graph:
    """Make the entries called ``outputs`` the heads: ``fc_output``, or ``fc`` for its first."""
    if isinstance(outputs, str) or not outputs:
        raise InvalidArgumentError(f"outputs={outputs!r} must be a list of one name or more.")
    entries = dict(_entry_names(graph))
    missing = [name for name in outputs if name not in entries]
    if missing:
        known = ", ".join(map(repr, [*entries][-6:]))
        raise InvalidArgumentError(
            f"the graph has no output {missing[0]!r}; outputs must name nodes or their outputs, "
            f"such as {known}."
        )
    return graph.with_heads([entries[name] for name in outputs])


def _entry_names(graph: Graph) -> Iterator[tuple[str, Entry]]:
    for index, node in enumerate(graph.nodes):
        yield node.name, Entry(index)
        if node.is_variable:
            continue
        try:
            suffixes = read_call(index, node).outputs
        except Unsupported:  # may well lie beyond the cut
            suffixes = ("output",)
        for number, suffix in enumerate(suffixes):
            yield f"{node.name}_{suffix}", Entry(index, number)
