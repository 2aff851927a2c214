"""Find g++ and the CUDA headers; build the emulated driver and compile kernels, once each."""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import os
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

HERE = Path(__file__).resolve().parent
DEVICE = HERE / "device"
ENGINE = HERE / "engine"

_HEADERS = ("cuda.h", "cuda_runtime_api.h", "cuda_fp16.h", "cuda_bf16.h", "vector_types.h")
# Folders of the wheels nvidia-cuda-runtime (CUDA 13 on) and nvidia-cuda-runtime-cu12.
_WHEEL_FOLDERS = ("nvidia/cu13/include", "nvidia/cuda_runtime/include")
_TOOLKITS = ("CUDA_HOME", "CUDA_PATH")

# The instrumentation announces every access to memory; see engine/instrument.cc. Rounding is as
# written, whatever the host can do. Of DWARF 5, addr2line of binutils 2.40 misreads file numbers.
KERNEL_FLAGS = (
    "-std=c++17", "-O1", "-g1", "-gdwarf-4", "-fPIC", "-w", "-pipe", "-fno-strict-aliasing",
    "-fno-exceptions", "-fno-rtti", "-fno-gnu-unique", "-ffp-contract=off",
    "-fno-tree-loop-distribute-patterns", "-fsanitize=thread",
    "--param", "tsan-distinguish-volatile=1",
)  # fmt: skip
ENGINE_FLAGS = (
    "-std=c++17", "-O2", "-fPIC", "-Wall", "-Wextra", "-pipe", "-fno-semantic-interposition",
)  # fmt: skip

_IMAGE_MAGIC = b"EMUCUDA1"


class ToolchainError(RuntimeError):
    """g++ refused a source; the message holds what it said."""


@functools.cache
def compiler() -> str | None:
    """g++, from $CXX if that is set."""
    return shutil.which(os.environ.get("CXX", "g++"))


@functools.cache
def cuda_include() -> Path | None:
    """The folder of CUDA's headers: of a toolkit, or of the pip wheel of its runtime."""
    candidates = [Path(os.environ[v]) / "include" for v in _TOOLKITS if v in os.environ]
    if nvcc := shutil.which("nvcc"):
        candidates.append(Path(nvcc).resolve().parent.parent / "include")
    candidates += [Path("/usr/local/cuda/include"), *_wheel_candidates()]
    return next((c for c in candidates if all((c / h).is_file() for h in _HEADERS)), None)


def _wheel_candidates() -> list[Path]:
    spec = importlib.util.find_spec("nvidia")
    roots = [Path(root).parent for root in (spec.submodule_search_locations or [])] if spec else []
    return [root / folder for root in roots for folder in _WHEEL_FOLDERS]


def cache_folder() -> Path:
    """A folder of this user's for what is compiled, made if need be."""
    base = os.environ.get("GLUONLSTM_EMULATOR_CACHE")
    folder = Path(base) if base else Path(tempfile.gettempdir()) / f"cuda-emulator-{os.getuid()}"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if folder.stat().st_uid != os.getuid():
        raise ToolchainError(f"{folder} belongs to another user; set GLUONLSTM_EMULATOR_CACHE")
    return folder


@functools.cache
def _base_key() -> bytes:
    """Depends on the compiler, the CUDA headers and everything in device/ and engine/."""
    digest = hashlib.sha256()
    version = subprocess.run([_require_compiler(), "-v"], capture_output=True, check=True).stderr
    digest.update(version + str(cuda_include()).encode())
    for path in sorted([*DEVICE.rglob("*"), *ENGINE.rglob("*")]):
        if path.is_file():
            digest.update(str(path.relative_to(HERE)).encode() + path.read_bytes())
    return digest.digest()


def _require_compiler() -> str:
    found = compiler()
    if found is None:
        raise ToolchainError("no g++ found")
    return found


def _run(arguments: Sequence[str | Path], source: str | None = None) -> None:
    result = subprocess.run(
        [str(a) for a in arguments], input=source, capture_output=True, text=True, check=False
    )
    if result.returncode:
        raise ToolchainError(f"{arguments[0]} failed:\n{result.stderr[:6000]}")


