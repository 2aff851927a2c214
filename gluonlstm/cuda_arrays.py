"""Arrays in GPU memory as torch, CuPy, JAX and TVM see them, and the streams that they are used on.

Each library has a current stream; work on one stream is done in order. A compiled model runs on
the current stream of the library whose array it is given, so that it needs to wait for nothing.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

import numpy as np

from gluonlstm.cuda_library import CUDA
from gluonlstm.errors import ArgumentTypeError, MissingDependencyError
from gluonlstm.input_arrays import InputArray, is_torch
from gluonlstm.tensors import TensorLibrary, is_lendable

_LEGACY_DEFAULT = 1  # DLPack's number for the stream that CUDA calls 0
_LIBRARIES = {"cupy": "cupy", "jax": "jax", "jaxlib": "jax", "tvm_ffi": "tvm_ffi"}


@dataclass(frozen=True)
class DeviceArray:
    """An array of some library in a GPU's memory."""

    value: Any
    shape: tuple[int, ...]
    device: int
    library: str  # "torch", "cupy", "jax", "tvm_ffi" or "" for any other


@dataclass(frozen=True)
class Stream:
    """The stream that a call runs on.

    ``library`` is the one whose current stream it is, "" for none; ``owner`` its object that keeps
    the stream alive.
    """

    handle: int
    library: str
    owner: Any = None

    @property
    def dlpack(self) -> int:
        """The stream as arrays are asked to be ready on it."""
        return self.handle or _LEGACY_DEFAULT


class CUDAInput(InputArray):
    """What one input of a GPU model takes: arrays in GPU memory, or in the CPU's."""

    def lend_device(self, source: DeviceArray, stream: Stream) -> Any:
        """Return an array in GPU memory as a tensor that is ready on ``stream``.

        Raises ArgumentTypeError if it would have to be copied and its library cannot do that.
        """
        tensor = self._on_stream(source.value, source, stream)
        if is_lendable(tensor):
            return tensor
        copy = getattr(source.value, "clone" if source.library == "torch" else "copy", None)
        if copy is None or source.library not in ("torch", "cupy"):
            raise ArgumentTypeError(
                f"{self.info.name} must be contiguous, in memory that begins at a multiple of 64 "
                "bytes; copy it."
            )
        if source.library == "torch":
            value = copy(memory_format=sys.modules["torch"].contiguous_format)
        else:
            value = copy(order="C")
        return self._on_stream(value, source, stream)

    def _on_stream(self, value: Any, source: DeviceArray, stream: Stream) -> Any:
        if source.library == "tvm_ffi":
            return value
        try:
            if source.library and source.library == stream.library:  # ready there
                return lend(value, self._library)
            return self._library.lend(value.__dlpack__(stream=stream.dlpack))
        except Exception as error:  # each library raises its own
            raise ArgumentTypeError(
                f"{self.info.name} cannot be taken by DLPack: {error}"
            ) from error

    # --- kinds of argument -------------------------------------------------------------------

    def _torch(self, tensor: Any) -> Any:
        if tensor.device.type != "cuda":
            own = super()._torch(tensor)
            # From pinned memory it would be copied later, when the caller may have changed it.
            return own.clone() if own.is_pinned() else own
        self._check_torch(tensor)
        value = tensor.detach() if tensor.requires_grad else tensor
        return DeviceArray(value, tuple(tensor.shape), tensor.device.index, "torch")

    def _dlpack(self, value: Any) -> Any:
        device, number = value.__dlpack_device__()
        if device != CUDA:
            return super()._dlpack(value)
        shape, dtype = getattr(value, "shape", None), getattr(value, "dtype", None)
        if shape is None or dtype is None:
            raise ArgumentTypeError(
                f"{self.info.name}, a {type(value).__name__} in GPU memory, has no shape and dtype."
            )
        if str(dtype) != self.info.dtype:
            raise self._dtype_error(str(dtype), "")
        return DeviceArray(value, tuple(shape), number, library_of(value))

    def _device_error(self, got: str) -> ArgumentTypeError:
        return ArgumentTypeError(
            f"{self.info.name} is on {got}; this model was compiled for CUDA and takes arrays in "
            "the memory of the CPU or of an NVIDIA GPU."
        )


def library_of(value: Any) -> str:
    """Return the name of the library that an array comes from, "" if it is none of those known."""
    return _LIBRARIES.get(type(value).__module__.partition(".")[0], "")


def current_stream(source: DeviceArray, ffi: Any) -> Stream:
    """Return the current stream of the library that an array comes from, on its device."""
    if source.library == "torch":
        stream = sys.modules["torch"].cuda.current_stream(source.device)
        return Stream(stream.cuda_stream, "torch", stream)
    if source.library == "cupy":
        cupy = sys.modules["cupy"]
        with cupy.cuda.Device(source.device):
            stream = cupy.cuda.get_current_stream()
        return Stream(stream.ptr, "cupy", stream)
    if source.library == "tvm_ffi":
        return Stream(ffi.get_raw_stream(ffi.device(f"cuda:{source.device}")), "tvm_ffi")
    return Stream(0, "")


def lend(array: Any, library: TensorLibrary) -> Any:
    """Return an array of torch or CuPy as a tensor, for use in the order of its own stream."""
    if hasattr(array, "__dlpack_c_exchange_api__"):
        return library.lend(array)
    return library.lend(array.__dlpack__(stream=-1))  # let no other stream wait for it


def empty(library: str, shape: tuple[int, ...], dtype: str, device: int) -> Any:
    """Return a new array of torch or CuPy in GPU memory."""
    if library == "torch":
        torch = sys.modules["torch"]
        return torch.empty(shape, dtype=getattr(torch, dtype), device=f"cuda:{device}")
    cupy = sys.modules["cupy"]
    with cupy.cuda.Device(device):
        return cupy.empty(shape, dtype)


def exported(tensor: Any, library: str) -> Any:
    """Return a tensor in GPU memory as an array of another library, over the same memory."""
    if library == "dlpack":
        return tensor
    module: Any = sys.modules.get("jax.numpy" if library == "jax" else library)
    if module is None:
        raise MissingDependencyError(f"results={library!r} needs {library}: import it first.")
    return module.from_dlpack(tensor)


def in_host_memory(value: Any, library: TensorLibrary, download: Any) -> Any:
    """Return an array that may be in GPU memory as one that NumPy takes, when it is complete.

    ``download`` copies a complete tensor.
    """
    if is_torch(value) or isinstance(value, np.ndarray) or hasattr(value, "asnumpy"):
        return value  # can be copied by themselves
    place = getattr(value, "__dlpack_device__", None)
    if place is None or place()[0] != CUDA:
        return value
    if hasattr(value, "get"):  # CuPy
        return value.get()
    return download(library.lend(value.__dlpack__(stream=_LEGACY_DEFAULT)))[0]
