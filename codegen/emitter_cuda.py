"""Lower one LSTM of a model to CUDA kernels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from numpy.typing import NDArray
from tvm import relax

from gluonlstm.spec import GATES, LSTMSpec

from .cuda.target import CUDATarget
from .emitter import LayerwiseEmitter, Params, Triple, output_sizes
from .frontend.builder import ModelBuilder, sizes_of
from .kernels.gemm_cuda import input_gemm
from .kernels.lstm_cuda_cta import lstm_layer_cta
from .kernels.lstm_cuda_grid import lstm_layer_grid
from .packing import pack_layer_cuda
from .plan_cuda import CUDALayerPlan, plan_lstm_cuda


class CUDAEmitter(LayerwiseEmitter):
    """Emits two kernel calls a layer: the input GEMM and the recurrence.

    ``any_device`` asks for kernels that run on any GPU, however few multiprocessors it has.
    """

    def __init__(self, target: CUDATarget, *, any_device: bool = False, prefix: str = "") -> None:
        """Emit for ``target``."""
        super().__init__(prefix)
        self.target, self.any_device = target, any_device

    @property
    def resident_ctas(self) -> int:
        """Multiprocessors that the device must have; 0 if the number does not matter."""
        needs = (plan.resident_ctas for plans in self.plans.values() for plan in plans)
        return max(needs, default=0)

    def plan(self, spec: LSTMSpec, lengths: bool) -> Sequence[CUDALayerPlan]:
        """Plan every layer."""
        return plan_lstm_cuda(spec, self.target, lengths, any_device=self.any_device)

    def pack(self, spec: LSTMSpec, params: Params, plan: CUDALayerPlan) -> dict[str, NDArray[Any]]:
        """Return one layer's weights; the same for all kernels."""
        return pack_layer_cuda(spec, plan.layer, params)

    def layer(
        self,
        builder: ModelBuilder,
        plan: CUDALayerPlan,
        x: relax.Var,
        weights: Mapping[str, relax.Var],
        states: list[Any],
    ) -> Triple:
        """Emit one layer."""
        shape, (steps, batch, _) = plan.shape, sizes_of(x)
        columns = shape.directions * shape.hidden_size * len(GATES)
        (gates,) = self.call(
            builder,
            "gemm_cuda",
            (shape.input_size, columns, plan.gemm),
            lambda: input_gemm(shape.input_size, columns, plan.gemm),
            [x, weights["w_i2h"], weights["b"]],
            [[steps, batch, columns]],
            shape.dtype,
        )
        outputs = output_sizes(shape, x)
        if plan.cta is None:
            outputs.append([2, *outputs[1]])  # r_work
            outputs += [outputs[2]] * bool(shape.projection_size)  # h_work
        recurrent = [weights[key] for key in ("w_h2h", "w_h2r") if key in weights]
        y, h, c, *_ = self.call(
            builder,
            plan.kernel,
            (shape, plan.cta),
            lambda: lstm_layer_cta(shape, plan.cta) if plan.cta else lstm_layer_grid(shape),
            [gates, *recurrent, *states],
            outputs,
            shape.dtype,
        )
        return y, h, c
