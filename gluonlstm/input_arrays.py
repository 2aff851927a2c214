"""The arguments of a call, checked, as tensors that compiled code can take.

Arrays come from NumPy, torch, MXNet or anything that speaks DLPack, and must have the input's
dtype: a conversion behind the caller's back would cost time or digits. Python numbers and lists
have no dtype of their own and take the input's.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from gluonlstm import bfloat16
from gluonlstm.errors import ArgumentTypeError, InvalidArgumentError, ShapeMismatchError
from gluonlstm.model_info import InputInfo
from gluonlstm.tensors import Staging, TensorLibrary, is_lendable

# A smaller array is copied in less time than it takes to find out whether it could be lent.
COPIED_BYTES = 16 << 10
_CPU = 1  # DLPack's number for the device


class InputArray:
    """What one input of a model takes."""

    def __init__(self, info: InputInfo, library: TensorLibrary) -> None:
        self.info = info
        self._library = library
        self._is_bfloat16 = info.dtype == "bfloat16"
        self._dtype = bfloat16.STRUCTURED if self._is_bfloat16 else np.dtype(info.dtype)

    def source(self, value: Any) -> Any:
        """Return ``value`` as a NumPy array, torch tensor or TVM tensor of the input's dtype.

        Nothing is copied but Python lists and MXNet arrays. Raises ArgumentTypeError.
        """
        if isinstance(value, np.ndarray):
            return value if value.dtype == self._dtype else self._other_dtype(value)
        if is_torch(value):
            return self._torch(value)
        if hasattr(value, "asnumpy"):  # MXNet
            return self.source(value.asnumpy())
        if hasattr(value, "__dlpack__") and hasattr(value, "__dlpack_device__"):
            return self._dlpack(value)
        if hasattr(value, "__array__") and not isinstance(value, np.generic):
            return self.source(np.asarray(value))
        return self._python(value)

    def check_shape(self, shape: tuple[int, ...], sizes: dict[str, int]) -> None:
        """Compare with the input's shape; free sizes must be those in ``sizes`` or are put there.

        Raises ShapeMismatchError.
        """
        wanted = self.info.shape
        fits = len(shape) == len(wanted)
        if fits:
            for size, want in zip(shape, wanted, strict=True):
                if isinstance(want, str):
                    want = sizes.setdefault(want, size)
                fits = fits and size == want
        if not fits:
            known = {size: sizes[size] for size in wanted if size in sizes}
            given = ", ".join(f"{name}={size}" for name, size in known.items())
            remedy = f"In this call {given}." if given and len(shape) == len(wanted) else ""
            raise ShapeMismatchError(self.info.name, wanted, tuple(shape), remedy)

    def lend(self, source: Any, staging: Staging) -> Any:
        """Return what :meth:`source` returned as a tensor; copy it only where that must be."""
        if isinstance(source, np.ndarray):
            return self._lend_array(source, staging)
        if 0 in source.shape:  # compiled code checks strides, and torch's are odd then
            return staging.place(self.info.name, tuple(source.shape), self.info.dtype)[1]
        tensor = source
        if not isinstance(source, self._library.tensor_type):
            tensor = self._library.lend(source)
            if not is_lendable(tensor):
                contiguous = sys.modules["torch"].contiguous_format
                return self._library.lend(source.clone(memory_format=contiguous))
        return tensor if is_lendable(tensor) else self._library.copy(tensor)

    def constant(self, value: int, shape: tuple[int, ...], staging: Staging) -> Any:
        """Return a tensor full of ``value``. Compiled code does not write to its inputs."""
        return staging.constant((self.info.name, "constant"), shape, self.info.dtype, value)

    def _lend_array(self, source: np.ndarray, staging: Staging) -> Any:
        if source.nbytes > COPIED_BYTES and source.dtype.isnative and not self._is_bfloat16:
            flags = source.flags
            # NumPy refuses to lend what is read-only or has strides that are no whole items.
            if flags.c_contiguous and flags.writeable:
                tensor = self._library.lend(source)
                if is_lendable(tensor):
                    return tensor
        array, tensor = staging.place(self.info.name, source.shape, self.info.dtype)
        np.copyto(array, bfloat16.to_bits(source) if self._is_bfloat16 else source)
        return tensor

    # --- kinds of argument -------------------------------------------------------------------

    def _other_dtype(self, array: np.ndarray) -> np.ndarray:
        """Take another spelling of the dtype: bytes swapped, ml_dtypes' bfloat16."""
        same = array.dtype.newbyteorder("=") == self._dtype
        if same or (self._is_bfloat16 and bfloat16.is_bfloat16(array.dtype)):
            return array
        raise self._dtype_error(str(array.dtype), f".astype({self.info.dtype!r})")

    def _torch(self, tensor: Any) -> Any:
        if tensor.device.type != "cpu":
            raise self._device_error(str(tensor.device))
        self._check_torch(tensor)
        return tensor.detach() if tensor.requires_grad else tensor

    def _check_torch(self, tensor: Any) -> None:
        if str(tensor.dtype) != f"torch.{self.info.dtype}":
            raise self._dtype_error(str(tensor.dtype), f".to(torch.{self.info.dtype})")
        if str(tensor.layout) != "torch.strided":
            raise ArgumentTypeError(f"{self.info.name} is sparse; use .to_dense().")

    def _dlpack(self, value: Any) -> Any:
        device, number = value.__dlpack_device__()
        if device != _CPU:
            raise self._device_error(f"device {number} of DLPack type {int(device)}")
        tensor = value if isinstance(value, self._library.tensor_type) else self._import(value)
        if isinstance(tensor, np.ndarray):
            return self.source(tensor)
        if str(tensor.dtype) != self.info.dtype:
            raise self._dtype_error(str(tensor.dtype), "")
        if self._is_bfloat16 and not tensor.is_contiguous():
            raise ArgumentTypeError(f"{self.info.name} is not contiguous.")
        return tensor

    def _import(self, value: Any) -> Any:
        """Return a TVM tensor, or an array if it is read-only (and NumPy new enough for that)."""
        try:
            return self._library.lend(value)
        except Exception as error:  # each library raises its own
            try:
                return np.from_dlpack(value)
            except Exception:
                raise ArgumentTypeError(
                    f"{self.info.name} cannot be taken by DLPack: {error}"
                ) from error

    def _python(self, value: Any) -> np.ndarray:
        """Convert numbers and nested lists, if the input's dtype can hold them."""
        array = plain_array(self.info.name, value)
        if self._is_bfloat16:
            return bfloat16.to_bfloat16(array)
        if self._dtype.kind == "f":
            return array.astype(self._dtype)
        if array.dtype.kind not in "iu" or (array.size and not _fits(array, self._dtype)):
            raise self._dtype_error(f"a list of {array.dtype} values", "")
        return array.astype(self._dtype)

    def _dtype_error(self, got: str, remedy: str) -> ArgumentTypeError:
        hint = f" Convert it with {remedy}." if remedy else ""
        return ArgumentTypeError(
            f"{self.info.name}: expected dtype {self.info.dtype}, got {got}.{hint}"
        )

    def _device_error(self, got: str) -> ArgumentTypeError:
        return ArgumentTypeError(
            f"{self.info.name} is on {got}; this model was compiled for the CPU and takes arrays "
            "in its memory."
        )


