"""Load the emulated CUDA libraries into this process, set them up, and call them directly."""

from __future__ import annotations

import contextlib
import ctypes
import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tests.emulator import toolchain
from tests.emulator.translate import translate

ARCHITECTURES = ("sm_75", "sm_80", "sm_86", "sm_89", "sm_90", "sm_100")


class EmulatorUnavailableError(RuntimeError):
    """The emulator cannot work on this machine."""


class LaunchError(RuntimeError):
    """A call of the emulated CUDA failed; the message is its report."""


class Availability(NamedTuple):
    ok: bool
    reason: str  # empty if ok

    def __bool__(self) -> bool:
        return self.ok


@dataclass(frozen=True)
class Settings:
    """What can be varied from run to run.

    Attributes:
        arch: the emulated device; kernels are compiled for it.
        multiprocessors: its number of SMs; 0 for that of the real device.
        seed: fixes the order in which CTAs, warps, lanes and streams run.
        check_races: report accesses to memory that no barrier orders.
        lazy_streams: run nothing before the host waits for it.
        resident_ctas: CTAs that run at a time in launches that aren't cooperative.
        time_limit_ms: for one launch.
    """

    arch: str = "sm_90"
    multiprocessors: int = 0
    seed: int = 0
    check_races: bool = True
    lazy_streams: bool = False
    resident_ctas: int = 4
    time_limit_ms: int = 60_000

    @property
    def arch_number(self) -> int:
        return int(self.arch.removeprefix("sm_").rstrip("af"))


@functools.cache
def available() -> Availability:
    """Whether kernels can be emulated here, and why not."""
    if toolchain.compiler() is None:
        return Availability(False, "g++ is not installed")
    if toolchain.cuda_include() is None:
        return Availability(
            False,
            "no CUDA headers: neither a toolkit nor the wheel nvidia-cuda-runtime is installed",
        )
    if Path("/dev/nvidiactl").exists():
        return Availability(False, "a real NVIDIA driver is present")
    return Availability(True, "")


@functools.cache
def _library() -> ctypes.CDLL:
    """The engine; libcudart.so.13 and libcuda.so.1 are loaded beside it, for all to link to."""
    availability = available()
    if not availability:
        raise EmulatorUnavailableError(f"no emulated CUDA device: {availability.reason}")
    folder = toolchain.driver_folder()
    engine, runtime, driver = (
        ctypes.CDLL(str(folder / name), mode=ctypes.RTLD_GLOBAL) for name in toolchain.LIBRARIES
    )
    engine.emu_last_report.restype = ctypes.c_char_p
    engine.emu_live_allocations.restype = ctypes.c_size_t
    engine.emu_configure.argtypes = [
        ctypes.c_uint32, ctypes.c_uint64, ctypes.c_int, ctypes.c_int, ctypes.c_uint32,
        ctypes.c_uint32,
    ]  # fmt: skip
    engine.cudart, engine.cuda = runtime, driver
    return engine


def load() -> None:
    """Make libcuda.so.1 and libcudart.so.13 of this process the emulated ones."""
    _library()


_settings = Settings()


def current_settings() -> Settings:
    return _settings


def configure(**changes: Any) -> Settings:
    """Change some settings; returns those from before. Work that was queued is done first."""
    global _settings
    library = _library()
    before, after = _settings, replace(_settings, **changes)
    if after.arch not in ARCHITECTURES and after.arch.rstrip("af") not in ARCHITECTURES:
        raise ValueError(f"arch {after.arch!r}: one of {', '.join(ARCHITECTURES)}")
    library.emu_configure(
        after.multiprocessors, after.seed, after.check_races, after.lazy_streams,
        after.resident_ctas, after.time_limit_ms,
    )  # fmt: skip
    library.emu_set_arch(after.arch_number)
    _settings = after
    return before


@contextlib.contextmanager
def settings(**changes: Any) -> Iterator[Settings]:
    """Change some settings for the length of a `with` block."""
    before = configure(**changes)
    try:
        yield current_settings()
    finally:
        configure(**asdict(before))


def last_report() -> str:
    """What the last failed call of the emulated CUDA had to say; empty if there was none."""
    return _library().emu_last_report().decode()


def clear_report() -> None:
    _library().emu_clear_report()


def live_allocations() -> int:
    """Allocations of device and pinned memory that have not been freed."""
    return _library().emu_live_allocations()


