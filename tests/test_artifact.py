"""The artifact file: what is written is read, and nothing else is."""

from __future__ import annotations

import contextlib
import json
import os
import struct
from dataclasses import replace
from hashlib import blake2b
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gluonlstm import artifact
from gluonlstm.artifact import InputInfo, ModelInfo, OutputInfo, read, write
from gluonlstm.bfloat16 import STRUCTURED
from gluonlstm.errors import ArtifactError, InvalidArgumentError
from gluonlstm.spec import LSTMSpec
from tests import artifact_cases as cases

same_folder = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture
def library(tmp_path):
    path = tmp_path / "library.so"
    path.write_bytes(cases.ELF + bytes(range(256)) * 20)
    return path


@pytest.fixture
def path(tmp_path, library):
    """An artifact with two weights."""
    path = tmp_path / "model.so"
    weights = {"a": np.arange(6, dtype="float32").reshape(2, 3), "b": np.ones(40, "int8")}
    write(path, library, weights, cases.simple_info())
    return path


def rewrite(path, change):
    """Change the metadata and give the file the checksum that fits."""
    data = path.read_bytes()
    code_size, start, size, _, version, magic = artifact.FOOTER.unpack(
        data[-artifact.FOOTER.size :]
    )
    values = json.loads(data[start : start + size])
    changed = change(values)
    text = changed if isinstance(changed, bytes) else json.dumps(changed or values).encode()
    numbers = (code_size, start, len(text))
    digest = blake2b(struct.pack("<3QI", *numbers, version), digest_size=32)
    digest.update(data[:code_size] + text)
    footer = artifact.FOOTER.pack(*numbers, digest.digest(), version, magic)
    path.write_bytes(data[:start] + text + footer)


# --- round trip ----------------------------------------------------------------------------


@same_folder
@given(cases.codes, st.dictionaries(cases.names, cases.weights(), max_size=4), cases.model_infos())
def test_what_is_written_is_read(tmp_path, code, weights, info):
    path, library = tmp_path / "m.so", tmp_path / "library.so"
    library.write_bytes(code)
    write(path, library, weights, info)
    model = read(path)
    assert bytes(model.code) == code
    assert model.info == info
    assert list(model.weights) == list(weights)
    for name, expected in weights.items():
        actual = model.weights[name]
        assert (actual.dtype, actual.shape) == (expected.dtype, expected.shape)
        assert actual.tobytes() == expected.tobytes()
        assert actual.ctypes.data % 64 == 0 or actual.size == 0


def test_bytes_do_not_depend_on_memory_layout(tmp_path, library):
    array = np.arange(12, dtype="float64").reshape(3, 4)
    variants = (array, np.asfortranarray(array), array.astype(">f8"), np.repeat(array, 2, 0)[::2])
    for number, variant in enumerate(variants):
        write(tmp_path / f"{number}", library, {"w": variant}, cases.simple_info())
    assert len({(tmp_path / f"{number}").read_bytes() for number in range(4)}) == 1


def test_bfloat16_of_ml_dtypes_is_stored(tmp_path, library):
    ml_dtypes = pytest.importorskip("ml_dtypes")
    array = np.arange(5).astype(ml_dtypes.bfloat16)
    write(tmp_path / "m", library, {"w": array}, cases.simple_info())
    stored = read(tmp_path / "m").weights["w"]
    assert stored.dtype == STRUCTURED
    assert stored.tobytes() == array.tobytes()


def test_weights_are_copy_on_write(path):
    before = path.read_bytes()
    model = read(path)
    with pytest.raises(ValueError, match="read-only"):
        model.weights["a"][0] = 1
    model.mapped(model.stored[0])[:] = 7
    assert model.weights["a"].tolist() == [[7] * 3] * 2
    assert path.read_bytes() == before
    assert read(path).weights["a"].tolist() == [[0, 1, 2], [3, 4, 5]]


