"""The orchestrator: source graph or LSTM -> frontend -> plan, packing, kernels -> artifact."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from gluonlstm.spec import LSTMSpec
from gluonlstm.symbol import Graph

from .build import write_artifact
from .emitter import KernelEmitter
from .frontend.builder import LoweredModel
from .frontend.importer import lower_graph
from .frontend.inference import FixedShapes
from .frontend.layer import lower_lstm
from .target import CPUTarget, resolve

Params = Mapping[str, NDArray[Any]]
Target = str | Mapping[str, Any]


def compile_graph(
    graph: Graph,
    params: Params,
    path: str | PathLike[str],
    *,
    target: Target = "llvm",
    shapes: FixedShapes | None = None,
    outputs: Sequence[str] | None = None,
    dump: Path | None = None,
) -> None:
    """Compile a symbol graph to an artifact at ``path``; its outputs come in head order.

    ``params`` maps the graph's parameters (with or without ``arg:``, ``aux:``) to arrays;
    ``target`` is what :func:`target.resolve` takes; ``shapes`` fixes sizes of inputs; ``outputs``
    cuts the graph at these entries. Raises the errors of the frontend and CompilationError.
    """
    chosen = resolve(target)
    emitter = KernelEmitter(chosen)
    model = lower_graph(graph, params, emitter, shapes=shapes, outputs=outputs)
    _write(model, chosen, emitter, path, "heads", dump)


def compile_lstm(
    spec: LSTMSpec,
    params: Params,
    path: str | PathLike[str],
    *,
    target: Target = "llvm",
    shapes: FixedShapes | None = None,
    returns: str = "layer",
    optional_lengths: bool = False,
    dump: Path | None = None,
) -> None:
    """Compile one LSTM, given by its spec and canonical parameters, to an artifact at ``path``.

    ``returns`` is "layer" (as a Gluon layer) or "torch"; ``optional_lengths`` adds lengths as an
    input that may be left out. The rest is as in :func:`compile_graph`.
    """
    chosen = resolve(target)
    emitter = KernelEmitter(chosen)
    model = lower_lstm(spec, params, emitter, shapes=shapes, optional_lengths=optional_lengths)
    _write(model, chosen, emitter, path, returns, dump)


def _write(
    model: LoweredModel,
    target: CPUTarget,
    emitter: KernelEmitter,
    path: str | PathLike[str],
    returns: str,
    dump: Path | None,
) -> None:
    plan = [
        {"lstm": name, **layer.to_dict()}
        for name, plans in emitter.plans.items()
        for layer in plans
    ]
    write_artifact(model, target, path, returns=returns, plan=plan, dump=dump)
