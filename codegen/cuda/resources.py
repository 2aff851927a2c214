"""What a compiled kernel occupies on a GPU, as the assembler reports it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from .arch import CUDAArch

_ENTRY = re.compile(r"Compiling entry function '(\w+)' for '(sm_\w+)'")
_STACK = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
_REGISTERS = re.compile(r"Used (\d+) registers")
_SHARED = re.compile(r"(\d+) bytes smem")

_WARP = 32
_REGISTER_UNIT = 256  # registers of a warp are allocated in multiples of this
_SYSTEM_SHARED = 1024  # bytes that the system takes for each CTA, from compute capability 8.0 on
_MOST_CTAS = 32  # on a multiprocessor; fewer on some, which other limits reach first


@dataclass(frozen=True)
class KernelResources:
    """One kernel's machine code for one generation of GPUs.

    ``registers`` are those of a thread; ``shared_bytes`` is the static shared memory of a CTA, to
    which a launch may add dynamic; ``stack_bytes`` is a thread's stack frame; the spills are bytes
    of registers that did not fit and go to memory.
    """

    kernel: str
    arch: str
    registers: int
    shared_bytes: int
    stack_bytes: int
    spill_store_bytes: int
    spill_load_bytes: int

    @property
    def spill_bytes(self) -> int:
        """Bytes of spills, stores and loads together; 0 is what a kernel should have."""
        return self.spill_store_bytes + self.spill_load_bytes

    def to_dict(self) -> dict[str, Any]:
        """Return a row for `gluonlstm inspect`."""
        return {
            "kernel": self.kernel,
            "arch": self.arch,
            "registers": self.registers,
            "shared_bytes": self.shared_bytes,
            "stack_bytes": self.stack_bytes,
            "spill_bytes": self.spill_bytes,
        }

    def resident_ctas(self, arch: CUDAArch, threads: int, dynamic_shared_bytes: int = 0) -> int:
        """Return how many CTAs of ``threads`` threads fit on one multiprocessor of ``arch``."""
        warps = -(-threads // _WARP)
        unit = _REGISTER_UNIT
        registers = warps * (-(-self.registers * _WARP // unit) * unit)
        shared = self.shared_bytes + dynamic_shared_bytes
        if shared > arch.shared_memory or registers > arch.registers:
            return 0
        shared += _SYSTEM_SHARED if arch.number >= 80 else 0
        limits = [_MOST_CTAS, arch.sm_threads // (warps * _WARP), arch.registers // registers]
        if shared:
            limits.append(arch.sm_shared_memory // shared)
        return min(limits)


def parse_report(text: str) -> tuple[KernelResources, ...]:
    """Read what ptxas prints with ``-v``, sorted by kernel and arch.

    A function that a kernel calls without being inlined has a stack frame and spills of its own,
    which count as the kernel's.
    """
    return tuple(sorted(_entries(text), key=lambda row: (row.kernel, row.arch)))


def _entries(text: str) -> Iterator[KernelResources]:
    starts = list(_ENTRY.finditer(text))
    ends = [match.start() for match in starts[1:]] + [len(text)]
    for start, end in zip(starts, ends, strict=True):
        part = text[start.end() : end]
        registers = _REGISTERS.search(part)
        if registers is None:
            continue
        stacks = [tuple(map(int, match.groups())) for match in _STACK.finditer(part)]
        shared = _SHARED.search(part, registers.end(), _end_of_line(part, registers.end()))
        yield KernelResources(
            kernel=start[1],
            arch=start[2],
            registers=int(registers[1]),
            shared_bytes=int(shared[1]) if shared else 0,
            stack_bytes=max((stack for stack, _, _ in stacks), default=0),
            spill_store_bytes=sum(stores for _, stores, _ in stacks),
            spill_load_bytes=sum(loads for _, _, loads in stacks),
        )


def _end_of_line(text: str, position: int) -> int:
    end = text.find("\n", position)
    return end if end >= 0 else len(text)
