"""Find and load the TVM runtime library, and compiled code into it.

Two things are needed, and neither is the ``tvm`` Python package: ``tvm_ffi`` (pip: apache-tvm-ffi)
and the shared library ``libtvm_runtime``. The latter is looked for

1. where the environment variable GLUONLSTM_TVM_RUNTIME says (a file or a folder), or
   TVM_LIBRARY_PATH (a folder; TVM's own variable);
2. next to the compiled model;
3. in the installed apache-tvm package, which is not imported for that.

One process can hold one copy of the library: a second one aborts it. If it is there already, for
instance because ``tvm`` has been imported, that copy is used.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib.abc
import importlib.metadata
import importlib.util
import itertools
import os
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from gluonlstm import worker_threads
from gluonlstm.errors import MissingDependencyError

VARIABLE = "GLUONLSTM_TVM_RUNTIME"
TVM_VARIABLE = "TVM_LIBRARY_PATH"
LIBRARY = "libtvm_runtime.dylib" if sys.platform == "darwin" else "libtvm_runtime.so"
_SIGN_OF_LIFE = "ffi.Module.load_from_bytes.relax.VMExecutable"  # a function that it registers
_CPU = 1  # DLPack's number for the device
_NAIVE_ALLOCATOR = 1

_lock = threading.Lock()
_loaded: ModuleType | None = None
_serial_numbers = itertools.count(1)


def load_runtime(near: Path | None = None) -> ModuleType:
    """Load what runs compiled code, once per process, and return the module ``tvm_ffi``.

    ``near`` is the folder of the compiled model. Raises MissingDependencyError with the remedy.
    """
    global _loaded
    with _lock:
        if _loaded is None:
            worker_threads.prepare()
            tvm_ffi = _import_tvm_ffi()
            if tvm_ffi.get_global_func(_SIGN_OF_LIFE, allow_missing=True) is None:
                _open_library(find_library(near))
            _loaded = tvm_ffi
        return _loaded


def find_library(near: Path | None = None, name: str = LIBRARY) -> Path:
    """Return the path of libtvm_runtime; MissingDependencyError says where it was looked for.

    ``name`` is that of another one of TVM's libraries, which lies beside it.
    """
    looked = []
    for source, path in _candidates(near):
        if path.is_dir():
            path = path / name
        elif name != LIBRARY:
            path = path.with_name(name)
        if path.is_file():
            return path.resolve()
        if source == VARIABLE:
            raise MissingDependencyError(
                f"the environment variable {VARIABLE} leads to {path}, which is not a file. Let it "
                f"name {name} or a folder that holds it."
            )
        looked.append(f"{source} ({path})")
    raise MissingDependencyError(
        f"the TVM runtime library {name} was not found; looked for "
        f"{', '.join(looked) or 'an installed apache-tvm package'}. Install it with "
        f"pip install 'gluonlstm[compile]', or copy {name} from such an installation (folder "
        f"tvm/lib) and let the environment variable {VARIABLE} name it."
    )


def _candidates(near: Path | None) -> Iterator[tuple[str, Path]]:
    """Yield places: files named LIBRARY, or folders."""
    for variable in (VARIABLE, TVM_VARIABLE):
        if os.environ.get(variable):
            yield variable, Path(os.environ[variable])
    if near is not None:
        yield "next to the model", near / LIBRARY
    for folder in _installed():
        yield "the package apache-tvm", folder / LIBRARY


def _installed() -> Iterator[Path]:
    """Yield the folders in which an installed apache-tvm has its libraries."""
    # ImportError: of a finder that keeps modules out; ValueError: of one without a specification.
    with contextlib.suppress(ImportError, ValueError):
        spec = importlib.util.find_spec("tvm")  # finds, does not import
        for folder in (spec.submodule_search_locations or ()) if spec else ():
            yield Path(folder, "lib")
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        yield Path(str(importlib.metadata.distribution("apache-tvm").locate_file("tvm/lib")))


def _open_library(path: Path) -> None:
    try:
        # Compiled code and other TVM libraries find their symbols in it.
        ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL)
    except OSError as error:
        raise MissingDependencyError(
            f"the TVM runtime library {path} cannot be loaded ({error}). It must be built for this "
            "system and for the installed apache-tvm-ffi."
        ) from error
    installed = [folder.resolve() for folder in _installed()]
    if installed and path.parent not in installed:
        # A later `import tvm` must come to the same file; its search begins with this variable.
        os.environ[TVM_VARIABLE] = str(path.parent)


class _Unavailable(importlib.abc.MetaPathFinder):
    """Lets imports of one module fail in the thread that made this."""

    def __init__(self, name: str) -> None:
        self._name, self._thread = name, threading.get_ident()

    def find_spec(self, fullname: str, path: object, target: object = None) -> None:
        if fullname == self._name and threading.get_ident() == self._thread:
            raise ModuleNotFoundError(f"{fullname} is not needed here", name=fullname)


def _import_tvm_ffi() -> ModuleType:
    # tvm_ffi imports torch wherever it is installed, which takes 20 times as long as all the rest,
    # for the sake of one Windows configuration. It works with torch tensors without that.
    finder = _Unavailable("torch")
    sys.meta_path.insert(0, finder)
    try:
        import tvm_ffi
    except (ImportError, OSError, RuntimeError) as error:
        raise MissingDependencyError(
            f"running a compiled model needs apache-tvm-ffi ({error}): "
            "pip install 'gluonlstm[runtime]'"
        ) from error
    finally:
        sys.meta_path.remove(finder)
    return tvm_ffi


# --- compiled code -------------------------------------------------------------------------


class Executable:
    """Compiled code in memory: the Relax executable of one model.

    It lives as long as this object or a function of one of its machines does. Arrays that it
    returned do not depend on it.
    """

    def __init__(self, code: memoryview, tvm_ffi: ModuleType) -> None:
        """Load a shared library from memory. Raises RuntimeError or AttributeError."""
        module = _load_library(code, tvm_ffi)
        self._make_machine = module["vm_load_executable"]

    def machine(self, *first: int) -> Any:
        """Return a new virtual machine; each can run one call at a time.

        ``first`` are TVM's kind, number and allocator of the device to run on, if it is not the
        CPU.
        """
        machine = self._make_machine()
        # TVM's other allocator keeps every buffer it ever made, by size: with varying T and N it
        # grows without bound.
        machine["vm_initialization"](*first, _CPU, 0, _NAIVE_ALLOCATOR)
        return machine

    def function(self, name: str) -> Callable[..., Any]:
        """Return a function of a new machine."""
        return self.machine()[name]


def _load_library(code: memoryview, tvm_ffi: ModuleType) -> Any:
    """Load a copy of the code that nobody can change or replace, not the file it came from.

    The dynamic loader takes a name it knows, or a file it knows, for the library that it loaded
    under that name. A model saved over another one would be the old one.
    """
    load = tvm_ffi.get_global_func("ffi.Module.load_from_file.so")
    try:
        return _load_from_memory(code, load)
    except (AttributeError, OSError, RuntimeError):  # not Linux, forbidden, or wrong code
        return _load_from_file(code, load)


def _load_from_memory(code: memoryview, load: Callable[..., Any]) -> Any:
    descriptor = os.memfd_create("gluonlstm", os.MFD_CLOEXEC)
    with os.fdopen(descriptor, "wb", buffering=0) as file:
        _write_all(file, code)
        return load(_unused_name(descriptor), "so")


def _unused_name(descriptor: int) -> str:
    """Return a name of the open file that no library was loaded under before.

    Descriptors are used again, so the serial number is written into the path in slashes and dots.
    Whoever else does the like is likely to begin with /proc/self.
    """
    serial = "".join("/." if bit == "1" else "/" for bit in f"{next(_serial_numbers):b}")
    return f"/proc/thread-self/fd{serial}/{descriptor}"


def _load_from_file(code: memoryview, load: Callable[..., Any]) -> Any:
    with tempfile.NamedTemporaryFile(suffix=".so", prefix="gluonlstm-") as file:
        _write_all(file, code)
        file.flush()
        return load(file.name, "so")


def _write_all(file: Any, data: memoryview) -> None:
    while data:
        data = data[file.write(data) :]