def lengths_array(name: str, value: Any, rows: int, steps: int) -> np.ndarray:
    """Return the number of valid steps of each row as int32 (N,).

    Any whole numbers will do, in any integer or floating dtype (MXNet's are float32). Raises
    ArgumentTypeError, ShapeMismatchError if there are not ``rows`` of them, InvalidArgumentError
    if one is not whole or not in [0, ``steps``].
    """
    try:
        array = _host_array(value)
    except Exception as error:  # each library raises its own
        raise ArgumentTypeError(f"{name} cannot be read: {error}") from error
    if array is None:
        array = plain_array(name, value)
    if array.dtype.kind in "iu" and array.shape == (rows,) and 0 < rows <= 256:
        values = array.tolist()
        if min(values) >= 0 and max(values) <= steps:  # in Python: faster for so few
            return array.astype(np.int32)
    if array.dtype.kind not in "iuf" and array.size:
        raise ArgumentTypeError(f"{name}: expected whole numbers, got dtype {array.dtype}.")
    if array.shape != (rows,):
        raise ShapeMismatchError(name, (rows,), array.shape, "One length for each row of N.")
    with np.errstate(invalid="ignore"):  # of NaN; it does not equal what it becomes
        whole = array.astype(np.int64)
    wrong = (whole != array) | (whole < 0) | (whole > steps)
    if wrong.any():
        row = int(wrong.argmax())
        raise InvalidArgumentError(
            f"{name}[{row}] is {array[row]}; a length must be a whole number from 0 to T={steps}."
        )
    return whole.astype(np.int32)


def _host_array(value: Any) -> np.ndarray | None:
    """Return an array of any library as a NumPy array, None for what is no array."""
    if isinstance(value, np.ndarray):
        return value
    if is_torch(value):
        return value.detach().cpu().numpy()
    if hasattr(value, "asnumpy"):  # MXNet
        return value.asnumpy()
    return np.from_dlpack(value) if hasattr(value, "__dlpack__") else None


def plain_array(name: str, value: Any) -> np.ndarray:
    """Return numbers and nested lists of them as an array; ArgumentTypeError for all else."""
    try:
        array = np.asarray(value)
    except (TypeError, ValueError) as error:  # lists of different lengths
        raise ArgumentTypeError(f"{name} is not an array: {error}") from None
    if array.dtype.kind not in "biuf":
        raise ArgumentTypeError(f"{name} must be an array, got {type(value).__name__}.")
    return array


def is_torch(value: Any) -> bool:
    """Tell whether a value is a torch tensor, without importing torch."""
    # The module may be there and still empty while another thread imports it.
    kind = getattr(sys.modules.get("torch"), "Tensor", None)
    return kind is not None and isinstance(value, kind)


def _fits(array: np.ndarray, dtype: np.dtype[Any]) -> bool:
    limits = np.iinfo(dtype)
    return bool(limits.min <= array.min() and array.max() <= limits.max)
