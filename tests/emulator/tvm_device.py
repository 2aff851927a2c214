"""Give TVM the emulated CUDA device: `tvm.cuda(0)`, and kernels compiled for it."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import Any

from tests.emulator import driver

_CALLBACK = "tvm_callback_cuda_compile"

Edit = Callable[[str], str]


def install(**settings: Any) -> None:
    """Make `tvm.cuda(0)` the emulated device, and have TVM compile CUDA sources for it.

    It may be called before or after `import tvm`, and again; the settings are those of
    driver.Settings. uninstall_compiler() gives compilation back to whoever did it before; the
    device stays.

    Raises:
        EmulatorUnavailableError: see available().
    """
    driver.load()
    _load_cuda_runtime()
    driver.configure(**settings)
    _Compiler.get().install()


def uninstall_compiler() -> None:
    """Let TVM compile CUDA sources as it did before install()."""
    _Compiler.get().uninstall()


@contextlib.contextmanager
def compiler(edit: Edit | None = None) -> Iterator[None]:
    """Compile TVM's CUDA sources for the emulator within a `with` block only.

    Args:
        edit: applied to each source first, to break it on purpose, say.
    """
    driver.load()
    _load_cuda_runtime()
    registered = _Compiler.get()
    before = registered.edit, registered.installed
    registered.edit = edit
    registered.install()
    try:
        yield
    finally:
        registered.edit = before[0]
        if not before[1]:
            registered.uninstall()


def _load_cuda_runtime() -> None:
    """TVM's CUDA runtime library registers the device as it is loaded, once its libraries are."""
    if "tvm" not in sys.modules:
        import tvm  # noqa: F401  (loads the library by itself)
    import tvm_ffi

    if tvm_ffi.get_global_func("device_api.cuda", allow_missing=True) is not None:
        return
    from tvm import libinfo
    from tvm_ffi.libinfo import load_lib_ctypes

    load_lib_ctypes(
        "tvm", "tvm_runtime_cuda", "RTLD_LOCAL", extra_lib_paths=libinfo.package_lib_paths()
    )


class _Compiler:
    """TVM's global callback that compiles CUDA sources, ours or the one from before."""

    _instance: _Compiler | None = None

    def __init__(self) -> None:
        self.edit: Edit | None = None
        self.installed = False
        self._before: Any = None

    @classmethod
    def get(cls) -> _Compiler:
        if cls._instance is None:
            cls._instance = cls()
        return cls._instance

    def install(self) -> None:
        if self.installed:
            return
        import tvm_ffi

        self._before = tvm_ffi.get_global_func(_CALLBACK, allow_missing=True)
        tvm_ffi.register_global_func(_CALLBACK, self._compile, override=True)
        self.installed = True

    def uninstall(self) -> None:
        if not self.installed:
            return
        import tvm_ffi

        if self._before is None:
            tvm_ffi.registry.remove_global_func(_CALLBACK)
        else:
            tvm_ffi.register_global_func(_CALLBACK, self._before, override=True)
        self.installed = False

    def _compile(self, code: str, *_target: Any) -> bytes:
        return driver.compile_cuda(self.edit(code) if self.edit else code)
