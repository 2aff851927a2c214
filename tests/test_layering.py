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

BASE = {"numpy", "gluonlstm.errors", "gluonlstm.spec"}
FILES = BASE | {"gluonlstm.params_file", "gluonlstm.symbol", "gluonlstm.checkpoint"}
CODEGEN = "gluonlstm.codegen"

# Module or package -> what it may import besides the standard library. The longest prefix that
# fits a module is its rule; a rule must fit some module.
ALLOWED: dict[str, set[str]] = {
    # Imports what it names when it is first used.
    "gluonlstm": BASE | {"gluonlstm.block", "gluonlstm.compiler", "gluonlstm.runtime"},
    "gluonlstm.errors": set(),
    "gluonlstm.spec": {"gluonlstm.errors"},
    "gluonlstm.reference": BASE,
    "gluonlstm.params_file": BASE,
    "gluonlstm.symbol": BASE,
    "gluonlstm.checkpoint": FILES | {"safetensors", "torch"},
    "gluonlstm.artifact": FILES,
    "gluonlstm.mxnet_compat": {"gluonlstm.errors", "mxnet", "numpy", "setuptools"},
    "gluonlstm.block": FILES | {"gluonlstm.mxnet_compat", "mxnet"},
    "gluonlstm.runtime": BASE | {"gluonlstm.artifact", "torch", "tvm_ffi"},
    "gluonlstm.compiler": FILES
    | {"gluonlstm.artifact", "gluonlstm.block", "gluonlstm.runtime", f"{CODEGEN}.api"}
    | {"mxnet", "torch"},
    "gluonlstm.cli": FILES
    | {"gluonlstm.artifact", "gluonlstm.compiler", "gluonlstm.runtime", "rich", "typer"},
    CODEGEN: BASE | {f"{CODEGEN}.target", "tvm"},
    f"{CODEGEN}.api": FILES | {"gluonlstm.artifact", CODEGEN, "tvm"},
    f"{CODEGEN}.frontend": FILES | {"gluonlstm.artifact", f"{CODEGEN}.frontend", "tvm"},
    f"{CODEGEN}.kernels": BASE
    | {f"{CODEGEN}.kernels", f"{CODEGEN}.plan", f"{CODEGEN}.target"}
    | {"tvm"},
    f"{CODEGEN}.packing": BASE | {f"{CODEGEN}.plan"},
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


def rule(module: str) -> str:
    """Return the longest key of ALLOWED that fits."""
    return max((key for key in ALLOWED if _within(module, key)), key=len)


def forbidden(source: str, module: str, is_package: bool = False) -> list[str]:
    """Return the imports of ``source`` that the rule of ``module`` does not allow."""
    allowed = ALLOWED[rule(module)]
    return [
        name
        for name in imported(source, module, is_package)
        if name.partition(".")[0] not in sys.stdlib_module_names
        and name != "gluonlstm.__init__"  # plain values, such as __version__
        and not any(_within(name, prefix) for prefix in allowed)
    ]


def _within(name: str, prefix: str) -> bool:
    return name == prefix or name.startswith(f"{prefix}.")


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_one_way(module):
    path = MODULES[module]
    bad = forbidden(path.read_text(), module, is_package=path.name == "__init__.py")
    assert not bad, f"{module} may not import {bad}; allowed: {sorted(ALLOWED[rule(module)])}"


def test_every_rule_fits_a_module():
    assert {rule(module) for module in MODULES} == ALLOWED.keys()


@pytest.mark.parametrize("module", [m for m in MODULES if m.count(".") == 1])
def test_every_module_of_the_package_has_a_rule_of_its_own(module):
    assert rule(module) == module


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
