"""Lay out NDArray-list files; the layout is in the docstring of :mod:`gluonlstm.params_file`."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, TypeAlias

import numpy as np

from gluonlstm import bfloat16
from gluonlstm.array_file import Array, encode
from gluonlstm.errors import ArgumentTypeError, InvalidArgumentError
from gluonlstm.params_reader import MAGIC, MAX_NDIM, STORAGES, TYPES, V1, V2, V3
from gluonlstm.sparse_array import SparseArray

Arrays: TypeAlias = Mapping[str, Array] | Sequence[Array] | np.ndarray | SparseArray
Piece: TypeAlias = bytes | memoryview

CPU = struct.pack("<ii", 1, 0)  # device type and number
MAX_V0_DIMENSION = 2**32 - 1


def pieces(arrays: Arrays, version: Literal[0, 1, 2, 3] | None) -> Iterator[Piece]:
    """Return the bytes of a file, piece by piece; all arguments are checked before the first."""
    if isinstance(arrays, (np.ndarray, SparseArray)):
        arrays = [arrays]
    if isinstance(arrays, Mapping):
        names, values = [_name(name) for name in arrays], list(arrays.values())
        labels = [repr(name) for name in arrays]
    else:
        names, values = [], list(arrays)
        labels = [f"array {i}" for i in range(len(values))]
    if version is None:
        version = 3 if any(_needs_v3(value) for value in values) else 2
    if version not in (0, 1, 2, 3):
        raise InvalidArgumentError(f"version={version!r} must be 0, 1, 2, 3 or None.")
    records = [_record(value, version, label) for value, label in zip(values, labels, strict=True)]
    return _file(records, names)


def _file(records: list[tuple[bytes, list[np.ndarray]]], names: list[bytes]) -> Iterator[Piece]:
    yield struct.pack("<QQQ", MAGIC, 0, len(records))
    for head, parts in records:
        yield head
        for part in parts:
            # Copies, where needed at all, one array at a time and only now.
            yield encode(part)
    yield struct.pack("<Q", len(names))
    for name in names:
        yield struct.pack("<Q", len(name)) + name


def _name(name: object) -> bytes:
    if not isinstance(name, str):
        raise ArgumentTypeError(f"the name {name!r} must be a string.")
    try:
        data = name.encode()
    except UnicodeEncodeError:
        raise InvalidArgumentError(f"the name {name!r} cannot be written as UTF-8.") from None
    if 0 in data:
        raise InvalidArgumentError(
            f"the name {name!r} holds a zero byte, where MXNet would end it."
        )
    return data


def _record(value: Array, version: int, label: str) -> tuple[bytes, list[np.ndarray]]:
    """Return a record's header and the arrays that follow it."""
    if isinstance(value, SparseArray):
        return _sparse(value, version, label)
    if value is None:
        return _none(version), []
    array = np.asarray(value)
    if version < 3 and not array.size * array.ndim:
        raise InvalidArgumentError(
            f"{label} has shape {array.shape}; a V{version} file holds no scalars and no empty "
            "arrays. Write version 3."
        )
    if array.ndim > MAX_NDIM:
        raise InvalidArgumentError(f"{label} has {array.ndim} dimensions; {MAX_NDIM} are possible.")
    if version == 0 and max(array.shape) > MAX_V0_DIMENSION:
        raise InvalidArgumentError(f"{label} has shape {array.shape}, too long for a V0 file.")
    if version == 0:
        head = struct.pack(f"<I{array.ndim}I", array.ndim, *array.shape)
    elif version == 1:
        head = struct.pack("<I", V1) + _shape(array.shape)
    else:
        head = struct.pack("<Ii", V2 if version == 2 else V3, 0) + _shape(array.shape)
    return head + CPU + struct.pack("<i", _flag(array.dtype, label)), [array]


def _sparse(value: SparseArray, version: int, label: str) -> tuple[bytes, list[np.ndarray]]:
    if version != 2:
        raise InvalidArgumentError(
            f"{label} is {value.storage}; a V{version} file holds dense arrays only. Write version "
            "2, or the result of its todense()."
        )
    indices = [value.indices] if value.indptr is None else [value.indptr, value.indices]
    head = struct.pack("<Ii", V2, STORAGES.index(value.storage))
    head += _shape(value.data.shape) + _shape(value.shape) + CPU
    head += struct.pack("<i", _flag(value.dtype, label))
    for part in indices:
        head += struct.pack("<i", _flag(part.dtype, label)) + _shape(part.shape)
    return head, [value.data, *indices]


def _none(version: int) -> bytes:
    return {
        0: struct.pack("<I", 0),
        1: struct.pack("<Ii", V1, 0),
        2: struct.pack("<Iii", V2, 0, 0),
        3: struct.pack("<Iii", V3, 0, -1),
    }[version]


def _shape(shape: tuple[int, ...]) -> bytes:
    return struct.pack(f"<i{len(shape)}q", len(shape), *shape)


def _flag(dtype: np.dtype[Any], label: str) -> int:
    name = "bfloat16" if bfloat16.is_bfloat16(dtype) else dtype.name
    if name not in TYPES:
        raise ArgumentTypeError(
            f"{label} has dtype {dtype}, which the format lacks; it has {', '.join(TYPES)}."
        )
    return TYPES.index(name)


def _needs_v3(value: Array) -> bool:
    if value is None or isinstance(value, SparseArray):
        return False
    array = np.asarray(value)
    return not array.size * array.ndim
