"""Find and load what runs GPU models: the driver, the CUDA runtime, and TVM's library for CUDA.

- ``libcuda.so.1`` comes with NVIDIA's driver and is never looked for elsewhere.
- ``libcudart`` is taken as the dynamic loader finds it (torch may have loaded it already), else
  from PyPI's wheel nvidia-cuda-runtime, else from a CUDA toolkit in /usr/local.
- ``libtvm_runtime_cuda.so`` lies beside ``libtvm_runtime.so``; see :mod:`gluonlstm.tvm_library`.

LD_LIBRARY_PATH need not be set for any of them.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from gluonlstm.errors import MissingDependencyError
from gluonlstm.tvm_library import find_library

CUDA_LIBRARY = "libtvm_runtime_cuda.so"
CUDA = 2  # DLPack's number for the kind of device
_DRIVER = "libcuda.so.1"
_SIGN_OF_LIFE = "device_api.cuda"  # a function that the library registers
_MISSING = re.compile(r"(libcudart\.so\.\d+)")

# TVM's numbers for facts about a device.
_EXISTS, _COMPUTE_CAPABILITY, _NAME, _MULTIPROCESSORS = 0, 4, 5, 7

_lock = threading.Lock()


@dataclass(frozen=True)
class DeviceFacts:
    """One GPU: its name, compute capability times ten, and number of multiprocessors."""

    name: str
    compute_capability: int
    multiprocessors: int


def load_cuda(tvm_ffi: ModuleType, near: Path | None = None) -> None:
    """Load the libraries, once per process; MissingDependencyError says what is missing.

    ``near`` is the folder of the compiled model.
    """
    with _lock:
        if tvm_ffi.get_global_func(_SIGN_OF_LIFE, allow_missing=True) is not None:
            return
        try:
            ctypes.CDLL(_DRIVER)
        except OSError as error:
            raise MissingDependencyError(
                f"running a model that was compiled for CUDA needs NVIDIA's driver ({error}). "
                "Install it, or compile the model for target='llvm'."
            ) from error
        _open(find_library(near, CUDA_LIBRARY))


def facts(tvm_ffi: ModuleType, device: int) -> DeviceFacts | None:
    """Return what the GPU with this number is, None if there is none."""
    attribute = tvm_ffi.get_global_func("runtime.GetDeviceAttr")
    if device < 0 or not attribute(CUDA, device, _EXISTS):
        return None
    major, minor = str(attribute(CUDA, device, _COMPUTE_CAPABILITY)).split(".")
    return DeviceFacts(
        name=str(attribute(CUDA, device, _NAME)),
        compute_capability=int(major) * 10 + int(minor),
        multiprocessors=int(attribute(CUDA, device, _MULTIPROCESSORS)),
    )


def problem() -> str:
    """Return what CUDA says if it cannot be used at all, such as a driver that is too old."""
    runtime = _loaded_library()
    runtime.cudaGetErrorString.restype = ctypes.c_char_p
    code = runtime.cudaGetDeviceCount(ctypes.byref(ctypes.c_int()))
    return runtime.cudaGetErrorString(code).decode(errors="replace") if code else ""


@contextmanager
def device_kept() -> Iterator[None]:
    """Let the thread's current GPU be the same after the body; compiled code sets it."""
    runtime = _loaded_library()
    number = ctypes.c_int()
    known = runtime.cudaGetDevice(ctypes.byref(number)) == 0
    try:
        yield
    finally:
        if known:
            runtime.cudaSetDevice(number)


@functools.cache
def _loaded_library() -> ctypes.CDLL:
    """Return TVM's library; symbols are also looked for in what it was linked with."""
    return ctypes.CDLL(CUDA_LIBRARY, mode=os.RTLD_NOLOAD | os.RTLD_LAZY)


def _open(path: Path) -> None:
    """Load TVM's library, and before it the CUDA runtime that it was built with."""
    try:
        ctypes.CDLL(str(path))
        return
    except OSError as error:
        reason = error
    missing = _MISSING.search(str(reason))
    if missing is None:
        raise MissingDependencyError(f"the library {path} cannot be loaded ({reason}).") from reason
    for candidate in _runtimes(missing[1]):
        if candidate.is_file():
            _keep.append(ctypes.CDLL(str(candidate)))
            ctypes.CDLL(str(path))
            return
    raise MissingDependencyError(
        f"the CUDA runtime {missing[1]} was not found. Install it with "
        "pip install 'gluonlstm[cuda-runtime]'"
    ) from reason


_keep: list[Any] = []  # libraries that others find by name


def _runtimes(name: str) -> Iterator[Path]:
    version = name.rpartition(".")[2]
    spec = importlib.util.find_spec("nvidia")  # finds, does not import
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        yield Path(folder, f"cu{version}", "lib", name)
        yield Path(folder, "cuda_runtime", "lib", name)
    for toolkit in ("cuda", f"cuda-{version}"):
        yield Path("/usr/local", toolkit, "lib64", name)
