"""Read and write ``.npz`` files: NumPy's own, and those that MXNet 2 writes as ``.params``.

A zip archive with one ``name.npy`` for each array. MXNet 2 stores sparse arrays as a folder
``name/`` of ``data.npy``, ``indices.npy``, ``shape.npy``, ``format.npy`` and, for csr,
``indptr.npy``, and bfloat16 with the dtype ``[('bfloat16', '<u2')]``.

Files come from anywhere, so they are read with care: no pickles, only stored and deflated members,
no member that claims to hold more than deflate can pack into its bytes, no archive that expands
beyond MAX_RATIO.
"""

from __future__ import annotations

import io
import re
import struct
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any

import numpy as np

from gluonlstm import bfloat16
from gluonlstm.array_file import Array, ArrayFile, ArrayInfo, StrPath, element_count
from gluonlstm.atomic import replacing
from gluonlstm.errors import (
    ArgumentTypeError,
    GluonLSTMError,
    InvalidArgumentError,
    ParamsFormatError,
)
from gluonlstm.sparse_array import SparseArray

DEFLATE_RATIO = 1032  # the best that deflate can do: 258 bytes from 2 bits
MAX_RATIO, SMALL = 200, 256 << 20  # an archive may expand to MAX_RATIO times its size + SMALL bytes
MAX_NDIM = 32
READ_BYTES = 1 << 20
PICKLES = (
    "is a pickle, as torch.save writes, which can run any code when it is read. In the program "
    "that has the module, save it with safetensors.torch.save_file(module.state_dict(), path)."
)
SPARSE_PARTS = {"data", "indices", "shape", "format"}  # and indptr for csr
SUFFIX = ".npy"
FIRST_DATE = (1980, 1, 1, 0, 0, 0)  # written for all members: equal arrays give equal bytes

_VALUE = r"(\[[^\]]*\]|'[^']*'|True|False|\([\d,\sL]*\))"
_FIELD = rf"\s*'(descr|fortran_order|shape)'\s*:\s*{_VALUE}\s*"
_HEADER = re.compile(rf"\{{{_FIELD},{_FIELD},{_FIELD},?\s*\}}\s*")
_PLAIN = re.compile(r"'([<>|=](?:f[248]|[iu][1248]|b1))'")
_BFLOAT16 = ("[('bfloat16', '<u2')]", "'<V2'", "'|V2'")  # MXNet 2's; numpy.save's with ml_dtypes


@dataclass(frozen=True, slots=True)
class _Member:
    """One ``.npy`` file of the archive."""

    zip_info: zipfile.ZipInfo
    shape: tuple[int, ...]
    dtype: np.dtype[Any]  # as stored; uint16 for bfloat16's bits
    type: str
    fortran: bool
    header_size: int
    count: int

    @property
    def nbytes(self) -> int:
        return self.count * self.dtype.itemsize


@dataclass(frozen=True, slots=True)
class _Sparse:
    """The members of one sparse array."""

    shape: tuple[int, ...]
    data: _Member
    indices: _Member
    indptr: _Member | None


def is_zip(head: bytes | memoryview) -> bool:
    """Tell from a file's first 4 bytes whether it is a zip archive (perhaps an empty one)."""
    return bytes(head[:4]) in (b"PK\x03\x04", b"PK\x05\x06")


