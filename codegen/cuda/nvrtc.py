"""NVRTC: NVIDIA's compiler as a library, from PyPI's wheels alone.

``pip install gluonlstm[cuda]`` brings NVRTC, nvFatbin (which puts machine code for several GPUs in
one image), and the CUDA headers. The libraries are called through ctypes; neither needs a driver.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gluonlstm.errors import CompilationError, MissingDependencyError

from .arch import CUDAArch
from .compiler import UNUSED, CompiledSource, check_archs
from .resources import KernelResources, parse_report
from .source import compiler_error
from .wheels import cuda_folders

_LIBRARIES = ("libnvrtc-builtins.so.*", "libnvrtc.so.*", "libnvfatbin.so.*")
_HEADERS = ("cuda_fp16.h", "cooperative_groups.h", "crt/host_defines.h", "cccl/cuda/std/cstdint")
_FILE = b"kernels.cu"


class NVRTC:
    """The NVRTC in one folder of CUDA wheels (``site-packages/nvidia/cu13``)."""

    def __init__(self, folder: Path) -> None:
        """Load the libraries; MissingDependencyError names what is not there."""
        self._folder = folder
        self._rtc, self._fatbin = _load(folder)
        major, minor = ctypes.c_int(), ctypes.c_int()
        self._rtc.nvrtcVersion(ctypes.byref(major), ctypes.byref(minor))
        self._version = f"{major.value}.{minor.value}"

    @classmethod
    def find(cls) -> NVRTC:
        """Return the one that is installed; MissingDependencyError if there is none."""
        for folder in cuda_folders():
            if any(folder.glob(f"lib/{_LIBRARIES[1]}")):
                return cls(folder)
        raise MissingDependencyError("NVRTC is not installed")

    @property
    def name(self) -> str:
        """Name and version."""
        return f"NVRTC {self._version}"

    def compile(
        self, source: str, archs: Sequence[CUDAArch], ptx: CUDAArch | None
    ) -> CompiledSource:
        """Compile to a fatbin; see :class:`.compiler.Compiler`."""
        check_archs(self.name, self._known(), archs)
        resources: list[KernelResources] = []
        with _Image(self._fatbin) as image:
            for arch in archs:
                code, report = self.translate(source, arch.name, "CUBIN")
                image.add_machine_code(code, arch)
                resources += parse_report(report)
            if ptx is not None:
                image.add_ptx(self.translate(source, ptx.virtual, "PTX")[0], ptx)
            ordered = sorted(resources, key=lambda row: (row.kernel, row.arch))
            return CompiledSource(image.bytes(), tuple(ordered), self.name)

    def translate(self, source: str, arch: str, form: str) -> tuple[bytes, str]:
        """Compile for one arch to "CUBIN" or "PTX"; return that and the compiler's log."""
        options = [
            f"--gpu-architecture={arch}",
            "-std=c++17",
            "--device-int128",
            "--maxrregcount=255",  # as for nvcc
            f"--diag-suppress={UNUSED}",
            *(["--ptxas-options=-v"] if form == "CUBIN" else []),
            *(f"-I{self._folder / place}" for place in ("include", "include/cccl")),
        ]
        program = ctypes.c_void_p()
        _check(
            self._rtc.nvrtcCreateProgram(
                ctypes.byref(program), source.encode(), _FILE, 0, None, None
            )
        )
        try:
            array = (ctypes.c_char_p * len(options))(*(option.encode() for option in options))
            failed = self._rtc.nvrtcCompileProgram(program, len(options), array)
            log = self._get(program, "ProgramLog").rstrip(b"\0").decode(errors="replace")
            if failed:
                raise compiler_error(self.name, source, log)
            return self._get(program, form), log
        finally:
            self._rtc.nvrtcDestroyProgram(ctypes.byref(program))

    def _get(self, program: ctypes.c_void_p, what: str) -> bytes:
        size = ctypes.c_size_t()
        _check(getattr(self._rtc, f"nvrtcGet{what}Size")(program, ctypes.byref(size)))
        buffer = ctypes.create_string_buffer(size.value)
        _check(getattr(self._rtc, f"nvrtcGet{what}")(program, buffer))
        return buffer.raw

    def _known(self) -> frozenset[str]:
        count = ctypes.c_int()
        _check(self._rtc.nvrtcGetNumSupportedArchs(ctypes.byref(count)))
        numbers = (ctypes.c_int * count.value)()
        _check(self._rtc.nvrtcGetSupportedArchs(numbers))
        variants = [f"sm_{number}a" for number in numbers if number >= 90]
        return frozenset([*(f"sm_{number}" for number in numbers), *variants])


class _Image:
    """A fatbin under construction."""

    def __init__(self, library: Any) -> None:
        self._library, self._handle = library, ctypes.c_void_p()

    def __enter__(self) -> _Image:
        _check(self._library.nvFatbinCreate(ctypes.byref(self._handle), None, 0))
        return self

    def __exit__(self, *error: object) -> None:
        self._library.nvFatbinDestroy(ctypes.byref(self._handle))

    def add_machine_code(self, code: bytes, arch: CUDAArch) -> None:
        name = arch.name.removeprefix("sm_").encode()
        _check(
            self._library.nvFatbinAddCubin(
                self._handle, code, ctypes.c_size_t(len(code)), name, _FILE
            )
        )

    def add_ptx(self, code: bytes, arch: CUDAArch) -> None:
        name = str(arch.number).encode()
        _check(
            self._library.nvFatbinAddPTX(
                self._handle, code, ctypes.c_size_t(len(code)), name, _FILE, None
            )
        )

    def bytes(self) -> bytes:
        size = ctypes.c_size_t()
        _check(self._library.nvFatbinSize(self._handle, ctypes.byref(size)))
        buffer = ctypes.create_string_buffer(size.value)
        _check(self._library.nvFatbinGet(self._handle, buffer))
        return buffer.raw


def _check(code: int) -> None:
    """Raise for a call that failed for another reason than the source, such as lack of memory."""
    if code:
        raise CompilationError(f"NVRTC or nvFatbin failed with error number {code}.")


@functools.cache
def _load(folder: Path) -> tuple[Any, Any]:
    missing = [name for name in _HEADERS if not (folder / "include" / name).is_file()]
    found = {pattern: sorted(folder.glob(f"lib/{pattern}")) for pattern in _LIBRARIES}
    missing += [pattern for pattern, paths in found.items() if not paths]
    if missing:
        raise MissingDependencyError(f"{folder} lacks {', '.join(missing)}")
    # NVRTC looks for its builtins by name, and finds them because they are loaded already.
    _, nvrtc, fatbin = (ctypes.CDLL(str(paths[0])) for paths in found.values())
    return nvrtc, fatbin
