"""Open a checkpoint of any file format, told by its first bytes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np

from gluonlstm import bfloat16
from gluonlstm.array_file import ArrayFile, StrPath, map_file
from gluonlstm.errors import ArgumentTypeError, InvalidArgumentError, ParamsFormatError
from gluonlstm.npz_file import PICKLES, NpzFile, is_zip
from gluonlstm.params_file import is_params
from gluonlstm.params_reader import ParamsFile
from gluonlstm.safetensors_file import SafetensorsFile, is_safetensors
from gluonlstm.sparse_array import SparseArray

# A sparse array may become dense if that takes no more than this many times the file's bytes.
DENSE_RATIO, SMALL = 16, 64 << 20


def open(path: StrPath, mode: Literal["r", "c"] = "r") -> ArrayFile:
    """Open an NDArray-list, ``.npz`` or ``.safetensors`` file, reading its headers only.

    Arrays are read when they are looked up; see :class:`~gluonlstm.array_file.ArrayFile`. Raises
    ParamsFormatError for other and damaged files, among them pickles (``torch.save``).
    """
    data = map_file(path, mode)
    head = bytes(data[:9])
    if is_params(head):
        return ParamsFile(data, path)
    if is_zip(head):
        return NpzFile(data, path)
    if is_safetensors(head):
        return SafetensorsFile(data, path)
    if head.startswith(b"\x80"):  # pickle protocols 2 and later; torch.save before 1.6
        raise ParamsFormatError(path, 0, PICKLES)
    raise ParamsFormatError(
        path, 0, f"begins with {head!r}: no NDArray list (.params), .npz or .safetensors file."
    )


def read(path: StrPath) -> dict[str, np.ndarray]:
    """Return all arrays of a checkpoint by name, in file order, independent of the file.

    Sparse arrays are made dense, where that takes at most DENSE_RATIO times the file's bytes;
    arrays without a shape (None) are left out. Raises ParamsFormatError for files that cannot be
    read, InvalidArgumentError for a list without names.
    """
    with open(path) as file:
        require_names(file)
        arrays = {name: file.read(name) for name in file}
    limit = densest(path)
    return {name: dense(name, array, limit) for name, array in arrays.items() if array is not None}


def require_names(file: ArrayFile) -> None:
    """Raise InvalidArgumentError for a list of arrays, which says nothing about their meaning."""
    if not file.named and len(file):
        raise InvalidArgumentError(
            f"{file.path} is a list of {len(file)} arrays without names. Read it with "
            "gluonlstm.params_file.load, and save a dict."
        )


def densest(path: StrPath) -> int:
    """Return how many bytes a sparse array of this file may take when it is made dense."""
    return SMALL + DENSE_RATIO * Path(path).stat().st_size


def dense(name: str, array: np.ndarray | SparseArray, max_bytes: int) -> np.ndarray:
    """Return a dense array, naming it if it would be too large."""
    if isinstance(array, np.ndarray):
        return array
    try:
        return array.todense(max_bytes)
    except InvalidArgumentError as error:
        raise InvalidArgumentError(f"{name}: {error}") from None


def as_numpy(arrays: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Return the same arrays as NumPy arrays, without those that are None.

    Takes NumPy arrays, torch tensors (a ``state_dict``; no copy on the CPU) and MXNet arrays.
    Raises ArgumentTypeError for anything else, sparse arrays among it.
    """
    return {name: _as_numpy(name, array) for name, array in arrays.items() if array is not None}


def _as_numpy(name: object, array: Any) -> np.ndarray:
    if not isinstance(name, str):
        raise ArgumentTypeError(f"the name {name!r} of a parameter must be a string.")
    if hasattr(array, "asnumpy"):
        array = array.asnumpy()
    elif hasattr(array, "detach"):
        array = array.detach().cpu()
        if str(array.dtype) == "torch.bfloat16":
            import torch  # the tensor is torch's, so it is there

            return bfloat16.from_bits(array.contiguous().view(torch.int16).numpy().view("uint16"))
        array = array.numpy()
    if isinstance(array, SparseArray):
        raise ArgumentTypeError(f"{name} is {array.storage}; give its todense() instead.")
    if not isinstance(array, np.ndarray):
        raise ArgumentTypeError(f"{name} must be an array, not {type(array).__name__}.")
    if array.dtype == bfloat16.STRUCTURED:
        return bfloat16.from_bits(bfloat16.to_bits(array))
    return array
