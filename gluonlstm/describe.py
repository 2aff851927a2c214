"""What is in a file: a checkpoint, a symbol file or a compiled model, as JSON-ready values.

Every description has ``kind`` ("checkpoint", "symbol" or "artifact"), ``path`` and ``bytes``; the
functions below add the rest. Sizes are in bytes, shapes are lists, free sizes are strings.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from gluonlstm import artifact, checkpoint, symbol
from gluonlstm.errors import GluonLSTMError
from gluonlstm.survey import survey

RNN = "RNN"  # MXNet's fused recurrent operator
SNIFFED_BYTES = 256


def describe(path: str | PathLike[str]) -> dict[str, Any]:
    """Describe the file, whichever of the three kinds it is.

    Raises OSError if it cannot be read, and what the reader of its kind raises (ArtifactError,
    SymbolFormatError, ParamsFormatError) if it is damaged.
    """
    path = Path(path)
    kind = kind_of(path)
    describers = {"artifact": _artifact, "symbol": _symbol, "checkpoint": _checkpoint}
    heading = {"kind": kind, "path": str(path), "bytes": path.stat().st_size}
    return {**heading, **describers[kind](path)}


def kind_of(path: str | PathLike[str]) -> str:
    """Tell the kind of file from its first bytes: "artifact", "symbol" or "checkpoint"."""
    with Path(path).open("rb") as stream:
        start = stream.read(SNIFFED_BYTES)
    if start.startswith(b"\x7fELF"):
        return "artifact"
    # A symbol file is a JSON object; no checkpoint format begins with a brace (safetensors has
    # one only after the eight bytes of its header's length).
    text = start.removeprefix(b"\xef\xbb\xbf").lstrip()
    return "symbol" if text.startswith(b"{") else "checkpoint"


def _checkpoint(path: Path) -> dict[str, Any]:
    """Every tensor, each LSTM, and what looks like one and is none: tensors, lstms, skipped."""
    with checkpoint.open(path) as file:
        tensors = [asdict(file.info(name)) for name in file]
        dense = {name: file[name] for name in file if file.info(name).storage == "dense"}
        lstms, skipped, problem = [], {}, None
        try:
            result = survey({name: np.asarray(array) for name, array in dense.items()})
        except GluonLSTMError as error:  # the tensors are still worth showing
            problem = str(error)
        else:
            skipped = {owner: str(reason) for owner, reason in result.skipped.items()}
            lstms = [
                {
                    "name": lstm.owner.removesuffix("."),
                    "naming": lstm.form,
                    "spec": lstm.spec.to_dict(),
                }
                for lstm in result.found
            ]
    return {"tensors": tensors, "lstms": lstms, "skipped": skipped, "problem": problem}


def _symbol(path: Path) -> dict[str, Any]:
    """How many nodes of which operators, what goes in and out, and each RNN's attributes."""
    graph = symbol.load(path)
    nodes = [node for _, node in graph.walk()]
    operators = Counter(node.op for node in nodes if not node.is_variable)
    return {
        "mxnet_version": graph.version,
        "np_shape": graph.np_shape,
        "nodes": len(nodes),
        "operators": dict(sorted(operators.items())),
        "variables": [
            {"name": node.name, "shape": node.attrs.get("__shape__")}
            for node in nodes
            if node.is_variable
        ],
        "outputs": [
            {"name": graph.nodes[head.node].name, "output": head.output} for head in graph.heads
        ],
        "rnns": [
            {"name": node.name, "attributes": dict(sorted(node.attrs.items()))}
            for node in nodes
            if node.op == RNN
        ],
    }


def _artifact(path: Path) -> dict[str, Any]:
    """Say what a compiled model takes and returns, for which target and by which plan."""
    model = artifact.read(path)
    info = model.info
    weights = [
        {"name": w.name, "shape": list(w.shape), "dtype": w.dtype, "nbytes": w.end - w.offset}
        for w in model.stored
    ]
    return {
        "version": info.version,
        "target": dict(info.target),
        "spec": info.spec.to_dict() if info.spec else None,
        "returns": info.returns,
        "inputs": [_plain(asdict(item)) for item in info.inputs],
        "outputs": [_plain(asdict(item)) for item in info.outputs],
        "plan": [dict(row) for row in info.plan],
        "weights": weights,
        "weight_bytes": sum(row["nbytes"] for row in weights),
    }


def _plain(fields: dict[str, Any]) -> dict[str, Any]:
    return {
        key: list(value) if isinstance(value, tuple) else value for key, value in fields.items()
    }
