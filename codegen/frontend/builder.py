"""ModelBuilder: a Relax function under construction, with its inputs, weights and outputs named.

The function is ``main(inputs..., weights...) -> tuple of outputs``, the order being the one of
``LoweredModel``. Free sizes are int64 variables that the runtime reads off the arguments' shapes.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, cast

import numpy as np
import tvm
from numpy.typing import NDArray
from tvm import relax, tirx

from gluonlstm.artifact import InputInfo, OutputInfo
from gluonlstm.errors import InvalidArgumentError
from gluonlstm.spec import LSTMSpec

MAIN = "main"


@dataclass(frozen=True)
class LoweredModel:
    """A Relax module whose ``main`` takes ``inputs`` and then ``weights``, in order.

    ``spec`` is the LSTM's, in the layout of the inputs, if the model is one LSTM and nothing else.
    """

    mod: tvm.IRModule
    inputs: tuple[InputInfo, ...]
    outputs: tuple[OutputInfo, ...]
    weights: Mapping[str, NDArray[Any]]
    spec: LSTMSpec | None = None

    def with_variant(self, name: str, other: LoweredModel) -> LoweredModel:
        """Return this model with ``other``'s ``main``, lowered differently, as function ``name``.

        Both take the same arguments; no other function may have the same name in both.
        """
        if (self.inputs, list(self.weights)) != (other.inputs, list(other.weights)):
            raise InvalidArgumentError(f"{name} does not take what {MAIN} takes.")
        own, others = cast(Any, self.mod), cast(Any, other.mod)
        functions = dict(own.functions)
        for var, function in others.functions.items():
            if var.name_hint == MAIN:  # kernels keep their variables, which main refers to
                function, var = function.with_attr("global_symbol", name), tvm.ir.GlobalVar(name)
            functions[var] = function
        mod = tvm.IRModule(functions)
        return replace(self, mod=mod)


class LSTMEmitter(Protocol):
    """Lowers one LSTM; implemented by the kernels, called by the frontend."""

    def emit(
        self,
        builder: ModelBuilder,
        name: str,
        spec: LSTMSpec,
        params: Mapping[str, NDArray[Any]],
        x: relax.Var,
        h0: relax.Var,
        c0: relax.Var,
        lengths: relax.Var | None,
    ) -> tuple[relax.Var, relax.Var, relax.Var]:
        """Emit the LSTM ``name`` and return (y, h, c).

        ``x`` is (T, N, C) whatever ``spec.layout`` says, ``h0`` (L*D, N, R), ``c0`` (L*D, N, H),
        ``lengths`` int32 (N,); ``y`` is (T, N, D*R), ``h`` and ``c`` are shaped like ``h0`` and
        ``c0``. ``params`` maps canonical names to arrays and holds biases (zeros) even where the
        spec has none.
        """
        ...


class ModelBuilder:
    """Builds one module; a context manager, so that an error leaves no scope open.

    ::

        with ModelBuilder() as builder:
            x = builder.input("data", ("T", "N", 8), "float32")
            w = builder.weight("w", array)  # (8, 4)
            y = builder.emit(relax.op.matmul(x, w))
            lowered = builder.finish([("output", y)])

    ``bb`` is the Relax BlockBuilder, for ``bb.add_func`` and the like.
    """

    def __init__(self) -> None:
        """Open the function ``main``."""
        self.bb = relax.BlockBuilder()
        self._function = self.bb.function(MAIN)
        self._dataflow = self.bb.dataflow()
        self._symbols: dict[str, tirx.Var] = {}
        self._inputs: list[tuple[InputInfo, relax.Var]] = []
        self._weights: dict[str, tuple[NDArray[Any], relax.Var]] = {}
        self._function.__enter__()
        self._dataflow.__enter__()
        self._open = True

    def __enter__(self) -> ModelBuilder:
        return self

    def __exit__(self, *error: object) -> None:
        self._close(abandon=True)

    def symbol(self, name: str) -> tirx.Var:
        """Return the free size called ``name`` (int64); the same name is the same size."""
        if name not in self._symbols:
            self._symbols[name] = tirx.Var(name, "int64")
        return self._symbols[name]

    def input(
        self,
        name: str,
        shape: Sequence[int | str],
        dtype: str,
        role: str = "data",
        optional: bool = False,
    ) -> relax.Var:
        """Add an input; sizes in ``shape`` that are strings are free. Order of calls is kept."""
        if any(info.name == name for info, _ in self._inputs):
            raise InvalidArgumentError(f"the model has two inputs named {name!r}.")
        info = InputInfo(name, tuple(shape), dtype, role, optional)
        sizes = [self.symbol(size) if isinstance(size, str) else size for size in shape]
        var = relax.Var(_identifier(name), _tensor(sizes, dtype))
        self._inputs.append((info, var))
        return var

    def weight(self, name: str, array: NDArray[Any]) -> relax.Var:
        """Add an array that is stored with the model.

        The same array under the same name is one weight; another array takes the next free name.
        """
        unique, number = name, 1
        while unique in self._weights:
            stored, var = self._weights[unique]
            if stored is array:
                return var
            unique, number = f"{name}_{number}", number + 1
        var = relax.Var(_identifier(unique), _tensor(array.shape, str(array.dtype)))
        self._weights[unique] = (array, var)
        return var

    def emit(self, expr: relax.Expr, name: str = "") -> relax.Var:
        """Bind an expression to a new variable; its shape and dtype are inferred."""
        return self.bb.emit(expr, _identifier(name) if name else "")

    def zeros(self, shape: Sequence[Any], dtype: str) -> relax.Var:
        """Emit a tensor of zeros; sizes are numbers or TIR expressions."""
        sizes: Any = list(shape)
        return self.emit(relax.op.zeros(sizes, dtype))

    def finish(
        self, outputs: Iterable[tuple[str, relax.Var]], spec: LSTMSpec | None = None
    ) -> LoweredModel:
        """Close the function with these named outputs and return the module."""
        pairs = list(outputs)
        results: list[relax.Expr] = [self.bb.emit_output(value) for _, value in pairs]
        self._dataflow.__exit__(None, None, None)
        params = [var for _, var in (*self._inputs, *self._weights.values())]
        self.bb.emit_func_output(results, params)
        self._close(abandon=False)
        mod = self.bb.finalize()
        # Parameters after the first num_input hold the same values at every call.
        mod[MAIN] = mod[MAIN].with_attr("num_input", len(self._inputs))
        return LoweredModel(
            mod,
            tuple(info for info, _ in self._inputs),
            tuple(self._output(name, value) for name, value in pairs),
            {name: np.ascontiguousarray(array) for name, (array, _) in self._weights.items()},
            spec,
        )

    def _output(self, name: str, value: relax.Var) -> OutputInfo:
        shape = tuple(
            size.value if isinstance(size, tirx.IntImm) else self._formula(size)
            for size in sizes_of(value)
        )
        return OutputInfo(name, shape, dtype_of(value))

    def _formula(self, size: Any) -> str:
        """Write a size with the names that were given to :meth:`symbol`."""
        # TVM prints T as T_1, because T is also what its scripts call a module.
        printed = {str(var): name for name, var in self._symbols.items()}
        return re.sub(r"\w+", lambda match: printed.get(match[0], match[0]), str(size))

    def _close(self, abandon: bool) -> None:
        """Leave Relax's scopes: it keeps a global stack of builders."""
        if not self._open:
            return
        self._open = False
        if abandon:  # a builder that goes with open blocks prints a warning
            with contextlib.suppress(Exception):
                self.bb._end_block()
        error = (RuntimeError, RuntimeError("abandoned"), None) if abandon else (None, None, None)
        self._function.__exit__(*error)


def _tensor(shape: Sequence[Any], dtype: str) -> relax.TensorType:
    sizes: Any = list(shape)
    return relax.TensorType(sizes, dtype)


def sizes_of(value: relax.Expr) -> tuple[Any, ...]:
    """Return the sizes of a tensor's shape: TIR integers, variables or expressions."""
    return tuple(cast(Any, value.ty).shape.values)


def dtype_of(value: relax.Expr) -> str:
    """Return a tensor's dtype."""
    return str(cast(Any, value.ty).dtype)


def _identifier(name: str) -> str:
    """Make a name that the printed module can hold; what the user sees keeps the original."""
    text = re.sub(r"\W", "_", name, flags=re.ASCII)
    return text if text and not text[0].isdigit() else f"_{text}"
