"""What one LSTM layer computes, as every kernel takes it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class LSTMLayerShape:
    """What one layer computes: sizes, and the options that change the code."""

    input_size: int  # C
    hidden_size: int  # H
    projection_size: int | None  # P
    directions: int  # D
    layers: int  # L
    clip: tuple[float, float] | None
    clip_nan: bool
    lengths: bool
    dtype: str

    @property
    def output_size(self) -> int:
        """R: width of one direction's output."""
        return self.projection_size or self.hidden_size
