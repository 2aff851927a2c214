"""Compile for the emulated GPU in place of a real one, through the product's own toolchain."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from tests import emulator


class EmulatorCompiler:
    """A CUDA compiler whose machine code is the host's; ``edit`` may break the source first."""

    name = "the emulator's compiler"

    def __init__(self, edit: Callable[[str], str] | None = None) -> None:
        self.edit = edit
        self.sources: list[str] = []

    def compile(self, source, archs, ptx):
        from gluonlstm.codegen.cuda.compiler import CompiledSource

        self.sources.append(source)
        edited = self.edit(source) if self.edit else source
        return CompiledSource(emulator.compile_cuda(edited), (), self.name)


@contextmanager
def compiling(edit: Callable[[str], str] | None = None) -> Iterator[EmulatorCompiler]:
    """Let everything that is compiled for CUDA in the body run on the emulated GPU."""
    from gluonlstm.codegen.cuda.toolchain import using

    compiler = EmulatorCompiler(edit)
    with using(compiler):
        yield compiler


def require_emulator() -> None:
    """Load the emulated GPU into this process; skip the test where that cannot be."""
    availability = emulator.available()
    if not availability:
        pytest.skip(f"no emulated GPU: {availability.reason}")
    emulator.install()
    emulator.uninstall_compiler()  # the toolchain has its own way to a compiler
