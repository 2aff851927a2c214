"""Infer the specification of one LSTM from the names and shapes of its tensors.

Files cannot tell everything: layout, dropout, clipping and the use of sequence lengths stay at
their defaults.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from gluonlstm.errors import (
    ArgumentTypeError,
    InvalidArgumentError,
    MissingParameterError,
    ShapeMismatchError,
)
from gluonlstm.naming import GATE_LETTERS, GRU_LETTERS, Form, spell
from gluonlstm.packed import unpack, without_zero_biases
from gluonlstm.spec import DTYPES, LSTMParameter, LSTMSpec, parameter_name

Slot = tuple[int, int, str]  # layer (as numbered in the names, or counted), direction, kind
Gates = dict[str, str]  # gate letter ("" if a tensor holds all four) -> name of the tensor
MOST_LAYERS_NAMED = 8  # in an error about missing layers


@dataclass
class Group:
    """Tensors whose names say that they belong to one LSTM."""

    owner: str
    form: Form
    slots: dict[Slot, Gates] = field(default_factory=dict)


@dataclass(frozen=True)
class FoundLSTM:
    """One LSTM of a checkpoint.

    ``params`` are under canonical names, in the order of ``spec.parameters()``; ``sources`` are the
    names of the tensors that each came from (four where gates are stored one by one).
    """

    owner: str
    form: Form
    spec: LSTMSpec
    params: dict[str, np.ndarray]
    sources: dict[str, tuple[str, ...]]


def foreign(group: Group, arrays: Mapping[str, np.ndarray]) -> str:
    """Say why these tensors belong to another kind of cell; "" if nothing says so."""
    for (index, direction, kind), gates in group.slots.items():
        if set(gates) & (set(GRU_LETTERS) - set(GATE_LETTERS)):
            return f"{next(iter(gates.values()))} is of a GRU, not of an LSTM"
        name = gates.get("")
        if kind != "h2h_weight" or name is None or (index, direction, "h2r_weight") in group.slots:
            continue
        shape = arrays[name].shape
        if len(shape) > 2:
            return f"{name} of shape {shape} is of a convolutional cell, not of an LSTM"
        if len(shape) == 2 and shape[1] and shape[0] in (shape[1], 3 * shape[1]):
            cell = "a plain RNN (no gates)" if shape[0] == shape[1] else "a GRU (3 gates)"
            return f"{name} of shape {shape} is of {cell}, not of an LSTM (4 gates)"
    return ""


def resolve(
    group: Group, arrays: Mapping[str, np.ndarray], num_layers: int | None = None
) -> FoundLSTM:
    """Infer the specification of one group, and check that every tensor is there and fits.

    ``num_layers``, where it is known, tells a stack with DropoutCells between its layers (whose
    numbers then have gaps) from an incomplete one. Raises MissingParameterError,
    ShapeMismatchError, InvalidArgumentError or ArgumentTypeError, naming the tensors.
    """
    numbers = _layer_numbers(group, arrays, num_layers)
    layer_of = {number: layer for layer, number in enumerate(numbers)}
    sources = {
        (layer_of[number], direction, kind): gates
        for (number, direction, kind), gates in group.slots.items()
    }
    tensors = {slot: _joined(gates, arrays) for slot, gates in sources.items()}
    named = {slot: tuple(gates.values()) for slot, gates in sources.items()}
    spec = _spec(tensors, named)
    slots = {p.name: (p.layer, p.direction, p.kind) for p in spec.parameters()}
    if missing := [slot for slot in slots.values() if slot not in tensors]:
        numbered = [(numbers[layer], direction, kind) for layer, direction, kind in missing]
        raise MissingParameterError(_spelled(group, numbered), arrays)
    for p in spec.parameters():
        tensor = tensors[slots[p.name]]
        if tensor.shape != p.shape:
            raise ShapeMismatchError(named[slots[p.name]][0], p.shape, tensor.shape)
    params = {name: tensors[slot] for name, slot in slots.items()}
    origins = {name: named[slot] for name, slot in slots.items()}
    return FoundLSTM(group.owner, group.form, spec, params, origins)


def resolve_packed(owner: str, name: str, vector: np.ndarray, spec: LSTMSpec) -> FoundLSTM:
    """Take a flat vector apart; ``spec.input_size`` may be open."""
    params = unpack(spec, vector, name)
    size = params["l0_i2h_weight"].shape[1]
    spec = spec.replace(input_size=size, dtype=_dtype({name: vector}))
    return FoundLSTM(owner, "packed", spec, params, dict.fromkeys(params, (name,)))


def fit(found: FoundLSTM, spec: LSTMSpec, arrays: Mapping[str, np.ndarray]) -> FoundLSTM:
    """Check an LSTM against what it should be, and take over what files cannot tell.

    ``spec.input_size`` may be open, the dtype stays that of the arrays, and zero biases are left
    out if ``spec`` says bias=False.
    """
    size = spec.input_size or found.spec.input_size
    spec = spec.replace(input_size=size, dtype=found.spec.dtype)
    params = found.params
    if found.spec.bias and not spec.bias:
        params = without_zero_biases(params, found.owner or "the LSTM")
    expected = {p.name: p for p in spec.parameters()}
    if missing := [p for name, p in expected.items() if name not in params]:
        form: Form = "prefix" if found.form == "packed" else found.form
        both = spec.bidirectional
        names = [spell(form, found.owner, p, bidirectional=both) for p in missing]
        raise MissingParameterError(names, arrays)
    if extra := [found.sources[name][0] for name in params if name not in expected]:
        raise InvalidArgumentError(
            f"{', '.join(extra)} have no place in an LSTM with num_layers={spec.num_layers}, "
            f"bidirectional={spec.bidirectional}, projection_size={spec.projection_size}, "
            f"bias={spec.bias}."
        )
    for name, parameter in expected.items():
        if params[name].shape != parameter.shape:
            raise ShapeMismatchError(found.sources[name][0], parameter.shape, params[name].shape)
    sources = {name: found.sources[name] for name in expected}
    return replace(
        found, spec=spec, params={name: params[name] for name in expected}, sources=sources
    )


def _layer_numbers(
    group: Group, arrays: Mapping[str, np.ndarray], num_layers: int | None
) -> list[int]:
    """Return the number that each layer has in the names; MissingParameterError for gaps."""
    numbers = sorted({number for number, _, _ in group.slots})
    count = len(numbers)
    if group.form == "stack":  # gaps are where a DropoutCell, ZoneoutCell, ... sits
        return numbers
    # Gluon's LSTM was such a stack itself before MXNet 1.3.
    dropout = group.form == "structural" and numbers == list(range(0, 2 * count, 2))
    if numbers == list(range(count)) or (dropout and num_layers in (None, count)):
        return numbers
    # Stop early: a tensor numbered 999999 must not make a list of a million missing ones.
    missing: list[int] = []
    for number in range(numbers[-1]):
        if number not in numbers and len(missing) < MOST_LAYERS_NAMED:
            missing.append(number)
    like = [(side, kind) for number, side, kind in group.slots if number == numbers[0]]
    slots = [(number, side, kind) for number in missing for side, kind in like]
    raise MissingParameterError(_spelled(group, slots), arrays)


def _spelled(group: Group, slots: list[tuple[int, int, str]]) -> list[str]:
    """Return the names that missing tensors would have."""
    bidirectional = any(direction for _, direction, _ in group.slots)
    return [
        spell(
            group.form,
            group.owner,
            LSTMParameter(parameter_name(*slot), *slot, ()),
            bidirectional=bidirectional,
        )
        for slot in slots
    ]


def _joined(gates: Gates, arrays: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return one tensor, put together where the gates are stored one by one."""
    if set(gates) == {""}:
        return arrays[gates[""]]
    if "" in gates:
        raise InvalidArgumentError(f"{', '.join(sorted(gates.values()))} hold the same parameter.")
    letter, name = next(iter(gates.items()))
    before, after = name.rsplit(f"_{letter}_", 1)
    names = [f"{before}_{letter}_{after}" for letter in GATE_LETTERS]
    if missing := [name for name in names if name not in arrays]:
        raise MissingParameterError(missing, arrays)
    parts = [arrays[name] for name in names]
    shapes = [part.shape for part in parts]
    usual = max(shapes, key=shapes.count)
    for name, shape in zip(names, shapes, strict=True):
        if shape != usual or not shape:
            raise ShapeMismatchError(name, usual or "(H, ...)", shape)
    return np.concatenate(parts)


