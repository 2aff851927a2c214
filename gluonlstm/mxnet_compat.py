"""Import MXNet 1.9.1 on NumPy and Python versions that came after it.

``import gluonlstm.mxnet_compat`` imports MXNet, and afterwards ``import mxnet`` works anywhere in
the process. MXNet reads names that NumPy has since dropped (``numpy.bool``, ``numpy.PZERO``, ...)
and ``distutils``, which Python 3.12 dropped. NumPy itself is never changed: MXNet's modules alone
get a ``__import__`` that hands them a view of NumPy with the old names, and a stand-in for
``distutils.version``.

With ``mxnet-cu112`` installed, the CUDA libraries of the ``nvidia-*-cu11`` wheels are loaded first,
so that ``LD_LIBRARY_PATH`` need not name them.
"""

from __future__ import annotations

import builtins
import ctypes
import importlib
import importlib.metadata
import importlib.util
import sys
import warnings
from collections.abc import Callable, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np

from gluonlstm.errors import MissingDependencyError

__all__ = ["import_mxnet", "mx"]

MXNET_VERSION = "1.9.1"

# What libmxnet.so of mxnet-cu112 is linked with, each after what it needs itself. cuDNN's parts
# are listed because libcudnn.so.8 opens them by name when they are first used. libcuda.so.1 is
# not here: it comes with the driver.
CUDA_LIBRARIES = (
    "libcudart.so.11.0",
    "libnvrtc.so.11.2",
    "libnvToolsExt.so.1",
    "libcublasLt.so.11",
    "libcublas.so.11",
    "libcufft.so.10",
    "libcurand.so.10",
    "libcusolver.so.11",
    "libnccl.so.2",
    "libcudnn.so.8",
    "libcudnn_ops_infer.so.8",
    "libcudnn_cnn_infer.so.8",
    "libcudnn_adv_infer.so.8",
    "libcudnn_ops_train.so.8",
    "libcudnn_cnn_train.so.8",
    "libcudnn_adv_train.so.8",
)


class _NumpyView(ModuleType):
    """NumPy as MXNet's modules see it: NumPy's attributes, plus the old names."""

    def __init__(self, **names: Any) -> None:
        super().__init__("numpy", np.__doc__)
        self.__dict__.update(names)

    def __getattr__(self, name: str) -> Any:
        return getattr(np, name)

    def __dir__(self) -> list[str]:
        return sorted({*dir(np), *self.__dict__})


def _old_names() -> dict[str, Any]:
    """Return the names that MXNet uses and some NumPy between 1.23 and today lacks or warns of.

    The functions are wrapped, so that each is an object of its own: MXNet registers its own
    implementations of them under these objects, and must not overwrite those of the new names.
    """
    new_names = {
        "alltrue": np.all,
        "sometrue": np.any,
        "product": np.prod,
        "cumproduct": np.cumprod,
        "round_": np.round,
        "trapz": getattr(np, "trapezoid", None) or np.trapz,  # type: ignore[attr-defined]  # noqa: NPY201
        "row_stack": np.vstack,
        "in1d": lambda x, y, **options: np.isin(np.ravel(x), y, **options),
        "msort": lambda x: np.sort(x, axis=0),
    }
    return {
        "bool": bool,
        "int": int,
        "PZERO": 0.0,
        "NZERO": -0.0,
        "NINF": -np.inf,
        "PINF": np.inf,
        "Inf": np.inf,
        "NAN": np.nan,
        "NaN": np.nan,
        "core": SimpleNamespace(numeric=SimpleNamespace(normalize_axis_tuple=_axis_tuple())),
        **{old: _renamed(old, new) for old, new in new_names.items()},
        **{name: _removed(name) for name in ("mirr", "npv", "pmt", "ppmt", "pv", "rate")},
    }


def _axis_tuple() -> Any:
    """Return normalize_axis_tuple, which NumPy 2 moved."""
    if np.lib.NumpyVersion(np.__version__) >= "2.0.0":
        return importlib.import_module("numpy.lib.array_utils").normalize_axis_tuple
    return importlib.import_module("numpy.core.numeric").normalize_axis_tuple


def _renamed(old: str, new: Callable[..., Any]) -> Callable[..., Any]:
    def function(*args: Any, **kwargs: Any) -> Any:
        return new(*args, **kwargs)

    function.__name__ = function.__qualname__ = old
    function.__doc__ = new.__doc__
    return function


def _removed(name: str) -> Callable[..., Any]:
    def function(*_args: Any, **_kwargs: Any) -> Any:
        raise NotImplementedError(
            f"numpy.{name} left NumPy with version 1.20; use the numpy_financial package."
        )

    function.__name__ = function.__qualname__ = name
    return function


def _int_prod(*args: Any, **kwargs: Any) -> Any:
    """Return numpy.prod as a Python int where it is one.

    mx.init.Orthogonal puts the product into a shape that MXNet writes out with ``str``, and NumPy 2
    writes its integers as ``np.int64(3)``.
    """
    product = np.prod(*args, **kwargs)
    return int(product) if isinstance(product, np.integer) else product


class _Version:
    """distutils' LooseVersion and StrictVersion, as far as MXNet compares NumPy's version."""

    def __init__(self, text: str) -> None:
        numbers = (part for part in text.split("+")[0].split("."))
        self.release = tuple(int(part) for part in numbers if part.isdigit())

    def _key(self, other: Any) -> tuple[int, ...]:
        return other.release if isinstance(other, _Version) else _Version(str(other)).release

    def __lt__(self, other: Any) -> bool:
        return self.release < self._key(other)

    def __ge__(self, other: Any) -> bool:
        return not self < other

    def __gt__(self, other: Any) -> bool:
        return self.release > self._key(other)

    def __le__(self, other: Any) -> bool:
        return not self > other


