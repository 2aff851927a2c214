"""Choose the CUDA kernels and their constants for each layer; pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from gluonlstm.errors import InvalidArgumentError
from gluonlstm.spec import GATES, LSTMSpec

from .cuda.target import CUDATarget
from .kernels import lstm_cuda_grid
from .kernels.gemm_cuda import GEMMTiles
from .kernels.layer import LSTMLayerShape
from .kernels.lstm_cuda_cta import CTATiles
from .plan import layer_shape

# Up to here a CTA gets through a step on its own weights sooner than a grid through its barrier.
_MOST_UNITS_OF_A_CTA = 128
_STATIC_SHARED_MEMORY = 48 << 10  # bytes; more needs dynamic shared memory
_ROWS = (4, 2, 1)
_WARP, _MOST_THREADS = 32, 512
_SMALL_GEMM = GEMMTiles()
_LARGE_GEMM = GEMMTiles(block_m=128, block_n=128, block_k=8, thread_m=8, thread_n=8)


@dataclass(frozen=True)
class CUDALayerPlan:
    """One layer's kernels, their constants, and why they were chosen.

    ``cta`` is None for the persistent grid, which needs ``resident_ctas`` multiprocessors.
    """

    layer: int
    shape: LSTMLayerShape
    gemm: GEMMTiles
    cta: CTATiles | None
    resident_ctas: int
    reason: str

    @property
    def kernel(self) -> str:
        """Name of the kernel of the recurrence."""
        return "lstm_cuda_grid" if self.cta is None else "lstm_cuda_cta"

    def to_dict(self) -> dict[str, Any]:
        """Return a row for `gluonlstm inspect`."""
        return {
            "layer": self.layer,
            "kernel": self.kernel,
            "gemm": f"{self.gemm.block_m}x{self.gemm.block_n}",
            "resident_ctas": self.resident_ctas,
            "reason": self.reason,
        }


def plan_lstm_cuda(
    spec: LSTMSpec, target: CUDATarget, lengths: bool, *, any_device: bool = False
) -> tuple[CUDALayerPlan, ...]:
    """Plan every layer of ``spec``; ``any_device`` asks for kernels that run on any GPU.

    Raises InvalidArgumentError for float64 and for sizes that no kernel takes.
    """
    if spec.dtype == "float64":
        raise InvalidArgumentError(
            "a float64 LSTM cannot be compiled for CUDA: the kernels compute in float32. Give the "
            "spec dtype='float32', or compile for 'llvm'."
        )
    return tuple(
        _plan_layer(spec, layer, target, lengths, any_device) for layer in range(spec.num_layers)
    )


def _plan_layer(
    spec: LSTMSpec, layer: int, target: CUDATarget, lengths: bool, any_device: bool
) -> CUDALayerPlan:
    shape = layer_shape(spec, layer, lengths, "float32")
    columns = shape.directions * shape.hidden_size * len(GATES)
    gemm = _LARGE_GEMM if columns >= 1024 else _SMALL_GEMM
    widest = max(shape.hidden_size, shape.output_size)
    needed = lstm_cuda_grid.ctas(shape)
    small = widest <= _MOST_UNITS_OF_A_CTA
    if not small and not any_device and lstm_cuda_grid.supports(shape):
        if needed <= target.multiprocessors:
            reason = (
                f"{needed} CTAs of {lstm_cuda_grid.UNITS} units hold the weights in registers, on "
                f"{target.multiprocessors} multiprocessors"
            )
            return CUDALayerPlan(layer, shape, gemm, None, needed, reason)
        reason = f"a grid of {needed} CTAs exceeds {target.multiprocessors} multiprocessors"
    elif small:
        reason = f"{widest} units or less: no barrier across the grid"
    else:
        reason = "runs on any device"
    return CUDALayerPlan(layer, shape, gemm, _cta_tiles(shape), 0, reason)


def _cta_tiles(shape: LSTMLayerShape) -> CTATiles:
    """Take as many rows for a CTA as its static shared memory holds."""
    widest = max(shape.hidden_size, shape.output_size)
    threads = min(_MOST_THREADS, -(-widest // _WARP) * _WARP)
    for rows in _ROWS:
        tiles = CTATiles(rows, threads)
        if tiles.shared_bytes(shape) <= _STATIC_SHARED_MEMORY:
            return tiles
    raise InvalidArgumentError(
        f"hidden_size={shape.hidden_size} with outputs of {shape.output_size} is too large for "
        f"CUDA: their sum must be at most {_STATIC_SHARED_MEMORY // 4}."
    )
