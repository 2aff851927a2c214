"""The LSTMs that are measured, and what each costs: floating-point operations and weight bytes."""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gluonlstm.spec import LSTMSpec

FLOAT_BYTES = 4

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class LayerCost:
    """What one layer, all its directions, costs.

    The input GEMM is counted for the whole sequence, the rest, a projection included, for one step.
    A multiplication and an addition are two operations; the cell update, some 10 H operations a
    row, is left out.
    """

    input_flops: int
    input_weight_bytes: int
    step_flops: int
    step_weight_bytes: int


@dataclass(frozen=True)
class Case:
    """One LSTM on one shape, in float32, with initial states of zeros.

    Letters as in gluonlstm.spec: T time, N batch, C input, H hidden, L layers, D directions, P
    projection (0: none); ``clip`` bounds the cell state by -clip and clip (0: no clipping).
    ``source`` says where the shape comes from.
    """

    name: str
    T: int
    N: int
    C: int
    H: int
    L: int = 1
    D: int = 1
    P: int = 0
    clip: float = 0.0
    source: str = ""

    def __post_init__(self) -> None:
        """Raise ValueError for sizes that no LSTM has."""
        if min(self.T, self.N, self.C, self.H, self.L) < 1 or self.D not in (1, 2):
            raise ValueError(f"{self} has a size that is not positive, or D is not 1 or 2.")
        if self.P < 0 or self.clip < 0:
            raise ValueError(f"{self}: P and clip must be positive, or 0 for none.")

    @property
    def spec(self) -> LSTMSpec:
        """The same as gluonlstm describes it."""
        return LSTMSpec(
            self.H,
            num_layers=self.L,
            bidirectional=self.D == 2,
            input_size=self.C,
            projection_size=self.P or None,
            state_clip_min=-self.clip if self.clip else None,
            state_clip_max=self.clip or None,
        )

    @property
    def shape(self) -> str:
        """The sizes in short: ``T50 N32 C512 H512``, then L, D and P where they say something."""
        text = f"T{self.T} N{self.N} C{self.C} H{self.H}"
        for letter, value, usual in (("L", self.L, 1), ("D", self.D, 1), ("P", self.P, 0)):
            text += f" {letter}{value}" * (value != usual)
        return text + f" clip{self.clip:g}" * bool(self.clip)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON-ready values."""
        return asdict(self)

    # --- cost ------------------------------------------------------------------------------

    def layers(self) -> tuple[LayerCost, ...]:
        """Return the cost of each layer."""
        return tuple(self._layer(layer) for layer in range(self.L))

    def _layer(self, layer: int) -> LayerCost:
        width = self.spec.layer_input_size(layer)
        input_weights = self.D * 4 * self.H * width
        step_weights = self.D * (4 * self.H * self.spec.direction_size + self.P * self.H)
        return LayerCost(
            input_flops=2 * self.T * self.N * input_weights,
            input_weight_bytes=FLOAT_BYTES * input_weights,
            step_flops=2 * self.N * step_weights,
            step_weight_bytes=FLOAT_BYTES * step_weights,
        )

    @property
    def flops(self) -> int:
        """Floating-point operations of one call, of the matrix products alone."""
        return sum(cost.input_flops + self.T * cost.step_flops for cost in self.layers())

    @property
    def weight_bytes(self) -> int:
        """Bytes of all weight matrices."""
        return sum(cost.input_weight_bytes + cost.step_weight_bytes for cost in self.layers())

    # --- values ----------------------------------------------------------------------------

    def weights(self) -> dict[str, Floats]:
        """Return the weights by canonical name: the same in every process.

        Uniform in +-1/sqrt(H), as torch initialises them.
        """
        random = np.random.default_rng(zlib.crc32(self.name.encode()))
        bound = 1 / np.sqrt(self.H)
        return {
            parameter.name: random.uniform(-bound, bound, parameter.shape).astype(np.float32)
            for parameter in self.spec.parameters()
        }

    def data(self) -> Floats:
        """Return the input (T, N, C), uniform in [-1, 1): the same in every process."""
        random = np.random.default_rng(zlib.crc32(self.name.encode()) + 1)
        return random.uniform(-1, 1, (self.T, self.N, self.C)).astype(np.float32)


def _ten() -> Iterable[Case]:
    source = "ten shapes from a serving step to a training batch"
    for T, N, C, H, L, D in (
        (1, 1, 256, 256, 1, 1),
        (32, 1, 256, 256, 1, 1),
        (100, 1, 512, 512, 1, 1),
        (50, 1, 1024, 1024, 1, 1),
        (50, 16, 256, 256, 1, 1),
        (50, 32, 512, 512, 1, 1),
        (25, 64, 1024, 1024, 1, 1),
        (35, 20, 650, 650, 2, 1),
        (100, 8, 128, 128, 1, 2),
        (150, 32, 256, 256, 2, 2),
    ):
        stack = f"-L{L}" * (L > 1) + "-bi" * (D == 2)
        yield Case(f"T{T}-N{N}-H{H}{stack}", T, N, C, H, L, D, source=source)


def _deepbench() -> Iterable[Case]:
    source = "DeepBench, training (with its input GEMM, which DeepBench leaves out)"
    training = [(H, N, 25) for H in (512, 1024) for N in (16, 32, 64, 128)]
    training += [(2048, 16, 25), (2048, 128, 25), (1536, 8, 50), (1536, 16, 50), (1536, 32, 50)]
    training += [(256, 16, 150), (256, 32, 150), (256, 64, 150)]
    for H, N, T in training:
        yield Case(f"deepbench-H{H}-N{N}", T, N, H, H, source=source)
    source = "DeepBench, inference on a server (with its input GEMM)"
    server = [(512, N, 25) for N in (1, 2, 4)]
    server += [(H, N, 25) for H in (1024, 2048) for N in (1, 4)]
    server += [(1536, 1, 50), (1536, 4, 50), (256, 1, 150), (256, 4, 150)]
    for H, N, T in server:
        yield Case(f"deepbench-server-H{H}-N{N}", T, N, H, H, source=source)


def _models() -> Iterable[Case]:
    yield Case("step-H128", 1, 1, 128, 128, source="one step of a small model")
    yield Case("fastrnns", 100, 64, 512, 512, source="PyTorch benchmarks/fastrnns, defaults")
    yield Case("ds2", 300, 20, 800, 800, source="Deep Speech 2, one layer")
    for H in (200, 650, 1500):
        for N in (1, 20):
            source = "PTB language model of two layers, served and trained"
            yield Case(f"ptb-{H}-N{N}", 35, N, H, H, L=2, source=source)
    for N in (1, 80):
        source = "AWD-LSTM language model, first and second layer"
        yield Case(f"awd-first-N{N}", 70, N, 400, 1150, source=source)
        yield Case(f"awd-second-N{N}", 70, N, 1150, 1150, source=source)
    for N in (1, 16):
        elmo = {"T": 20, "N": N, "C": 256, "H": 2048, "L": 2, "D": 2, "P": 256}
        yield Case(f"elmo-N{N}", **elmo, clip=3.0, source="ELMo, with its clipping")
        yield Case(f"elmo-unclipped-N{N}", **elmo, source="ELMo, as the peers can compute it")
    yield Case("crnn-100", 35, 1, 512, 100, L=2, D=2, source="CRNN text recognition, a word")
    yield Case("crnn-128", 70, 16, 512, 128, L=2, D=2, source="CRNN text recognition, a batch")
    for T in (24, 168):
        source = "DeepAR forecasting, a day and a week of hours"
        yield Case(f"deepar-T{T}", T, 32, 40, 40, L=2, source=source)


def ten() -> tuple[Case, ...]:
    """Return the ten shapes that the project's figures are about."""
    return tuple(_ten())


def standard() -> tuple[Case, ...]:
    """Return the shapes that others publish figures for, and those of well-known models."""
    return (*_deepbench(), *_models())


GRIDS = ("ten", "standard", "all")


def grid(name: str) -> tuple[Case, ...]:
    """Return the cases of "ten", "standard" or "all"; ValueError for another name."""
    grids = {"ten": ten, "standard": standard, "all": lambda: (*ten(), *standard())}
    if name not in grids:
        raise ValueError(f"there is no grid {name!r}; choose from {', '.join(GRIDS)}.")
    return grids[name]()
