"""Choose the kernel and its tuning constants for each layer; pure, and the only place that does."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from gluonlstm.spec import GATES, LSTMSpec

from .kernels.layer import LSTMLayerShape
from .kernels.lstm_cpu import CPUTiles
from .target import CPUTarget

# Gates of one chunk of steps: enough rows that a weight block read from L2 or L3 is reused, few
# enough that they stay near the core.
_CHUNK_ROWS = 384


@dataclass(frozen=True)
class LayerPlan:
    """One layer's kernel, its constants, and why they were chosen."""

    layer: int
    kernel: str
    shape: LSTMLayerShape
    tiles: CPUTiles
    reason: str

    def to_dict(self) -> dict[str, Any]:
        """Return a row for `gluonlstm inspect`."""
        return {
            "layer": self.layer,
            "kernel": self.kernel,
            **asdict(self.tiles),
            "reason": self.reason,
        }


def compute_dtype(dtype: str) -> str:
    """Element type of the arithmetic: 16-bit models are computed in float32."""
    return "float64" if dtype == "float64" else "float32"


def plan_lstm(spec: LSTMSpec, target: CPUTarget, lengths: bool) -> tuple[LayerPlan, ...]:
    """Plan every layer of ``spec`` for ``target``; ``lengths`` says whether lengths are given."""
    dtype = compute_dtype(spec.dtype)
    tiles = _tiles(target, dtype)
    reason = (
        f"{target.vector_registers} registers of {tiles.lanes} {dtype}: tiles of {tiles.rows} rows "
        f"x {len(GATES)} gates of {tiles.lanes} units"
    )
    return tuple(
        LayerPlan(layer, "lstm_cpu", layer_shape(spec, layer, lengths, dtype), tiles, reason)
        for layer in range(spec.num_layers)
    )


def layer_shape(spec: LSTMSpec, layer: int, lengths: bool, dtype: str) -> LSTMLayerShape:
    """Return what one layer computes in ``dtype``."""
    clip = None
    if spec.state_clip_min is not None and spec.state_clip_max is not None:
        clip = (spec.state_clip_min, spec.state_clip_max)
    return LSTMLayerShape(
        input_size=spec.layer_input_size(layer),
        hidden_size=spec.hidden_size,
        projection_size=spec.projection_size,
        directions=spec.directions,
        layers=spec.num_layers,
        clip=clip,
        clip_nan=spec.state_clip_nan,
        lengths=lengths,
        dtype=dtype,
    )


def _tiles(target: CPUTarget, dtype: str) -> CPUTiles:
    """Fill the registers: accumulators, one weight vector per gate, one broadcast, a spare."""
    gates = len(GATES)
    rows = max(1, (target.vector_registers - gates - 2) // gates)
    return CPUTiles(lanes=target.lanes(dtype), rows=rows, chunk_rows=_CHUNK_ROWS)
