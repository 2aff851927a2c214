"""The imports point one way: files <- runtime <- compiler <- cli, with codegen beside them.

Read from the source, so imports inside functions and under TYPE_CHECKING count too, and it holds
whatever is installed.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import gluonlstm

ROOT = Path(__file__).resolve().parents[1]

CODEGEN = "gluonlstm.codegen"

# The parts of the project, from the bottom up: their modules (of gluonlstm), the other parts that
# they may import, and the packages. Modules of one part may import each other, without cycles.
PARTS: dict[str, tuple[str, str, str]] = {
    "errors": ("errors", "", ""),
    "spec": ("spec", "errors", ""),
    "arrays": ("array_file atomic bfloat16 sparse_array", "errors", "ml_dtypes numpy"),
    "files": (
        "checkpoint_files npz_file params_file params_reader params_writer safetensors_file",
        "errors arrays",
        "numpy torch",  # torch: to read a bfloat16 tensor that the caller has given
    ),
    "symbol": ("symbol", "errors", ""),
    "machine": ("machine", "", ""),
    "timer": ("timer", "", ""),
    "reference": ("reference", "errors spec", "numpy"),
    "checkpoint": (
        "checkpoint convert infer naming packed survey",
        "errors spec arrays files",
        "numpy",
    ),
    "artifact": ("artifact model_info weight_table", "errors spec arrays", "numpy"),
    "runtime": (
        "call_arguments cuda_arrays cuda_device cuda_engine cuda_library engine input_arrays"
        " packed_sequence runtime tensors tvm_library worker_threads",
        "errors spec arrays artifact machine",
        "numpy torch tvm_ffi",
    ),
    "block": (
        "block hybrid_fixes mxnet_compat",
        "errors spec symbol arrays files checkpoint",
        "mxnet numpy",
    ),
    "target": ("codegen.cuda.arch codegen.cuda.target codegen.target", "errors machine", "tvm"),
    "cuda": ("codegen.cuda", "errors target", "tvm tvm_ffi"),
    "packing": ("codegen.packing", "errors spec", "numpy"),
    "kernels": ("codegen.kernels", "errors spec target", "numpy tvm"),
    "frontend": ("codegen.frontend", "errors spec symbol checkpoint artifact", "numpy tvm"),
    "plan": ("codegen.plan", "errors spec target kernels", "numpy tvm"),
    "codegen": (
        "codegen codegen.api codegen.build codegen.emitter codegen.pipeline",
        "errors spec symbol checkpoint artifact target cuda packing kernels frontend plan",
        "numpy tvm",
    ),
    "compiler": (
        "compiler",
        "errors spec symbol arrays files checkpoint artifact runtime block codegen",
        "mxnet numpy torch",
    ),
    # Imports what it names when it is first used.
    "gluonlstm": ("", "errors spec block runtime compiler", ""),
    "bench": ("bench", "errors arrays machine artifact runtime block timer", "mxnet numpy"),
    "describe": ("describe", "errors spec symbol arrays files checkpoint artifact", "numpy"),
    "cli": (
        "__main__ cli tables",
        "errors spec files checkpoint runtime compiler describe timer bench",
        "rich typer",
    ),
}

# What a deployed program imports.
DEPLOYED = ("gluonlstm", "gluonlstm.artifact", "gluonlstm.checkpoint", "gluonlstm.params_file")
DEPLOYED += ("gluonlstm.runtime", "gluonlstm.symbol")


def _sources() -> Iterator[tuple[str, Path]]:
    """Yield (module name, file) for everything that is installed."""
    for top, package in (("gluonlstm", "gluonlstm"), ("codegen", CODEGEN)):
        for path in sorted((ROOT / top).rglob("*.py")):
            parts = path.relative_to(ROOT / top).with_suffix("").parts
            parts = parts[:-1] if parts[-1] == "__init__" else parts
            yield ".".join((package, *parts)), path


MODULES = dict(_sources())
LAZY = gluonlstm._HOME  # public name -> the module that using it imports
PART_OF = {
    f"gluonlstm.{module}".rstrip("."): part
    for part, (modules, _, _) in PARTS.items()
    for module in modules.split() or [""]
}


def imported(source: str, module: str, is_package: bool) -> Iterator[str]:
    """Yield the absolute name of every module that ``source`` imports, in any way."""
    package = module if is_package else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package.rsplit(".", node.level - 1)[0] if node.level else ""
            base = ".".join(filter(None, (base, node.module)))
            yield from (_home(base, alias.name) for alias in node.names)
        elif isinstance(node, ast.Call) and node.args:
            function = getattr(node.func, "id", getattr(node.func, "attr", ""))
            name = getattr(node.args[0], "value", None)
            if function.strip("_") in ("import_module", "import") and isinstance(name, str):
                yield name


def _home(base: str, name: str) -> str:
    """Return the module that ``from base import name`` imports last."""
    if f"{base}.{name}" in MODULES:
        return f"{base}.{name}"
    if base == "gluonlstm":
        return LAZY.get(name, f"{base}.__init__")
    return base


def part_of(module: str) -> str | None:
    """Return the part that a module belongs to.

    A module that is not named goes with the package around it (in codegen), or with the module
    whose name it continues: block_paths with block.
    """
    while module not in PART_OF and module.startswith(f"{CODEGEN}."):
        module = module.rpartition(".")[0]
    return PART_OF.get(module) or PART_OF.get(module.partition("_")[0])


def forbidden(source: str, module: str, is_package: bool = False) -> list[str]:
    """Return the imports of ``source`` that the part of ``module`` does not allow."""
    part = part_of(module)
    assert part is not None, f"{module} belongs to no part; add it to PARTS"
    _, parts, packages = PARTS[part]
    return [
        name
        for name in imported(source, module, is_package)
        if (top := name.partition(".")[0]) not in sys.stdlib_module_names
        and name != "gluonlstm.__init__"  # plain values, such as __version__
        and not (top == "gluonlstm" and part_of(name) in (part, *parts.split()))
        and top not in packages.split()
    ]


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_one_way(module):
    path = MODULES[module]
    bad = forbidden(path.read_text(), module, is_package=path.name == "__init__.py")
    assert not bad, f"{module} may not import {bad}"


def test_the_parts_are_ordered():
    above: set[str] = set()
    for part, (_, parts, _) in PARTS.items():
        assert set(parts.split()) <= above, part
        above.add(part)


def test_every_module_named_exists():
    assert PART_OF.keys() <= MODULES.keys()


def test_no_cycles():
    graph = {
        module: set(imported(path.read_text(), module, path.name == "__init__.py")) & MODULES.keys()
        for module, path in MODULES.items()
    }
    before = None
    while graph.keys() != before:  # take away what imports nothing that is left, or is not imported
        before = set(graph)
        used = set().union(*graph.values())
        graph = {module: needs & before for module, needs in graph.items() if needs & before}
        graph = {module: needs for module, needs in graph.items() if module in used}
    assert not graph, f"these import each other: {sorted(graph)}"


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("gluonlstm.spec", "import numpy"),
        ("gluonlstm.runtime", "def f():\n    import tvm"),
        ("gluonlstm.runtime", "from gluonlstm.codegen.api import compile_graph"),
        ("gluonlstm.runtime", "from gluonlstm import checkpoint"),
        ("gluonlstm.runtime", "from gluonlstm import LSTM"),
        ("gluonlstm.runtime", "import gluonlstm"),
        ("gluonlstm.runtime", "from importlib import import_module\nimport_module('mxnet')"),
        ("gluonlstm.symbol", "from .checkpoint import read"),
        ("gluonlstm.artifact", "if TYPE_CHECKING:\n    from gluonlstm.runtime import load"),
        ("gluonlstm.codegen.api", "from gluonlstm.block import LSTM"),
        ("gluonlstm.codegen.frontend.x", "from ..kernels import lstm"),
        ("gluonlstm.codegen.kernels.x", "from ..packing import pack"),
        ("gluonlstm.codegen.kernels.x", "from .. import packing"),
    ],
)
def test_what_the_rules_forbid_is_found(module, source):
    assert forbidden(source, module)


def _run(code: str) -> str:
    """Run ``code`` in a fresh interpreter and return what it printed."""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


@pytest.mark.parametrize("module", DEPLOYED)
def test_the_deployed_side_loads_neither_mxnet_nor_the_compiler(module):
    if module == "gluonlstm.runtime":
        pytest.importorskip("tvm_ffi", reason="tvm_ffi is not installed")
    code = f"import sys, {module}; print(*sorted({{'mxnet', 'torch', 'tvm'}} & sys.modules.keys()))"
    assert _run(code) == ""


def test_importing_the_package_is_light():
    code = (
        "import sys, gluonlstm; print(*sorted({'numpy', 'tvm_ffi', 'rich'} & sys.modules.keys()))"
    )
    assert _run(code) == ""


def test_codegen_is_one_package():
    # In a checkout `import codegen` works too, and would make a second copy of every class.
    import gluonlstm.codegen

    assert "codegen" not in sys.modules
    assert Path(gluonlstm.codegen.__file__) == MODULES[CODEGEN]
