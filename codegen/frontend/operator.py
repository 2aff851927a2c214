"""What the importer knows about an operator of MXNet, and the values that flow between nodes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray
from tvm import relax

from gluonlstm.spec import LSTMSpec

from .attributes import Attributes, Unsupported
from .builder import LSTMEmitter, ModelBuilder
from .sizes import Shape


@dataclass(frozen=True)
class Constant:
    """An array that is known when compiling: a parameter, or computed from parameters."""

    name: str
    array: NDArray[Any]


@dataclass(frozen=True)
class Zeros:
    """Zeros, some of whose sizes (None) follow from where they are used: initial states."""

    shape: tuple[int | None, ...]
    dtype: str


Known: TypeAlias = Constant | Zeros
Value: TypeAlias = Constant | Zeros | relax.Var


def to_array(known: Known) -> NDArray[Any]:
    """Return what is known when compiling as an array. Raises Unsupported for unknown sizes."""
    if isinstance(known, Constant):
        return known.array
    sizes = [size for size in known.shape if size is not None]
    if len(sizes) != len(known.shape):
        raise Unsupported(f"zeros of unknown shape {known.shape} can only be initial states")
    return np.zeros(sizes, known.dtype)


def constant(value: Value) -> Constant:
    """Return a value that must be known when compiling, with zeros spelled out."""
    if isinstance(value, Zeros):
        return Constant("zeros", to_array(value))
    assert isinstance(value, Constant)  # the importer has seen to it
    return value


@dataclass(frozen=True)
class Need:
    """What a node requires of an input, so that free graph inputs get a shape, dtype and role.

    ``role`` is "data", "hidden", "cell" or "lengths" (see gluonlstm.artifact.InputInfo).
    """

    shape: Shape
    dtype: str | None = None  # None: whatever it is
    role: str = "data"


@dataclass
class Context:
    """What a converter works with: the node's name, the module so far, and the LSTM kernels."""

    name: str
    builder: ModelBuilder
    emitter: LSTMEmitter
    lstms: list[LSTMSpec]  # of every LSTM lowered so far

    def tensor(self, value: Value) -> relax.Var:
        """Return a value as a Relax variable; constants become parameters of the function."""
        if isinstance(value, Constant):
            return self.builder.weight(value.name, value.array)
        if isinstance(value, Zeros):
            return self.builder.zeros(to_array(value).shape, value.dtype)
        return value


class Fold(Protocol):
    """Compute a node's outputs from constants, when compiling."""

    def __call__(self, config: Any, name: str, inputs: Sequence[Any]) -> Sequence[Known]:
        """Return the outputs, named after the node.

        ``inputs`` are constants (Known), but for the operator's ``shape_inputs``: these may be
        None, which is not known yet.
        """
        ...


class Infer(Protocol):
    """Say what a node needs of its inputs, given what is needed of its outputs.

    ``known`` holds the inputs that are constants (else None), ``needs`` what the users of each
    output need (None where nothing is known).
    """

    def __call__(
        self, config: Any, known: Sequence[Known | None], needs: Sequence[Need | None]
    ) -> Sequence[Need | None]:
        """Return a need, or None, for each input."""
        ...


class Convert(Protocol):
    """Lower one node to Relax."""

    def __call__(self, config: Any, context: Context, inputs: Sequence[Value]) -> Sequence[Value]:
        """Emit the node's code and return its outputs."""
        ...


def _one_output(config: Any) -> tuple[str, ...]:
    return ("output",)


def _no_constants(config: Any) -> tuple[int, ...]:
    return ()


@dataclass(frozen=True)
class Operator:
    """How one operator is read, folded and lowered.

    ``read`` turns attributes into a configuration (raises Unsupported); the other functions take
    it. Without ``convert`` the operator is only possible on constants, without ``fold`` only on
    run-time values.
    """

    read: Callable[[Attributes], Any]
    inputs: Callable[[Any], int]  # how many inputs a node must have
    fold: Fold | None = None
    infer: Infer | None = None
    convert: Convert | None = None
    outputs: Callable[[Any], tuple[str, ...]] = field(default=_one_output)  # MXNet's suffixes
    constants: Callable[[Any], tuple[int, ...]] = field(default=_no_constants)  # input numbers
    shape_inputs: frozenset[int] = frozenset()  # numbers of inputs of which only the shape matters
    # (configuration, rank) -> output axis i is input axis [i], of operators that do no more.
    permutation: Callable[[Any, int], tuple[int, ...]] | None = None
