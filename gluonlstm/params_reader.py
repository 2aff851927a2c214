"""Parse NDArray-list files; the layout is in the docstring of :mod:`gluonlstm.params_file`."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Literal, NoReturn

import numpy as np

from gluonlstm.array_file import Array, ArrayFile, ArrayInfo, StrPath, decode, element_count
from gluonlstm.errors import InvalidArgumentError, ParamsFormatError
from gluonlstm.sparse_array import SparseArray

MAGIC = 0x112
V1, V2, V3 = 0xF993FAC8, 0xF993FAC9, 0xF993FACA
# By number, which also is the number of index arrays.
STORAGES: tuple[Literal["dense", "row_sparse", "csr"], ...] = ("dense", "row_sparse", "csr")
TYPES = (  # by type flag
    *("float32", "float64", "float16", "uint8", "int32", "int8", "int64"),
    *("bool", "int16", "uint16", "uint32", "uint64", "bfloat16"),
)
MAX_NDIM = 32  # what every NumPy can hold; MXNet's own arrays rarely pass 5
SMALLEST_RECORD = 4  # bytes: a V0 "none"
SMALLEST_NAME = 8
# A record without an array takes 4 bytes in a file and some 200 in memory. Nobody writes many.
MAX_NONES = 1 << 16


@dataclass(frozen=True, slots=True)
class Values:
    """Where in the file the values of one array (or its indices) lie."""

    offset: int
    shape: tuple[int, ...]
    type: str
    count: int

    @property
    def nbytes(self) -> int:
        """Size in the file."""
        return self.count * (2 if self.type == "bfloat16" else np.dtype(self.type).itemsize)


@dataclass(frozen=True, slots=True)
class Record:
    """One array: its storage, shape, values and (for sparse ones) arrays of indices."""

    offset: int
    storage: int
    shape: tuple[int, ...]
    values: Values
    indices: tuple[Values, ...] = ()


class ParamsFile(ArrayFile["Record | None"]):
    """An NDArray-list file (or its bytes), parsed; see :func:`gluonlstm.params_file.open`."""

    maps = True

    def __init__(self, data: memoryview, path: StrPath | None) -> None:
        """Parse all headers; raise ParamsFormatError for anything out of place."""
        records, names = _Parser(data, path).file()
        self._data: memoryview | None = data
        labels = names or map(str, range(len(records)))
        super().__init__(path, dict(zip(labels, records, strict=True)), named=bool(names))

    def close(self) -> None:
        """Give up the mapping; it ends when the last array that was looked up is gone."""
        super().close()
        self._data = None

    def _describe(self, name: str, entry: Record | None) -> ArrayInfo:
        if entry is None:
            return ArrayInfo(name, "none", (), "", 0)
        size = entry.values.nbytes + sum(part.nbytes for part in entry.indices)
        return ArrayInfo(name, STORAGES[entry.storage], entry.shape, entry.values.type, size)

    def _values(self, part: Values) -> np.ndarray:
        assert self._data is not None  # else the file is closed, which the caller has checked
        return decode(self._data, part.type, part.shape, part.offset)

    def _read(self, name: str, entry: Record | None) -> Array:
        if entry is None:
            return None
        values = self._values(entry.values)
        if not entry.storage:
            return values
        *indptr, indices = (self._values(part) for part in entry.indices)
        storage = "csr" if indptr else "row_sparse"
        try:
            return SparseArray(storage, entry.shape, values, indices, *indptr)
        except InvalidArgumentError as error:
            raise ParamsFormatError(self.path, entry.offset, str(error)) from None


class _Parser:
    """A position in the file, and one method for each rule of the layout."""

    def __init__(self, data: memoryview, path: StrPath | None) -> None:
        self.data, self.path, self.offset = data, path, 0

    def fail(self, offset: int, reason: str) -> NoReturn:
        raise ParamsFormatError(self.path, offset, reason)

    def skip(self, size: int, what: str) -> int:
        """Pass over ``size`` bytes and return where they begin."""
        start, left = self.offset, len(self.data) - self.offset
        if size > left:
            self.fail(start, f"{what} takes {size} bytes, but only {left} are left.")
        self.offset += size
        return start

    def numbers(self, layout: str, what: str) -> tuple[int, ...]:
        start = self.skip(struct.calcsize("<" + layout), what)
        return struct.unpack_from("<" + layout, self.data, start)

    def count(self, smallest: int, what: str) -> int:
        start = self.offset
        (count,) = self.numbers("Q", f"the number of {what}")
        if count > (len(self.data) - self.offset) // smallest:
            left = len(self.data) - self.offset
            self.fail(start, f"{count} {what} cannot fit into the {left} bytes that follow.")
        return count

    def file(self) -> tuple[list[Record | None], list[str] | None]:
        magic, _ = self.numbers("QQ", "the header")
        if magic != MAGIC:
            self.fail(0, f"starts with {magic:#x} instead of {MAGIC:#x}: not an NDArray list.")
        records = self.records(self.count(SMALLEST_RECORD, "arrays"))
        start = self.offset
        count = self.count(SMALLEST_NAME, "names")
        if count not in (0, len(records)):
            self.fail(start, f"{count} names for {len(records)} arrays.")
        names = self.names(count)
        if self.offset != len(self.data):
            excess = len(self.data) - self.offset
            self.fail(self.offset, f"{excess} bytes follow the end of the list.")
        return records, names if names else None

    def records(self, count: int) -> list[Record | None]:
        records, nones = [], 0
        for _ in range(count):
            start, record = self.offset, self.record()
            nones += record is None
            if nones > MAX_NONES:
                self.fail(start, f"more than {MAX_NONES} of {count} arrays have no shape.")
            records.append(record)
        return records

    def names(self, count: int) -> list[str]:
        names: dict[str, None] = {}
        for _ in range(count):
            (length,) = self.numbers("Q", "the length of a name")
            start = self.skip(length, "a name")
            try:
                name = str(self.data[start : start + length], "utf-8")
            except UnicodeDecodeError as error:
                self.fail(start + error.start, "a name is not valid UTF-8.")
            if name in names:
                self.fail(start, f"the name {name!r} occurs twice.")
            names[name] = None
        return list(names)

    def record(self) -> Record | None:
        start = self.offset
        (magic,) = self.numbers("I", "the magic number of an array")
        if magic in (V2, V3):
            return self.modern(start, magic)
        shape = self.shape() if magic == V1 else self.dimensions(magic, "I", start)
        if not shape:
            return None
        self.numbers("ii", "a context")
        type_ = self.type()
        return Record(start, 0, shape, self.values(type_, shape))

    def modern(self, start: int, magic: int) -> Record | None:
        at = self.offset
        (storage,) = self.numbers("i", "a storage type")
        if not 0 <= storage < len(STORAGES):
            self.fail(at, f"storage type {storage} is none of 0 (dense), 1 (row_sparse), 2 (csr).")
        if storage and magic == V3:
            self.fail(at, f"a V3 array cannot be {STORAGES[storage]}.")
        stored = self.shape() if storage else ()
        shape = self.shape(unknown=magic == V3)
        if shape is None or (magic == V2 and not shape):
            return None
        self.numbers("ii", "a context")
        type_ = self.type()
        layout = [(self.type(indices=True), self.shape() or ()) for _ in range(storage)]
        values = self.values(type_, stored or () if storage else shape)
        indices = tuple(self.values(kind, size) for kind, size in layout)
        return Record(start, storage, shape, values, indices)

    def shape(self, *, unknown: bool = False) -> tuple[int, ...] | None:
        """Read a shape; None for an unknown one, where that is allowed."""
        start = self.offset
        (ndim,) = self.numbers("i", "the number of dimensions")
        if ndim == -1 and unknown:
            return None
        return self.dimensions(ndim, "q", start, unknown=unknown)

    def dimensions(
        self, ndim: int, code: str, start: int, *, unknown: bool = False
    ) -> tuple[int, ...] | None:
        if not 0 <= ndim <= MAX_NDIM:
            if code == "I":
                self.fail(start, f"{ndim:#x} is neither the magic number of an array nor its rank.")
            self.fail(start, f"{ndim} dimensions; 0 to {MAX_NDIM} are possible.")
        at = self.offset
        shape = self.numbers(f"{ndim}{code}", "a shape")
        if min(shape, default=0) < 0:
            if unknown:
                return None
            self.fail(at, f"the shape {shape} has a negative dimension.")
        return shape

    def type(self, *, indices: bool = False) -> str:
        at = self.offset
        (flag,) = self.numbers("i", "a type")
        if not 0 <= flag < len(TYPES):
            self.fail(at, f"type {flag} is unknown; types are 0 to {len(TYPES) - 1}.")
        if indices and "int" not in TYPES[flag]:
            self.fail(at, f"indices of type {TYPES[flag]} must be integers.")
        return TYPES[flag]

    def values(self, type_: str, shape: tuple[int, ...]) -> Values:
        start, count = self.offset, element_count(shape)
        if count is None:
            self.fail(start, f"an array of shape {shape} is too large for any file.")
        values = Values(start, shape, type_, count)
        self.skip(values.nbytes, f"an array of shape {shape} and type {type_}")
        return values
