"""Where the TVM runtime library is looked for, and code that is loaded from memory."""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import sys
import threading
import types

import pytest

from gluonlstm import tvm_library
from gluonlstm.errors import MissingDependencyError
from gluonlstm.tvm_library import LIBRARY, find_library


@pytest.fixture
def nothing_installed(monkeypatch):
    """Neither tvm nor the environment's variables."""

    def missing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "distribution", missing)
    monkeypatch.setitem(sys.modules, "tvm", None)
    monkeypatch.delenv(tvm_library.VARIABLE, raising=False)
    monkeypatch.delenv(tvm_library.TVM_VARIABLE, raising=False)


@pytest.fixture
def places(tmp_path):
    """Folders that hold the library: one for each place where it may be."""
    folders = {name: tmp_path / name for name in ("own", "tvm", "model")}
    folders["package"] = tmp_path / "package" / "lib"
    for folder in folders.values():
        folder.mkdir(parents=True)
        (folder / LIBRARY).touch()
    return folders


def test_order_of_places(nothing_installed, places, monkeypatch):
    package = types.ModuleType("tvm")
    package.__spec__ = types.SimpleNamespace(  # type: ignore[assignment]
        submodule_search_locations=[str(places["package"].parent)]
    )
    monkeypatch.setitem(sys.modules, "tvm", package)
    assert find_library(places["own"].parent) == places["package"] / LIBRARY
    assert find_library(places["model"]) == places["model"] / LIBRARY
    monkeypatch.setenv(tvm_library.TVM_VARIABLE, str(places["tvm"]))
    assert find_library(places["model"]) == places["tvm"] / LIBRARY
    for value in (places["own"], places["own"] / LIBRARY):
        monkeypatch.setenv(tvm_library.VARIABLE, str(value))
        assert find_library(places["model"]) == places["own"] / LIBRARY


def test_the_package_is_found_by_its_metadata(nothing_installed, places, monkeypatch):
    distribution = types.SimpleNamespace(locate_file=lambda path: places["package"])
    monkeypatch.setattr(importlib.metadata, "distribution", lambda name: distribution)
    assert find_library() == places["package"] / LIBRARY


def test_the_package_is_found_where_importing_it_is_forbidden(
    nothing_installed, places, monkeypatch
):
    class Forbid:
        def find_spec(self, name, path=None, target=None):
            if name == "tvm":
                raise ImportError(name)

    monkeypatch.delitem(sys.modules, "tvm")
    monkeypatch.setattr(sys, "meta_path", [Forbid(), *sys.meta_path])
    distribution = types.SimpleNamespace(locate_file=lambda path: places["package"])
    monkeypatch.setattr(importlib.metadata, "distribution", lambda name: distribution)
    assert find_library() == places["package"] / LIBRARY


def test_a_folder_named_tvm_is_not_the_package(nothing_installed, tmp_path, monkeypatch):
    (tmp_path / "tvm").mkdir()
    monkeypatch.delitem(sys.modules, "tvm")
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    with pytest.raises(MissingDependencyError, match="was not found; looked for the package apach"):
        find_library()


def test_what_to_do_is_said(nothing_installed, tmp_path, monkeypatch):
    with pytest.raises(
        MissingDependencyError, match=r"pip install 'gluonlstm\[compile\]', or copy"
    ):
        find_library(tmp_path)
    monkeypatch.setenv(tvm_library.VARIABLE, str(tmp_path))
    with pytest.raises(MissingDependencyError, match="which is not a file"):
        find_library(tmp_path)


def test_finding_does_not_import():
    pytest.importorskip("tvm_ffi", reason="tvm_ffi is not installed")
    before = set(sys.modules)
    list(tvm_library._candidates(None))
    assert not any(name.startswith("tvm.") for name in set(sys.modules) - before)


def test_imports_fail_in_one_thread_only(tmp_path, monkeypatch):
    (tmp_path / "module_for_one_thread.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    sys.meta_path.insert(0, tvm_library._Unavailable("module_for_one_thread"))
    name = "module_for_one_thread"
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module(name)
    others = []
    thread = threading.Thread(target=lambda: others.append(importlib.import_module(name)))
    thread.start()
    thread.join()
    assert [module.__name__ for module in others] == [name]
    assert importlib.import_module(name) is others[0]  # it is loaded by now


@pytest.mark.tvm
def test_names_of_loaded_code_are_never_used_twice():
    names = set()
    for _ in range(300):
        descriptor = os.memfd_create("test")
        try:
            name = tvm_library._unused_name(descriptor)
            assert os.path.samestat(os.stat(name), os.fstat(descriptor))  # noqa: PTH116
            names.add(name)
        finally:
            os.close(descriptor)
    assert len(names) == 300
    assert max(map(len, names)) < 60


@pytest.mark.tvm
def test_code_is_loaded_from_a_file_where_memory_cannot_be(tmp_path, monkeypatch):
    import numpy as np

    import gluonlstm
    from tests import artifact_cases as cases

    path = cases.stub_lstm(tmp_path / "m.so")

    def forbidden(*args):
        raise PermissionError

    monkeypatch.setattr(os, "memfd_create", forbidden)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    x = np.ones((1, 1, 8), "float32")
    assert gluonlstm.load(path)(x).ravel().tolist() == list(range(1, 9))
    assert [file.name for file in tmp_path.iterdir()] == ["m.so"]