def save(path: StrPath, arrays: Mapping[str, np.ndarray], *, fsync: bool = False) -> None:
    """Write an uncompressed ``.npz`` that ``numpy.load`` and MXNet 2 read, replacing ``path``.

    bfloat16 is written as MXNet 2 does. Raises ArgumentTypeError for dtypes of Python objects and
    other values that neither could read.
    """
    for name, array in arrays.items():
        stored = bfloat16.is_bfloat16(array.dtype) or array.dtype.kind in "fiub"
        if not stored or not isinstance(name, str) or "\0" in name:
            raise ArgumentTypeError(f"{name!r} of dtype {array.dtype} cannot be stored as .npy.")
    with replacing(path, fsync=fsync) as file, zipfile.ZipFile(file, "w") as archive:
        for name, array in arrays.items():
            if bfloat16.is_bfloat16(array.dtype):
                array = bfloat16.to_bits(array).view(bfloat16.STRUCTURED)
            info = zipfile.ZipInfo(name + SUFFIX, FIRST_DATE)
            with archive.open(info, "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.asarray(array), allow_pickle=False)


class NpzFile(ArrayFile["_Member | _Sparse"]):
    """The arrays of an ``.npz`` file, each decompressed when it is looked up."""

    def __init__(self, data: memoryview, path: StrPath | None) -> None:
        """Read the archive's directory and the headers; raise ParamsFormatError for any defect."""
        with _defects(path, 0):
            self._zip = zipfile.ZipFile(_Stream(data))
        self.path = path
        infos = _arrays_of(self._zip.infolist(), path)
        _check_sizes(infos.values(), len(data), path)
        super().__init__(path, self._entries_of(infos))

    def _entries_of(self, infos: dict[str, zipfile.ZipInfo]) -> dict[str, _Member | _Sparse]:
        folders: dict[str, set[str]] = {}
        for name in infos:
            folder, slash, stem = name.rpartition("/")
            folders.setdefault(folder + slash, set()).add(stem)
        entries: dict[str, _Member | _Sparse] = {}
        for name in infos:
            folder = name[: name.rfind("/") + 1]
            if not folder or folders[folder] - {"indptr"} != SPARSE_PARTS:
                entries[name] = self._member(infos[name])
            elif folder[:-1] not in entries:
                parts = {stem: infos[folder + stem] for stem in folders[folder]}
                entries[folder[:-1]] = self._sparse(parts)
        return entries

    def _sparse(self, parts: dict[str, zipfile.ZipInfo]) -> _Sparse:
        # format.npy is left out: MXNet 2 gives it an invalid header, and indptr tells the formats
        # apart as well.
        shape = self._member(parts["shape"])
        if shape.type != "int64" or len(shape.shape) != 1 or shape.count > MAX_NDIM:
            raise self._defect(parts["shape"], "must hold a shape, a vector of int64")
        dimensions = tuple(map(int, self._values(shape)))
        if min(dimensions, default=-1) < 0:
            raise self._defect(parts["shape"], f"{dimensions} is not the shape of a sparse array")
        indptr = self._member(parts["indptr"]) if "indptr" in parts else None
        return _Sparse(
            dimensions, self._member(parts["data"]), self._member(parts["indices"]), indptr
        )

    def _member(self, info: zipfile.ZipInfo) -> _Member:
        with self._opened(info) as stream:
            head = stream.read(10)
            size = 2 if head[6:8] == b"\1\0" else 4
            head += stream.read(size - 2)
            if not re.fullmatch(rb"\x93NUMPY[\1\2\3]\0.{2,4}", head, re.DOTALL):
                raise self._defect(info, "is not a .npy file of version 1, 2 or 3")
            length = int.from_bytes(head[8:], "little")
            if length > info.file_size - len(head):
                raise self._defect(info, f"has a header of {length} bytes, longer than itself")
            header = stream.read(length).decode("latin-1")
        shape, type_, dtype, fortran = self._header(info, header)
        count = element_count(shape)
        if count is None or len(head) + length + count * dtype.itemsize != info.file_size:
            reason = f"has {info.file_size} bytes, which does not fit shape {shape} of {type_}"
            raise self._defect(info, reason)
        return _Member(info, shape, dtype, type_, fortran, len(head) + length, count)

    def _header(
        self, info: zipfile.ZipInfo, text: str
    ) -> tuple[tuple[int, ...], str, np.dtype[Any], bool]:
        match = _HEADER.fullmatch(text)
        pairs = match.groups() if match else ()
        fields = dict(zip(pairs[::2], pairs[1::2], strict=True))
        descr, shape = fields.get("descr", ""), fields.get("shape", "").strip("() \t\n")
        sizes = [part.strip().rstrip("L") for part in shape.removesuffix(",").split(",") if shape]
        order = fields.get("fortran_order")
        if (
            len(fields) < 3
            or order not in ("True", "False")
            or not all(re.fullmatch(r"\d{1,19}", size) for size in sizes)
        ):
            raise self._defect(info, f"has the header {text[:80]!r}, which is not NumPy's")
        if len(sizes) > MAX_NDIM:
            raise self._defect(info, f"has {len(sizes)} dimensions; {MAX_NDIM} are possible")
        plain = _PLAIN.fullmatch(descr)
        if not plain and descr not in _BFLOAT16:
            raise self._defect(info, f"has values of dtype {descr[:80]}, which are not numbers")
        dtype = np.dtype(plain[1] if plain else "<u2")
        type_ = dtype.name if plain else "bfloat16"
        return tuple(map(int, sizes)), type_, dtype, order == "True"

    def _describe(self, name: str, entry: _Member | _Sparse) -> ArrayInfo:
        if isinstance(entry, _Member):
            return ArrayInfo(name, "dense", entry.shape, entry.type, entry.nbytes)
        size = entry.data.nbytes + entry.indices.nbytes
        if entry.indptr is None:
            return ArrayInfo(name, "row_sparse", entry.shape, entry.data.type, size)
        return ArrayInfo(name, "csr", entry.shape, entry.data.type, size + entry.indptr.nbytes)

    def _read(self, name: str, entry: _Member | _Sparse) -> Array:
        if isinstance(entry, _Member):
            return self._values(entry)
        indptr = None if entry.indptr is None else self._values(entry.indptr)
        parts = (self._values(entry.data), self._values(entry.indices), indptr)
        storage = "row_sparse" if indptr is None else "csr"
        try:
            return SparseArray(storage, entry.shape, *parts)
        except InvalidArgumentError as error:
            raise self._defect(entry.data.zip_info, f"is part of {error}") from None

    def _values(self, member: _Member) -> np.ndarray:
        flat, end = np.empty(member.nbytes, np.uint8), 0
        with self._opened(member.zip_info) as stream:
            stream.read(member.header_size)
            # The empty read at the end makes zipfile check the CRC.
            while piece := stream.read(READ_BYTES):
                flat[end : end + len(piece)] = np.frombuffer(piece, np.uint8)
                end += len(piece)
        if end != member.nbytes:
            raise self._defect(member.zip_info, f"holds {end} bytes of values, not {flat.size}")
        array = flat.view(np.bool_ if member.type == "bool" else member.dtype)
        if member.type == "bool":
            array = flat != 0
        array = array.reshape(member.shape, order="F" if member.fortran else "C")
        if member.type == "bfloat16":
            return bfloat16.from_bits(np.ascontiguousarray(array))
        return np.ascontiguousarray(array, array.dtype.newbyteorder("=")).reshape(member.shape)

    @contextmanager
    def _opened(self, info: zipfile.ZipInfo) -> Iterator[IO[bytes]]:
        with _defects(self.path, info.header_offset), self._zip.open(info) as stream:
            yield stream

    def _defect(self, info: zipfile.ZipInfo, reason: str) -> ParamsFormatError:
        return ParamsFormatError(self.path, info.header_offset, f"{info.filename!r} {reason}.")


def _arrays_of(
    infos: Iterable[zipfile.ZipInfo], path: StrPath | None
) -> dict[str, zipfile.ZipInfo]:
    """Return the ``.npy`` members by name without suffix; what else there is has no values."""
    arrays: dict[str, zipfile.ZipInfo] = {}
    others = []
    for info in infos:
        if not info.filename.endswith(SUFFIX):
            others.append(info.filename)
            continue
        name = info.filename.removesuffix(SUFFIX)
        if name in arrays:
            raise ParamsFormatError(path, info.header_offset, f"the name {name!r} occurs twice.")
        arrays[name] = info
    if others and not arrays:
        if any(name.endswith("data.pkl") for name in others):
            raise ParamsFormatError(path, 0, PICKLES)
        reason = f"a zip archive without {SUFFIX} members, but {others[0][:80]!r}."
        raise ParamsFormatError(path, 0, reason)
    return arrays


def _check_sizes(infos: Iterable[zipfile.ZipInfo], size: int, path: StrPath | None) -> None:
    """Refuse what the archive's own length cannot justify, before anything is decompressed."""
    packed = unpacked = 0
    for info in infos:
        if not 0 <= info.header_offset < size:
            raise ParamsFormatError(path, 0, f"{info.filename!r} lies outside of the file.")
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            reason = f"{info.filename!r} is neither stored nor deflated."
            raise ParamsFormatError(path, info.header_offset, reason)
        ratio = DEFLATE_RATIO if info.compress_type == zipfile.ZIP_DEFLATED else 1
        packed, unpacked = packed + info.compress_size, unpacked + info.file_size
        if info.file_size > ratio * info.compress_size or packed > size:
            reason = f"{info.filename!r} cannot hold {info.file_size} bytes."
            raise ParamsFormatError(path, info.header_offset, reason)
        if unpacked > MAX_RATIO * size + SMALL:
            reason = f"expands to more than {MAX_RATIO} times the {size} bytes of the file."
            raise ParamsFormatError(path, info.header_offset, reason)


@contextmanager
def _defects(path: StrPath | None, offset: int) -> Iterator[None]:
    """Turn whatever zipfile and zlib raise for damaged archives into one error."""
    try:
        yield
    except GluonLSTMError:
        raise
    except (
        *(zipfile.BadZipFile, zlib.error, struct.error, EOFError, OSError, RuntimeError),
        *(ValueError, IndexError, KeyError, TypeError, OverflowError),
    ) as error:
        raise ParamsFormatError(path, offset, f"a damaged zip archive: {error}.") from error


class _Stream(io.RawIOBase):
    """The bytes of a memoryview as a file, without copying them."""

    def __init__(self, data: memoryview) -> None:
        self._view, self._position = data, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        part = self._view[self._position : self._position + len(buffer)]
        buffer[: len(part)] = part
        self._position += len(part)
        return len(part)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: len(self._view)}[whence]
        if start + offset < 0:
            # zipfile looks for the end of short archives by trying, and expects what files raise.
            raise OSError(f"cannot seek to {start + offset}")
        self._position = start + offset
        return self._position
