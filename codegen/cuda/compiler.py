"""What a CUDA compiler does for us."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from gluonlstm.errors import InvalidArgumentError

from .arch import CUDAArch
from .resources import KernelResources

# Warnings about expressions and variables without use; the generator writes many.
UNUSED = "174,177"


@dataclass(frozen=True)
class CompiledSource:
    """Machine code for several GPUs in one image that the driver takes, and its resources."""

    image: bytes
    resources: tuple[KernelResources, ...]
    compiler: str


class Compiler(Protocol):
    """A way from CUDA C to machine code that needs neither a GPU nor a driver."""

    @property
    def name(self) -> str:
        """Name and version, for people."""
        ...

    def compile(
        self, source: str, archs: Sequence[CUDAArch], ptx: CUDAArch | None
    ) -> CompiledSource:
        """Compile for each of ``archs``, and to PTX for ``ptx``.

        Raises InvalidArgumentError for an arch that the compiler does not know, CompilationError
        with its message if it refuses the source.
        """
        ...


def check_archs(compiler: str, known: frozenset[str], wanted: Sequence[CUDAArch]) -> None:
    """Refuse archs that a compiler does not know."""
    unknown = [arch.name for arch in wanted if arch.name not in known]
    if unknown:
        raise InvalidArgumentError(
            f"{compiler} cannot compile for {', '.join(unknown)}; it knows "
            f"{', '.join(sorted(known, key=_number))}."
        )


def _number(name: str) -> tuple[int, str]:
    digits = name.removeprefix("sm_").rstrip("af")
    return int(digits) if digits.isdigit() else 0, name
