"""The command line: what it prints, what it writes, how it refuses."""

from __future__ import annotations

import importlib.metadata
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from gluonlstm import LSTMSpec, params_file

pytest.importorskip("typer", reason="typer is not installed (pip install gluonlstm[cli])")
pytest.importorskip("rich", reason="rich is not installed (pip install gluonlstm[cli])")

COMMANDS = ("inspect", "convert", "compile", "run", "bench")
SPEC = LSTMSpec(8, num_layers=2, bidirectional=True, input_size=5, projection_size=3)
PLAIN = LSTMSpec(6, input_size=4)
ROOT = Path(__file__).resolve().parents[1]
# The version that the golden help texts were made with; others lay out the same words differently.
PINNED_TYPER = re.findall(r"(?m)^typer==(.*)$", (ROOT / "requirements/ci.txt").read_text())[0]


def weights(spec: LSTMSpec) -> dict[str, np.ndarray]:
    random = np.random.default_rng(3)
    shapes = {parameter.name: parameter.shape for parameter in spec.parameters()}
    return {
        name: random.uniform(-0.5, 0.5, shape).astype(np.float32) for name, shape in shapes.items()
    }


@pytest.fixture
def run(capsys, monkeypatch, tmp_path):
    """Run the command in tmp_path; return (exit code, standard output, standard error)."""
    from gluonlstm.cli import main

    monkeypatch.chdir(tmp_path)
    for name, value in {"NO_COLOR": "1", "COLUMNS": "100", "TERM": "dumb"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("FORCE_COLOR", raising=False)

    def run(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as exit_:
            main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return int(exit_.value.code or 0), captured.out, captured.err

    return run


@pytest.fixture
def checkpoint_file(tmp_path):
    """A model's checkpoint: an LSTM under a prefix and a decoder."""
    path = tmp_path / "model.params"
    arrays = {f"encoder_{name}": array for name, array in weights(SPEC).items()}
    params_file.save(path, {**arrays, "decoder_weight": np.ones((2, 6), np.float16)})
    return path


@pytest.fixture
def lstm_file(tmp_path):
    """A checkpoint that holds one LSTM and nothing else."""
    path = tmp_path / "lstm.params"
    params_file.save(path, weights(PLAIN))
    return path


@pytest.fixture
def symbol_file(tmp_path):
    """A symbol file as MXNet exports a bare LSTM, written out by hand."""
    names = [parameter.name for parameter in PLAIN.parameters()]
    count = len(names)
    nodes = [{"op": "null", "name": "data0", "inputs": []}]
    nodes += [{"op": "null", "name": name, "inputs": []} for name in names]
    nodes += [
        {"op": "Reshape", "name": f"flat_{name}", "attrs": {"shape": "-1"}, "inputs": [[i, 0, 0]]}
        for i, name in enumerate(names, start=1)
    ]
    nodes += [
        {
            "op": "_rnn_param_concat",
            "name": "packed",
            "attrs": {"dim": "0", "num_args": str(count)},
            "inputs": [[i, 0, 0] for i in range(1 + count, 1 + 2 * count)],
        },
        {"op": "null", "name": "data1", "inputs": []},
        {"op": "null", "name": "data2", "inputs": []},
        {
            "op": "RNN",
            "name": "lstm0_rnn0",
            "attrs": {
                "mode": "lstm",
                "num_layers": "1",
                "state_outputs": "True",
                "state_size": "6",
            },
            "inputs": [[0, 0, 0], *([i, 0, 0] for i in range(1 + 2 * count, 4 + 2 * count))],
        },
    ]
    last = len(nodes) - 1
    graph = {
        "nodes": nodes,
        "arg_nodes": [i for i, node in enumerate(nodes) if node["op"] == "null"],
        "heads": [[last, output, 0] for output in range(3)],
        "attrs": {"mxnet_version": ["int", 10901]},
    }
    path = tmp_path / "lstm-symbol.json"
    path.write_text(json.dumps(graph))
    params_file.save(
        tmp_path / "lstm-0000.params",
        {f"arg:{name}": array for name, array in weights(PLAIN).items()},
    )
    return path


# --- help ----------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help(run, golden, command):
    if importlib.metadata.version("typer") != PINNED_TYPER:
        pytest.skip(f"help texts are compared with typer {PINNED_TYPER}, as in CI")
    code, out, err = run(*filter(None, [command, "--help"]))
    assert (code, err) == (0, "")
    golden(out)


def test_help_names_every_command(run):
    code, out, _ = run("--help")
    assert code == 0
    assert [name for name in COMMANDS if name not in out] == []


def test_nothing_prints_the_help(run):
    assert "Usage" in "".join(run()[1:])


def test_help_is_quick_because_it_loads_nothing_heavy():
    code = (
        "import sys, gluonlstm.cli\n"
        "print(*sorted({'numpy', 'mxnet', 'tvm', 'tvm_ffi', 'torch'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_module_runs_as_the_command():
    command = [sys.executable, "-m", "gluonlstm", "inspect", "absent"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "Error: absent: No such file or directory\n"


# --- inspect -------------------------------------------------------------------------------


def test_inspect_checkpoint(run, golden, checkpoint_file):
    code, out, err = run("inspect", checkpoint_file.name)
    assert (code, err) == (0, "")
    golden(out)


def test_inspect_checkpoint_as_json(run, checkpoint_file):
    code, out, _ = run("inspect", checkpoint_file.name, "--json")
    found = json.loads(out)
    assert code == 0
    assert (found["kind"], found["path"]) == ("checkpoint", "model.params")
    assert found["bytes"] == checkpoint_file.stat().st_size
    tensors = {row["name"]: row for row in found["tensors"]}
    assert len(tensors) == len(SPEC.parameters()) + 1
    assert tensors["decoder_weight"] == {
        "name": "decoder_weight",
        "shape": [2, 6],
        "dtype": "float16",
        "storage": "dense",
        "nbytes": 24,
    }
    (lstm,) = found["lstms"]
    assert LSTMSpec.from_dict(lstm["spec"]) == SPEC


def test_inspect_symbol(run, golden, symbol_file):
    code, out, err = run("inspect", symbol_file.name)
    assert (code, err) == (0, "")
    golden(out)


def test_inspect_symbol_as_json(run, symbol_file):
    found = json.loads(run("inspect", symbol_file.name, "--json")[1])
    assert (found["kind"], found["mxnet_version"]) == ("symbol", 10901)
    assert found["operators"] == {"RNN": 1, "Reshape": 4, "_rnn_param_concat": 1}
    assert [row["output"] for row in found["outputs"]] == [0, 1, 2]
    assert [row["name"] for row in found["rnns"]] == ["lstm0_rnn0"]
    assert found["rnns"][0]["attributes"]["state_size"] == "6"


def test_inspect_shows_control_characters_escaped(run, tmp_path):
    params_file.save(tmp_path / "x.params", {"a\x1b[31m[red]b": np.zeros(1, np.float32)})
    _, out, _ = run("inspect", "x.params")
    assert "\x1b" not in out
    assert r"a\x1b[31m[red]b" in out


def test_inspect_tells_what_is_no_lstm(run, tmp_path):
    gru = {"l0_i2h_weight": (12, 5), "l0_h2h_weight": (12, 4), "l0_i2h_bias": (12,)}
    gru["l0_h2h_bias"] = (12,)
    arrays = {f"gru_{name}": np.zeros(shape, np.float32) for name, shape in gru.items()}
    params_file.save(tmp_path / "gru.params", arrays)
    out = run("inspect", "gru.params")[1]
    assert "No LSTM was found" in out
    assert "Not counted: gru_: " in out
    assert "GRU" in out


def test_inspect_shows_tensors_of_an_lstm_that_is_damaged(run, tmp_path):
    arrays = weights(PLAIN)
    del arrays["l0_h2h_weight"]
    params_file.save(tmp_path / "damaged.params", arrays)
    code, out, _ = run("inspect", "damaged.params")
    assert code == 0
    assert "l0_i2h_weight" in out
    assert "The LSTM in it cannot be used: missing parameter(s) l0_h2h_weight" in out
    problem = json.loads(run("inspect", "damaged.params", "--json")[1])["problem"]
    assert "l0_h2h_weight" in problem


# --- convert -------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["gluon", "torch", "npz", "safetensors"])
def test_convert(run, lstm_file, tmp_path, form):
    from gluonlstm import checkpoint

    code, out, err = run("convert", lstm_file.name, "out.x", "--to", form)
    assert (code, out) == (0, "")
    assert re.fullmatch(
        r"Renamed 4 tensors of the LSTM, from prefix names\nWrote out\.x \(.* kB\)\n", err
    )
    spec, arrays = checkpoint.canonical(checkpoint.read(tmp_path / "out.x"))
    assert spec == PLAIN
    for name, array in weights(PLAIN).items():
        np.testing.assert_array_equal(arrays[name], array)


def test_convert_flat_vector(run, tmp_path):
    from gluonlstm import checkpoint

    params_file.save(
        tmp_path / "flat.params", {"x_rnn_param": checkpoint.pack(PLAIN, weights(PLAIN))}
    )
    refused(run("convert", "flat.params", "out.npz", "--to", "npz"), "flat.params")
    spec = ["--spec", json.dumps({"hidden_size": 6})]
    code, _, err = run("convert", "flat.params", "out.npz", "--to", "npz", *spec)
    assert code == 0, err
    assert checkpoint.canonical(checkpoint.read(tmp_path / "out.npz"))[0] == PLAIN


# --- compile and run -----------------------------------------------------------------------


def expected(spec: LSTMSpec, x: np.ndarray) -> np.ndarray:
    from gluonlstm.reference import lstm

    return lstm(spec, weights(spec), x)[0]


@pytest.mark.tvm
def test_compile_symbol_inspect_and_run(run, symbol_file, tmp_path):
    code, out, err = run("compile", symbol_file.name, "-o", "m.so")
    assert (code, out) == (0, "")
    assert re.fullmatch(r"Wrote m\.so \(.* [kM]B, in \d+\.\d s\)\n", err)

    code, out, _ = run("inspect", "m.so")
    assert code == 0
    assert all(word in out for word in ("data0", "(T, N, 4)", "float32", "Plan", "Weights"))
    found = json.loads(run("inspect", "m.so", "--json")[1])
    assert found["kind"] == "artifact"
    assert [row["name"] for row in found["inputs"]] == ["data0", "data1", "data2"]
    assert found["weight_bytes"] > 0

    x = np.random.default_rng(0).standard_normal((7, 2, 4)).astype(np.float32)
    states = np.zeros((1, 2, 6), np.float32)
    np.savez(tmp_path / "in.npz", data0=x, data1=states, data2=states)
    code, out, _ = run("run", "m.so", "in.npz", "-o", "out")
    assert code == 0
    assert len(out.splitlines()) == 3
    with np.load(tmp_path / "out") as results:
        names = list(results)
        np.testing.assert_allclose(results[names[0]], expected(PLAIN, x), atol=2e-6)
        assert results[names[2]].shape == (1, 2, 6)


@pytest.mark.tvm
def test_compile_checkpoint_with_options(run, checkpoint_file, tmp_path):
    options = ["--layout", "NTC", "--clip", "-0.2", "0.2", "--shape", "data=?,3,5"]
    code, _, err = run("compile", checkpoint_file.name, "-o", "m.so", *options)
    assert code == 0, err
    found = json.loads(run("inspect", "m.so", "--json")[1])
    spec = LSTMSpec.from_dict(found["spec"])
    assert spec == SPEC.replace(layout="NTC", state_clip_min=-0.2, state_clip_max=0.2)
    (data,) = (row for row in found["inputs"] if row["role"] == "data")
    assert data["shape"][1:] == [3, 5]
    assert isinstance(data["shape"][0], str)

    x = np.random.default_rng(0).standard_normal((2, 3, 5)).astype(np.float32)
    np.savez(tmp_path / "in.npz", **{data["name"]: x})
    assert run("run", "m.so", "in.npz")[0] == 0
    with np.load(tmp_path / "out.npz") as results:
        np.testing.assert_allclose(next(iter(results.values())), expected(spec, x), atol=2e-6)


@pytest.mark.tvm
def test_run_refuses_arrays_that_do_not_fit(run, lstm_file, tmp_path):
    assert run("compile", lstm_file.name, "-o", "m.so")[0] == 0
    np.savez(tmp_path / "narrow.npz", data=np.zeros((3, 2, 5), np.float32))
    refused(run("run", "m.so", "narrow.npz"), "data", "(T, N, 4)", "(3, 2, 5)")
    np.savez(tmp_path / "other.npz", date=np.zeros((3, 2, 4), np.float32))
    refused(run("run", "m.so", "other.npz"), "date")
    refused(run("run", "m.so", "absent.npz"), "absent.npz: No such file")
    refused(run("run", lstm_file.name, "narrow.npz"), lstm_file.name)


# --- refusals ------------------------------------------------------------------------------


def refused(result: tuple[int, str, str], *words: str) -> None:
    code, out, err = result
    assert (code, out) == (1, "")
    assert err.startswith("Error: ")
    assert "Traceback" not in err
    assert [word for word in words if word not in err] == []


def test_files_that_are_no_files(run, tmp_path):
    refused(run("inspect", "absent.params"), "absent.params: No such file")
    refused(run("inspect", tmp_path), "Is a directory")


def test_damaged_files(run, tmp_path):
    (tmp_path / "garbage").write_bytes(b"\x12\x01\0\0\0\0\0\0rest")
    refused(run("inspect", "garbage"), "garbage")
    (tmp_path / "bad-symbol.json").write_text('{"nodes": 3}')
    refused(run("inspect", "bad-symbol.json"), "bad-symbol.json", "nodes")
    (tmp_path / "bad.so").write_bytes(b"\x7fELF and nothing more")
    refused(run("inspect", "bad.so"), "bad.so")


def test_brackets_in_an_error_are_text(run):
    refused(run("inspect", "[red]x[/red]"), "[red]x[/red]: No such file")


def test_compile_refuses_what_would_be_ignored(run, symbol_file, checkpoint_file):
    refused(run("compile", symbol_file.name, "--layout", "NTC"), "symbol file", "--layout")
    refused(run("compile", checkpoint_file.name, "more.params"), "checkpoint", "more.params")


def test_compile_says_which_lstms_there_are(run, tmp_path):
    arrays = {f"{p}_{k}": a for p in ("left", "right") for k, a in weights(PLAIN).items()}
    params_file.save(tmp_path / "two.params", arrays)
    refused(run("compile", "two.params"), "left", "right", "--lstm")
    refused(run("compile", "two.params", "--lstm", "middle"), "left", "right")
    params_file.save(tmp_path / "none.params", {"w": np.zeros((2, 2), np.float32)})
    refused(run("compile", "none.params"), "none.params")


def test_compile_wants_one_parameter_file_beside_the_symbol(run, symbol_file, tmp_path):
    parameters = tmp_path / "lstm-0000.params"
    (tmp_path / "lstm-0007.params").write_bytes(parameters.read_bytes())
    refused(run("compile", symbol_file.name), "lstm-0000.params, lstm-0007.params")
    parameters.unlink()
    (tmp_path / "lstm-0007.params").unlink()
    refused(run("compile", symbol_file.name), "lstm-0000.params")


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["nonsense"], "nonsense"),
        (["inspect"], "FILE"),
        (["convert", "a", "b", "--to", "onnx"], "onnx"),
        (["compile", "lstm.params", "--shape", "data"], "data=?,1,80"),
        (["compile", "lstm.params", "--shape", "data=1,x"], "data=?,1,80"),
        (["compile", "lstm.params", "--target", "{"], "JSON"),
        (["compile", "lstm.params", "--spec", "[]"], "JSON object"),
    ],
)
def test_wrong_command_lines(run, lstm_file, arguments, word):
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert word in err


def test_a_folder_that_does_not_exist(run, lstm_file):
    refused(run("convert", lstm_file.name, "absent/out.npz", "--to", "npz"), "absent")
