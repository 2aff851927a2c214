"""Lower one LSTM of a model to kernels: plan, pack, emit; the seam between frontend and kernels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import tvm
from numpy.typing import NDArray
from tvm import relax

from gluonlstm.spec import LSTMSpec

from .frontend.builder import ModelBuilder, dtype_of, sizes_of
from .kernels.layer import LSTMLayerShape
from .kernels.lstm_cpu import CPUTiles, lstm_layer
from .packing import pack_layer
from .plan import LayerPlan, compute_dtype, plan_lstm
from .target import CPUTarget


class KernelEmitter:
    """Emits the LSTMs of one model, one kernel call a layer.

    ``plans`` records what was chosen for each, by name.
    """

    def __init__(self, target: CPUTarget) -> None:
        """Emit for ``target``."""
        self.target = target
        self.plans: dict[str, tuple[LayerPlan, ...]] = {}
        self._kernels: dict[tuple[LSTMLayerShape, CPUTiles], tvm.ir.GlobalVar] = {}

    def emit(
        self,
        builder: ModelBuilder,
        name: str,
        spec: LSTMSpec,
        params: Mapping[str, NDArray[Any]],
        x: relax.Var,  # (T, N, C)
        h0: relax.Var,  # (L*D, N, R)
        c0: relax.Var,  # (L*D, N, H)
        lengths: relax.Var | None,  # (N,) int32
    ) -> tuple[relax.Var, relax.Var, relax.Var]:
        """Emit the LSTM ``name``; return y (T, N, D*R), h (L*D, N, R) and c (L*D, N, H)."""
        plans = self.plans[name] = plan_lstm(spec, self.target, lengths is not None)
        dtype = compute_dtype(spec.dtype)
        y, h0, c0 = (_cast(builder, value, dtype) for value in (x, h0, c0))
        finals: list[tuple[relax.Var, relax.Var]] = []
        for plan in plans:
            y, h, c = self._layer(builder, name, spec, params, plan, (y, h0, c0), lengths)
            finals.append((h, c))
        h, c = (_stack(builder, list(states)) for states in zip(*finals, strict=True))
        results = (_cast(builder, value, spec.dtype) for value in (y, h, c))
        return tuple(results)  # type: ignore[return-value]

    def _layer(
        self,
        builder: ModelBuilder,
        name: str,
        spec: LSTMSpec,
        params: Mapping[str, NDArray[Any]],
        plan: LayerPlan,
        inputs: tuple[relax.Var, relax.Var, relax.Var],
        lengths: relax.Var | None,
    ) -> tuple[relax.Var, relax.Var, relax.Var]:
        x, h0, c0 = inputs
        steps, batch, _ = sizes_of(x)
        shape = plan.shape
        packed = pack_layer(spec, plan.layer, params, plan.tiles.lanes, shape.dtype)
        weights = [
            builder.weight(f"{name}.l{plan.layer}.{key}", array) for key, array in packed.items()
        ]
        function = self._kernel(builder, plan)
        directions, width = shape.directions, shape.output_size
        sizes: list[list[Any]] = [
            [steps, batch, directions * width],
            [directions, batch, width],
            [directions, batch, shape.hidden_size],
        ]
        outputs = [relax.TensorType(size, shape.dtype) for size in sizes]
        row = relax.prim_value(plan.layer * directions)
        arguments: Any = [x, *weights, h0, c0, *([] if lengths is None else [lengths]), row]
        result = builder.emit(relax.call_tir(function, arguments, out_ty=outputs))
        y, h, c = (builder.emit(relax.TupleGetItem(result, index)) for index in range(3))
        return y, h, c

    def _kernel(self, builder: ModelBuilder, plan: LayerPlan) -> tvm.ir.GlobalVar:
        """Add the plan's kernel to the module; equal layers share one."""
        key = (plan.shape, plan.tiles)
        if key not in self._kernels:
            symbol = f"{plan.kernel}_{len(self._kernels)}"
            kernel = lstm_layer(plan.shape, plan.tiles).with_attr("global_symbol", symbol)
            self._kernels[key] = builder.bb.add_func(kernel, symbol)
        return self._kernels[key]


def _cast(builder: ModelBuilder, value: relax.Var, dtype: str) -> relax.Var:
    if dtype_of(value) == dtype:
        return value
    return builder.emit(relax.op.astype(value, dtype))


def _stack(builder: ModelBuilder, states: list[Any]) -> relax.Var:
    return states[0] if len(states) == 1 else builder.emit(relax.op.concat(states, axis=0))
