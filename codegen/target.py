"""Compilation targets and the facts about them that the plan needs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import tvm
from tvm.target import codegen as _llvm

from gluonlstm.errors import InvalidArgumentError
from gluonlstm.machine import cpu_flags

from .cuda.target import CUDATarget, cuda_target

# SIMD units of x86 from wide to narrow: (LLVM feature, bytes of a vector, vector registers).
_X86_UNITS = (("avx512f", 64, 32), ("avx", 32, 16), ("sse2", 16, 16))

# LLVM features whose instructions the compiler may emit -> the /proc/cpuinfo flag that shows them.
_CPUINFO_FLAGS = {
    **{name: name for name in ("avx", "avx2", "fma", "f16c", "bmi2", "popcnt", "movbe", "adx")},
    **{name: name for name in ("avx512f", "avx512cd", "avx512bw", "avx512dq", "avx512vl")},
    **{name: name for name in ("avx512ifma", "avx512vbmi", "gfni", "vaes", "vpclmulqdq", "ssse3")},
    **{f"avx512{name}": f"avx512_{name}" for name in ("bf16", "bitalg", "vbmi2", "vnni")},
    **{f"avx512{name}": f"avx512_{name}" for name in ("vpopcntdq", "vp2intersect", "fp16")},
    "avxvnni": "avx_vnni",
    "bmi": "bmi1",
    "lzcnt": "abm",
    "sse4.1": "sse4_1",
    "sse4.2": "sse4_2",
}
_GENERIC_X86 = ("x86-64-v4", "x86-64-v3", "x86-64-v2", "x86-64")

# The CPU code of a GPU artifact only launches kernels, so it is made to run on any machine that
# has such a GPU.
_GPU_HOST_X86 = "x86-64-v2"


@dataclass(frozen=True)
class CPUTarget:
    """One CPU to compile for.

    ``vector_bytes`` and ``vector_registers`` describe its SIMD unit; ``cpu_features`` are the
    /proc/cpuinfo flags without which the code must not be run.
    """

    kind: str
    triple: str
    mcpu: str
    vector_bytes: int
    vector_registers: int
    cpu_features: tuple[str, ...]
    options: Mapping[str, Any]

    def lanes(self, dtype: str) -> int:
        """Elements of ``dtype`` in one vector register."""
        return self.vector_bytes // (8 if dtype == "float64" else 4)

    def tvm(self) -> tvm.target.Target:
        """Return the TVM target."""
        return tvm.target.Target(dict(self.options))

    def to_dict(self) -> dict[str, Any]:
        """Return what an artifact records about its target."""
        return {
            "kind": self.kind,
            "mtriple": self.triple,
            "mcpu": self.mcpu,
            "vector_bytes": self.vector_bytes,
            "cpu_features": list(self.cpu_features),
        }


def resolve(target: str | Mapping[str, Any]) -> CPUTarget | CUDATarget:
    """Turn what the user wrote into a target.

    "llvm" (or "native") is this machine's CPU; a dict such as ``{"kind": "llvm", "mcpu":
    "x86-64-v3"}`` names another, and may add "mtriple" and "mattr" as TVM takes them. The string
    form ``"llvm -mcpu=x86-64-v3 -mtriple=..."`` means the same.

    "cuda" is NVIDIA GPUs, sm_80, sm_90 and whatever is newer; ``"cuda -arch=sm_90"`` or ``{"kind":
    "cuda", "arch": ["sm_80", "sm_90"], "math": "tf32"}`` says which, and how float32 products are
    computed (see :class:`CUDATarget`). "host" is the CPU target for the code that launches
    kernels, by default x86-64-v2 or, on other machines, their generic CPU. Neither a GPU nor a
    driver is needed.

    Raises InvalidArgumentError.
    """
    options = _parse(target) if isinstance(target, str) else dict(target)
    kind = options.get("kind")
    if kind == "cuda":
        host = options.get("host") or _gpu_host()
        cpu = resolve(host)
        if not isinstance(cpu, CPUTarget):
            raise InvalidArgumentError(f"target host={host!r} must be a CPU target.")
        return cuda_target(options, cpu.options, cpu.cpu_features)
    if kind != "llvm":
        raise InvalidArgumentError(
            f"target kind {kind!r} is not supported; use 'llvm' (this CPU), a dict such as "
            "{'kind': 'llvm', 'mcpu': 'x86-64-v3'}, or 'cuda'."
        )
    triple = options.setdefault("mtriple", str(_llvm.llvm_get_system_triple()))
    if options.get("mcpu") in (None, "native"):
        options["mcpu"] = _host_cpu(triple)
    features = _features(options)
    vector_bytes, registers = _vector_unit(triple, features)
    flags = tuple(sorted(_CPUINFO_FLAGS[f] for f in features if f in _CPUINFO_FLAGS))
    return CPUTarget("llvm", triple, options["mcpu"], vector_bytes, registers, flags, options)


def _gpu_host() -> dict[str, Any]:
    triple = str(_llvm.llvm_get_system_triple())
    return {
        "kind": "llvm",
        "mtriple": triple,
        "mcpu": _GPU_HOST_X86 if triple.startswith("x86_64") else "generic",
    }


def _host_cpu(triple: str) -> str:
    """Name this machine's CPU for LLVM; a virtual one that hides features gets a generic name."""
    if triple != _llvm.llvm_get_system_triple():
        raise InvalidArgumentError(f"target mtriple={triple!r} is not this machine: name its mcpu.")
    name = str(_llvm.llvm_get_system_cpu())
    present = cpu_flags()
    if present is None:
        return name
    for candidate in (name, *_GENERIC_X86):
        features = _features({"kind": "llvm", "mtriple": triple, "mcpu": candidate})
        if {_CPUINFO_FLAGS[f] for f in features if f in _CPUINFO_FLAGS} <= present:
            return candidate
    return name


def _parse(text: str) -> dict[str, Any]:
    """Read "llvm -mcpu=x -mattr=+a,+b" (TVM itself takes dicts only)."""
    words = text.split()
    if not words:
        raise InvalidArgumentError("target is empty; use 'llvm' for this CPU.")
    options: dict[str, Any] = {"kind": "llvm" if words[0] == "native" else words[0]}
    for word in words[1:]:
        name, equals, value = word.lstrip("-").partition("=")
        if not word.startswith("-") or not equals:
            raise InvalidArgumentError(f"target {text!r}: cannot read {word!r}; write -name=value.")
        options[name] = value.split(",") if name == "mattr" else value
    return options


def _features(options: Mapping[str, Any]) -> set[str]:
    """Name the features that LLVM enables for these target options."""
    try:
        target = tvm.target.Target(dict(options))
        if not _llvm.llvm_is_valid_cpu(options["mcpu"], options["mtriple"]):
            raise ValueError(f"LLVM knows no CPU {options['mcpu']!r} for {options['mtriple']!r}")
        with target:
            return {str(feature) for feature in _llvm.llvm_get_cpu_features()}
    except Exception as error:  # TVM raises several kinds
        raise InvalidArgumentError(f"target {dict(options)} is not usable: {error}") from error


def _vector_unit(triple: str, features: set[str]) -> tuple[int, int]:
    """Return (bytes of a vector register, number of vector registers)."""
    if triple.startswith("x86_64"):
        for feature, width, registers in _X86_UNITS:
            if feature in features:
                return width, registers
    return 16, 32  # NEON and the like