def cached(name: str, key: bytes, build: Callable[[Path], None]) -> Path:
    """The file or folder `build` makes at a path; made once for each key, in one step."""
    digest = hashlib.sha256(_base_key() + key).hexdigest()[:24]
    stem, dot, extension = name.partition(".")
    path = cache_folder() / f"{stem}-{digest}{dot}{extension}"
    if path.exists():
        return path
    scratch = Path(tempfile.mkdtemp(dir=cache_folder(), prefix="making-"))
    try:
        build(scratch / "made")
        try:
            (scratch / "made").rename(path)
        except OSError:  # a folder that another process has made meanwhile
            if not path.exists():
                raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return path


def _include_flags() -> list[str]:
    include = cuda_include()
    if include is None:
        raise ToolchainError("no CUDA headers found")
    return ["-I", str(include), "-I", str(DEVICE / "missing")]


# ---- the emulated driver -------------------------------------------------------------------------

LIBRARIES = ("libcudaemulator.so", "libcudart.so.13", "libcuda.so.1")
_API_SOURCES = {"libcudart.so.13": "runtime_api.cc", "libcuda.so.1": "driver_api.cc"}


def driver_folder() -> Path:
    """The folder of LIBRARIES, in the order in which they must be loaded."""
    return cached("driver", repr(ENGINE_FLAGS).encode(), _build_driver)


def _build_driver(folder: Path) -> None:
    folder.mkdir()
    sources = sorted(ENGINE.glob("*.cc"))
    objects = {source.name: folder / f"{source.stem}.o" for source in sources}

    def compile_one(source: Path) -> None:
        flags = [*ENGINE_FLAGS, *_include_flags()]
        _run([_require_compiler(), *flags, "-c", source, "-o", objects[source.name]])

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(compile_one, sources))
    # TVM's library asks for symbols of this version.
    (folder / "cudart.map").write_text("libcudart.so.13 { global: cuda*; local: *; };\n")
    common = [o for name, o in objects.items() if name not in _API_SOURCES.values()]
    engine = LIBRARIES[0]
    _link(folder, engine, common, ["-lrt", "-ldl"])
    for library, source in _API_SOURCES.items():
        script = ["-Wl,--version-script=" + str(folder / "cudart.map")]
        extra = script if library == "libcudart.so.13" else []
        _link(folder, library, [objects[source]], [*extra, f"-L{folder}", f"-l:{engine}"])
    for path in objects.values():
        path.unlink()


def _link(folder: Path, library: str, objects: list[Path], extra: list[str]) -> None:
    soname = f"-Wl,-soname,{library}"
    _run([_require_compiler(), "-shared", *objects, "-o", folder / library, soname, *extra])


# ---- kernels -------------------------------------------------------------------------------------


def _precompiled_header() -> Path:
    """A folder with cuda_device.h.gch, which g++ then reads instead of the header."""

    def build(folder: Path) -> None:
        folder.mkdir()
        flags = [*KERNEL_FLAGS, *_include_flags(), "-x", "c++-header"]
        output = folder / "cuda_device.h.gch"
        _run([_require_compiler(), *flags, DEVICE / "cuda_device.h", "-o", output])

    return cached("header", repr(KERNEL_FLAGS).encode(), build)


def compile_kernel(translated: str, source: str) -> bytes:
    """The image that the emulated cuModuleLoadData takes.

    Args:
        translated: what translate() made.
        source: the CUDA source, for reports to quote.
    """
    key = repr(KERNEL_FLAGS).encode() + translated.encode()
    elf = cached("kernel.so", key, lambda path: _compile(translated, path)).read_bytes()
    text = source.encode()
    return _IMAGE_MAGIC + struct.pack("<QQ", len(elf), len(text)) + elf + text + b"\0"


def _compile(translated: str, output: Path) -> None:
    includes = ["-I", _precompiled_header(), "-I", DEVICE, "-I", DEVICE / "stand_ins"]
    path = output.with_suffix(".cpp")
    path.write_text(translated)
    compiled = output.with_suffix(".o")
    flags = [*KERNEL_FLAGS, *includes, *_include_flags()]
    _run([_require_compiler(), *flags, "-c", path, "-o", compiled])
    # Linked without -fsanitize: the engine has the functions that the instrumentation calls.
    _run([_require_compiler(), "-shared", compiled, "-o", output])
