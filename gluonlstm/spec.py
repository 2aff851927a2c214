"""LSTMSpec: every hyper-parameter of one LSTM, and what follows from them.

This is the only place that knows parameter names, shapes and their order, the gate order and the
state layout. Dimension letters used throughout the project, in code and text:

===  =============================================================
T    time steps
N    batch
C    input features of the first layer
H    hidden size (cell width)
P    projection size
R    width of one direction's output: P with a projection, else H
D    directions: 1, or 2 when bidirectional
L    layers
4    gates, in the order i (input), f (forget), g (candidate), o (output)
===  =============================================================
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from gluonlstm.errors import ArgumentTypeError, InvalidArgumentError

GATES = ("i", "f", "g", "o")
LAYOUTS = ("TNC", "NTC")
DTYPES = ("float32", "float64", "float16", "bfloat16")
DIRECTION_LETTERS = ("l", "r")  # l runs forward in time, r runs backward

# Kinds of parameter in the order in which Gluon registers them, layer by layer.
KINDS = ("i2h_weight", "h2h_weight", "i2h_bias", "h2h_bias", "h2r_weight")


@dataclass(frozen=True)
class LSTMParameter:
    """One weight matrix or bias vector of an LSTM.

    ``name`` is the canonical name, e.g. ``r1_h2h_weight`` for layer 1, backward direction.
    """

    name: str
    layer: int
    direction: int
    kind: str
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


def parameter_name(layer: int, direction: int, kind: str) -> str:
    """Return the canonical name of a parameter: ``{l|r}{layer}_{kind}``."""
    return f"{DIRECTION_LETTERS[direction]}{layer}_{kind}"


@dataclass(frozen=True)
class LSTMSpec:
    """Hyper-parameters of one LSTM, as ``mxnet.gluon.rnn.LSTM`` takes them, validated.

    ``input_size`` 0 means not known yet (deferred initialisation); shapes that depend on it then
    hold 0. ``projection_size`` 0 is the same as None. Raises InvalidArgumentError or
    ArgumentTypeError for values that have no meaning. ``state_clip_nan`` without bounds is accepted
    and has no effect, as in MXNet.
    """

    hidden_size: int
    num_layers: int = 1
    layout: str = "TNC"
    dropout: float = 0.0
    bidirectional: bool = False
    input_size: int = 0
    projection_size: int | None = None
    state_clip_min: float | None = None
    state_clip_max: float | None = None
    state_clip_nan: bool = False
    dtype: str = "float32"
    use_sequence_length: bool = False
    bias: bool = True

    def __post_init__(self) -> None:
        """Normalise spellings (projection_size=0, numpy integers) and check every field."""
        for name, least in (("hidden_size", 1), ("num_layers", 1), ("input_size", 0)):
            object.__setattr__(self, name, _integer(name, getattr(self, name), least))
        if self.projection_size is not None:
            projection = _integer("projection_size", self.projection_size, 0) or None
            object.__setattr__(self, "projection_size", projection)
        for name in ("bidirectional", "state_clip_nan", "use_sequence_length", "bias"):
            object.__setattr__(self, name, bool(getattr(self, name)))
        if self.layout not in LAYOUTS:
            raise InvalidArgumentError(f"layout={self.layout!r} must be one of {LAYOUTS}.")
        if self.dtype not in DTYPES:
            raise ArgumentTypeError(f"dtype={self.dtype!r} must be one of {DTYPES}.")
        object.__setattr__(self, "dropout", _number("dropout", self.dropout))
        if not 0 <= self.dropout < 1:
            raise InvalidArgumentError(f"dropout={self.dropout} must lie in [0, 1).")
        self._check_clip()

    def _check_clip(self) -> None:
        low, high = self.state_clip_min, self.state_clip_max
        if (low is None) != (high is None):
            raise InvalidArgumentError(
                f"state_clip_min={low} and state_clip_max={high} must be given together."
            )
        if low is None or high is None:
            return
        object.__setattr__(self, "state_clip_min", _number("state_clip_min", low))
        object.__setattr__(self, "state_clip_max", _number("state_clip_max", high))
        if not self.state_clip_min <= self.state_clip_max:  # type: ignore[operator]
            raise InvalidArgumentError(
                f"state_clip_min={low} must not exceed state_clip_max={high}."
            )

    # --- sizes -----------------------------------------------------------------------------

    @property
    def directions(self) -> int:
        """D: 1, or 2 when bidirectional."""
        return 2 if self.bidirectional else 1

    @property
    def direction_size(self) -> int:
        """R: width of one direction's output and of the recurrent input."""
        return self.projection_size or self.hidden_size

    @property
    def output_size(self) -> int:
        """D * R: width of a layer's output."""
        return self.directions * self.direction_size

    @property
    def clips(self) -> bool:
        """Whether the cell state is clipped."""
        return self.state_clip_min is not None

    def layer_input_size(self, layer: int) -> int:
        """Width of the input of ``layer``: C for the first, D * R for the others."""
        return self.input_size if layer == 0 else self.output_size

    def state_shapes(self, batch_size: Any) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        """Shapes of the h state (L*D, N, R) and the c state (L*D, N, H)."""
        rows = self.num_layers * self.directions
        return (rows, batch_size, self.direction_size), (rows, batch_size, self.hidden_size)

    def data_shape(self, steps: Any, batch_size: Any, width: int | None = None) -> tuple[Any, ...]:
        """Shape of the input (or, given its ``width``, the output) in this spec's layout."""
        width = self.input_size if width is None else width
        pair = (steps, batch_size) if self.layout == "TNC" else (batch_size, steps)
        return (*pair, width)

    # --- parameters ------------------------------------------------------------------------

    def parameters(self) -> tuple[LSTMParameter, ...]:
        """All parameters in the order in which Gluon registers (and saves) them."""
        return tuple(
            self._parameter(layer, direction, kind)
            for layer in range(self.num_layers)
            for direction in range(self.directions)
            for kind in self._kinds()
        )

    def packed_parameters(self) -> tuple[LSTMParameter, ...]:
        """All parameters in the order of the RNN operator's flat vector.

        First every weight, layer by layer and direction by direction (i2h, h2h, then h2r), then
        every bias likewise. A spec without biases still has them in the vector, as zeros.
        """
        weights = ("i2h_weight", "h2h_weight") + (("h2r_weight",) * bool(self.projection_size))
        return tuple(
            self._parameter(layer, direction, kind)
            for kinds in (weights, ("i2h_bias", "h2h_bias"))
            for layer in range(self.num_layers)
            for direction in range(self.directions)
            for kind in kinds
        )

    @property
    def packed_size(self) -> int:
        """Number of elements of the RNN operator's flat parameter vector."""
        return sum(parameter.size for parameter in self.packed_parameters())

    def _kinds(self) -> tuple[str, ...]:
        return tuple(
            kind
            for kind in KINDS
            if (self.bias or not kind.endswith("bias"))
            and (self.projection_size or kind != "h2r_weight")
        )

    def _parameter(self, layer: int, direction: int, kind: str) -> LSTMParameter:
        rows = 4 * self.hidden_size
        shapes: dict[str, tuple[int, ...]] = {
            "i2h_weight": (rows, self.layer_input_size(layer)),
            "h2h_weight": (rows, self.direction_size),
            "i2h_bias": (rows,),
            "h2h_bias": (rows,),
            "h2r_weight": (self.direction_size, self.hidden_size),
        }
        name = parameter_name(layer, direction, kind)
        return LSTMParameter(name, layer, direction, kind, shapes[kind])

    # --- conversion ------------------------------------------------------------------------

    def replace(self, **changes: Any) -> LSTMSpec:
        """Return a copy with some fields changed (and checked again)."""
        return replace(self, **changes)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON-ready values.

        JSON has no infinity: a clip bound that is infinite becomes the string "inf" or "-inf",
        which the constructor takes, too.
        """
        values = asdict(self)
        for name in ("state_clip_min", "state_clip_max"):
            bound = values[name]
            values[name] = str(bound) if bound is not None and math.isinf(bound) else bound
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> LSTMSpec:
        """Rebuild a spec from :meth:`to_dict`; unknown keys are an InvalidArgumentError."""
        unknown = sorted(set(values) - {field.name for field in fields(cls)})
        if unknown or "hidden_size" not in values:
            problem = f"has unknown fields {unknown}" if unknown else "lacks hidden_size"
            raise InvalidArgumentError(f"the LSTM specification {problem}.")
        return cls(**values)


def _integer(name: str, value: Any, least: int) -> int:
    try:
        number = value.__index__()
    except AttributeError:
        raise ArgumentTypeError(f"{name}={value!r} must be an integer.") from None
    if isinstance(value, bool) or number < least:
        raise InvalidArgumentError(f"{name}={value!r} must be an integer of at least {least}.")
    return number


def _number(name: str, value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise ArgumentTypeError(f"{name}={value!r} must be a number.") from None
    if math.isnan(number):
        raise InvalidArgumentError(f"{name} must not be NaN.")
    return number
