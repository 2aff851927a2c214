"""Descriptions of files (see gluonlstm.describe) as tables for a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich import box
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

SPEC_COLUMNS = {  # field of LSTMSpec -> heading
    "input_size": "C",
    "hidden_size": "H",
    "projection_size": "P",
    "num_layers": "L",
    "bidirectional": "bidirectional",
    "bias": "bias",
    "layout": "layout",
    "dtype": "dtype",
}


def tables(description: Mapping[str, Any]) -> Sequence[RenderableType]:
    """Return what to print, top to bottom, for any kind of description."""
    kinds = {"checkpoint": _checkpoint, "symbol": _symbol, "artifact": _artifact}
    return kinds[description["kind"]](description)


def size(count: int) -> str:
    """Write a number of bytes the way people read it: ``1.5 MB``."""
    value = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000 or unit == "GB":
            break
        value /= 1000
    return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"


def _checkpoint(description: Mapping[str, Any]) -> Sequence[RenderableType]:
    tensors, lstms = description["tensors"], description["lstms"]
    total = sum(tensor["bytes"] for tensor in tensors)
    parts = [_tensors(f"{len(tensors)} tensors, {size(total)}", tensors)]
    if not lstms:
        return [*parts, Text("No LSTM was found among them.")]
    rows = [[lstm["name"] or "(no prefix)", *_spec_row(lstm["spec"])] for lstm in lstms]
    return [*parts, _table(f"{len(lstms)} LSTM", ["name", *SPEC_COLUMNS.values()], rows)]


def _symbol(description: Mapping[str, Any]) -> Sequence[RenderableType]:
    major, rest = divmod(description["mxnet_version"], 10000)
    minor, patch = divmod(rest, 100)
    shapes = ", NumPy shapes" if description["np_shape"] else ""
    heading = f"{description['nodes']} nodes, written by MXNet {major}.{minor}.{patch}{shapes}"
    variables = [(row["name"], row["shape"] or "") for row in description["variables"]]
    outputs = [(row["name"], row["output"]) for row in description["outputs"]]
    parts: list[RenderableType] = [
        _table(heading, ["operator", ">count"], description["operators"].items()),
        _table("Inputs and parameters", ["name", "shape"], variables),
        _table("Outputs", ["node", ">output"], outputs),
    ]
    for rnn in description["rnns"]:
        parts.append(
            _table(f"RNN {rnn['name']}", ["attribute", "value"], rnn["attributes"].items())
        )
    return parts


def _artifact(description: Mapping[str, Any]) -> Sequence[RenderableType]:
    code = description["bytes"] - description["weight_bytes"]
    summary = [
        ("made by", f"gluonlstm {description['version']}"),
        (
            "size",
            f"{size(description['bytes'])}: {size(code)} of code and metadata, "
            f"{size(description['weight_bytes'])} of weights",
        ),
        ("returns", description["returns"]),
        *((f"target {key}", _value(value)) for key, value in sorted(description["target"].items())),
    ]
    if description["spec"]:
        used = {key: value for key, value in description["spec"].items() if value is not None}
        summary.append(("LSTM", _value(used)))
    inputs = [
        (
            row["name"],
            row["dtype"],
            _shape(row["shape"]),
            row["role"],
            "may be left out" if row["optional"] else "",
        )
        for row in description["inputs"]
    ]
    outputs = [(row["name"], row["dtype"], _shape(row["shape"])) for row in description["outputs"]]
    parts = [
        _table("Compiled model", ["", ""], summary),
        _table("Inputs", ["name", "dtype", "shape", "role", ""], inputs),
        _table("Outputs", ["name", "dtype", "shape"], outputs),
    ]
    if description["plan"]:
        columns = list(dict.fromkeys(key for row in description["plan"] for key in row))
        rows = [[_value(row.get(key, "")) for key in columns] for row in description["plan"]]
        parts.append(_table("Plan", columns, rows))
    return [*parts, _tensors("Weights", description["weights"])]


def _tensors(title: str, tensors: Sequence[Mapping[str, Any]]) -> Table:
    rows = [
        (row["name"], row["dtype"], _shape(row["shape"]), size(row["bytes"])) for row in tensors
    ]
    return _table(title, ["name", "dtype", "shape", ">size"], rows)


def _spec_row(spec: Mapping[str, Any]) -> list[str]:
    return [_value(spec[field]) for field in SPEC_COLUMNS]


def _table(title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> Table:
    """Make a table; a heading that begins with ``>`` makes its column align to the right."""
    table = Table(title=title, title_justify="left", box=box.SIMPLE, show_header=any(columns))
    for column in columns:
        right = column.startswith(">")
        table.add_column(
            column.removeprefix(">"), justify="right" if right else "left", overflow="fold"
        )
    for row in rows:
        table.add_row(*(Text(_printable(str(cell))) for cell in row))
    return table


def _shape(shape: Sequence[int | str]) -> str:
    return "(" + ", ".join(map(str, shape)) + ("," if len(shape) == 1 else "") + ")"


def _value(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping):
        return ", ".join(f"{key}={item}" for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return " ".join(map(str, value))
    return str(value)


def _printable(text: str) -> str:
    """Escape control characters: names come from a file and go to a terminal."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
