"""A lowered module -> the artifact file."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping
from os import PathLike
from pathlib import Path
from typing import Any

from tvm import relax

from gluonlstm import __version__
from gluonlstm.artifact import ModelInfo, write
from gluonlstm.errors import CompilationError

from .frontend.builder import LoweredModel
from .pipeline import run_relax, tir_pipeline
from .target import CPUTarget


def write_artifact(
    model: LoweredModel,
    target: CPUTarget,
    path: str | PathLike[str],
    *,
    returns: str,
    plan: Iterable[Mapping[str, Any]] = (),
    dump: Path | None = None,
) -> None:
    """Compile ``model`` for ``target`` and write the artifact to ``path``, atomically.

    ``returns`` and ``plan`` go into the metadata; ``dump`` is a folder for the module after each
    phase. Raises CompilationError if TVM or the linker (the system's C++ compiler) fails.
    """
    info = ModelInfo(
        inputs=model.inputs,
        outputs=model.outputs,
        returns=returns,
        target=target.to_dict(),
        spec=model.spec,
        plan=tuple(plan),
        version=__version__,
    )
    with tempfile.TemporaryDirectory(prefix="gluonlstm-") as folder:
        library = Path(folder) / "model.so"
        try:
            mod = run_relax(model.mod, target.tvm(), dump)
            executable = relax.build(
                mod, target.tvm(), relax_pipeline=None, tir_pipeline=tir_pipeline()
            )
            executable.export_library(str(library))
        except Exception as error:  # TVM raises many kinds, and the linker RuntimeError
            raise CompilationError(
                f"cannot compile the model for {target.mcpu}: {error}"
            ) from error
        write(path, library, model.weights, info)
