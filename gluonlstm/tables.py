"""Descriptions of files (see gluonlstm.describe) as tables for a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

SPEC_COLUMNS = {  # field of LSTMSpec -> heading
    "input_size": ">input",
    "hidden_size": ">hidden",
    "projection_size": ">projection",
    "num_layers": ">layers",
    "bidirectional": "bidirectional",
    "bias": "bias",
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
    total = sum(tensor["nbytes"] for tensor in tensors)
    parts: list[RenderableType] = [_tensors(f"{len(tensors)} tensors, {size(total)}", tensors)]
    if lstms:
        rows = [[row["name"] or "(no prefix)", *_spec_row(row)] for row in lstms]
        columns = ["name", "naming", *SPEC_COLUMNS.values()]
        parts.append(_table(f"{len(lstms)} LSTM{'s'[: len(lstms) - 1]}", columns, rows))
    elif not description["problem"]:
        parts.append(Text("No LSTM was found among them."))
    if description["problem"]:
        parts.append(Text(f"The LSTM in it cannot be used: {_printable(description['problem'])}"))
    notes = [f"{name or 'one'}: {reason}" for name, reason in description["skipped"].items()]
    return [*parts, *(Text(f"Not counted: {_printable(note)}") for note in notes)]


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
    kinds: dict[tuple[str, ...], list[Any]] = {}  # rows about the same things make one table
    for row in description["plan"]:
        kinds.setdefault(tuple(row), []).append([_value(value) for value in row.values()])
    titles = ("Plan", *(["Kernels"] * len(kinds)))
    for title, (columns, rows) in zip(titles, kinds.items(), strict=False):
        parts.append(_table(title, list(columns), rows))
    return [*parts, _tensors("Weights", description["weights"])]


def _tensors(title: str, tensors: Sequence[Mapping[str, Any]]) -> Group:
    rows = [
        (row["name"], _dtype(row), _shape(row["shape"]), size(row["nbytes"])) for row in tensors
    ]
    return _table(title, ["name", "dtype", "shape", ">size"], rows)


def _dtype(tensor: Mapping[str, Any]) -> str:
    """Return the dtype, and how the tensor is stored if it is not dense."""
    storage = tensor.get("storage", "dense")
    return tensor["dtype"] if storage == "dense" else f"{tensor['dtype']} {storage}".strip()


def _spec_row(lstm: Mapping[str, Any]) -> list[str]:
    return [lstm["naming"], *(_value(lstm["spec"][field]) for field in SPEC_COLUMNS)]


def _table(title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> Group:
    """Make a table; a heading that begins with ``>`` makes its column align to the right."""
    table = Table(box=box.SIMPLE_HEAD, show_header=any(columns), pad_edge=False)
    for column in columns:
        justify = "right" if column.startswith(">") else "left"
        table.add_column(column.removeprefix(">"), justify=justify, overflow="fold")
    for row in rows:
        table.add_row(*(Text(_printable(str(cell))) for cell in row))
    # Not the table's own title: that is broken to the table's width.
    return Group(Text(_printable(title), style="bold"), table)


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
