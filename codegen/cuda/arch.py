"""What is known about each generation of NVIDIA GPUs, as the plan and the toolchain need it.

Sizes are those of the CUDA programming guide's table of compute capabilities. They hold for every
GPU of a generation; the number of multiprocessors does not, and is that of a typical large one.
"""

from __future__ import annotations

from dataclasses import dataclass

from gluonlstm.errors import InvalidArgumentError

_KIB = 1024


@dataclass(frozen=True)
class CUDAArch:
    """One generation of GPUs.

    - ``number``: the compute capability times ten, 90 for 9.0.
    - ``variant``: "a" for code that also uses what only this generation has; such code runs on no
      later one.
    - ``shared_memory``: bytes of shared memory that one CTA can have (48 KiB of it static).
    - ``sm_shared_memory``: bytes of shared memory of one multiprocessor.
    - ``sm_threads``: threads that can be resident on a multiprocessor.
    - ``registers``: 32-bit registers of a multiprocessor.
    - ``multiprocessors``: of a typical large GPU of this generation; ask the device for its own.
    - ``clusters``: whether CTAs can form clusters with distributed shared memory.
    - ``tensor_core_dtypes``: element types that ``mma.sync`` multiplies.
    """

    number: int
    shared_memory: int
    sm_shared_memory: int
    sm_threads: int
    multiprocessors: int
    tensor_core_dtypes: frozenset[str]
    clusters: bool = False
    registers: int = 65536
    variant: str = ""

    @property
    def name(self) -> str:
        """The name of its machine code: sm_90, sm_90a."""
        return f"sm_{self.number}{self.variant}"

    @property
    def virtual(self) -> str:
        """The name of the PTX for it: compute_90."""
        return f"compute_{self.number}{self.variant}"


_HALF = frozenset({"float16"})
_AMPERE = frozenset({"float16", "bfloat16", "tf32"})


def _arch(number: int, shared_kib: int, threads: int, multiprocessors: int) -> CUDAArch:
    return CUDAArch(
        number=number,
        shared_memory=shared_kib * _KIB,
        # From 8.0 on, the system takes 1 KiB of shared memory for each CTA.
        sm_shared_memory=(shared_kib + (number >= 80)) * _KIB,
        sm_threads=threads,
        multiprocessors=multiprocessors,
        tensor_core_dtypes=_AMPERE if number >= 80 else _HALF,
        clusters=number >= 90,
    )


_ARCHS = {
    arch.number: arch
    for arch in (
        _arch(75, 64, 1024, 72),  # Turing: T4, RTX 20
        _arch(80, 163, 2048, 108),  # Ampere: A100
        _arch(86, 99, 1536, 84),  # A10, A40, RTX 30
        _arch(87, 163, 1536, 16),  # Orin
        _arch(89, 99, 1536, 142),  # Ada: L4, L40, RTX 40
        _arch(90, 227, 2048, 132),  # Hopper: H100, H200
        _arch(100, 227, 2048, 148),  # Blackwell: B200
        _arch(103, 227, 2048, 148),  # B300
        _arch(110, 227, 1536, 20),  # Thor
        _arch(120, 99, 1536, 170),  # RTX 50
        _arch(121, 99, 1536, 48),  # GB10
    )
}
_FIRST_WITH_VARIANT = 90


def cuda_arch(name: str) -> CUDAArch:
    """Return the generation called ``name``: "sm_90" or "sm_90a"; InvalidArgumentError if none."""
    digits = name.removeprefix("sm_")
    variant = "a" if digits.endswith("a") else ""
    digits = digits.removesuffix("a")
    number = int(digits) if digits.isascii() and digits.isdigit() else 0
    known = _ARCHS.get(number)
    if not name.startswith("sm_") or known is None or (variant and number < _FIRST_WITH_VARIANT):
        names = ", ".join(arch.name for arch in _ARCHS.values())
        raise InvalidArgumentError(
            f"CUDA arch {name!r} is not supported; it must be one of {names}, or one of sm_90 and "
            "later with an 'a' (sm_90a) for code that runs on this generation alone."
        )
    if not variant:
        return known
    return CUDAArch(**{**vars(known), "variant": variant})