def compile_cuda(source: str, arch: str | None = None) -> bytes:
    """Compile CUDA C++ for the emulated device, as nvcc would to a cubin.

    Raises:
        TranslationError: something in it is not emulated.
        ToolchainError: g++ refuses it.
    """
    number = replace(_settings, arch=arch or _settings.arch).arch_number
    return toolchain.compile_kernel(translate(source, number), source)


# ---- calling CUDA without TVM --------------------------------------------------------------------


def _check(status: int) -> None:
    if status:
        raise LaunchError(f"CUDA error {status}: {last_report()}")


class _LaunchAttribute(ctypes.Structure):
    _fields_ = [("id", ctypes.c_int), ("pad", ctypes.c_int), ("value", ctypes.c_uint32 * 16)]


class _LaunchConfig(ctypes.Structure):
    _fields_ = [
        ("grid", ctypes.c_uint * 3),
        ("block", ctypes.c_uint * 3),
        ("shared_bytes", ctypes.c_uint),
        ("stream", ctypes.c_void_p),
        ("attributes", ctypes.POINTER(_LaunchAttribute)),
        ("attribute_count", ctypes.c_uint),
    ]


_CLUSTER, _COOPERATIVE = 4, 2  # CUlaunchAttributeID
_MAX_DYNAMIC_SHARED, _NON_PORTABLE_CLUSTER = 8, 14  # CUfunction_attribute


class DeviceArray:
    """An array in the emulated device's memory; freed with the object."""

    def __init__(self, shape: Sequence[int], dtype: Any) -> None:
        self.pointer = 0
        self.shape, self.dtype = tuple(shape), np.dtype(dtype)
        self.nbytes = int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize
        self.pointer = _new("cudaMalloc", ctypes.c_size_t(self.nbytes)).value or 0

    @classmethod
    def of(cls, array: np.ndarray) -> DeviceArray:
        array = np.ascontiguousarray(array)
        result = cls(array.shape, array.dtype)
        result.write(array)
        return result

    def write(self, array: np.ndarray) -> None:
        array = np.ascontiguousarray(array, dtype=self.dtype)
        self._copy(self.pointer, array.ctypes.data, 1)

    def numpy(self) -> np.ndarray:
        array = np.empty(self.shape, self.dtype)
        self._copy(array.ctypes.data, self.pointer, 2)
        return array

    def _copy(self, to: int, source: int, kind: int) -> None:
        call = _library().cudart.cudaMemcpy
        _check(
            call(ctypes.c_void_p(to), ctypes.c_void_p(source), ctypes.c_size_t(self.nbytes), kind)
        )

    def free(self) -> None:
        if self.pointer:
            pointer, self.pointer = self.pointer, 0
            _check(_library().cudart.cudaFree(ctypes.c_void_p(pointer)))

    def __del__(self) -> None:
        with contextlib.suppress(LaunchError):
            self.free()


def _new(function: str, *arguments: Any) -> ctypes.c_void_p:
    """What a function of the runtime API creates."""
    handle = ctypes.c_void_p()
    _check(getattr(_library().cudart, function)(ctypes.byref(handle), *arguments))
    return handle


class Event:
    """A CUDA event."""

    def __init__(self) -> None:
        self.handle = _new("cudaEventCreate")

    def synchronize(self) -> None:
        _check(_library().cudart.cudaEventSynchronize(self.handle))

    def __del__(self) -> None:
        _library().cudart.cudaEventDestroy(self.handle)


class Graph:
    """A captured and instantiated CUDA graph."""

    def __init__(self, captured: ctypes.c_void_p) -> None:
        self.handle = _new("cudaGraphInstantiate", captured, ctypes.c_uint64(0))
        _library().cudart.cudaGraphDestroy(captured)

    def launch(self, stream: Stream) -> None:
        _check(_library().cudart.cudaGraphLaunch(self.handle, stream.handle))

    def __del__(self) -> None:
        _library().cudart.cudaGraphExecDestroy(self.handle)


class Stream:
    """A CUDA stream; one that isn't blocking is not ordered with the default stream."""

    def __init__(self, *, blocking: bool = True) -> None:
        self.handle = _new("cudaStreamCreateWithFlags", 0 if blocking else 1)

    def synchronize(self) -> None:
        _check(_library().cudart.cudaStreamSynchronize(self.handle))

    def record(self, event: Event) -> None:
        _check(_library().cudart.cudaEventRecord(event.handle, self.handle))

    def wait(self, event: Event) -> None:
        _check(_library().cudart.cudaStreamWaitEvent(self.handle, event.handle, 0))

    def begin_capture(self) -> None:
        _check(_library().cudart.cudaStreamBeginCapture(self.handle, 0))

    def end_capture(self) -> Graph:
        return Graph(_new_from(_library().cudart.cudaStreamEndCapture, self.handle))

    def __del__(self) -> None:
        _library().cudart.cudaStreamDestroy(self.handle)


