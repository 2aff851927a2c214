"""The weights inside an artifact: the table in its metadata, and the bytes it points to."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np

from gluonlstm import bfloat16
from gluonlstm.errors import InvalidArgumentError
from gluonlstm.model_info import DTYPES, LARGEST_SIZE, MOST_AXES

ALIGNMENT = 64  # bytes; what compiled code may assume of every array


@dataclass(frozen=True)
class StoredWeight:
    """Where one weight is in the file, and what it is."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int
    crc32: int

    @property
    def numpy_dtype(self) -> np.dtype[Any]:
        """Little-endian; bfloat16 is the structured dtype of :mod:`gluonlstm.bfloat16`."""
        return _numpy_dtype(self.dtype)

    @property
    def end(self) -> int:
        """Position after the last byte; a Python integer, so that no shape can overflow it."""
        nbytes = self.numpy_dtype.itemsize
        for size in self.shape:
            nbytes *= size
        return self.offset + nbytes

    def row(self) -> dict[str, Any]:
        """Return the weight's row of the table."""
        fields = {"name": self.name, "dtype": self.dtype, "shape": list(self.shape)}
        return {**fields, "offset": self.offset, "crc32": self.crc32}


def write_weight(file: BinaryIO, name: str, array: np.ndarray) -> StoredWeight:
    """Append an array, aligned; InvalidArgumentError if its dtype cannot be stored."""
    array = np.asarray(array)
    dtype = "bfloat16" if bfloat16.is_bfloat16(array.dtype) else array.dtype.name
    if dtype not in DTYPES:
        raise InvalidArgumentError(f"weight {name!r} has dtype {dtype}, not one of {DTYPES}.")
    if dtype == "bfloat16":
        stored = bfloat16.to_bits(array)
    else:
        stored = np.asarray(array, dtype=_numpy_dtype(dtype), order="C")
    pad(file, ALIGNMENT)
    data = stored.reshape(-1).view(np.uint8).data
    offset = file.tell()
    file.write(data)
    return StoredWeight(name, dtype, array.shape, offset, zlib.crc32(data))


def parse_table(values: Mapping[str, Any], start: int, end: int) -> Iterator[StoredWeight]:
    """Read the table from the metadata.

    The weights must fill the file from ``start`` to ``end``, in order, with no gaps but those of
    alignment; InvalidArgumentError says which one does not.
    """
    table = values.get("weights")
    if not isinstance(table, list):
        raise InvalidArgumentError("'weights' is not a list.")
    names: set[str] = set()
    position = start
    for row in table:
        weight = _parse_row(row)
        if weight.name in names or weight.offset != aligned(position, ALIGNMENT):
            raise InvalidArgumentError(f"weight {weight.name!r} is not where it must be.")
        if weight.end > end:
            raise InvalidArgumentError(f"weight {weight.name!r} is larger than the file.")
        names.add(weight.name)
        position = weight.end
        yield weight
    if aligned(position, ALIGNMENT) != end:
        raise InvalidArgumentError("the weights do not fill their part of the file.")


def _parse_row(row: Any) -> StoredWeight:
    wrong = InvalidArgumentError(f"{str(row)[:200]} does not describe a weight.")
    if not isinstance(row, dict) or row.keys() != {"name", "dtype", "shape", "offset", "crc32"}:
        raise wrong
    if not isinstance(row["name"], str) or row["dtype"] not in DTYPES:
        raise wrong
    shape = row["shape"]
    if not isinstance(shape, list) or len(shape) > MOST_AXES:
        raise wrong
    numbers = (*shape, row["offset"], row["crc32"])
    if not all(type(number) is int and 0 <= number <= LARGEST_SIZE for number in numbers):
        raise wrong
    return StoredWeight(row["name"], row["dtype"], tuple(shape), row["offset"], row["crc32"])


def _numpy_dtype(name: str) -> np.dtype[Any]:
    return bfloat16.STRUCTURED if name == "bfloat16" else np.dtype(name).newbyteorder("<")


def aligned(position: int, unit: int) -> int:
    """Round up to a multiple of ``unit``."""
    return -(-position // unit) * unit


def pad(file: BinaryIO, unit: int) -> None:
    """Append zeros up to the next multiple of ``unit``."""
    position = file.tell()
    file.write(bytes(aligned(position, unit) - position))
