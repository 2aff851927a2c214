r"""The compiled model on disk: one file with machine code, weights and metadata.

All numbers are little-endian.

========== ==========================================================================
position   content
========== ==========================================================================
0          code: the shared library that the compiler linked (an ELF image)
W          weights. W is the first multiple of 4096 that is not inside the code; each
           weight begins at the next multiple of 64, so that it can be used where it is
           mapped. The gaps are zeros.
M          metadata, UTF-8 JSON: :meth:`ModelInfo.to_dict` and "weights", a list of
           {"name", "dtype", "shape", "offset" (from the start of the file), "crc32"}.
           M is the first multiple of 64 that is not inside the last weight.
end - 68   footer: uint64 size of the code, uint64 M, uint64 size of the metadata,
           32 bytes BLAKE2b of (these three numbers, the version, the code, the
           metadata), uint32 format version, the 8 bytes ``\x93GLSTM\r\n``
========== ==========================================================================

The dynamic loader ignores what follows an ELF image, so the file is also a shared library that C
and C++ programs can open as it is.

Checksums. Code and metadata, at most a few megabytes, are always checked before anything in them
is used. A weight's CRC-32 is in the metadata; weights are checked on reading if they are at most
``VERIFIED_BYTES`` in all (about 50 ms), else only when asked for, because it would read all of a
file that otherwise is mapped and read as needed.
"""

from __future__ import annotations

import json
import mmap
import os
import stat
import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from os import PathLike
from pathlib import Path
from types import MappingProxyType

import numpy as np

from gluonlstm.atomic import replacing
from gluonlstm.errors import ArtifactError, InvalidArgumentError
from gluonlstm.model_info import InputInfo, ModelInfo, OutputInfo, parse_json
from gluonlstm.weight_table import (
    ALIGNMENT,
    StoredWeight,
    aligned,
    pad,
    parse_table,
    write_weight,
)

__all__ = ["FORMAT_VERSION", "Artifact", "InputInfo", "ModelInfo", "OutputInfo", "read", "write"]

FORMAT_VERSION = 1
MAGIC = b"\x93GLSTM\r\n"
FOOTER = struct.Struct("<3Q32sI8s")
PAGE = 4096
MOST_METADATA = 4 << 20  # bytes
VERIFIED_BYTES = 64 << 20
_DAMAGED = "the file is damaged. Copy or compile it again."


@dataclass(frozen=True, eq=False, repr=False)
class Artifact:
    """A compiled model's file, mapped into memory.

    The mapping stays valid when the file is deleted or replaced by another (not when it is
    overwritten in place; :func:`write` never does that).
    """

    path: Path
    info: ModelInfo
    code: memoryview
    stored: tuple[StoredWeight, ...]
    _buffer: mmap.mmap

    @property
    def weights(self) -> Mapping[str, np.ndarray]:
        """Name -> read-only array over the mapping, in the order of the file.

        bfloat16 has the structured dtype that :mod:`gluonlstm.bfloat16` describes.
        """
        arrays = {weight.name: self.mapped(weight) for weight in self.stored}
        for array in arrays.values():
            array.flags.writeable = False
        return MappingProxyType(arrays)

    def mapped(self, weight: StoredWeight) -> np.ndarray:
        """Return a weight as a writable array; what is written stays in this process's memory."""
        return np.ndarray(weight.shape, weight.numpy_dtype, self._buffer, weight.offset)

    def verify(self) -> None:
        """Read the whole file and compare every checksum; ArtifactError says what is damaged."""
        view = memoryview(self._buffer)
        footer = _Footer.read(self.path, view)
        footer.check(self.path, view)
        position = footer.code_size
        for weight in self.stored:
            self._check_gap(view[position : weight.offset])
            position = weight.end
            if zlib.crc32(view[weight.offset : position]) != weight.crc32:
                raise ArtifactError(
                    self.path, f"weight {weight.name!r} does not match its checksum; {_DAMAGED}"
                )
        self._check_gap(view[position : footer.metadata_start])

    def save(self, path: str | PathLike[str]) -> None:
        """Write a copy, atomically. Raises ArtifactError if the file has been damaged meanwhile."""
        self.verify()
        with replacing(path) as file:
            file.write(self._buffer)

    def _check_gap(self, gap: memoryview) -> None:
        if any(gap):
            raise ArtifactError(self.path, f"the space between weights is not empty; {_DAMAGED}")

    def __repr__(self) -> str:
        return f"<Artifact {str(self.path)!r}: {len(self.stored)} weights>"


