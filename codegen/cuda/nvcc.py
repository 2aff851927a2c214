"""nvcc: the compiler driver of a CUDA toolkit.

It is looked for in the folder that CUDA_HOME or CUDA_PATH names, on PATH, in /usr/local/cuda, and
in PyPI's wheel nvidia-cuda-nvcc. It needs a host C++ compiler, as linking an artifact does.
"""

from __future__ import annotations

import functools
import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from gluonlstm.errors import MissingDependencyError

from .arch import CUDAArch
from .compiler import UNUSED, CompiledSource, check_archs
from .resources import parse_report
from .source import compiler_error
from .wheels import cuda_folders

DEFAULT_TOOLKIT = Path("/usr/local/cuda")

# Fast math stays off: it would make tanhf an approximation with 11 bits, and division inexact.
# Without a limit of its own, ptxas spills a few registers of some kernels to use 64 rather than 80.
OPTIONS = (
    "-O3",
    "-std=c++17",
    "--expt-relaxed-constexpr",
    f"--diag-suppress={UNUSED}",
    "--ptxas-options=-v",
    "--maxrregcount=255",
)


class NVCC:
    """One installation of nvcc."""

    def __init__(self, path: str | Path) -> None:
        """Take the nvcc at ``path``; MissingDependencyError if it does not run."""
        self._path = Path(path)
        self._version, self._archs = _describe(str(path))

    @classmethod
    def find(cls) -> NVCC:
        """Return the first one found; MissingDependencyError if there is none."""
        return cls(find_nvcc())

    @property
    def name(self) -> str:
        """Name and version."""
        return f"nvcc {self._version}"

    def compile(
        self, source: str, archs: Sequence[CUDAArch], ptx: CUDAArch | None
    ) -> CompiledSource:
        """Compile to a fatbin; see :class:`.compiler.Compiler`."""
        check_archs(self.name, self._archs, archs)
        codes = [f"-gencode=arch={arch.virtual},code={arch.name}" for arch in archs]
        if ptx is not None:
            codes.append(f"-gencode=arch={ptx.virtual},code={ptx.virtual}")
        with TemporaryDirectory(prefix="gluonlstm-") as folder:
            text, image = Path(folder, "kernels.cu"), Path(folder, "kernels.fatbin")
            text.write_text(source)
            done = _run(
                [str(self._path), "--fatbin", *OPTIONS, *codes, "-o", str(image), str(text)]
            )
            report = done.stdout + done.stderr
            if done.returncode:
                message = report.replace(str(text), text.name)
                raise compiler_error(self.name, source, message)
            return CompiledSource(image.read_bytes(), parse_report(report), self.name)


def find_nvcc() -> Path:
    """Return the path of the first nvcc found; MissingDependencyError if there is none."""
    for path in _candidates():
        if path.is_file() and os.access(path, os.X_OK):
            return path
    raise MissingDependencyError("there is no nvcc on PATH, in CUDA_HOME or in /usr/local/cuda")


def _candidates() -> Iterator[Path]:
    for variable in ("CUDA_HOME", "CUDA_PATH"):
        if os.environ.get(variable):
            yield Path(os.environ[variable], "bin", "nvcc")
    on_path = shutil.which("nvcc")
    if on_path:
        yield Path(on_path)
    yield DEFAULT_TOOLKIT / "bin" / "nvcc"
    for folder in cuda_folders():
        yield folder / "bin" / "nvcc"


@functools.cache
def _describe(path: str) -> tuple[str, frozenset[str]]:
    """Return the version, and the archs that it knows, with their variants."""
    try:
        version = re.search(r"release \S+, V([\d.]+)", _run([path, "--version"]).stdout)
        known = re.findall(r"sm_\d+", _run([path, "--list-gpu-code"]).stdout)
    except OSError as error:
        raise MissingDependencyError(f"nvcc at {path} does not run ({error})") from error
    if version is None or not known:
        raise MissingDependencyError(f"{path} is not an nvcc of CUDA 11.5 or later")
    variants = [f"{name}a" for name in known if int(name.removeprefix("sm_")) >= 90]
    return version[1], frozenset([*known, *variants])


def _run(command: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