def test_mapping_survives_deletion_and_replacement(path, library, tmp_path):
    model = read(path)
    write(path, library, {"a": np.zeros(1)}, cases.simple_info())
    path.unlink()
    assert model.weights["a"].tolist() == [[0, 1, 2], [3, 4, 5]]
    model.save(tmp_path / "copy.so")
    assert read(tmp_path / "copy.so").weights["b"].tolist() == [1] * 40


def test_arrays_outlive_the_artifact(path):
    array = read(path).weights["b"]
    assert array.tolist() == [1] * 40


def test_save_refuses_a_damaged_original(path, tmp_path):
    model = read(path)
    with path.open("r+b") as file:  # in place, so that the mapping sees it
        file.seek(model.stored[0].offset)
        file.write(b"\xff")
    with pytest.raises(ArtifactError, match="weight 'a' does not match its checksum"):
        model.save(tmp_path / "copy.so")
    assert not (tmp_path / "copy.so").exists()


# --- checksums and damage ------------------------------------------------------------------


@same_folder
@given(st.data())
def test_every_flipped_bit_is_noticed(path, data):
    intact = path.read_bytes()
    position = data.draw(st.integers(0, len(intact) - 1))
    changed = bytearray(intact)
    changed[position] ^= 1 << data.draw(st.integers(0, 7))
    damaged = path.with_name("damaged")
    damaged.write_bytes(changed)
    with pytest.raises(ArtifactError, match=r"damaged|does not end as|format version"):
        read(damaged)


@same_folder
@given(st.data())
def test_every_truncation_is_noticed(path, data):
    intact = path.read_bytes()
    cut = path.with_name("cut")
    cut.write_bytes(intact[: data.draw(st.integers(0, len(intact) - 1))])
    with pytest.raises(ArtifactError, match=r"does not end as a compiled model|is empty"):
        read(cut)


@same_folder
@given(st.binary(min_size=1, max_size=300))
def test_trailing_bytes_are_noticed(path, extra):
    longer = path.with_name("longer")
    longer.write_bytes(path.read_bytes() + extra)
    with pytest.raises(ArtifactError, match=r"does not end as|do not fit|format version"):
        read(longer)


@same_folder
@given(st.binary(max_size=500), st.binary(min_size=68 - 12, max_size=68 - 12))
def test_no_bytes_crash_the_reader(tmp_path, start, footer):
    path = tmp_path / "garbage"
    path.write_bytes(start + footer + struct.pack("<I", 1) + artifact.MAGIC)
    with pytest.raises(ArtifactError):
        read(path)


def test_other_format_version_is_named(path):
    data = bytearray(path.read_bytes())
    data[-12:-8] = struct.pack("<I", 7)
    path.write_bytes(data)
    with pytest.raises(ArtifactError, match="format version 7; this gluonlstm reads version 1"):
        read(path)


def test_plain_library_is_not_an_artifact(library):
    with pytest.raises(ArtifactError, match="does not end as a compiled model does"):
        read(library)


