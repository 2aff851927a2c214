"""Find the LSTMs in a checkpoint by the names of its tensors."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from gluonlstm.errors import InvalidArgumentError, ShapeMismatchError
from gluonlstm.infer import FoundLSTM, Group, fit, foreign, resolve, resolve_packed
from gluonlstm.naming import Form, parse
from gluonlstm.spec import LSTMSpec

Specs = LSTMSpec | Mapping[str, LSTMSpec] | None


@dataclass(frozen=True)
class Survey:
    """What a checkpoint holds."""

    found: list[FoundLSTM]
    skipped: dict[str, str]  # owner of what is named like an LSTM and is none -> reason


def survey(arrays: Mapping[str, np.ndarray], specs: Specs = None) -> Survey:
    """Find every LSTM, in file order.

    ``specs`` says what there must be: one specification for the only LSTM, or a mapping of owners
    ("lstm_", "encoder.1" or "encoder.1.") to specifications. Flat vectors need one; without, they
    are skipped.

    Raises MissingParameterError, ShapeMismatchError, InvalidArgumentError or ArgumentTypeError for
    an LSTM whose tensors are incomplete or contradict each other.
    """
    groups, vectors = collect(arrays)
    owners = [group.owner for group in groups]
    skipped = {group.owner: reason for group in groups if (reason := foreign(group, arrays))}
    groups = [group for group in groups if not foreign(group, arrays)]
    if isinstance(specs, LSTMSpec) and (merged := merge_cells(groups, arrays, specs)):
        groups = [merged]
    found: list[FoundLSTM] = []
    for group in groups:
        found += _resolve_or_split(group, arrays, owners)
    for owner, name in vectors.items():
        if spec := _lookup(owner, specs):
            found.append(resolve_packed(owner, name, arrays[name], spec))
        else:
            skipped[owner] = needs_spec(name, arrays[name])
    if isinstance(specs, LSTMSpec) and len(found) > 1:
        owners = ", ".join(repr(lstm.owner.removesuffix(".")) for lstm in found)
        raise InvalidArgumentError(f"one LSTMSpec for several LSTMs; give a mapping of {owners}.")
    checked = [
        fit(lstm, spec, arrays) if (spec := _lookup(lstm.owner, specs)) else lstm for lstm in found
    ]
    return Survey(checked, skipped)


def collect(arrays: Mapping[str, np.ndarray]) -> tuple[list[Group], dict[str, str]]:
    """Sort tensors by what their names say: groups, and owner -> name of a flat vector."""
    groups: dict[tuple[str, Form], Group] = {}
    vectors: dict[str, str] = {}
    for name, array in arrays.items():
        place = parse(name)
        if place is None or (place.form == "packed" and array.ndim != 1):
            continue
        if place.form == "packed":
            other = vectors.setdefault(place.owner, name)
        else:
            key = (place.owner, place.form)
            group = groups.setdefault(key, Group(place.owner, place.form))
            gates = group.slots.setdefault((place.index, place.direction, place.kind), {})
            other = gates.setdefault(place.gate, name)
        if other != name:
            raise InvalidArgumentError(f"{other!r} and {name!r} name the same parameter.")
    return list(groups.values()), vectors


def needs_spec(name: str, vector: np.ndarray) -> str:
    """Say why a flat vector cannot be read by itself."""
    return (
        f"{name} holds {vector.size} parameters in one vector, which does not tell hidden size, "
        "layers, directions and projection. Give an LSTMSpec that does (input_size may be 0)."
    )


def merge_cells(
    groups: list[Group], arrays: Mapping[str, np.ndarray], spec: LSTMSpec | None
) -> Group | None:
    """Make one LSTM of cells that only their prefixes number, as lstm0_, lstm1_; None if not so.

    The prefixes do not tell two layers from the two directions of a BidirectionalCell, nor do the
    shapes where input and hidden size are equal: InvalidArgumentError then asks for ``spec``.
    """
    matches = [re.fullmatch(r"(.*?)([0-9]+)_?", group.owner, re.DOTALL) for group in groups]
    bases = {match[1] for match in matches if match}
    if not all(matches) or any(group.form != "cell" for group in groups) or len(groups) < 2:
        return None
    # A prefix that ends in a letter, as enc in encl0_, encr0_.
    sides = {base[-1:] for base in bases}
    if len(bases) == 2 and sides == {"l", "r"} and len({base[:-1] for base in bases}) == 1:
        places = [(int(m[2]), "lr".index(m[1][-1])) for m in matches if m]
        return _merged(groups, places)
    if len(bases) != 1:
        return None
    order = sorted(range(len(groups)), key=lambda i: int((matches[i] or ["", "", "0"])[2]))
    directions = _directions([groups[i] for i in order], arrays, spec)
    places = [(0, 0)] * len(groups)
    for position, i in enumerate(order):
        places[i] = divmod(position, directions)
    return _merged(groups, places)


def _resolve_or_split(
    group: Group, arrays: Mapping[str, np.ndarray], owners: list[str]
) -> list[FoundLSTM]:
    """Resolve a stack of cells; cells that do not make one LSTM are LSTMs of their own.

    They do not where shapes forbid it, nor where another cell stands between them under a name of
    its own (``1.base_cell.i2h_weight``): wrappers such as ResidualCell change the computation.
    """
    if group.form != "stack":
        return [resolve(group, arrays)]
    cells: dict[int, Group] = {}
    for (index, direction, kind), gates in group.slots.items():
        cell = cells.setdefault(index, Group(f"{group.owner}{index}.", "cell"))
        cell.slots[0, direction, kind] = gates
    between = re.compile(re.escape(group.owner) + r"[0-9]+\..*", re.DOTALL)
    if not any(between.fullmatch(owner) for owner in owners):
        try:
            return [resolve(group, arrays)]
        except ShapeMismatchError:
            if len(cells) == 1:
                raise
    return [resolve(cell, arrays) for cell in cells.values() if not foreign(cell, arrays)]


def _lookup(owner: str, specs: Specs) -> LSTMSpec | None:
    if specs is None or isinstance(specs, LSTMSpec):
        return specs
    return specs.get(owner) or specs.get(owner.removesuffix("."))


def _directions(cells: list[Group], arrays: Mapping[str, np.ndarray], spec: LSTMSpec | None) -> int:
    """Return 1 if numbered cells are layers, 2 if each pair is the two directions of a layer."""
    if spec is not None:
        return spec.directions
    found = [resolve(cell, arrays).spec for cell in cells]
    pairs = list(pairwise(found))
    layers = all(later.input_size == earlier.direction_size for earlier, later in pairs)
    both = len(found) % 2 == 0 and all(
        later.input_size == (earlier.input_size if i % 2 == 0 else 2 * earlier.direction_size)
        for i, (earlier, later) in enumerate(pairs)
    )
    if layers and both:
        raise InvalidArgumentError(
            f"{', '.join(cell.owner for cell in cells)} may be {len(cells)} layers or the two "
            "directions of one. Give the LSTMSpec."
        )
    return 2 if both else 1


def _merged(groups: list[Group], places: list[tuple[int, int]]) -> Group:
    merged = Group(re.sub(r"[0-9]+_?\Z", "", groups[0].owner), "prefix")
    for group, (layer, direction) in zip(groups, places, strict=True):
        for (_, _, kind), gates in group.slots.items():
            merged.slots[layer, direction, kind] = gates
    return merged
