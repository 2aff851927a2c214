"""The orchestrator: source graph or LSTM -> frontend -> plan, packing, kernels -> artifact."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from gluonlstm.spec import LSTMSpec
from gluonlstm.symbol import Graph

from .build import write_artifact
from .cuda.target import CUDATarget
from .emitter import CPUEmitter, LayerwiseEmitter
from .emitter_cuda import CUDAEmitter
from .frontend.builder import LoweredModel
from .frontend.importer import lower_graph
from .frontend.inference import FixedShapes
from .frontend.layer import lower_lstm
from .target import CPUTarget, resolve

Params = Mapping[str, NDArray[Any]]
Target = str | Mapping[str, Any]

# The entry of an artifact for GPUs with fewer multiprocessors than ``main`` needs at once.
MAIN_ANY_DEVICE = "main_any_device"


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

    def lower(emitter: LayerwiseEmitter) -> LoweredModel:
        return lower_graph(graph, params, emitter, shapes=shapes, outputs=outputs)

    _compile(lower, resolve(target), path, "heads", dump)


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

    def lower(emitter: LayerwiseEmitter) -> LoweredModel:
        return lower_lstm(spec, params, emitter, shapes=shapes, optional_lengths=optional_lengths)

    _compile(lower, resolve(target), path, returns, dump)


def _compile(
    lower: Callable[[LayerwiseEmitter], LoweredModel],
    target: CPUTarget | CUDATarget,
    path: str | PathLike[str],
    returns: str,
    dump: Path | None,
) -> None:
    """Lower for ``target`` and write the artifact."""
    if isinstance(target, CPUTarget):
        emitter: LayerwiseEmitter = CPUEmitter(target)
        model, facts = lower(emitter), {}
    else:
        emitter = CUDAEmitter(target)
        model, facts = lower(emitter), {"resident_ctas": emitter.resident_ctas}
        if emitter.resident_ctas:
            general = lower(CUDAEmitter(target, any_device=True, prefix="any_device_"))
            model = model.with_variant(MAIN_ANY_DEVICE, general)
    plan = [
        {"lstm": name, **layer.to_dict()}
        for name, layers in emitter.plans.items()
        for layer in layers
    ]
    write_artifact(model, target, path, returns=returns, plan=plan, facts=facts, dump=dump)
