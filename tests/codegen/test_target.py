"""Targets: how they are written, and what is known about them."""

import pytest

from gluonlstm.errors import InvalidArgumentError
from gluonlstm.machine import cpu_flags

pytestmark = pytest.mark.tvm


def resolve(target):
    from gluonlstm.codegen.target import resolve

    return resolve(target)


@pytest.mark.parametrize(
    ("mcpu", "lanes", "registers"),
    [("x86-64", 4, 16), ("x86-64-v3", 8, 16), ("x86-64-v4", 16, 32)],
)
def test_vector_units_of_x86(mcpu, lanes, registers):
    target = resolve({"kind": "llvm", "mcpu": mcpu, "mtriple": "x86_64-linux-gnu"})
    assert target.lanes("float32") == lanes
    assert target.lanes("float64") == lanes // 2
    assert target.vector_registers == registers
    assert ("avx512f" in target.cpu_features) == (mcpu == "x86-64-v4")
    assert ("avx2" in target.cpu_features) == (mcpu != "x86-64")


def test_neon():
    target = resolve({"kind": "llvm", "mtriple": "aarch64-linux-gnu", "mcpu": "neoverse-n1"})
    assert (target.lanes("float32"), target.vector_registers) == (4, 32)


def test_text_and_dict_mean_the_same():
    text = resolve("llvm -mcpu=x86-64-v3 -mtriple=x86_64-linux-gnu")
    assert text == resolve({"kind": "llvm", "mcpu": "x86-64-v3", "mtriple": "x86_64-linux-gnu"})


@pytest.mark.parametrize("spelling", ["llvm", "native", {"kind": "llvm", "mcpu": "native"}])
def test_this_machine_runs_what_is_compiled_for_it(spelling):
    target = resolve(spelling)
    flags = cpu_flags()
    assert flags is None or set(target.cpu_features) <= flags


def test_features_that_a_virtual_machine_hides_are_not_used(monkeypatch):
    from gluonlstm.codegen import target

    monkeypatch.setattr(target, "cpu_flags", lambda: frozenset({"avx", "sse4_1", "ssse3"}))
    if not target.resolve("llvm").triple.startswith("x86_64"):
        pytest.skip("x86-64 only")
    assert set(target.resolve("llvm").cpu_features) <= {"avx", "sse4_1", "ssse3"}


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("", "empty"),
        ("vulkan", "not supported"),
        ({"mcpu": "x86-64"}, "not supported"),
        ("llvm mcpu", "cannot read"),
        ("llvm -mcpu=pentium99 -mtriple=x86_64-linux-gnu", "pentium99"),
        ({"kind": "llvm", "mtriple": "aarch64-linux-gnu"}, "name its mcpu"),
        ({"kind": "llvm", "nonsense": 1}, "nonsense"),
    ],
)
def test_impossible_targets_are_refused(target, message):
    with pytest.raises(InvalidArgumentError, match=message):
        resolve(target)
