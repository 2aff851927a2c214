"""Shapes, dtypes and roles of a graph's free inputs, inferred from what their users need."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tvm import relax

from gluonlstm.errors import (
    ArgumentTypeError,
    InvalidArgumentError,
    ShapeMismatchError,
    UnsupportedOperatorError,
)
from gluonlstm.symbol import Entry, Node

from .attributes import Unsupported
from .builder import ModelBuilder
from .operator import Constant, Known, Need, Zeros
from .program import Call, Program
from .sizes import Letters, Size, SizeLike, unify_shapes

FixedShapes = Mapping[str, Sequence[int | str | None]]

STATES = ("hidden", "cell")

# What MXNet's numbers for dtypes mean; a variable may note one.
DTYPES = {"1": "float64", "2": "float16", "3": "uint8", "4": "int32", "5": "int8", "6": "int64"}


class Inference:
    """What every entry of a program must be, so far as its users tell."""

    def __init__(self, program: Program, known: Mapping[Entry, Known]) -> None:
        """Walk backwards through the nodes that run at run time (those not in ``known``)."""
        self._known = known
        self._needs: dict[Entry, Need] = {}
        self._roles: dict[Entry, set[str]] = {entry: {"data"} for entry in program.heads}
        self._free = [(entry, node) for entry, node in program.variables if entry not in known]
        for call in reversed(program.calls.values()):
            if Entry(call.index) not in known:
                self._visit(call)

    def fix(self, shapes: FixedShapes) -> None:
        """Join the caller's shapes: numbers fix a size, None leaves it, equal strings are equal."""
        free = {node.name: entry for entry, node in self._free}
        named: dict[str, Size] = {}
        for name, shape in shapes.items():
            if name not in free:
                raise InvalidArgumentError(
                    f"shapes has an entry {name!r}, which is no input of the model; its inputs "
                    f"are {', '.join(map(repr, free))}."
                )
            sizes = given_shape(name, shape, named)
            need = self._needs.setdefault(free[name], Need(sizes))
            if not unify_shapes(need.shape, sizes):
                raise ShapeMismatchError(
                    f"shapes[{name!r}]", need.shape, tuple(shape), "The graph needs this."
                )

    def declare(self, builder: ModelBuilder) -> dict[Entry, relax.Var]:
        """Add the free inputs to the module, in the graph's order."""
        letters = Letters()
        return {entry: self._declare(builder, entry, node, letters) for entry, node in self._free}

    def _visit(self, call: Call) -> None:
        inputs = call.node.inputs
        known = [self._known.get(entry) for entry in inputs]
        needs = [self._needs.get(Entry(call.index, n)) for n in range(len(call.outputs))]
        wanted: Sequence[Need | None] = [None] * len(inputs)
        if call.operator.infer is not None:
            try:
                wanted = call.operator.infer(call.config, known, needs)
            except Unsupported as problem:
                found = (call.node.name, call.node.op, str(problem))
                raise UnsupportedOperatorError([found]) from None
        for number, (entry, need) in enumerate(zip(inputs, wanted, strict=True)):
            self._roles.setdefault(entry, set()).add(need.role if need else "data")
            if need is not None:
                self._join(entry, need, f"input {number} of {call.node.name!r} ({call.node.op})")

    def _join(self, entry: Entry, need: Need, where: str) -> None:
        """Make what a user needs the same as what is known of the entry already."""
        given, before = self._known.get(entry), self._needs.get(entry)
        shape: Sequence[SizeLike] = before.shape if before else need.shape
        if isinstance(given, Constant):
            shape = given.array.shape
        elif isinstance(given, Zeros):
            shape = [Size() if size is None else size for size in given.shape]
        if not unify_shapes(need.shape, shape):
            raise ShapeMismatchError(where, need.shape, tuple(shape))
        dtypes = {n.dtype for n in (need, before) if n is not None and n.dtype is not None}
        if len(dtypes) > 1:
            raise ArgumentTypeError(
                f"{where} must be {need.dtype}, but another user of the same value needs "
                f"{before.dtype if before else None}."
            )
        self._needs[entry] = Need(need.shape, dtypes.pop() if dtypes else None, need.role)

    def _declare(
        self, builder: ModelBuilder, entry: Entry, node: Node, letters: Letters
    ) -> relax.Var:
        need = self._needs.get(entry)
        if need is None:
            raise InvalidArgumentError(
                f"the shape of the input {node.name!r} does not follow from the graph; give it "
                f"as shapes={{{node.name!r}: (...)}} with None for free sizes."
            )
        # A state that something else reads too cannot be left out: only an LSTM knows that its
        # states are zeros then.
        roles = self._roles[entry]
        role = next((state for state in STATES if roles <= {*STATES} and state in roles), "data")
        role = "lengths" if "lengths" in roles else role
        shape = letters.shape(need.shape)
        dtype = need.dtype or DTYPES.get(node.attrs.get("__dtype__", "0"), "float32")
        return builder.input(node.name, shape, dtype, role, role in STATES)


def given_shape(name: str, shape: Sequence[Any], named: dict[str, Size]) -> tuple[SizeLike, ...]:
    """Read one entry of ``shapes``; ``named`` collects the sizes that were given as strings."""
    result: list[SizeLike] = []
    for size in shape:
        number = getattr(size, "__index__", lambda: 0)()
        if size is None:
            result.append(Size())
        elif isinstance(size, str) and size.isidentifier():
            result.append(named.setdefault(size, Size(size)))
        elif not isinstance(size, bool) and number >= 1:
            result.append(number)
        else:
            raise InvalidArgumentError(
                f"shapes[{name!r}] holds {size!r}; a size is a number of at least 1, or None "
                "(or a name) for a free one."
            )
    return tuple(result)
