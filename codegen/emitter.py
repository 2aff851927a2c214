"""Lower one LSTM of a model to kernels: plan, pack, emit; the seam between frontend and kernels."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import tvm
from numpy.typing import NDArray
from tvm import relax

from gluonlstm.spec import LSTMSpec

from .frontend.builder import ModelBuilder, dtype_of, sizes_of
from .kernels.layer import LSTMLayerShape
from .kernels.lstm_cpu import lstm_layer
from .packing import pack_layer
from .plan import LayerPlan, compute_dtype, plan_lstm
from .target import CPUTarget

Params = Mapping[str, NDArray[Any]]
Triple = tuple[relax.Var, relax.Var, relax.Var]


class LayerwiseEmitter(ABC):
    """Emits the LSTMs of one model layer by layer; a subclass knows a target's kernels.

    ``plans`` records what was chosen for each LSTM, by name. ``prefix`` begins the names of all
    kernels, so that two emitters can share a module.
    """

    def __init__(self, prefix: str = "") -> None:
        """Start with no LSTM and no kernel."""
        self.plans: dict[str, Sequence[Any]] = {}
        self._prefix = prefix
        self._kernels: dict[Hashable, tvm.ir.GlobalVar] = {}

    def emit(
        self,
        builder: ModelBuilder,
        name: str,
        spec: LSTMSpec,
        params: Params,
        x: relax.Var,  # (T, N, C)
        h0: relax.Var,  # (L*D, N, R)
        c0: relax.Var,  # (L*D, N, H)
        lengths: relax.Var | None,  # (N,) int32
    ) -> Triple:
        """Emit the LSTM ``name``; return y (T, N, D*R), h (L*D, N, R) and c (L*D, N, H)."""
        plans = self.plans[name] = self.plan(spec, lengths is not None)
        dtype = compute_dtype(spec.dtype)
        y, h0, c0 = (_cast(builder, value, dtype) for value in (x, h0, c0))
        finals: list[tuple[relax.Var, relax.Var]] = []
        for plan in plans:
            packed = self.pack(spec, params, plan)
            weights = {
                key: builder.weight(f"{name}.l{plan.layer}.{key}", array)
                for key, array in packed.items()
            }
            row = relax.prim_value(plan.layer * spec.directions)
            states = [h0, c0, *([] if lengths is None else [lengths]), row]
            y, h, c = self.layer(builder, plan, y, weights, states)
            finals.append((h, c))
        h, c = (_stack(builder, list(states)) for states in zip(*finals, strict=True))
        y, h, c = (_cast(builder, value, spec.dtype) for value in (y, h, c))
        return y, h, c

    @abstractmethod
    def plan(self, spec: LSTMSpec, lengths: bool) -> Sequence[Any]:
        """Plan every layer."""

    @abstractmethod
    def pack(self, spec: LSTMSpec, params: Params, plan: Any) -> dict[str, NDArray[Any]]:
        """Return one layer's weights as its kernels take them."""

    @abstractmethod
    def layer(
        self,
        builder: ModelBuilder,
        plan: Any,
        x: relax.Var,
        weights: Mapping[str, relax.Var],
        states: list[Any],
    ) -> Triple:
        """Emit one layer: return y (T, N, D*R), h (D, N, R) and c (D, N, H).

        ``states`` are the kernels' last arguments: h0, c0, lengths if given, and the first row.
        """

    def call(
        self,
        builder: ModelBuilder,
        kernel: str,
        key: Hashable,
        make: Callable[[], Any],
        arguments: Sequence[Any],
        outputs: Sequence[Sequence[Any]],
        dtype: str,
    ) -> list[relax.Var]:
        """Call a kernel and return its outputs, of these sizes; equal keys share one kernel."""
        if (kernel, key) not in self._kernels:
            symbol = f"{self._prefix}{kernel}_{len(self._kernels)}"
            function = make().with_attr("global_symbol", symbol)
            self._kernels[kernel, key] = builder.bb.add_func(function, symbol)
        types = [relax.TensorType(list(sizes), dtype) for sizes in outputs]
        function, operands = self._kernels[kernel, key], list(arguments)
        result = builder.emit(relax.call_tir(function, operands, out_ty=types))  # type: ignore[arg-type]
        if len(types) == 1:  # no tuple then
            return [result]
        return [builder.emit(relax.TupleGetItem(result, index)) for index in range(len(types))]


class CPUEmitter(LayerwiseEmitter):
    """Emits one kernel call a layer, for a CPU."""

    def __init__(self, target: CPUTarget, prefix: str = "") -> None:
        """Emit for ``target``."""
        super().__init__(prefix)
        self.target = target

    def plan(self, spec: LSTMSpec, lengths: bool) -> Sequence[LayerPlan]:
        """Plan every layer."""
        return plan_lstm(spec, self.target, lengths)

    def pack(self, spec: LSTMSpec, params: Params, plan: LayerPlan) -> dict[str, NDArray[Any]]:
        """Return one layer's weights as lstm_cpu.py takes them."""
        return pack_layer(spec, plan.layer, params, plan.tiles.lanes, plan.shape.dtype)

    def layer(
        self,
        builder: ModelBuilder,
        plan: LayerPlan,
        x: relax.Var,
        weights: Mapping[str, relax.Var],
        states: list[Any],
    ) -> Triple:
        """Emit one layer."""
        y, h, c = self.call(
            builder,
            plan.kernel,
            (plan.shape, plan.tiles),
            lambda: lstm_layer(plan.shape, plan.tiles),
            [x, *weights.values(), *states],
            output_sizes(plan.shape, x),
            plan.shape.dtype,
        )
        return y, h, c


def output_sizes(shape: LSTMLayerShape, x: relax.Var) -> list[list[Any]]:
    """Return the sizes of a layer's y, h_n and c_n."""
    steps, batch, _ = sizes_of(x)
    d, width = shape.directions, shape.output_size
    return [[steps, batch, d * width], [d, batch, width], [d, batch, shape.hidden_size]]


def _cast(builder: ModelBuilder, value: relax.Var, dtype: str) -> relax.Var:
    if dtype_of(value) == dtype:
        return value
    return builder.emit(relax.op.astype(value, dtype))


def _stack(builder: ModelBuilder, states: list[Any]) -> relax.Var:
    return states[0] if len(states) == 1 else builder.emit(relax.op.concat(states, axis=0))
