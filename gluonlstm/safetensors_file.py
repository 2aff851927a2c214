"""Read and write ``.safetensors`` files with NumPy alone.

Everything is little-endian:

    file   := u64 n, header (n bytes), values
    header := JSON object, padded with spaces: name -> {"dtype": "F32", "shape": [2, 3],
              "data_offsets": [begin, end]} with offsets into the values, and perhaps
              "__metadata__" -> {string: string}
    values := the arrays without gaps or overlaps

Unlike the ``safetensors`` package this maps arrays instead of copying them, reads bfloat16 with or
without ``ml_dtypes``, and names the byte at which a damaged file goes wrong.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from gluonlstm import bfloat16
from gluonlstm.array_file import Array, ArrayFile, ArrayInfo, StrPath, decode, element_count, encode
from gluonlstm.atomic import replacing
from gluonlstm.errors import ArgumentTypeError, InvalidArgumentError, ParamsFormatError

MAX_HEADER = 32 << 20  # bytes; parsing JSON takes some 20 times as much memory
MAX_NDIM = 32
ALIGNMENT = 64  # of the first value
METADATA = "__metadata__"
DTYPES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U64": "uint64",
    "U32": "uint32",
    "U16": "uint16",
    "U8": "uint8",
    "BOOL": "bool",
}
ITEM_BYTES = {code: int(re.sub(r"\D", "", code) or 8) // 8 for code in DTYPES}
CODES = {name: code for code, name in DTYPES.items()}


@dataclass(frozen=True, slots=True)
class _Entry:
    """Where the values of one array lie."""

    begin: int  # in the file
    end: int
    shape: tuple[int, ...]
    type: str


def is_safetensors(head: bytes | memoryview) -> bool:
    """Tell from a file's first 9 bytes whether it is a safetensors file."""
    return len(head) >= 9 and head[8] == ord("{") and 0 < int.from_bytes(head[:8], "little") < 2**32


def save(
    path: StrPath,
    arrays: Mapping[str, np.ndarray],
    *,
    metadata: Mapping[str, str] | None = None,
    fsync: bool = False,
) -> None:
    """Write a file, replacing ``path`` only once all of it is written.

    The arrays lie in the order of their item sizes, largest first, so that each is aligned.
    ``metadata`` is free text, e.g. {"format": "pt"}. Raises ArgumentTypeError for dtypes that the
    format lacks.
    """
    header: dict[str, Any] = {METADATA: dict(metadata)} if metadata else {}
    ordered = sorted(arrays.items(), key=lambda item: -item[1].dtype.itemsize)
    end = 0
    for name, array in ordered:
        if name == METADATA:
            raise InvalidArgumentError(f"no array can have the name {METADATA!r}.")
        begin, end = end, end + array.nbytes
        code = _code(name, array.dtype)
        header[name] = {"dtype": code, "shape": list(array.shape), "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-(len(text) + 8) % ALIGNMENT)
    with replacing(path, fsync=fsync) as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for _, array in ordered:
            file.write(encode(array))


class SafetensorsFile(ArrayFile[_Entry]):
    """The arrays of a ``.safetensors`` file, mapped into memory when they are looked up."""

    maps = True

    def __init__(self, data: memoryview, path: StrPath | None) -> None:
        """Read and check the header; raise ParamsFormatError for any defect."""
        self.path = path
        if len(data) < 8:
            raise self._defect(0, f"{len(data)} bytes are too few for a safetensors file")
        length = int.from_bytes(data[:8], "little")
        if length > min(len(data) - 8, MAX_HEADER):
            reason = f"a header of {length} bytes exceeds {min(len(data) - 8, MAX_HEADER)}"
            raise self._defect(0, reason)
        header = self._header(bytes(data[8 : 8 + length]))
        metadata = header.pop(METADATA, {})
        if not _is_text(metadata):
            raise self._defect(8, f"{METADATA} does not map strings to strings")
        self.metadata: dict[str, str] = metadata
        entries = {name: self._entry(name, value, 8 + length) for name, value in header.items()}
        self._check_cover(entries, 8 + length, len(data))
        self._data: memoryview | None = data
        super().__init__(path, entries)

    def close(self) -> None:
        """Give up the mapping; it ends when the last array that was looked up is gone."""
        super().close()
        self._data = None

    def _header(self, text: bytes) -> dict[str, Any]:
        try:
            header = json.loads(text.decode(), object_pairs_hook=_unique)
        except (ValueError, RecursionError) as error:
            raise self._defect(8, f"the header is not valid JSON ({error})") from None
        if not isinstance(header, dict):
            raise self._defect(8, "the header is not a JSON object")
        return header

    def _entry(self, name: str, value: Any, start: int) -> _Entry:
        fields = value if isinstance(value, dict) else {}
        shape, span = _sizes(fields.get("shape")), _sizes(fields.get("data_offsets"))
        code = fields.get("dtype")
        if len(fields) != 3 or shape is None or span is None or len(span) != 2:
            raise self._defect(8, f"{name!r} lacks a valid dtype, shape or data_offsets")
        if not isinstance(code, str) or code not in DTYPES:
            raise self._defect(8, f"{name!r} has dtype {code!r}; {', '.join(DTYPES)} are possible")
        count = element_count(shape) if len(shape) <= MAX_NDIM else None
        if count is None or span[1] - span[0] != count * ITEM_BYTES[code]:
            reason = f"{name!r} of shape {shape} and dtype {code} cannot lie at {span}"
            raise self._defect(8, reason)
        return _Entry(start + span[0], start + span[1], shape, DTYPES[code])

    def _check_cover(self, entries: dict[str, _Entry], start: int, size: int) -> None:
        """Refuse gaps, overlaps and anything after the last array."""
        for name, entry in sorted(entries.items(), key=lambda item: (item[1].begin, item[1].end)):
            if entry.begin != start or entry.end > size:
                where = f"bytes {entry.begin} to {entry.end}, not from {start} to at most {size}"
                raise self._defect(entry.begin, f"{name!r} lies at {where}")
            start = entry.end
        if start != size:
            raise self._defect(start, f"{size - start} bytes follow the last array")

    def _describe(self, name: str, entry: _Entry) -> ArrayInfo:
        return ArrayInfo(name, "dense", entry.shape, entry.type, entry.end - entry.begin)

    def _read(self, name: str, entry: _Entry) -> Array:
        assert self._data is not None  # else the file is closed, which the caller has checked
        return decode(self._data, entry.type, entry.shape, entry.begin)

    def _defect(self, offset: int, reason: str) -> ParamsFormatError:
        return ParamsFormatError(self.path, offset, f"{reason}.")


def _code(name: str, dtype: np.dtype[Any]) -> str:
    type_ = "bfloat16" if bfloat16.is_bfloat16(dtype) else dtype.name
    if type_ not in CODES:
        raise ArgumentTypeError(
            f"{name!r} has dtype {dtype}; a safetensors file holds {', '.join(CODES)}."
        )
    return CODES[type_]


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a name occurs twice")
    return result


def _is_text(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(item, str) for item in value.values())


def _sizes(value: Any) -> tuple[int, ...] | None:
    """Return a list of whole numbers below 2**63 as a tuple, and None for anything else."""
    if not isinstance(value, list):
        return None
    # bool is an int to Python, but not to JSON.
    return tuple(value) if all(type(size) is int and 0 <= size < 2**63 for size in value) else None
