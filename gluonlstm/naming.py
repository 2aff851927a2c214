"""Every way in which checkpoints name the parameters of an LSTM, read and spelled.

form          example                                   written by
structural    encoder.1._unfused.0.l_cell.i2h_weight    Block.save_parameters of gluon.rnn.LSTM
prefix        model0_lstm0_l0_i2h_weight                collect_params().save, export (arg:...),
                                                        save_params (stripped: l0_i2h_weight)
stack         encoder.2.l_cell.i2h_weight               save_parameters of a stack of LSTMCells;
                                                        DropoutCells leave gaps in the numbers
cell          decoder.i2h_weight, lstm0_i2h_weight      a single LSTMCell, LSTMPCell, or the two of
                                                        a BidirectionalCell (l_cell., r_cell.)
torch         encoder.weight_ih_l0_reverse              torch.nn.LSTM, torch.nn.LSTMCell
packed        lstm_parameters, encoder.rnn_param        mx.rnn.FusedRNNCell, sym.RNN, MXNet 2

Prefix and cell names may also be split by gates (lstm_l0_i2h_i_weight, ..._f_, _c_, _o_), as
mx.rnn.save_rnn_checkpoint and unpack_weights write them. What stands before the part that names the
parameter identifies the LSTM: its ``owner``, e.g. "encoder.1.", "model0_lstm0_" or "". "arg:" and
"aux:" before a name mean nothing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np

from gluonlstm.errors import InvalidArgumentError, MissingParameterError
from gluonlstm.spec import DIRECTION_LETTERS, LSTMParameter, LSTMSpec

Form: TypeAlias = Literal["structural", "prefix", "stack", "cell", "torch", "packed"]
GATE_LETTERS = "ifco"  # of names split by gates, in the order of the rows; c is this package's g
GRU_LETTERS = "rzo"

_KIND = r"(?P<source>i2h|h2h|h2r)(?:_(?P<gate>[ifcorz]))?_(?P<what>weight|bias)"
# A prefix may end in any letter, but then "decoder0_" would be a backward layer: not accepted.
_PREFIX = re.compile(
    rf"(?P<owner>(?:.*[^0-9A-Za-z])?)(?P<side>[lr])(?P<index>[0-9]+)_{_KIND}", re.DOTALL
)
_CELL = re.compile(rf"(?P<owner>.*?){_KIND}", re.DOTALL)
_TORCH = re.compile(
    r"(?P<owner>(?:.*\.)?)(?P<what>weight|bias)_(?P<source>ih|hh|hr)"
    r"(?:_l(?P<index>[0-9]+)(?P<reverse>_reverse)?)?",
    re.DOTALL,
)
_PACKED = re.compile(r"(?P<owner>(?:.*[^0-9A-Za-z])?)(?:parameters|rnn_param)", re.DOTALL)
_TORCH_SOURCES = {"ih": "i2h", "hh": "h2h", "hr": "h2r"}
_MAX_DIGITS = 6  # of a layer's number


@dataclass(frozen=True, slots=True)
class Place:
    """What the name of a tensor says about it."""

    owner: str
    form: Form
    index: int = 0  # number of the layer, as written
    direction: int = 0
    kind: str = ""  # one of spec.KINDS; "" for packed
    gate: str = ""


def parse(name: str) -> Place | None:
    """Return the place of a parameter of an LSTM (or of a GRU or RNN), None for other names."""
    bare = re.sub(r"\A(arg|aux):", "", name)
    for pattern, make in ((_TORCH, _torch), (_PREFIX, _prefix), (_CELL, _cell), (_PACKED, _packed)):
        if match := pattern.fullmatch(bare):
            fields = match.groupdict()
            invalid = fields.get("source") in ("h2r", "hr") and fields.get("what") == "bias"
            return None if invalid or len(fields.get("index") or "") > _MAX_DIGITS else make(fields)
    return None


def _torch(fields: dict[str, str]) -> Place:
    kind = f"{_TORCH_SOURCES[fields['source']]}_{fields['what']}"
    index, direction = int(fields["index"] or 0), int(bool(fields["reverse"]))
    return Place(fields["owner"], "torch", index, direction, kind)


def _prefix(fields: dict[str, str]) -> Place:
    owner, direction = fields["owner"], DIRECTION_LETTERS.index(fields["side"])
    return Place(owner, "prefix", int(fields["index"]), direction, *_kind(fields))


def _cell(fields: dict[str, str]) -> Place:
    owner, kind = fields["owner"], _kind(fields)
    direction, form, index = 0, "cell", 0
    if match := re.fullmatch(r"((?:.*\.)?)([lr])_cell\.", owner, re.DOTALL):
        owner, direction = match[1], DIRECTION_LETTERS.index(match[2])
    if match := re.fullmatch(rf"((?:.*\.)?)([0-9]{{1,{_MAX_DIGITS}}})\.", owner, re.DOTALL):
        owner, form, index = match[1], "stack", int(match[2])
        if owner == "_unfused." or owner.endswith("._unfused."):
            owner, form = owner.removesuffix("_unfused."), "structural"
    return Place(owner, form, index, direction, *kind)


def _packed(fields: dict[str, str]) -> Place:
    return Place(fields["owner"], "packed")


def _kind(fields: dict[str, str]) -> tuple[str, str]:
    return f"{fields['source']}_{fields['what']}", fields["gate"] or ""


def spell(
    form: Form, owner: str, parameter: LSTMParameter, *, bidirectional: bool, step: int = 1
) -> str:
    """Return the name that one parameter has in one of the forms but "packed".

    ``step`` is the distance of two layers' numbers in a stack: 2 with DropoutCells between them.
    """
    kind = parameter.kind
    if form == "prefix":
        return owner + parameter.name
    if form == "torch":
        source, what = kind.split("_")
        source = {gluon: torch for torch, gluon in _TORCH_SOURCES.items()}[source]
        return f"{owner}{what}_{source}_l{parameter.layer}{'_reverse' * parameter.direction}"
    cell = f"{DIRECTION_LETTERS[parameter.direction]}_cell.{kind}" if bidirectional else kind
    if form == "cell":
        return owner + cell
    unfused = "_unfused." if form == "structural" else ""
    return f"{owner}{unfused}{parameter.layer * step}.{cell}"


def spellings(spec: LSTMSpec, form: Form, owner: str = "") -> dict[str, str]:
    """Return canonical name -> name in ``form``, in the order in which all of them are saved.

    ``owner`` is a prefix ("enc_", "encoder.1.") for the form "prefix", and a path ("encoder.1",
    with or without a dot at its end) for the others.
    A stack has gaps in its numbers if ``spec.dropout`` puts DropoutCells between the layers, as
    the stacks that Gluon's ``_unfuse`` makes.
    """
    if form == "packed" or (form == "cell" and spec.num_layers > 1):
        raise InvalidArgumentError(f"{spec.num_layers} layers have no names in the form {form!r}.")
    if form != "prefix" and owner and not owner.endswith("."):
        owner += "."
    step = 2 if form == "stack" and spec.dropout else 1
    return {
        parameter.name: spell(form, owner, parameter, bidirectional=spec.bidirectional, step=step)
        for parameter in spec.parameters()
    }


def rename(
    spec: LSTMSpec, params: Mapping[str, np.ndarray], form: Form, owner: str = ""
) -> dict[str, np.ndarray]:
    """Return canonically named parameters under the names of :func:`spellings`."""
    names = spellings(spec, form, owner)
    if missing := [name for name in names if name not in params]:
        raise MissingParameterError(missing, params)
    return {spelled: params[name] for name, spelled in names.items()}