def _import_for_mxnet() -> Callable[..., Any]:
    """Return the ``__import__`` that MXNet's modules use."""
    view = _NumpyView(**_old_names())
    views = {"mxnet.initializer": _NumpyView(**_old_names(), prod=_int_prod)}
    distutils = ModuleType("distutils")
    version = ModuleType("distutils.version")
    version.__dict__.update(LooseVersion=_Version, StrictVersion=_Version)
    distutils.__dict__.update(version=version)

    def mxnet_import(
        name: str,
        globals: Any = None,
        locals: Any = None,
        fromlist: Sequence[str] | None = (),
        level: int = 0,
    ) -> Any:
        if level == 0 and name in ("distutils", "distutils.version"):
            return version if fromlist and name != "distutils" else distutils
        module = builtins.__import__(name, globals, locals, fromlist or (), level)
        if module is not np:
            return module
        return views.get(globals["__name__"], view) if globals else view

    return mxnet_import


class _MXNetLoader(Loader):
    """Load a module of MXNet with its own ``__import__``, and without the warnings of its age."""

    def __init__(self, loader: Loader, builtins_of_mxnet: dict[str, Any]) -> None:
        self._loader = loader
        self._builtins = builtins_of_mxnet

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        module.__dict__["__builtins__"] = self._builtins
        with warnings.catch_warnings():
            # Invalid escape sequences, deprecated imports: nobody will mend them any more.
            warnings.simplefilter("ignore")
            self._loader.exec_module(module)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)  # get_source, get_code, ... for tracebacks and tools


class _MXNetFinder(MetaPathFinder):
    """Find MXNet's modules where Python would, and load them with :class:`_MXNetLoader`."""

    def __init__(self) -> None:
        self._builtins = {**vars(builtins), "__import__": _import_for_mxnet()}

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None = None,
        target: ModuleType | None = None,
    ) -> ModuleSpec | None:
        if fullname.partition(".")[0] != "mxnet":
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is None or spec.loader is None or not str(spec.origin).endswith(".py"):
            return spec
        spec.loader = _MXNetLoader(spec.loader, self._builtins)
        return spec


def _mend_initializers(initializer: Any) -> None:
    """Let initializers fill float64 and float16 parameters under NumPy semantics.

    They call ``mx.np.random`` without a dtype, which then is float32 and does not fit.
    """
    random = initializer._mx_np.random

    def with_dtype(draw: Callable[..., Any]) -> Callable[..., Any]:
        def function(*args: Any, out: Any, **kwargs: Any) -> Any:
            return draw(*args, dtype=out.dtype, out=out, **kwargs)

        return function

    functions = {"uniform": with_dtype(random.uniform), "normal": with_dtype(random.normal)}
    initializer._mx_np = SimpleNamespace(random=SimpleNamespace(**functions))


def _preload_cuda(
    roots: Sequence[Path], load: Callable[[str], object] = ctypes.CDLL
) -> tuple[list[str], list[str]]:
    """Load the CUDA libraries found under ``roots`` (``*/lib/``); return (loaded, not found).

    Those not found are left to the loader's own search path.
    """
    loaded, absent = [], []
    for name in CUDA_LIBRARIES:
        found = next((file for root in roots for file in sorted(root.glob(f"*/lib/{name}"))), None)
        if found is None:
            absent.append(name)
            continue
        load(str(found))
        loaded.append(name)
    return loaded, absent


def _installed(distribution: str) -> bool:
    try:
        importlib.metadata.distribution(distribution)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _wheel_library_roots() -> list[Path]:
    spec = importlib.util.find_spec("nvidia")
    places = spec.submodule_search_locations if spec else None
    return [Path(place) for place in places or ()]


def _how_to_install() -> str:
    if sys.version_info >= (3, 13):
        # MXNet's metadata asks for numpy<2, which has no wheels for Python 3.13. Through this
        # module it runs on NumPy 2 all the same.
        return "Run: pip install 'gluonlstm[mxnet]' && pip install --no-deps mxnet==1.9.1"
    return "Run: pip install 'gluonlstm[mxnet]' (or 'gluonlstm[mxnet-cu112]' for NVIDIA GPUs)."


def import_mxnet() -> ModuleType:
    """Import MXNet and return its module.

    An MXNet that has been imported already is returned as it is. Raises MissingDependencyError if
    MXNet, or a library that it is linked with, is not installed.
    """
    if "mxnet" in sys.modules:
        return sys.modules["mxnet"]
    if importlib.util.find_spec("mxnet") is None:
        raise MissingDependencyError(
            f"This needs MXNet {MXNET_VERSION}, which is not installed. {_how_to_install()}"
        )
    if not any(isinstance(finder, _MXNetFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _MXNetFinder())
    # A plain `import mxnet` that failed leaves the modules that it got through behind.
    for name in [name for name in sys.modules if name.startswith("mxnet.")]:
        del sys.modules[name]
    try:
        if _installed("mxnet-cu112"):
            _preload_cuda(_wheel_library_roots())
        module = importlib.import_module("mxnet")
    except OSError as error:
        raise MissingDependencyError(
            f"MXNet {MXNET_VERSION} is installed, but a shared library that it needs could not be "
            f"loaded: {error}. libgomp.so.1 is in the system's package libgomp1 (or libgomp), "
            "libcuda.so.1 comes with the NVIDIA driver, and the other CUDA libraries with "
            "pip install 'gluonlstm[mxnet-cu112]'."
        ) from error
    _mend_initializers(module.initializer)
    if module.__version__ != MXNET_VERSION:
        warnings.warn(
            f"gluonlstm is made for MXNet {MXNET_VERSION}; this is {module.__version__}.",
            stacklevel=2,
        )
    return module


mx: Any = import_mxnet()
