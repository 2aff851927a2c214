"""What a compiled model takes and returns: the metadata of an artifact, validated.

Shapes hold whole numbers and, for free sizes, names: ``("T", "N", 8)``. The same name means the
same size wherever it stands in one model.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from gluonlstm.errors import InvalidArgumentError
from gluonlstm.spec import LSTMSpec

DTYPES = ("float32", "float64", "float16", "bfloat16", "int8", "uint8", "int32", "int64")
ROLES = ("data", "hidden", "cell", "lengths")
RETURNS = ("heads", "layer", "torch")
MOST_AXES = 32  # as many as every NumPy allows
LARGEST_SIZE = 2**62

Size = int | str


@dataclass(frozen=True)
class InputInfo:
    """One input of a compiled model.

    ``role`` says what the runtime may do with it: "hidden" and "cell" are states, "lengths" is the
    number of valid steps of each row, "data" is everything else. An ``optional`` input may be left
    out of a call: states default to zeros, lengths to T.
    """

    name: str
    shape: tuple[Size, ...]
    dtype: str
    role: str = "data"
    optional: bool = False

    def __post_init__(self) -> None:
        """Check every field; InvalidArgumentError names the one that is wrong."""
        _check_text("name", self.name)
        object.__setattr__(self, "shape", _shape(self.name, self.shape, free=str.isidentifier))
        _check_choice(f"dtype of {self.name}", self.dtype, DTYPES)
        _check_choice(f"role of {self.name}", self.role, ROLES)
        if not isinstance(self.optional, bool):
            raise InvalidArgumentError(f"optional of {self.name} must be a bool.")
        if self.optional and self.role == "data":
            raise InvalidArgumentError(f"{self.name} is data, which cannot be optional.")
        if self.role == "lengths" and (self.dtype != "int32" or len(self.shape) != 1):
            raise InvalidArgumentError(f"{self.name}, the lengths, must be int32 with one axis.")


@dataclass(frozen=True)
class OutputInfo:
    """One output of a compiled model; free sizes may be expressions such as ``"T*N"``."""

    name: str
    shape: tuple[Size, ...]
    dtype: str

    def __post_init__(self) -> None:
        """Check every field; InvalidArgumentError names the one that is wrong."""
        _check_text("name", self.name)
        object.__setattr__(self, "shape", _shape(self.name, self.shape, free=bool))
        _check_choice(f"dtype of {self.name}", self.dtype, DTYPES)


@dataclass(frozen=True)
class ModelInfo:
    """Everything about a compiled model but its code and weights.

    - ``inputs``, ``outputs``: in the order in which the compiled function takes and returns them.
    - ``returns``: how the runtime arranges the outputs: "heads" in order (one output: the array
      itself); "layer" as a Gluon layer, ``y`` or ``(y, [h, c])`` if states were given; "torch" as
      ``torch.nn.LSTM``, ``(y, (h, c))``. The last two have three outputs, y, h and c.
    - ``target``: JSON-ready: "kind", "mcpu", "cpu_features" (the /proc/cpuinfo flags that the code
      needs) and whatever else the compiler wants to record.
    - ``spec``: the LSTM, if the model is one LSTM and nothing else.
    - ``plan``: rows that say how each part was compiled, for people to read.
    - ``version``: of the gluonlstm that compiled the model.
    """

    inputs: tuple[InputInfo, ...]
    outputs: tuple[OutputInfo, ...]
    returns: str
    target: Mapping[str, Any]
    spec: LSTMSpec | None = None
    plan: tuple[Mapping[str, Any], ...] = ()
    version: str = ""

    def __post_init__(self) -> None:
        """Check the parts against each other; InvalidArgumentError says what is wrong."""
        for name in ("inputs", "outputs", "plan"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        _check_choice("returns", self.returns, RETURNS)
        names = [info.name for info in self.inputs]
        if not names:
            raise InvalidArgumentError(
                "the model has no inputs: what it is to compute depends on parameters alone."
            )
        if len(set(names)) < len(names):
            raise InvalidArgumentError(f"inputs must have different names, got {names}.")
        if not self.outputs or (self.returns != "heads" and len(self.outputs) != 3):
            raise InvalidArgumentError(
                f"returns={self.returns!r} does not fit {len(self.outputs)} outputs."
            )
        if not isinstance(self.target, Mapping) or not isinstance(self.target.get("kind"), str):
            raise InvalidArgumentError("target must have a text 'kind'.")
        features = self.target.get("cpu_features", ())
        if not isinstance(features, (list, tuple)) or not all(
            isinstance(feature, str) for feature in features
        ):
            raise InvalidArgumentError("target['cpu_features'] must be a list of flag names.")
        self._check_free_sizes()
        if self.time_axis() is None and any(info.role == "lengths" for info in self.inputs):
            raise InvalidArgumentError("the model takes lengths, and no input has a size T.")

    def _check_free_sizes(self) -> None:
        """Whatever may be left out of a call must have a size that the rest of it gives."""
        for info in self.inputs:
            for size in info.shape:
                if isinstance(size, str) and size not in self._required_sizes():
                    raise InvalidArgumentError(
                        f"the size {size} of {info.name} depends on no required input."
                    )

    def _required_sizes(self) -> dict[str, tuple[int, int]]:
        """Return where each free size can be read off: index of a required input, and axis."""
        return {
            size: (index, axis)
            for index, info in enumerate(self.inputs)
            if not info.optional and info.role != "lengths"
            for axis, size in enumerate(info.shape)
            if isinstance(size, str)
        }

    def time_axis(self) -> tuple[int, int] | None:
        """Return the input (its index) and axis whose size is T, None if that is not known.

        It is the one called "T"; where T is fixed, the one of the LSTM's data.
        """
        place = self._required_sizes().get("T")
        if place is not None or self.spec is None:
            return place
        axis = self.spec.layout.index("T")
        for index, info in enumerate(self.inputs):
            if info.role == "data" and len(info.shape) > axis:
                return index, axis
        return None

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready values."""
        return {
            "inputs": [
                {
                    "name": info.name,
                    "shape": list(info.shape),
                    "dtype": info.dtype,
                    "role": info.role,
                    "optional": info.optional,
                }
                for info in self.inputs
            ],
            "outputs": [
                {"name": info.name, "shape": list(info.shape), "dtype": info.dtype}
                for info in self.outputs
            ],
            "returns": self.returns,
            "target": dict(self.target),
            "spec": self.spec.to_dict() if self.spec else None,
            "plan": [dict(row) for row in self.plan],
            "version": self.version,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ModelInfo:
        """Rebuild from :meth:`to_dict`; whatever does not fit is an InvalidArgumentError."""
        spec = _entry(values, "spec", (dict, type(None)))
        plan = _entry(values, "plan", list)
        if not all(isinstance(row, dict) for row in plan):
            raise InvalidArgumentError("'plan' must be a list of objects.")
        return cls(
            inputs=tuple(_tensors(values, "inputs", InputInfo, ("role", "optional"))),
            outputs=tuple(_tensors(values, "outputs", OutputInfo, ())),
            returns=_entry(values, "returns", str),
            target=_entry(values, "target", dict),
            spec=None if spec is None else _spec(spec),
            plan=tuple(plan),
            version=_entry(values, "version", str),
        )


def parse_json(text: bytes) -> dict[str, Any]:
    """Read one JSON object strictly: UTF-8, no repeated key, no NaN; else InvalidArgumentError."""
    try:
        value = json.loads(text.decode(), parse_constant=_refuse, object_pairs_hook=_distinct)
    except (
        ValueError,
        RecursionError,
    ) as error:  # JSONDecodeError and UnicodeError are ValueErrors
        raise InvalidArgumentError(f"is not JSON ({str(error)[:200]}).") from None
    if not isinstance(value, dict):
        raise InvalidArgumentError("is not a JSON object.")
    return value


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        raise ValueError("an object has the same key twice")
    return values


def _entry(values: Mapping[str, Any], key: str, kind: type | tuple[type, ...]) -> Any:
    """Return ``values[key]``, which must be there and of the given kind."""
    if not isinstance(values, Mapping) or not isinstance(values.get(key, _entry), kind):
        raise InvalidArgumentError(f"{key!r} is missing or of the wrong kind.")
    return values[key]


def _tensors(
    values: Mapping[str, Any], key: str, kind: type[Any], more: tuple[str, ...]
) -> Iterable[Any]:
    fields = {"name": str, "shape": list, "dtype": str, "role": str, "optional": bool}
    for row in _entry(values, key, list):
        yield kind(**{field: _entry(row, field, fields[field]) for field in _TENSOR + more})


_TENSOR = ("name", "shape", "dtype")


def _spec(values: dict[str, Any]) -> LSTMSpec:
    try:
        return LSTMSpec.from_dict(values)
    except (TypeError, ValueError) as error:
        raise InvalidArgumentError(f"'spec': {error}") from None


def _shape(name: str, shape: Iterable[Any], free: Any) -> tuple[Size, ...]:
    """Check sizes: whole numbers, or text for which ``free`` is true."""
    sizes = tuple(shape)
    for size in sizes:
        if isinstance(size, str) and free(size):
            continue
        if type(size) is not int or not 0 <= size <= LARGEST_SIZE:
            raise InvalidArgumentError(f"shape of {name} holds {str(size)[:50]!r}, not a size.")
    if len(sizes) > MOST_AXES:
        raise InvalidArgumentError(f"shape of {name} has {len(sizes)} axes.")
    return sizes


def _check_text(what: str, value: Any) -> None:
    if not isinstance(value, str) or not value:
        raise InvalidArgumentError(f"{what} must be text, got {value!r}.")


def _check_choice(what: str, value: Any, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise InvalidArgumentError(f"{what} is {value!r}, must be one of {choices}.")
