"""Every exception gluonlstm raises on purpose.

All derive from :class:`GluonLSTMError`, and each also from the built-in exception a caller would
expect (``ValueError``, ``TypeError``, ...), so that code written for stock MXNet keeps working.
A message says what went wrong, where (path, byte offset, node, tensor), what was given, what was
expected, and what to do about it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from os import PathLike

MOST_NODES_SHOWN = 20  # of a graph that cannot be compiled; the exception holds all of them


class GluonLSTMError(Exception):
    """Base class: ``except GluonLSTMError`` catches whatever this package raises on purpose."""


class InvalidArgumentError(GluonLSTMError, ValueError):
    """An argument has the right type and an impossible value."""


class ArgumentTypeError(GluonLSTMError, TypeError):
    """An argument has a type or dtype that cannot be used here."""


class ShapeMismatchError(GluonLSTMError, ValueError):
    """A tensor's shape is not the one that its place requires."""

    def __init__(self, name: str, expected: object, got: object, remedy: str = "") -> None:
        """Name the tensor, the shape its place requires and the shape it has."""
        self.name, self.expected, self.got = name, expected, got
        super().__init__(
            f"{name}: expected shape {_shape(expected)}, got {_shape(got)}." + _sentence(remedy)
        )


class MissingParameterError(GluonLSTMError, ValueError):
    """A checkpoint lacks tensors that the model needs."""

    def __init__(self, missing: Iterable[str], available: Iterable[str], where: str = "") -> None:
        """List what is missing (sorted) beside what there is."""
        self.missing, self.available = sorted(missing), sorted(available)
        super().__init__(
            f"missing parameter(s) {', '.join(self.missing)}"
            + (f" in {where}" if where else "")
            + f"; it holds {_listing(self.available)}."
        )


class ParamsFormatError(GluonLSTMError, ValueError):
    """Bytes that are not a valid checkpoint: NDArray list (``.params``), npz or safetensors."""

    def __init__(self, path: str | PathLike[str] | None, offset: int, reason: str) -> None:
        """Say where in the file (byte offset) reading stopped, and why."""
        self.path, self.offset, self.reason = path, offset, reason
        super().__init__(f"{path if path is not None else '<bytes>'}, byte {offset}: {reason}")


class SymbolFormatError(GluonLSTMError, ValueError):
    """JSON that is not a valid MXNet symbol."""

    def __init__(self, path: str | PathLike[str] | None, where: str, reason: str) -> None:
        """Say which part of the document (node, field) is wrong, and why."""
        self.path, self.where, self.reason = path, where, reason
        super().__init__(f"{path if path is not None else '<symbol>'}, {where}: {reason}")


class UnsupportedOperatorError(GluonLSTMError, ValueError):
    """A graph holds nodes that cannot be lowered; ``nodes`` lists all of them at once."""

    def __init__(self, nodes: Sequence[tuple[str, str, str]], remedy: str = "") -> None:
        """Take (node name, operator, reason) of every node that cannot be lowered."""
        self.nodes = sorted(nodes)
        shown = self.nodes[:MOST_NODES_SHOWN]
        lines = "".join(f"\n  {name} ({op}): {reason}" for name, op, reason in shown)
        rest = Counter(op for _, op, _ in self.nodes[MOST_NODES_SHOWN:])
        if rest:
            counts = ", ".join(f"{op} ({count})" for op, count in sorted(rest.items()))
            lines += f"\n  ... and {rest.total()} more: {counts}"
        super().__init__(
            f"{len(self.nodes)} node(s) cannot be compiled:{lines}"
            + ("\n" + remedy if remedy else "")
        )


class ArtifactError(GluonLSTMError, ValueError):
    """A file that is not a compiled model, is damaged, or does not fit this version or CPU."""

    def __init__(self, path: str | PathLike[str] | None, reason: str) -> None:
        """Say which file, and what is wrong with it."""
        self.path, self.reason = path, reason
        super().__init__(f"{path if path is not None else '<artifact>'}: {reason}")


class CompilationError(GluonLSTMError, RuntimeError):
    """The compiler or linker failed on a model that it should have taken."""


class ExecutionError(GluonLSTMError, RuntimeError):
    """A compiled model failed while it ran, on arguments that had been checked."""


class MissingDependencyError(GluonLSTMError, ImportError):
    """An optional part (MXNet, the TVM compiler, the TVM runtime library) is not installed."""


def _shape(shape: object) -> str:
    """Write a shape whose free dimensions are letters: ``(T, N, 8)``."""
    if not isinstance(shape, (tuple, list)):
        return str(shape)
    return "(" + ", ".join(map(str, shape)) + ("," if len(shape) == 1 else "") + ")"


def _sentence(text: str) -> str:
    return f" {text}" if text else ""


def _listing(names: Sequence[str], most: int = 12) -> str:
    if not names:
        return "nothing"
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown}, ... ({len(names)} in all)"
