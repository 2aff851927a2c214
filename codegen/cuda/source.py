"""The CUDA C that TVM generates: find its kernels, and adapt it before it is compiled."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass

from gluonlstm.errors import CompilationError

_KERNEL = re.compile(r'extern "C" __global__ void\b([^;{}]*)\{')
_NAME = re.compile(r"(\w+)\s*\([^()]*\)\s*$")
_LINE = re.compile(r"\((\d+)\): (?:catastrophic )?error")

# The generator writes these for float32 whatever the compiler's options; their relative error grows
# with the argument. Each has an exact namesake.
_FAST_FUNCTIONS = re.compile(r"\b__(expf|exp10f|logf|log2f|log10f|powf|sinf|cosf|tanf)\(")

# Half of a second for each kernel and arch, and only barriers in shared memory need it.
_COSTLY_HEADER = "#include <cuda/barrier>"


@dataclass(frozen=True)
class Kernel:
    """Where a kernel's body is in the source: positions of its braces, and the line of its name."""

    name: str
    line: int
    begin: int
    end: int


def find_kernels(source: str) -> tuple[Kernel, ...]:
    """Return the kernels that the source defines, in order."""
    lines = [match.start() for match in re.finditer("\n", source)]
    kernels = []
    for match in _KERNEL.finditer(source):
        name = _NAME.search(match[1])
        if name:
            begin = match.end() - 1
            line = bisect_right(lines, match.start()) + 1
            kernels.append(Kernel(name[1], line, begin, _closing(source, begin)))
    return tuple(kernels)


def prepare(source: str, needs: Mapping[str, int]) -> str:
    """Return the source as it is compiled.

    Functions of reduced accuracy are replaced by exact ones. Kernels named in ``needs`` use
    instructions that GPUs before that compute capability (times ten) do not have: for those their
    body is a trap, so that one source serves all archs. Nothing must launch them there.
    """
    source = _FAST_FUNCTIONS.sub(r"\1(", source)
    if "cuda::barrier" not in source:
        source = source.replace(_COSTLY_HEADER, "")
    for kernel in reversed(find_kernels(source)):  # from the end, so that positions stay right
        if kernel.name in needs:
            body = source[kernel.begin + 1 : kernel.end]
            guarded = (
                f"\n#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= {needs[kernel.name] * 10}\n"
                f"{body}\n#else\n  __trap();\n#endif\n"
            )
            source = source[: kernel.begin + 1] + guarded + source[kernel.end :]
    return source


def compiler_error(compiler: str, source: str, message: str) -> CompilationError:
    """Return the error for a compiler's message, with the names of the kernels it is about."""
    kernels = find_kernels(source)
    first_lines = [kernel.line for kernel in kernels]
    names = []
    for match in _LINE.finditer(message):
        index = bisect_right(first_lines, int(match[1])) - 1
        if index >= 0 and kernels[index].name not in names:
            names.append(kernels[index].name)
    # Without a line it can be any of them: the assembler names functions, not lines.
    names = names or [kernel.name for kernel in kernels if kernel.name in message]
    names = names or [kernel.name for kernel in kernels]
    return CompilationError(
        f"{compiler} could not compile the CUDA kernel {' or '.join(names)}: {message.strip()}"
    )


def _closing(source: str, begin: int) -> int:
    """Return the position of the brace that closes the one at ``begin``."""
    depth = 0
    for match in re.compile("[{}]").finditer(source, begin):
        depth += 1 if match[0] == "{" else -1
        if depth == 0:
            return match.start()
    return len(source)
