"""A symbol graph and its parameters -> a Relax module.

The graph is checked first, and everything that cannot be lowered is reported in one error. What
depends on parameters alone is computed with numpy. Then a walk backwards infers the shapes of the
graph's free inputs from what their users need, and a walk forwards lowers node by node.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gluonlstm.errors import MissingParameterError, ShapeMismatchError, UnsupportedOperatorError
from gluonlstm.spec import LSTMSpec
from gluonlstm.symbol import Entry, Graph, Node

from .attributes import Attributes, Unsupported
from .builder import LoweredModel, LSTMEmitter, ModelBuilder
from .inference import FixedShapes, Inference
from .operator import Constant, Context, Known, Value
from .program import Call, Problem, Program

Params = Mapping[str, NDArray[Any]]


def lower_graph(
    graph: Graph,
    params: Params,
    emitter: LSTMEmitter,
    *,
    shapes: FixedShapes | None = None,
    outputs: Sequence[str] | None = None,
) -> LoweredModel:
    """Lower ``graph`` with ``params`` (names with or without ``arg:`` and ``aux:``).

    ``shapes`` maps input names to sizes: numbers fix a dimension, None leaves it free, equal
    strings are equal sizes. ``outputs`` names the entries to return in place of the graph's heads.
    Raises UnsupportedOperatorError (all nodes at once), MissingParameterError (all at once),
    ShapeMismatchError, or InvalidArgumentError for shapes and outputs that do not fit the graph.
    """
    program = Program(graph, outputs)
    params = {name.removeprefix("arg:").removeprefix("aux:"): a for name, a in params.items()}
    known = fold(program, params)
    inference = Inference(program, known)
    inference.fix(shapes or {})
    with ModelBuilder() as builder:
        values: dict[Entry, Value] = {**known, **inference.declare(builder)}
        lstms: list[LSTMSpec] = []
        for call in program.calls.values():
            if Entry(call.index) not in values:
                _convert(call, Context(call.node.name, builder, emitter, lstms), values)
        results = [
            _head(program, entry, values, Context("heads", builder, emitter, lstms))
            for entry in program.heads
        ]
        pairs = zip(program.head_names(), results, strict=True)
        return builder.finish(pairs, _whole_spec(program, known, lstms))


def fold(program: Program, params: Params) -> dict[Entry, Known]:
    """Compute every entry that follows from parameters.

    Raises UnsupportedOperatorError for nodes that are possible on parameters only, and
    MissingParameterError for parameters that the program needs.
    """
    needed = {call.index: call.operator.constants(call.config) for call in program.calls.values()}
    parameter_side = program.above(needed)
    known: dict[Entry, Known] = {
        entry: Constant(node.name, _checked(node, params[node.name]))
        for entry, node in program.variables
        if node.name in params
    }
    problems: list[Problem] = []
    for call in program.calls.values():
        inputs = [known.get(entry) for entry in call.node.inputs]
        unknown = {number for number, value in enumerate(inputs) if value is None}
        try:
            if call.operator.fold is not None and unknown <= call.operator.shape_inputs:
                results = call.operator.fold(call.config, call.node.name, inputs)
                known.update((Entry(call.index, n), value) for n, value in enumerate(results))
            elif call.operator.convert is None and call.index not in parameter_side:
                raise Unsupported("is only supported on parameters, not on run-time values")
        except Unsupported as problem:
            problems.append((call.node.name, call.node.op, str(problem)))
    if problems:
        raise UnsupportedOperatorError(problems)
    missing = [
        node.name
        for entry, node in program.variables
        if entry.node in parameter_side and entry not in known
    ]
    if missing:
        raise MissingParameterError(missing, params, "the parameters given")
    return known


def _convert(call: Call, context: Context, values: dict[Entry, Value]) -> None:
    assert call.operator.convert is not None  # fold has seen to it
    inputs = [values[entry] for entry in call.node.inputs]
    try:
        results = call.operator.convert(call.config, context, inputs)
    except Unsupported as problem:
        found = (call.node.name, call.node.op, str(problem))
        raise UnsupportedOperatorError([found]) from None
    values.update((Entry(call.index, n), value) for n, value in enumerate(results))


def _head(program: Program, entry: Entry, values: dict[Entry, Value], context: Context) -> Any:
    node = program.graph.nodes[entry.node]
    try:
        return context.tensor(values[entry])
    except Unsupported as problem:
        raise UnsupportedOperatorError([(node.name, node.op, str(problem))]) from None


def _checked(node: Node, array: NDArray[Any]) -> NDArray[Any]:
    """Compare a parameter with the shape that the symbol file notes, where it notes one."""
    array = np.asarray(array)
    try:
        noted = Attributes({"shape": node.attrs.get("__shape__", "None")}).shape("shape", None)
    except Unsupported:
        noted = None  # an annotation, which MXNet does not read either until it infers shapes
    fits = noted is None or (
        len(noted) == array.ndim
        and all(size in (got, 0, -1) for size, got in zip(noted, array.shape, strict=True))
    )
    if not fits:
        raise ShapeMismatchError(
            f"parameter {node.name!r}", noted, array.shape, "The symbol file says so."
        )
    return array


def _whole_spec(
    program: Program, known: Mapping[Entry, Known], lstms: Sequence[LSTMSpec]
) -> LSTMSpec | None:
    """Return the spec, in the layout of its data, if the graph is one LSTM and nothing else."""
    run_time = [call for index, call in program.calls.items() if Entry(index) not in known]
    others = [call for call in run_time if call.operator.permutation is None]
    if len(lstms) != 1 or len(others) != 1:
        return None
    order: tuple[int, ...] = (0, 1, 2)
    entry = others[0].node.inputs[0]
    while entry.node in program.calls and entry not in known:
        call = program.calls[entry.node]
        if call.operator.permutation is None:
            return None
        axes = call.operator.permutation(call.config, 3)
        order, entry = tuple(axes[axis] for axis in order), call.node.inputs[0]
    layouts: dict[tuple[int, ...], str] = {(0, 1, 2): "TNC", (1, 0, 2): "NTC"}
    return lstms[0].replace(layout=layouts[order]) if order in layouts else None
