"""Checkpoints of LSTMs: every file format and every naming, without MXNet and torch.

    arrays = checkpoint.read("net.params")                  # or .npz, .safetensors
    spec, params = checkpoint.canonical(arrays)             # the only LSTM in it
    for name, (spec, params) in checkpoint.find_lstms(arrays).items():
        ...
    checkpoint.write("net.safetensors", spec, params, to="torch")
    checkpoint.convert("net.params", "net.safetensors", to="torch")  # a whole model at once

``params`` maps canonical names (``l0_i2h_weight``, ``r1_h2h_bias``, ...) to arrays, in the order of
``spec.parameters()``. :mod:`gluonlstm.naming` lists the namings. Values are never cast and, except
where gates are stored one by one, not copied.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NoReturn

import numpy as np

from gluonlstm.checkpoint_files import as_numpy, open, read
from gluonlstm.convert import Conversion, ConvertedLSTM, convert, write
from gluonlstm.errors import InvalidArgumentError, MissingParameterError
from gluonlstm.infer import FoundLSTM, fit, foreign, resolve, resolve_packed
from gluonlstm.naming import rename, spellings
from gluonlstm.packed import pack, unpack
from gluonlstm.spec import LSTMSpec
from gluonlstm.survey import Specs, collect, merge_cells, needs_spec, survey

__all__ = [
    "Conversion",
    "ConvertedLSTM",
    "canonical",
    "convert",
    "find_lstms",
    "open",
    "pack",
    "read",
    "rename",
    "spellings",
    "unpack",
    "write",
]

MOST_LISTED = 8  # names in an error


def find_lstms(
    arrays: Mapping[str, Any], spec: Specs = None
) -> dict[str, tuple[LSTMSpec, dict[str, np.ndarray]]]:
    """Find every LSTM in a model's checkpoint.

    Returns, in file order, the part of the names that identifies each LSTM ("encoder.1",
    "model0_lstm0_", or "" where nothing stands before) -> (inferred spec, canonical parameters).
    GRUs and plain RNNs are passed over. So are flat vectors, unless ``spec`` (one for the only
    vector, or a mapping of the same keys) tells what they hold.

    Raises MissingParameterError, ShapeMismatchError, InvalidArgumentError or ArgumentTypeError for
    an LSTM whose tensors are incomplete or contradict each other.
    """
    lstms: dict[str, tuple[LSTMSpec, dict[str, np.ndarray]]] = {}
    for found in survey(as_numpy(arrays), spec).found:
        key = _key(found.owner)
        if key in lstms:
            raise InvalidArgumentError(f"the names of two LSTMs begin with {key!r}.")
        lstms[key] = found.spec, found.params
    return lstms


def canonical(
    arrays: Mapping[str, Any],
    spec: LSTMSpec | None = None,
    *,
    prefix: str | None = None,
    ignore_extra: bool = False,
) -> tuple[LSTMSpec, dict[str, np.ndarray]]:
    """Return the one LSTM in ``arrays``, whatever its naming, under canonical names.

    Without ``spec`` it is inferred from names and shapes. With one, the arrays must fit it, apart
    from ``input_size`` 0 (open) and the dtype: arrays are never cast, and the returned spec has
    their dtype. A flat vector needs ``spec``. With ``bias=False`` in ``spec``, biases may be
    present if they are zeros. ``prefix``, a key of :func:`find_lstms`, chooses among several.

    Raises MissingParameterError, ShapeMismatchError, ArgumentTypeError, and InvalidArgumentError
    for several LSTMs, for a GRU or RNN, and for tensors that belong to no LSTM, unless
    ``ignore_extra`` (or ``prefix``) lets them pass.
    """
    tensors = as_numpy(arrays)
    found = _only(tensors, spec, prefix)
    used = {name for names in found.sources.values() for name in names}
    extra = [name for name in tensors if name not in used]
    if extra and prefix is None and not ignore_extra:
        raise InvalidArgumentError(
            f"{', '.join(extra[:MOST_LISTED])} ({len(extra)} in all) belong to no LSTM. Leave "
            "them out; checkpoint.find_lstms finds the LSTMs in a whole model's checkpoint, and "
            "checkpoint.canonical passes others over with ignore_extra=True."
        )
    if spec is not None:
        found = fit(found, spec, tensors)
    return found.spec, found.params


def _only(
    tensors: Mapping[str, np.ndarray], spec: LSTMSpec | None, prefix: str | None
) -> FoundLSTM:
    """Return the only LSTM, or the one whose names begin with ``prefix``."""
    groups, vectors = collect(tensors)
    if prefix is not None:
        groups = [group for group in groups if _key(group.owner) == prefix]
        vectors = {owner: name for owner, name in vectors.items() if _key(owner) == prefix}
    lstms = [group for group in groups if not foreign(group, tensors)]
    if len(lstms) > 1:
        lstms = [merge_cells(lstms, tensors, spec) or _several(_key(g.owner) for g in lstms)]
    if lstms:
        return resolve(lstms[0], tensors, spec.num_layers if spec else None)
    if len(vectors) > 1:
        _several(map(_key, vectors))
    if not vectors and spec is not None and prefix is None and len(tensors) == 1:
        vectors = {"": next(iter(tensors))}  # a flat vector under a name of its own
    for owner, name in vectors.items():
        if spec is None:
            raise InvalidArgumentError(needs_spec(name, tensors[name]))
        return resolve_packed(owner, name, tensors[name], spec)
    if groups:
        raise InvalidArgumentError(f"no LSTM: {foreign(groups[0], tensors)}.")
    if prefix is not None:
        return _split_cell(tensors, prefix)
    raise MissingParameterError(spellings(spec or LSTMSpec(1), "prefix"), tensors, "the checkpoint")


def _split_cell(tensors: Mapping[str, np.ndarray], prefix: str) -> FoundLSTM:
    """Return one cell of a list that find_lstms found to be no stack."""
    found = {_key(lstm.owner): lstm for lstm in survey(tensors).found}
    if prefix not in found:
        names = ", ".join(map(repr, found)) or "none"
        raise InvalidArgumentError(f"prefix={prefix!r} names no LSTM; there are {names}.")
    return found[prefix]


def _several(keys: Iterable[str]) -> NoReturn:
    raise InvalidArgumentError(
        f"the checkpoint holds several LSTMs: {', '.join(map(repr, keys))}. Choose one with "
        "prefix=, or use find_lstms."
    )


def _key(owner: str) -> str:
    return owner.removesuffix(".")