def _new_from(function: Any, first: ctypes.c_void_p) -> ctypes.c_void_p:
    handle = ctypes.c_void_p()
    _check(function(first, ctypes.byref(handle)))
    return handle


class CudaModule:
    """A compiled source, launched through the driver API."""

    def __init__(self, source: str, arch: str | None = None) -> None:
        self._module = ctypes.c_void_p()
        self._image = compile_cuda(source, arch)
        _check(_library().cuda.cuModuleLoadData(ctypes.byref(self._module), self._image))
        self._functions: dict[str, ctypes.c_void_p] = {}

    def function(self, name: str) -> ctypes.c_void_p:
        if name not in self._functions:
            handle = ctypes.c_void_p()
            call = _library().cuda.cuModuleGetFunction
            _check(call(ctypes.byref(handle), self._module, name.encode()))
            self._functions[name] = handle
        return self._functions[name]

    def launch(
        self,
        name: str,
        grid: int | Sequence[int],
        block: int | Sequence[int],
        *arguments: Any,
        cluster: int | Sequence[int] | None = None,
        cooperative: bool = False,
        shared_bytes: int = 0,
        stream: Stream | None = None,
    ) -> None:
        """Launch a kernel.

        Args:
            name: of the __global__ function.
            grid, block, cluster: up to three dimensions, x first.
            arguments: DeviceArray for pointers, numpy scalars or ctypes values; a Python int is
                an `int`, a float a `float`.
        """
        function = self.function(name)
        driver = _library().cuda
        if shared_bytes > 48 << 10:
            _check(driver.cuFuncSetAttribute(function, _MAX_DYNAMIC_SHARED, shared_bytes))
        attributes = (_LaunchAttribute * 2)()
        count = 0
        if cooperative:
            attributes[count].id = _COOPERATIVE
            attributes[count].value[0] = 1
            count += 1
        if cluster is not None:
            dims = _three(cluster)
            attributes[count].id = _CLUSTER
            attributes[count].value[:3] = dims
            count += 1
            if dims[0] * dims[1] * dims[2] > 8:
                _check(driver.cuFuncSetAttribute(function, _NON_PORTABLE_CLUSTER, 1))
        config = _LaunchConfig(
            _three(grid), _three(block), shared_bytes, stream.handle if stream else None,
            attributes, count,
        )  # fmt: skip
        values = [_argument(a) for a in arguments]
        pointers = (ctypes.c_void_p * len(values))(*(ctypes.addressof(v) for v in values))
        _check(driver.cuLaunchKernelEx(ctypes.byref(config), function, pointers, None))

    def unload(self) -> None:
        if self._module:
            _library().cuda.cuModuleUnload(self._module)
            self._module = ctypes.c_void_p()

    def __del__(self) -> None:
        self.unload()


def _three(dims: int | Sequence[int]) -> Any:
    values = [dims] if isinstance(dims, int) else list(dims)
    return (ctypes.c_uint * 3)(*values, *[1] * (3 - len(values)))


def _argument(value: Any) -> Any:
    if isinstance(value, DeviceArray):
        return ctypes.c_void_p(value.pointer)
    if isinstance(value, np.generic):
        return np.ctypeslib.as_ctypes_type(value.dtype)(value.item())
    if isinstance(value, int):
        return ctypes.c_int(value)
    if isinstance(value, float):
        return ctypes.c_float(value)
    return value


def synchronize() -> None:
    """cudaDeviceSynchronize."""
    _check(_library().cudart.cudaDeviceSynchronize())


def run(
    source: str,
    name: str,
    grid: int | Sequence[int],
    block: int | Sequence[int],
    arrays: Mapping[str, np.ndarray],
    *scalars: Any,
    **options: Any,
) -> dict[str, np.ndarray]:
    """Compile a source, launch its kernel on copies of the arrays, and return these."""
    device = {key: DeviceArray.of(array) for key, array in arrays.items()}
    module = CudaModule(source)
    module.launch(name, grid, block, *device.values(), *scalars, **options)
    synchronize()
    return {key: array.numpy() for key, array in device.items()}