def _spec(tensors: Mapping[Slot, np.ndarray], named: Mapping[Slot, tuple[str, ...]]) -> LSTMSpec:
    """Infer the specification from a few shapes; the caller compares all the others with it."""
    first: dict[str, Slot] = {}
    for slot in sorted(tensors):
        first.setdefault(slot[2], slot)

    def shape(kind: str, expected: str, rank: int) -> tuple[int, ...]:
        sizes = tensors[first[kind]].shape
        if len(sizes) != rank or 0 in sizes or (expected.startswith("(4") and sizes[0] % 4):
            raise ShapeMismatchError(named[first[kind]][0], expected, sizes)
        return sizes

    inputs = projection = 0
    if "i2h_weight" in first:
        inputs = shape("i2h_weight", "(4 * H, C)", 2)[1] if first["i2h_weight"][0] == 0 else 0
    if "h2r_weight" in first:
        projection, hidden = shape("h2r_weight", "(P, H)", 2)
    elif "i2h_weight" in first:
        hidden = shape("i2h_weight", "(4 * H, C)", 2)[0] // 4
    elif "h2h_weight" in first:
        hidden = shape("h2h_weight", "(4 * H, R)", 2)[0] // 4
    else:
        hidden = shape(next(iter(first)), "(4 * H,)", 1)[0] // 4
    return LSTMSpec(
        hidden,
        num_layers=max(layer for layer, _, _ in tensors) + 1,
        bidirectional=any(direction for _, direction, _ in tensors),
        input_size=inputs,
        projection_size=projection,
        dtype=_dtype({named[slot][0]: tensor for slot, tensor in tensors.items()}),
        bias=any(kind.endswith("bias") for kind in first),
    )


def _dtype(tensors: Mapping[str, np.ndarray]) -> str:
    """Return the dtype that all tensors have."""
    (name, tensor), *others = tensors.items()
    for other, array in others:
        if array.dtype != tensor.dtype:
            raise ArgumentTypeError(
                f"{name} is {tensor.dtype} and {other} is {array.dtype}; the parameters of one "
                "LSTM must have the same dtype."
            )
    if tensor.dtype.name not in DTYPES:
        raise ArgumentTypeError(
            f"{name} is {tensor.dtype}; the parameters of an LSTM must be one of {DTYPES}."
        )
    return tensor.dtype.name
