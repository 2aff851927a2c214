"""NDArray-list files, MXNet's ``.params``: read and write them with NumPy alone.

Everything is little-endian; ``[x]`` is optional and ``x * n`` is n times x, one after another.

    file    :=  u64 0x112 (magic),  u64 0,  u64 n,  array * n,  u64 k,  name * k
                    k is n (arrays with names, a dict) or 0 (without: a list)
    name    :=  u64 length,  UTF-8 bytes
    array   :=  u32 magic, then
        V2, magic 0xF993FAC9 (MXNet 1.0 to 1.9), and V3, magic 0xF993FACA (NumPy semantics):
                i32 storage,  [shape of the stored values],  shape,
                context,  i32 type,  [i32 index type, shape of the indices] * (indices),
                values,  [indices] * (indices)
                    storage 0 dense: the bracketed parts are absent
                    storage 1 row_sparse: one array of indices, the numbers of the stored rows
                    storage 2 csr: two arrays of indices, indptr and then column indices
                    V2: ndim 0 is no array (None) and ends the record.
                    V3: ndim -1 or a negative dimension does, ndim 0 is a scalar; dense only
        V1, magic 0xF993FAC8 (0.12 to 1.0):   shape,  context,  i32 type,  values
        V0, any other magic m (before 0.12):  u32 * m (shape),  context,  i32 type,  values
                    V1, V0: ndim 0 is no array and ends the record
    shape   :=  i32 ndim,  i64 * ndim
    context :=  i32 device type,  i32 device number      (written as CPU 0, ignored when read)
    type    :=  0 float32, 1 float64, 2 float16, 3 uint8, 4 int32, 5 int8, 6 int64, 7 bool,
                8 int16, 9 uint16, 10 uint32, 11 uint64, 12 bfloat16

MXNet 2 writes ``.params`` as a zip archive of ``.npy`` files instead; reading detects that.

Sparse arrays are :class:`~gluonlstm.sparse_array.SparseArray`, because a small file may declare a
huge dense shape. bfloat16 is as :mod:`gluonlstm.bfloat16` says. No allocation exceeds what the
length of the file justifies, and every defect is a ParamsFormatError with the byte offset of the
field at which reading stopped.

    arrays = params_file.load("model-0000.params")            # name -> numpy.ndarray
    params_file.save("copy.params", arrays)                   # byte for byte what mx.nd.save writes
    with params_file.open("big.params") as file:              # headers only
        weight = file["encoder_weight"]                       # mapped, not read
"""

from __future__ import annotations

from typing import Literal

from gluonlstm import npz_file
from gluonlstm.array_file import Array, ArrayFile, StrPath, map_file
from gluonlstm.atomic import replacing
from gluonlstm.params_reader import MAGIC, ParamsFile
from gluonlstm.params_writer import Arrays, pieces

__all__ = ["dumps", "is_params", "load", "loads", "open", "save"]


def is_params(head: bytes) -> bool:
    """Tell from a file's first 8 bytes whether it is an NDArray list."""
    return bytes(head[:8]) == MAGIC.to_bytes(8, "little")


def open(path: StrPath, mode: Literal["r", "c"] = "r") -> ArrayFile:
    """Open a file and read its headers only; arrays are mapped into memory when looked up.

    Mapped arrays may be unaligned, and are read-only (``mode="r"``) or copy-on-write (``"c"``:
    writable, the file never changes). Arrays of bool, widened bfloat16 and those of compressed
    MXNet 2 files are read when looked up. Raises ParamsFormatError.
    """
    return _parse(map_file(path, mode), path)


def load(path: StrPath) -> dict[str, Array] | list[Array]:
    """Read a whole file, like ``mx.nd.load``: a dict, or a list when the arrays have no names.

    The arrays are writable and independent of the file; None stands for an array that was never
    given a shape. A file without arrays gives an empty list. Raises ParamsFormatError.
    """
    return _collect(open(path))


def loads(data: bytes | bytearray | memoryview) -> dict[str, Array] | list[Array]:
    """Read the bytes of a file; the rest is as in :func:`load`."""
    return _collect(_parse(memoryview(data).cast("B"), None))


def save(
    path: StrPath,
    arrays: Arrays,
    *,
    version: Literal[0, 1, 2, 3] | None = None,
    fsync: bool = False,
) -> None:
    """Write a file that ``mx.nd.load`` reads, replacing ``path`` only once all of it is written.

    ``arrays`` is a mapping of names to arrays, a sequence of arrays, or one array. The default
    ``version`` is 2, or 3 when an array is a scalar or empty, which V2 cannot hold (stock MXNet
    reads V3 under ``mx.util.np_shape``, V2 outside it). ``fsync`` waits for the disk. Raises
    ArgumentTypeError for dtypes the format lacks, InvalidArgumentError for what ``version`` lacks.
    """
    parts = pieces(arrays, version)
    with replacing(path, fsync=fsync) as file:
        for part in parts:
            file.write(part)


def dumps(arrays: Arrays, *, version: Literal[0, 1, 2, 3] | None = None) -> bytes:
    """Return the bytes that :func:`save` writes."""
    return b"".join(pieces(arrays, version))


def _parse(data: memoryview, path: StrPath | None) -> ArrayFile:
    if npz_file.is_zip(data[:4]):
        return npz_file.NpzFile(data, path)
    return ParamsFile(data, path)


def _collect(file: ArrayFile) -> dict[str, Array] | list[Array]:
    arrays = {name: file.read(name) for name in file}
    return arrays if file.named and arrays else list(arrays.values())
