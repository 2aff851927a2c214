"""Wheel and source distribution: what they hold, and that the wheel works far from the checkout."""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

import gluonlstm

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("gluonlstm", "codegen")
PARTS = (*PACKAGES, "tests", "examples", "requirements", "docs", "benchmarks")
BUILD = "import sys; from setuptools import build_meta as b; getattr(b, sys.argv[1])(sys.argv[2])"


def build(kind: str, source: Path, folder: Path) -> Path:
    """Build a "wheel" or "sdist" with the environment's setuptools: nothing is downloaded."""
    folder.mkdir()
    command = [sys.executable, "-c", BUILD, f"build_{kind}", str(folder)]
    done = subprocess.run(command, cwd=source, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (result,) = folder.iterdir()
    return result


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """Return a copy of the sources: building leaves files beside them."""
    copy = tmp_path_factory.mktemp("checkout") / "gluonlstm"
    ignore = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for name in filter(lambda name: (ROOT / name).is_dir(), PARTS):
        shutil.copytree(ROOT / name, copy / name, ignore=ignore)
    for path in ROOT.iterdir():
        if path.is_file():
            shutil.copy(path, copy)
    return copy


@pytest.fixture(scope="module")
def wheel(checkout, tmp_path_factory):
    return build("wheel", checkout, tmp_path_factory.mktemp("wheel") / "out")


@pytest.fixture(scope="module")
def sdist(checkout, tmp_path_factory):
    return build("sdist", checkout, tmp_path_factory.mktemp("sdist") / "out")


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """Install the wheel into an environment that sees our dependencies but not our checkout."""
    folder = tmp_path_factory.mktemp("environment with a space") / "venv"
    venv.create(folder)
    python = folder / "bin" / "python"
    site = Path(sysconfig.get_path("purelib", vars={"base": str(folder)}))
    # The path file adds the folder only; the one inside it that points at the checkout is ignored.
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    install = ["install", "--quiet", "--no-deps", "--no-index", "--ignore-installed", str(wheel)]
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", str(python)]
    subprocess.run([*pip, *install], check=True)
    return python


def contents(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return {name for name in archive.namelist() if ".dist-info/" not in name}


def sources() -> set[str]:
    """Return what a wheel must hold: every module, and py.typed."""
    modules = {
        path.relative_to(ROOT).as_posix() for top in PACKAGES for path in (ROOT / top).rglob("*.py")
    }
    inside = {name if name.startswith("gluonlstm/") else f"gluonlstm/{name}" for name in modules}
    return inside | {"gluonlstm/py.typed"}


def metadata(wheel: Path, name: str) -> str:
    with zipfile.ZipFile(wheel) as archive:
        (found,) = (n for n in archive.namelist() if n.endswith(f".dist-info/{name}"))
        return archive.read(found).decode()


def test_wheel_holds_every_module_and_nothing_else(wheel):
    assert contents(wheel) == sources()


def test_wheel_runs_on_every_platform_and_carries_the_licence(wheel):
    assert wheel.name == f"gluonlstm-{gluonlstm.__version__}-py3-none-any.whl"
    assert "Apache License" in metadata(wheel, "licenses/LICENSE")
    assert "gluonlstm = gluonlstm.cli:main" in metadata(wheel, "entry_points.txt")


def test_extras(wheel):
    headers = Parser().parsestr(metadata(wheel, "METADATA"))
    assert headers["Requires-Python"] == ">=3.10"
    required = headers.get_all("Requires-Dist")
    assert [line for line in required if "extra ==" not in line] == ["numpy>=1.23"]
    extras = {"runtime", "compile", "mxnet", "mxnet-cu112", "cli", "safetensors", "peers"}
    assert extras <= set(headers.get_all("Provides-Extra"))


def test_sdist_makes_the_same_wheel(sdist, tmp_path):
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path, filter="data")
    (source,) = (path for path in tmp_path.iterdir() if path.is_dir())
    for name in ("LICENSE", "Makefile", "setup.py", "tests/conftest.py", "requirements/ci.txt"):
        assert (source / name).is_file(), name
    assert contents(build("wheel", source, tmp_path / "out")) == sources()


def test_installed_wheel_is_complete(installed, tmp_path):
    code = (
        "import gluonlstm, importlib.metadata, pathlib\n"
        "import gluonlstm.codegen, gluonlstm.reference, gluonlstm.params_file\n"
        "home = pathlib.Path(gluonlstm.__file__).parent\n"
        "assert pathlib.Path(gluonlstm.codegen.__file__).parent == home / 'codegen'\n"
        "assert importlib.metadata.version('gluonlstm') == gluonlstm.__version__\n"
        "assert gluonlstm.LSTMSpec(4).packed_size\n"
        "print(home)"
    )
    done = subprocess.run(
        [installed, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    home = Path(done.stdout.strip())
    assert home.is_relative_to(installed.parents[1])
    assert (home / "py.typed").is_file()


def test_installed_command(installed, tmp_path):
    pytest.importorskip("typer", reason="typer is not installed")
    command = [installed.with_name("gluonlstm"), "inspect", "absent"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "Error: absent: No such file or directory\n"