def write(
    path: str | PathLike[str],
    library: str | PathLike[str],
    weights: Mapping[str, np.ndarray],
    info: ModelInfo,
) -> None:
    """Write an artifact, atomically.

    ``library`` is the shared library that TVM exported; the weights are its arguments after the
    inputs (of a GPU model: after the inputs and the memory for the outputs), in order. Raises
    InvalidArgumentError for a library that is no ELF image, a weight of a dtype that cannot be
    stored, and metadata that is not JSON or too large.
    """
    code = Path(library).read_bytes()
    if not code.startswith(b"\x7fELF"):
        raise InvalidArgumentError(f"{library} is not an ELF shared library.")
    with replacing(path) as file:
        file.write(code)
        pad(file, PAGE)
        stored = [write_weight(file, name, array) for name, array in weights.items()]
        pad(file, ALIGNMENT)
        metadata = _encode(info, stored)
        footer = _Footer(len(code), file.tell(), len(metadata))
        file.write(metadata)
        digest = footer.digest(memoryview(code), memoryview(metadata))
        file.write(FOOTER.pack(*footer.numbers, digest, FORMAT_VERSION, MAGIC))


def read(path: str | PathLike[str], *, verify: bool | None = None) -> Artifact:
    """Open an artifact and check it; weights are mapped, not read.

    ``verify`` True or False says whether the weights' checksums are compared; None does so for
    small files (see the module's text). Raises ArtifactError if the file is not an artifact, is
    damaged or has another format version, OSError if it cannot be opened.
    """
    path = Path(path)
    buffer = _map(path)
    view = memoryview(buffer)
    footer = _Footer.read(path, view)
    footer.check(path, view)
    metadata = view[footer.metadata_start : footer.metadata_start + footer.metadata_size]
    try:
        values = parse_json(bytes(metadata))
        weights_start = aligned(footer.code_size, PAGE)
        stored = tuple(parse_table(values, weights_start, footer.metadata_start))
        info = ModelInfo.from_dict(values)
    except InvalidArgumentError as error:
        raise ArtifactError(path, f"the metadata is wrong: {error}") from None
    artifact = Artifact(path, info, view[: footer.code_size], stored, buffer)
    small = footer.metadata_start - weights_start <= VERIFIED_BYTES
    if verify or (verify is None and small):
        artifact.verify()
    return artifact


@dataclass(frozen=True)
class _Footer:
    code_size: int
    metadata_start: int
    metadata_size: int
    stored_digest: bytes = b""

    @property
    def numbers(self) -> tuple[int, int, int]:
        return self.code_size, self.metadata_start, self.metadata_size

    @classmethod
    def read(cls, path: Path, view: memoryview) -> _Footer:
        """Read the footer; ArtifactError if there is none, or of another version."""
        start = len(view) - FOOTER.size
        if start < 0 or view[len(view) - len(MAGIC) :] != MAGIC:
            raise ArtifactError(
                path,
                "does not end as a compiled model does: it is something else, or was cut off, or "
                "has more bytes at its end. Compile the model again.",
            )
        code_size, metadata_start, metadata_size, digest, version, _ = FOOTER.unpack_from(
            view, start
        )
        if version != FORMAT_VERSION:
            raise ArtifactError(
                path,
                f"has format version {version}; this gluonlstm reads version {FORMAT_VERSION}. "
                "Compile the model again with it.",
            )
        return cls(code_size, metadata_start, metadata_size, digest)

    def digest(self, code: memoryview, metadata: memoryview) -> bytes:
        """Return the checksum of everything but the weights."""
        state = blake2b(struct.pack("<3QI", *self.numbers, FORMAT_VERSION), digest_size=32)
        state.update(code)
        state.update(metadata)
        return state.digest()

    def check(self, path: Path, view: memoryview) -> None:
        """Compare the sizes with the file's and the checksum with the content's."""
        end = len(view) - FOOTER.size
        fits = (
            self.code_size > 0
            and aligned(self.code_size, PAGE) <= self.metadata_start
            and self.metadata_size <= MOST_METADATA
            and self.metadata_start + self.metadata_size == end
        )
        if not fits:
            raise ArtifactError(path, f"the sizes in its footer do not fit; {_DAMAGED}")
        digest = self.digest(view[: self.code_size], view[self.metadata_start : end])
        if digest != self.stored_digest:
            raise ArtifactError(path, f"code or metadata do not match their checksum; {_DAMAGED}")


def _map(path: Path) -> mmap.mmap:
    if not stat.S_ISREG(path.stat().st_mode):  # opening a pipe would wait for its writer
        raise ArtifactError(path, "is not a regular file.")
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size == 0:
            raise ArtifactError(path, "is empty.")
        # Copy-on-write rather than read-only: NumPy 1.x does not lend read-only memory by DLPack.
        return mmap.mmap(file.fileno(), size, access=mmap.ACCESS_COPY)


def _encode(info: ModelInfo, stored: Sequence[StoredWeight]) -> bytes:
    values = {**info.to_dict(), "weights": [weight.row() for weight in stored]}
    try:
        text = json.dumps(values, allow_nan=False, separators=(",", ":")).encode()
    except (TypeError, ValueError) as error:
        raise InvalidArgumentError(f"the model's metadata is not JSON: {error}") from None
    if len(text) > MOST_METADATA:
        raise InvalidArgumentError(
            f"the model's metadata has {len(text)} bytes, more than {MOST_METADATA}."
        )
    return text
