"""ArrayFile: what the readers of every checkpoint format have in common."""

from __future__ import annotations

import math
import mmap
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from os import PathLike, fstat
from pathlib import Path
from stat import S_ISREG
from types import TracebackType
from typing import Generic, Literal, TypeAlias, TypeVar

import numpy as np

from gluonlstm import bfloat16
from gluonlstm.errors import InvalidArgumentError
from gluonlstm.sparse_array import SparseArray

Array: TypeAlias = np.ndarray | SparseArray | None
StrPath: TypeAlias = str | PathLike[str]
MAX_ELEMENTS = (2**63 - 1) // 8  # of the widest dtype


@dataclass(frozen=True, slots=True)
class ArrayInfo:
    """What a file says about one of its arrays, known without reading the values."""

    name: str
    storage: Literal["dense", "row_sparse", "csr", "none"]
    shape: tuple[int, ...]
    dtype: str  # NumPy's name, or "bfloat16"; "" for storage "none"
    nbytes: int  # bytes of the values in the file, uncompressed, with the indices of sparse arrays


Entry = TypeVar("Entry")  # where in the file an array lies, as the format's reader keeps it


class ArrayFile(Mapping[str, Array], Generic[Entry]):
    """The arrays of one file by name, in file order, each read only when it is looked up.

    Files without names have the names ``"0"``, ``"1"``, ... and ``named`` False. Arrays stay valid
    after :meth:`close`, which also the end of a ``with`` block calls.
    """

    maps = False  # whether arrays are views of a mapped file

    def __init__(
        self, path: StrPath | None, entries: dict[str, Entry], *, named: bool = True
    ) -> None:
        """Take what the file's headers say."""
        self.path, self.named = path, named
        self._entries = entries
        self._closed = False

    def info(self, name: str) -> ArrayInfo:
        """Return shape, dtype and size of one array without reading it; KeyError if absent."""
        return self._describe(name, self._entries[name])

    def __getitem__(self, name: str) -> Array:
        """Read one array; KeyError if absent, InvalidArgumentError if the file was closed."""
        entry = self._entries[name]
        if self._closed:
            raise InvalidArgumentError(f"{self.path} was closed before {name!r} was read.")
        return self._read(name, entry)

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, name: object) -> bool:
        # Mapping's own version would read the array.
        return name in self._entries

    @abstractmethod
    def _describe(self, name: str, entry: Entry) -> ArrayInfo:
        """Return what the headers say about one array."""

    @abstractmethod
    def _read(self, name: str, entry: Entry) -> Array:
        """Return one array's values."""

    def read(self, name: str) -> Array:
        """Read one array into memory of its own: aligned, writable, independent of the file."""
        array = self[name]
        if not self.maps or array is None:
            return array
        if isinstance(array, SparseArray):
            indptr = None if array.indptr is None else array.indptr.copy()
            return replace(
                array, data=array.data.copy(), indices=array.indices.copy(), indptr=indptr
            )
        return array if array.flags.owndata else array.copy()

    def close(self) -> None:
        """Give up the file; arrays already looked up stay valid."""
        self._closed = True

    def __enter__(self) -> ArrayFile[Entry]:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: object, trace: TracebackType | None
    ) -> None:
        self.close()


def element_count(shape: tuple[int, ...]) -> int | None:
    """Return the number of elements, or None where no file and no NumPy array can be that large.

    NumPy multiplies the other dimensions even where one of them is 0.
    """
    extent = math.prod(dimension or 1 for dimension in shape)
    return math.prod(shape) if extent <= MAX_ELEMENTS else None


def decode(data: memoryview, type_: str, shape: tuple[int, ...], offset: int) -> np.ndarray:
    """Return little-endian values in a file: a view of it where its bytes can be used as they are.

    ``type_`` is a NumPy dtype's name or "bfloat16"; ``shape`` and ``offset`` lie within the file.
    """
    stored = np.dtype({"bfloat16": "uint16", "bool": "uint8"}.get(type_, type_)).newbyteorder("<")
    array = np.frombuffer(data, stored, math.prod(shape), offset).reshape(shape)
    if type_ == "bool":
        return array != 0  # a byte other than 0 and 1 would not behave as a bool
    if type_ == "bfloat16":
        return bfloat16.from_bits(array)
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def encode(array: np.ndarray) -> memoryview:
    """Return the values as little-endian bytes in C order, copied only where they are not that."""
    if bfloat16.is_bfloat16(array.dtype):
        array = bfloat16.to_bits(array)
    array = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
    return array.reshape(-1).view(np.uint8).data


def map_file(path: StrPath, mode: Literal["r", "c"] = "r") -> memoryview:
    """Map a file's bytes into memory, where pages are read when they are first touched.

    Mode "r" gives read-only bytes, "c" writable ones whose changes stay in this process. What
    cannot be mapped (pipes, empty files) is read whole. A mapped file must not be truncated in
    place by another program; replacing it, as all writers here do, is harmless.
    """
    if mode not in ("r", "c"):
        raise InvalidArgumentError(f"mode={mode!r} must be 'r' (read-only) or 'c' (copy-on-write).")
    with Path(path).open("rb") as file:
        status = fstat(file.fileno())
        if not S_ISREG(status.st_mode) or not status.st_size:
            data = file.read()
            return memoryview(data if mode == "r" else bytearray(data))
        access = mmap.ACCESS_READ if mode == "r" else mmap.ACCESS_COPY
        return memoryview(mmap.mmap(file.fileno(), 0, access=access))