def test_folder_pipe_and_missing_file(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for name in ("", "pipe"):
        with pytest.raises(ArtifactError, match="is not a regular file"):
            read(tmp_path / name)
    with pytest.raises(FileNotFoundError):
        read(tmp_path / "nothing")


def test_large_weights_are_checked_on_request(path, monkeypatch):
    monkeypatch.setattr(artifact, "VERIFIED_BYTES", 10)
    data = bytearray(path.read_bytes())
    data[read(path).stored[0].offset] ^= 1
    path.write_bytes(data)
    assert read(path).weights["a"].shape == (2, 3)
    for check in (lambda: read(path, verify=True), lambda: read(path).verify()):
        with pytest.raises(ArtifactError, match="weight 'a' does not match"):
            check()


def test_opening_does_not_read_the_weights(tmp_path, library):
    def resident():
        pages = Path("/proc/self/statm").read_text().split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")

    path = tmp_path / "large.so"
    size = artifact.VERIFIED_BYTES + 4096
    write(path, library, {"w": np.zeros(size, "uint8")}, cases.simple_info())
    before = resident()
    model = read(path)
    assert resident() - before < size // 8
    model.verify()  # now it has been read
    assert resident() - before > size // 2


# --- metadata ------------------------------------------------------------------------------

WRONG_METADATA = {
    "not JSON": lambda v: b"{",
    "not UTF-8": lambda v: b'{"a": "\xff"}',
    "not an object": lambda v: b"[]",
    "NaN": lambda v: b'{"plan": NaN}',
    "too deep": lambda v: b"[" * 100_000,
    "huge number": lambda v: b'{"a": ' + b"9" * 10_000 + b"}",
    "key twice": lambda v: b'{"plan": 1, "plan": 2}',
    "no inputs": lambda v: v.update(inputs=[]),
    "inputs missing": lambda v: {k: v[k] for k in v if k != "inputs"},
    "inputs not a list": lambda v: v.update(inputs={}),
    "input not an object": lambda v: v.update(inputs=["x"]),
    "input twice": lambda v: v.update(inputs=v["inputs"] * 2),
    "unnamed input": lambda v: v["inputs"][0].update(name=""),
    "unknown dtype": lambda v: v["inputs"][0].update(dtype="float31"),
    "unknown role": lambda v: v["inputs"][0].update(role="king"),
    "optional data": lambda v: v["inputs"][0].update(optional=True),
    "optional a number": lambda v: v["inputs"][0].update(optional=1),
    "unknown size": lambda v: v["inputs"].append(
        {"name": "h", "shape": ["K"], "dtype": "float32", "role": "hidden", "optional": True}
    ),
    "lengths without T": lambda v: (
        v["inputs"].append(
            {"name": "n", "shape": [3], "dtype": "int32", "role": "lengths", "optional": True}
        )
        or v["inputs"][0].update(shape=["K", 3])
    ),
    "lengths as numbers": lambda v: v["inputs"][0].update(role="lengths"),
    "negative size": lambda v: v["inputs"][0].update(shape=[-1]),
    "fractional size": lambda v: v["inputs"][0].update(shape=[1.5]),
    "boolean size": lambda v: v["inputs"][0].update(shape=[True]),
    "size an expression": lambda v: v["inputs"][0].update(shape=["T*N"]),
    "too many axes": lambda v: v["inputs"][0].update(shape=[1] * 99),
    "no outputs": lambda v: v.update(outputs=[]),
    "output without name": lambda v: v["outputs"][0].pop("name") and None,
    "returns": lambda v: v.update(returns="everything"),
    "layer of one output": lambda v: v.update(returns="layer"),
    "target a list": lambda v: v.update(target=[]),
    "target without kind": lambda v: v.update(target={}),
    "features not text": lambda v: v["target"].update(cpu_features=[1]),
    "features text": lambda v: v["target"].update(cpu_features="avx"),
    "spec empty": lambda v: v.update(spec={}),
    "spec unknown field": lambda v: v.update(spec={"hidden_size": 1, "age": 3}),
    "spec wrong type": lambda v: v.update(spec={"hidden_size": []}),
    "plan of numbers": lambda v: v.update(plan=[1]),
    "version a number": lambda v: v.update(version=1),
    "weights missing": lambda v: {k: v[k] for k in v if k != "weights"},
    "weights a number": lambda v: v.update(weights=3),
    "weight a number": lambda v: v.update(weights=[3]),
    "weight left out": lambda v: v["weights"].pop() and None,
    "weight dtype": lambda v: v["weights"][0].update(dtype="object"),
    "weight dtype a list": lambda v: v["weights"][0].update(dtype=[]),
    "weight shape": lambda v: v["weights"][0].update(shape=[-6]),
    "weight with a field more": lambda v: v["weights"][0].update(more=1),
    "overlap": lambda v: v["weights"][1].update(offset=v["weights"][0]["offset"]),
    "unaligned": lambda v: v["weights"][1].update(offset=v["weights"][1]["offset"] + 1),
    "in the code": lambda v: v["weights"][0].update(offset=0),
    "past the end": lambda v: v["weights"][1].update(offset=1 << 40),
    "too large": lambda v: v["weights"][1].update(shape=[1 << 40]),
    "overflowing": lambda v: v["weights"][1].update(shape=[1 << 32, 1 << 32, 1 << 32]),
    "same name": lambda v: v["weights"][1].update(name="a"),
    "more room than weights": lambda v: v["weights"].__setitem__(slice(None), []),
}


@pytest.mark.parametrize("case", WRONG_METADATA)
def test_wrong_metadata_is_refused(path, case):
    rewrite(path, WRONG_METADATA[case])
    with pytest.raises(ArtifactError, match="the metadata is wrong: "):
        read(path)


def test_rewriting_nothing_changes_nothing(path):
    rewrite(path, lambda values: None)
    assert read(path).weights["b"].tolist() == [1] * 40


@same_folder
@given(st.data())
def test_replaced_metadata_values_never_crash(path, data):
    """Whatever stands in place of one value of the metadata, reading works or is refused."""
    copy = path.with_name("copy")
    copy.write_bytes(path.read_bytes())

    def change(values):
        place: object = values
        while isinstance(place, (dict, list)) and place:
            parent = place
            keys = list(place) if isinstance(place, dict) else range(len(place))
            key = data.draw(st.sampled_from(keys))
            place = place[key]
            if data.draw(st.booleans()):
                break
        parent[key] = data.draw(cases.json_values)

    rewrite(copy, change)
    with contextlib.suppress(ArtifactError):
        read(copy)


def test_metadata_size_is_bounded(path, library, monkeypatch):
    monkeypatch.setattr(artifact, "MOST_METADATA", 100)
    with pytest.raises(ArtifactError, match="sizes in its footer do not fit"):
        read(path)
    with pytest.raises(InvalidArgumentError, match="more than 100"):
        write(path, library, {}, cases.simple_info())


# --- writing -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("weights", "info", "message"),
    [
        ({"w": np.zeros(2, "complex64")}, {}, "weight 'w' has dtype complex64"),
        ({"w": np.array(["text"])}, {}, "weight 'w' has dtype"),
        ({}, {"plan": ({"x": float("nan")},)}, "metadata is not JSON"),
        ({}, {"plan": ({"x": object()},)}, "metadata is not JSON"),
    ],
)
def test_what_cannot_be_stored_is_refused(path, library, weights, info, message):
    before = path.read_bytes()
    with pytest.raises(InvalidArgumentError, match=message):
        write(path, library, weights, cases.simple_info(**info))
    assert path.read_bytes() == before
    assert sorted(file.name for file in path.parent.iterdir()) == ["library.so", "model.so"]


def test_library_must_be_elf(tmp_path):
    (tmp_path / "library.so").write_bytes(b"#!/bin/sh")
    with pytest.raises(InvalidArgumentError, match="is not an ELF shared library"):
        write(tmp_path / "m.so", tmp_path / "library.so", {}, cases.simple_info())


@pytest.mark.parametrize(
    ("count", "message"), [(0, "depends on parameters alone"), (2, "different names, got")]
)
def test_inputs_that_make_no_model(count, message):
    with pytest.raises(InvalidArgumentError, match=message):
        cases.simple_info(inputs=(InputInfo("x", ("T",), "float32"),) * count)


def test_info_holds_tuples():
    info = ModelInfo(
        [InputInfo("x", ["T"], "float32")], [OutputInfo("y", [3], "float32")], "heads",
        {"kind": "llvm"}, LSTMSpec(3), [{"kernel": "a"}],
    )  # fmt: skip
    assert info.inputs[0].shape == ("T",)
    assert isinstance(info.plan, tuple)
    assert replace(info, version="1") == ModelInfo.from_dict({**info.to_dict(), "version": "1"})
