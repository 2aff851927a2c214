"""A lowered module -> the artifact file."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import tvm
from tvm import relax

from gluonlstm import __version__
from gluonlstm.artifact import ModelInfo, write
from gluonlstm.errors import CompilationError, GluonLSTMError

from .cuda.build import link_cuda
from .cuda.target import CUDATarget
from .frontend.builder import LoweredModel
from .pipeline import run_relax, tir_pipeline
from .target import CPUTarget


def write_artifact(
    model: LoweredModel,
    target: CPUTarget | CUDATarget,
    path: str | PathLike[str],
    *,
    returns: str,
    plan: Iterable[Mapping[str, Any]] = (),
    facts: Mapping[str, Any] | None = None,
    dump: Path | None = None,
) -> None:
    """Compile ``model`` for ``target`` and write the artifact to ``path``, atomically.

    ``returns``, ``plan`` and what ``facts`` add to the target's go into the metadata, with a row of
    the plan for each GPU kernel's resources; ``dump`` is a folder for the module after each phase.
    Raises CompilationError if TVM, the CUDA compiler or the linker (the system's C++ compiler)
    fails, MissingDependencyError if a GPU target lacks its compiler.
    """
    with tempfile.TemporaryDirectory(prefix="gluonlstm-") as folder:
        library = Path(folder) / "model.so"
        linked = _link(model, target, library, dump)
        info = ModelInfo(
            inputs=model.inputs,
            outputs=model.outputs,
            returns=returns,
            target={**target.to_dict(), **linked.facts, **(facts or {})},
            spec=model.spec,
            plan=(*plan, *linked.plan),
            version=__version__,
        )
        write(path, library, model.weights, info)


@dataclass(frozen=True)
class _Linked:
    """What is to be recorded about a library beyond its model and target."""

    facts: Mapping[str, Any]
    plan: tuple[Mapping[str, Any], ...]


def _link(
    model: LoweredModel, target: CPUTarget | CUDATarget, library: Path, dump: Path | None
) -> _Linked:
    """Write the shared library."""
    try:
        mod = run_relax(model.mod, target, dump)
        if isinstance(target, CUDATarget):
            compiled = link_cuda(mod, target, tir_pipeline(target.kind), library)
            rows = tuple(row.to_dict() for row in compiled.resources)
            return _Linked({"compiler": compiled.compiler}, rows)
        _link_cpu(mod, target, library)
        return _Linked({}, ())
    except GluonLSTMError:
        raise
    except Exception as error:  # TVM raises many kinds, and the linker RuntimeError
        name = ", ".join(target.names) if isinstance(target, CUDATarget) else target.mcpu
        raise CompilationError(f"cannot compile the model for {name}: {error}") from error


def _link_cpu(mod: tvm.IRModule, target: CPUTarget, library: Path) -> None:
    executable = relax.build(
        mod, target.tvm(), relax_pipeline=None, tir_pipeline=tir_pipeline(target.kind)
    )
    executable.export_library(str(library))
