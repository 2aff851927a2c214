"""Convert checkpoints, of one LSTM or of a whole model, between namings and file formats."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias, get_args

import numpy as np

from gluonlstm import checkpoint_files, npz_file, params_file, safetensors_file
from gluonlstm.array_file import Array, StrPath
from gluonlstm.errors import InvalidArgumentError
from gluonlstm.infer import FoundLSTM, fit
from gluonlstm.naming import Form, spellings
from gluonlstm.spec import LSTMSpec
from gluonlstm.survey import Specs, survey

Target: TypeAlias = Literal["gluon", "torch", "npz", "safetensors"]
_FORMS: dict[Target, Form] = {
    "gluon": "structural",
    "torch": "torch",
    "npz": "prefix",
    "safetensors": "prefix",
}
PICKLE_SUFFIXES = (".pt", ".pth", ".bin", ".ckpt")


@dataclass(frozen=True)
class ConvertedLSTM:
    """One LSTM of a converted checkpoint."""

    name: str  # what identifies it in the input: a key of find_lstms
    form: Form  # how its names were written in the input
    spec: LSTMSpec
    renamed: dict[str, tuple[str, ...]]  # name in the output -> names in the input


@dataclass(frozen=True)
class Conversion:
    """What :func:`convert` did."""

    source: Path
    target: Path
    to: Target
    lstms: tuple[ConvertedLSTM, ...]
    unchanged: tuple[str, ...]  # names of tensors that belong to no LSTM
    notes: tuple[str, ...]  # what a reader of the result should know


def convert(
    in_path: StrPath, out_path: StrPath, to: Target = "gluon", spec: Specs = None
) -> Conversion:
    """Write a checkpoint in another form; every LSTM in it is renamed, other tensors are kept.

    =============  ===================  ==========================================================
    ``to``         names                file
    =============  ===================  ==========================================================
    "gluon"        gluon.rnn.LSTM's     NDArray list, which ``load_parameters`` reads
    "torch"        torch.nn.LSTM's      safetensors, or ``.npz`` if ``out_path`` ends so
    "npz"          canonical            ``.npz``
    "safetensors"  canonical            safetensors
    =============  ===================  ==========================================================

    A path before the names ("encoder.1") stays. A prefix ("model0_lstm0_") is dropped where the
    file holds that LSTM alone; in a model's file Gluon's other names begin with prefixes too, so
    "gluon" then keeps them and "torch" makes it a path. Flat vectors need ``spec``, one for the
    only LSTM or one for each key of :func:`~gluonlstm.checkpoint.find_lstms`. "gluon" writes zeros
    for the biases of an LSTM that has none, because stock layers always have them.

    ``out_path`` is replaced only once all of it is written; it may be ``in_path``. Raises the
    errors of ``find_lstms`` and InvalidArgumentError if there is no LSTM.
    """
    if to not in get_args(Target):
        raise InvalidArgumentError(f"to={to!r} must be one of {get_args(Target)}.")
    _check_suffix(out_path)
    with checkpoint_files.open(in_path) as file:
        checkpoint_files.require_names(file)
        arrays = dict(file)
        dense = {name: array for name, array in arrays.items() if isinstance(array, np.ndarray)}
        result = survey(dense, spec)
        if not result.found:
            reasons = "; ".join(result.skipped.values()) or "no tensor is named like one"
            raise InvalidArgumentError(f"{in_path} holds no LSTM: {reasons}")
        renamed = [_rename(found, to, len(arrays)) for found in result.found]
        outputs = _replaced(arrays, renamed)
        notes = [*result.skipped.values(), *(note for item in renamed for note in item.notes)]
        if to != "gluon":
            notes += [f"{name} has no value and was left out" for name in _without_value(outputs)]
            outputs = _dense(outputs, checkpoint_files.densest(in_path))
        save(out_path, outputs, to)
    lstms = tuple(item.report for item in renamed)
    used = {name for item in renamed for name in item.sources}
    unchanged = tuple(name for name in arrays if name not in used)
    return Conversion(Path(in_path), Path(out_path), to, lstms, unchanged, tuple(notes))


def write(
    path: StrPath,
    spec: LSTMSpec,
    params: Mapping[str, np.ndarray],
    to: Target = "gluon",
    owner: str = "",
) -> None:
    """Write the checkpoint of one LSTM from canonical parameters; ``to`` is as in :func:`convert`.

    ``owner`` is the path that its names get ("encoder.1"). Raises MissingParameterError,
    ShapeMismatchError or InvalidArgumentError for parameters that are not those of ``spec``.
    """
    if to not in get_args(Target):
        raise InvalidArgumentError(f"to={to!r} must be one of {get_args(Target)}.")
    _check_suffix(path)
    if not spec.input_size and "l0_i2h_weight" in params:
        spec = spec.replace(input_size=params["l0_i2h_weight"].shape[-1])
    path_owner = f"{owner}." if owner and not owner.endswith(".") else owner
    found = FoundLSTM(path_owner, "prefix", spec, dict(params), {key: (key,) for key in params})
    save(path, _rename(fit(found, spec, params), to, len(params)).tensors, to)


def save(path: StrPath, arrays: Mapping[str, Array], to: Target) -> None:
    """Write tensors under the names they have into the kind of file that ``to`` stands for."""
    if to == "gluon":
        params_file.save(path, dict(arrays))
        return
    dense = {name: array for name, array in arrays.items() if isinstance(array, np.ndarray)}
    if to == "npz" or (to == "torch" and Path(path).suffix == ".npz"):
        npz_file.save(path, dense)
    else:
        metadata = {"format": "pt" if to == "torch" else "np"}
        safetensors_file.save(path, dense, metadata=metadata)


@dataclass(frozen=True)
class _Renamed:
    """An LSTM under its new names."""

    sources: set[str]
    tensors: dict[str, np.ndarray]
    report: ConvertedLSTM
    notes: list[str]


def _rename(found: FoundLSTM, to: Target, tensors_in_file: int) -> _Renamed:
    spec, params, notes = found.spec, dict(found.params), []
    name = found.owner.removesuffix(".")
    if to == "torch" and spec.direction_size >= spec.hidden_size and spec.projection_size:
        raise InvalidArgumentError(
            f"{name or 'the LSTM'} has projection_size={spec.projection_size}; torch.nn.LSTM only "
            f"takes less than hidden_size={spec.hidden_size}."
        )
    if to == "gluon" and not spec.bias:
        spec = spec.replace(bias=True)
        for p in spec.parameters():
            params.setdefault(p.name, np.zeros(p.shape, params["l0_i2h_weight"].dtype))
        notes.append(f"{name or 'the LSTM'} has no biases; zeros were written for them")
    names = _names(found, spec, to, tensors_in_file)
    sources = {source for sources in found.sources.values() for source in sources}
    tensors = {names[p.name]: params[p.name] for p in spec.parameters()}
    renamed = {names[key]: found.sources.get(key, ()) for key in names}
    return _Renamed(sources, tensors, ConvertedLSTM(name, found.form, found.spec, renamed), notes)


def _names(found: FoundLSTM, spec: LSTMSpec, to: Target, tensors_in_file: int) -> dict[str, str]:
    """Return canonical name -> name in the output."""
    owner, form = found.owner, _FORMS[to]
    first = next(iter(found.sources.values()))
    sources = {source for sources in found.sources.values() for source in sources}
    if owner and not owner.endswith("."):  # a prefix
        if len(sources) == tensors_in_file:
            owner = ""
        elif to == "torch":
            owner = f"{owner.rstrip('_')}."
        else:
            form = "prefix"
            marked = to == "gluon" and first and first[0].startswith("arg:")
            owner = f"arg:{owner}" if marked else owner
    return spellings(spec, form, owner)


def _replaced(arrays: Mapping[str, Array], renamed: list[_Renamed]) -> dict[str, Array]:
    """Put each LSTM's new tensors where its first one was."""
    outputs: dict[str, Array] = {}
    home = {source: item for item in renamed for source in item.sources}
    written: list[_Renamed] = []
    for name, array in arrays.items():
        item = home.get(name)
        if item is None:
            _add(outputs, {name: array})
        elif not any(item is other for other in written):
            written.append(item)
            _add(outputs, item.tensors)
    return outputs


def _add(outputs: dict[str, Array], tensors: Mapping[str, Array]) -> None:
    for name, array in tensors.items():
        if name in outputs:
            raise InvalidArgumentError(f"two tensors would have the name {name!r}.")
        outputs[name] = array


def _without_value(arrays: Mapping[str, Array]) -> list[str]:
    return [name for name, array in arrays.items() if array is None]


def _dense(arrays: Mapping[str, Array], max_bytes: int) -> dict[str, Array]:
    return {
        name: checkpoint_files.dense(name, array, max_bytes)
        for name, array in arrays.items()
        if array is not None
    }


def _check_suffix(path: StrPath) -> None:
    if Path(path).suffix in PICKLE_SUFFIXES:
        raise InvalidArgumentError(
            f"{path}: torch's own files are pickles. Write .safetensors, which "
            "safetensors.torch.load_file reads."
        )
