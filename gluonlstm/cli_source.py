"""What the command `gluonlstm compile` compiles, told from its arguments."""

from __future__ import annotations

from collections.abc import Mapping
from glob import escape
from pathlib import Path
from typing import Any

from gluonlstm import checkpoint
from gluonlstm.describe import kind_of
from gluonlstm.errors import InvalidArgumentError
from gluonlstm.spec import LSTMSpec


def source_of(
    model: Path,
    params: Path | None,
    lstm: str | None,
    spec: LSTMSpec | None,
    fields: Mapping[str, Any],
) -> tuple[Any, Any]:
    """Return the first two arguments of gluonlstm.compile.

    ``model`` is a symbol file, with ``params`` or a parameter file of its name beside it; or a
    checkpoint, of which ``lstm`` names one if it holds several, ``spec`` says what a flat vector
    is, and ``fields`` are what of the LSTM's specification weights do not tell.
    """
    if kind_of(model) == "symbol":
        if fields or lstm is not None or spec is not None:
            raise InvalidArgumentError(
                f"{model} is a symbol file and says itself what its LSTM does; "
                "--lstm, --spec, --layout, --clip, --clip-nan and --lengths are for checkpoints."
            )
        return model, params or _params_beside(model)
    if params is not None:
        raise InvalidArgumentError(f"{model} is a checkpoint already; leave out {params}.")
    return _lstm_of(model, lstm, spec, fields)


def _params_beside(symbol_file: Path) -> Path:
    """Return the parameters that export wrote beside ``NAME-symbol.json``: NAME-0000.params."""
    stem = symbol_file.name.removesuffix(".json").removesuffix("-symbol")
    found = sorted(symbol_file.parent.glob(f"{escape(stem)}-[0-9][0-9][0-9][0-9].params"))
    if len(found) == 1:
        return found[0]
    names = ", ".join(path.name for path in found) or "none"
    raise InvalidArgumentError(
        f"{symbol_file} needs one parameter file named {stem}-0000.params or the like beside it, "
        f"and there is {names}: give the file after the symbol file."
    )


def _lstm_of(
    path: Path, name: str | None, spec: LSTMSpec | None, fields: Mapping[str, Any]
) -> tuple[LSTMSpec, Mapping[str, Any]]:
    """Return the specification and weights of the checkpoint's LSTM, with some fields changed."""
    found = checkpoint.find_lstms(checkpoint.read(path), spec)
    if name is None and len(found) == 1:
        name = next(iter(found))
    if name is None or name not in found:
        names = ", ".join(repr(key) for key in sorted(found)) or "none"
        raise InvalidArgumentError(
            f"{path} holds these LSTMs: {names}."
            + (" Choose one with --lstm NAME." if found else " It cannot be compiled by itself.")
        )
    inferred, weights = found[name]
    return inferred.replace(**fields), weights
