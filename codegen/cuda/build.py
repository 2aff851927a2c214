"""From a module after the Relax phases to a shared library with machine code for GPUs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tvm
from tvm import relax, tirx

from .compiler import CompiledSource
from .embed import cuda_sources, export_library, source_kept
from .source import prepare
from .target import CUDATarget
from .toolchain import find_compiler

# Attribute of a kernel whose instructions older GPUs lack: the compute capability that it needs,
# times ten. The code that launches it must see to it that the device has that.
NEEDED_ARCH = "gluonlstm.needed_arch"


def generate_cuda(mod: Any, target: CUDATarget, tir_pipeline: str) -> str:
    """Return the CUDA C of a module of kernels, as the compiler is given it."""
    needs = dict(_needed_archs(mod))
    with source_kept(), target.tvm():
        built = tvm.compile(mod, target=target.tvm(), tir_pipeline=tir_pipeline)
    (source,) = cuda_sources(built.mod)
    return prepare(source, needs)


def link_cuda(mod: Any, target: CUDATarget, tir_pipeline: str, library: Path) -> CompiledSource:
    """Build a lowered Relax module, write the shared library, and return what the compiler said.

    Raises MissingDependencyError without a CUDA compiler, InvalidArgumentError if it does not know
    one of the archs, CompilationError if it refuses a kernel.
    """
    compiler = find_compiler()
    needs = dict(_needed_archs(mod))
    compiled: list[CompiledSource] = []

    def translate(source: str) -> bytes:
        compiled.append(compiler.compile(prepare(source, needs), target.archs, target.ptx))
        return compiled[-1].image

    with source_kept():
        executable = relax.build(mod, target.tvm(), relax_pipeline=None, tir_pipeline=tir_pipeline)
        export_library(executable, library, str(target.tvm().host), translate)
    resources = [row for part in compiled for row in part.resources]
    return CompiledSource(
        b"".join(part.image for part in compiled), tuple(resources), compiler.name
    )


def _needed_archs(mod: Any) -> Iterator[tuple[str, int]]:
    """Yield (name in the CUDA C, needed arch) of the kernels that not all GPUs can run."""
    for var, function in mod.functions.items():
        if isinstance(function, tirx.PrimFunc) and NEEDED_ARCH in function.attrs:
            symbol = function.attrs.get("global_symbol", var.name_hint)
            yield f"{symbol}_kernel", int(function.attrs[NEEDED_ARCH])
