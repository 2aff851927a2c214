"""GPU targets: how they are written, and what holds on all of their GPUs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import tvm

from gluonlstm.errors import InvalidArgumentError

from .arch import CUDAArch, cuda_arch

DEFAULT_ARCHS = ("sm_80", "sm_90")
MATH_MODES = ("strict", "tf32")
_OPTIONS = frozenset({"kind", "arch", "math", "host"})


@dataclass(frozen=True)
class CUDATarget:
    """NVIDIA GPUs to compile for.

    One artifact holds machine code for each of ``archs``, ascending, and PTX of ``ptx``, from
    which the driver makes code for later GPUs (None if all archs are variants such as sm_90a).

    ``math`` says how float32 products are computed: "strict" in float32, "tf32" by tensor cores,
    with 10 bits of mantissa. Neither allows fast math.

    ``host`` are TVM's options for the CPU code, which only launches kernels, and ``host_features``
    the /proc/cpuinfo flags that it needs.
    """

    archs: tuple[CUDAArch, ...]
    ptx: CUDAArch | None
    math: str
    host: Mapping[str, Any]
    host_features: tuple[str, ...]
    kind: str = "cuda"

    @property
    def shared_memory(self) -> int:
        """Bytes of shared memory that a CTA can have on every one of the GPUs."""
        return min(arch.shared_memory for arch in self.archs)

    @property
    def registers(self) -> int:
        """32-bit registers of a multiprocessor."""
        return min(arch.registers for arch in self.archs)

    @property
    def multiprocessors(self) -> int:
        """Multiprocessors of the smallest typical GPU; a device may have fewer or more."""
        return min(arch.multiprocessors for arch in self.archs)

    @property
    def tensor_core_dtypes(self) -> frozenset[str]:
        """Element types that the tensor cores of every one of the GPUs multiply."""
        return frozenset.intersection(*(arch.tensor_core_dtypes for arch in self.archs))

    @property
    def names(self) -> tuple[str, ...]:
        """The archs' names, ascending."""
        return tuple(arch.name for arch in self.archs)

    def with_clusters(self) -> tuple[CUDAArch, ...]:
        """Return those of the archs on which CTAs can form clusters."""
        return tuple(arch for arch in self.archs if arch.clusters)

    def tvm(self) -> tvm.target.Target:
        """Return the TVM target that CUDA C is generated for: that of the oldest GPU."""
        oldest = self.archs[0]
        options = {
            "kind": "cuda",
            "arch": oldest.name,
            "max_threads_per_block": 1024,
            "max_shared_memory_per_block": 48 << 10,  # what needs no launch attribute
        }
        return tvm.target.Target(options, host=dict(self.host))

    def to_dict(self) -> dict[str, Any]:
        """Return what an artifact records about its target."""
        return {
            "kind": self.kind,
            "archs": list(self.names),
            "ptx": self.ptx.virtual if self.ptx else None,
            "math": self.math,
            "mtriple": self.host["mtriple"],
            "mcpu": self.host["mcpu"],
            "cpu_features": list(self.host_features),
        }


def cuda_target(
    options: Mapping[str, Any], host: Mapping[str, Any], host_features: tuple[str, ...]
) -> CUDATarget:
    """Return the target for ``{"kind": "cuda", "arch": ..., "math": ...}`` with a checked host.

    "arch" is a name ("sm_90"), several with commas between, or a list of names. Raises
    InvalidArgumentError.
    """
    unknown = sorted(set(options) - _OPTIONS)
    if unknown:
        raise InvalidArgumentError(
            f"target {dict(options)}: unknown option {', '.join(unknown)}; a CUDA target has "
            "'arch', 'math' and 'host'."
        )
    archs = _archs(options.get("arch") or DEFAULT_ARCHS)
    math = options.get("math", "strict")
    if math not in MATH_MODES:
        raise InvalidArgumentError(f"target math={math!r} must be one of {MATH_MODES}.")
    if math == "tf32" and not all("tf32" in arch.tensor_core_dtypes for arch in archs):
        raise InvalidArgumentError(f"target math='tf32' needs sm_80 or later, not {archs[0].name}.")
    portable = [arch for arch in archs if not arch.variant]
    ptx = portable[-1] if portable else None
    return CUDATarget(archs, ptx, math, dict(host), host_features)


def _archs(given: Any) -> tuple[CUDAArch, ...]:
    """Return the archs, ascending and each once."""
    names = given.split(",") if isinstance(given, str) else given
    if not isinstance(names, Iterable) or not all(isinstance(name, str) for name in names):
        raise InvalidArgumentError(f"target arch={given!r} must be a name or a list of names.")
    archs = {cuda_arch(name.strip()) for name in names}
    return tuple(sorted(archs, key=lambda arch: (arch.number, arch.variant)))
