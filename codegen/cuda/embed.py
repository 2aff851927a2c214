"""Put machine code in the place of the CUDA C that TVM would leave in a library.

Where there is no driver TVM stores the source, which would need a compiler on the machine that
runs the model; where there is one it compiles with fast math and for one arch. Here it always keeps
the source, and the library's list of modules is rewritten before it is linked: the same on all
machines, with no driver and no stand-in for one.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import tvm_ffi

from gluonlstm.errors import CompilationError

# Read by TVM whenever it has generated CUDA C: "keep the source, whatever is installed".
_KEEP_SOURCE = "TVM_COMPILE_FORCE_FALLBACK"
_LENGTH = struct.Struct("<Q")
_KIND = "cuda"
_SOURCE_FORMAT = b"cuda"
_CODE_FORMAT = b"fatbin"  # anything but "cuda" and "ptx" is handed to the driver as it is


@contextmanager
def source_kept() -> Iterator[None]:
    """Let TVM keep CUDA C as it is in the body, whether there is a GPU or not."""
    before = os.environ.get(_KEEP_SOURCE)
    os.environ[_KEEP_SOURCE] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[_KEEP_SOURCE]
        else:
            os.environ[_KEEP_SOURCE] = before


def export_library(
    executable: Any, path: Path, host: str, translate: Callable[[str], bytes]
) -> None:
    """Link an executable that was built with :func:`source_kept` to a shared library.

    ``translate`` makes an image of machine code from CUDA C; ``host`` is the target of the CPU
    code, as TVM writes it.
    """

    def pack(module: Any, is_system_lib: bool, prefix: str, folder: str) -> str:
        blob = translated(_serialized(module), cuda_sources(module), translate)
        make = tvm_ffi.get_global_func("codegen.codegen_blob")
        target = str(Path(folder, f"{prefix}devc.o"))
        make(blob, is_system_lib, host, prefix).write_to_file(target)
        return target

    executable.export_library(str(path), fpack_imports=pack)


def cuda_sources(module: Any) -> list[str]:
    """Return the CUDA C of all the modules that ``module`` imports, each once."""
    found: dict[str, None] = {}
    stack, seen = [module], set()
    while stack:
        one = stack.pop()
        if one in seen:
            continue
        seen.add(one)
        if one.kind == _KIND:
            found[one.inspect_source("cuda")] = None
        stack.extend(one.imports)
    return list(found)


# --- TVM's list of modules -----------------------------------------------------------------
#
# length of what follows, import tree (two vectors of uint64), then for each module its kind and,
# unless the kind is "_lib" (the linked code itself), its bytes. Those of a CUDA module are the
# format of its code, a table of its functions, and the code. Texts and vectors begin with their
# number of elements as uint64.


def _serialized(module: Any) -> bytes:
    pack = tvm_ffi.get_global_func("runtime.ModulePackImportsToTensor")
    return bytes(pack(module).numpy().tobytes())


def translated(blob: bytes, sources: list[str], translate: Callable[[str], bytes]) -> bytes:
    """Return the list with machine code for each of ``sources``."""
    reader = _Reader(blob)
    reader.number()
    count = len(reader.numbers()) - 1
    reader.numbers()
    parts = [blob[_LENGTH.size : reader.position]]
    for _ in range(count):
        kind = reader.text()
        parts.append(_text(kind))
        if kind == b"_lib":
            continue
        content = reader.text()
        if kind == _KIND.encode():
            content = _cuda_module(content, sources, translate)
        parts.append(_text(content))
    if reader.position != len(blob):
        raise CompilationError("TVM's list of modules is not as expected: bytes are left over.")
    return _text(b"".join(parts))


def _cuda_module(content: bytes, sources: list[str], translate: Callable[[str], bytes]) -> bytes:
    """Return the bytes of one CUDA module with machine code in place of its source."""
    head = _text(_SOURCE_FORMAT)
    for source in sources:
        tail = _text(source.encode())
        if content.startswith(head) and content.endswith(tail):
            functions = content[len(head) : -len(tail)]
            return _text(_CODE_FORMAT) + functions + _text(translate(source))
    raise CompilationError("TVM's CUDA module is not as expected: it does not end with its source.")


def _text(data: bytes) -> bytes:
    return _LENGTH.pack(len(data)) + data


class _Reader:
    """Reads numbers, vectors of numbers and texts, one after another."""

    def __init__(self, data: bytes) -> None:
        self._data, self.position = data, 0

    def number(self) -> int:
        (value,) = _LENGTH.unpack(self._take(_LENGTH.size))
        return value

    def numbers(self) -> list[int]:
        return [self.number() for _ in range(self.number())]

    def text(self) -> bytes:
        return self._take(self.number())

    def _take(self, size: int) -> bytes:
        end = self.position + size
        if end > len(self._data):
            raise CompilationError("TVM's list of modules is not as expected: it ends too early.")
        taken, self.position = self._data[self.position : end], end
        return taken
