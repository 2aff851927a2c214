"""Memory that compiled code reads and writes, as NumPy, torch and TVM see it.

Compiled code takes contiguous arrays whose memory begins at a multiple of 64 bytes; TVM's tensors
and torch's are like that, NumPy's mostly are not. NumPy has no bfloat16, so its bits are handled
as uint16 here.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import numpy as np

from gluonlstm import bfloat16
from gluonlstm.errors import MissingDependencyError
from gluonlstm.weight_table import ALIGNMENT

KEPT_BYTES = 64 << 10  # staging memory up to this size is kept for the next call


class TensorLibrary:
    """TVM tensors, by way of ``tvm_ffi``. The TVM runtime must be loaded."""

    def __init__(self, tvm_ffi: ModuleType) -> None:
        self.tensor_type: type = tvm_ffi.Tensor
        self.lend = tvm_ffi.from_dlpack  # array of any library -> tensor over the same memory
        self._shape = tvm_ffi.Shape
        self._dtype = tvm_ffi.dtype
        self._create_view = tvm_ffi.get_global_func("runtime.TVMTensorCreateView")

    def wrap(self, array: np.ndarray, dtype: str) -> Any:
        """Return a tensor over a writable array; for bfloat16 over its bits (uint16)."""
        tensor = self.lend(array)
        # Newer NumPys give empty arrays strides of 0; compiled code checks for a view's.
        return self._view(tensor, dtype) if dtype == "bfloat16" or not array.size else tensor

    def storage(self, tensor: Any) -> np.ndarray:
        """Return a writable array over a tensor's memory, bits (uint16) if it is bfloat16.

        The array keeps the tensor alive.
        """
        name = str(tensor.dtype)
        if name == "bfloat16":
            name, tensor = "uint16", self._view(tensor, "uint16")
        return _array_over(tensor, np.dtype(name))

    def numpy(self, tensor: Any, dtype: np.dtype[Any] | None) -> np.ndarray:
        """Return a result as a writable array over its memory, which the array keeps alive.

        ``dtype`` is the tensor's, None for bfloat16, which takes the form that
        :func:`gluonlstm.bfloat16.from_bits` gives it.
        """
        if dtype is None:
            return bfloat16.from_bits(self.storage(tensor))
        return _array_over(tensor, dtype)

    def torch(self, tensor: Any) -> Any:
        """Return a result as a torch tensor over its memory, which that keeps alive."""
        torch = sys.modules.get("torch")
        if torch is None:
            raise MissingDependencyError("results='torch' needs torch: import it first.")
        return torch.from_dlpack(tensor)

    def copy(self, tensor: Any) -> Any:
        """Return a tensor with the same values in memory of its own."""
        values = self.storage(tensor)
        array = aligned_array(values.shape, values.dtype)
        np.copyto(array, values)
        return self.wrap(array, str(tensor.dtype))

    def _view(self, tensor: Any, dtype: str) -> Any:
        return self._create_view(tensor, self._shape(tensor.shape), self._dtype(dtype), 0)


class _Memory:
    """Lets NumPy use a tensor's memory, and keep the tensor alive meanwhile."""

    __slots__ = ("__array_interface__", "_tensor")

    def __init__(self, tensor: Any, interface: dict[str, Any]) -> None:
        self._tensor = tensor
        self.__array_interface__ = interface


def _array_over(tensor: Any, dtype: np.dtype[Any]) -> np.ndarray:
    """Share memory. Not by np.from_dlpack: NumPy 1.x makes what it takes by DLPack read-only."""
    shape = tensor.shape
    if 0 in shape:
        return np.empty(shape, dtype)
    strides = None
    if not tensor.is_contiguous():
        strides = tuple(stride * dtype.itemsize for stride in tensor.strides)
    interface = {
        "data": (tensor.data_ptr(), False),
        "shape": shape,
        "typestr": dtype.str,
        "strides": strides,
        "version": 3,
    }
    return np.asarray(_Memory(tensor, interface))


class Staging:
    """Memory for the inputs of one call at a time; small pieces are kept for the next call."""

    def __init__(self, library: TensorLibrary) -> None:
        self._library = library
        self._kept: dict[object, tuple[np.ndarray, Any]] = {}

    def place(self, key: object, shape: tuple[int, ...], dtype: str) -> tuple[np.ndarray, Any]:
        """Return an array to be filled, and a tensor over the same memory."""
        pair = self._kept.get(key)
        if pair is not None and pair[0].shape == shape:
            return pair
        array = aligned_array(shape, np.dtype("uint16" if dtype == "bfloat16" else dtype))
        pair = (array, self._library.wrap(array, dtype))
        if array.nbytes <= KEPT_BYTES:
            self._kept[key] = pair
        return pair

    def constant(self, key: object, shape: tuple[int, ...], dtype: str, value: int) -> Any:
        """Return a tensor full of ``value`` (0 if bfloat16), which nobody else writes to."""
        kept = self._kept.get(key)
        array, tensor = pair = self.place(key, shape, dtype)
        if pair is not kept or (array.size and array.item(0) != value):
            array.fill(value)
        return tensor


def is_lendable(tensor: Any) -> bool:
    """Tell whether compiled code can use a tensor where it is."""
    return tensor.data_ptr() % ALIGNMENT == 0 and tensor.is_contiguous()


def aligned_array(shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray:
    """Return an array, not initialised, whose memory begins at a multiple of ALIGNMENT."""
    count = 1
    for size in shape:
        count *= size
    spare = ALIGNMENT // dtype.itemsize
    memory = np.empty(count + spare, dtype)
    skip = -memory.__array_interface__["data"][0] % ALIGNMENT // dtype.itemsize
    return memory[skip : skip + count].reshape(shape)
