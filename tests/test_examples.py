"""The examples run, as a user would run them, and so does the demonstration."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = ROOT / "examples"
NEEDS = {  # example -> modules that it needs besides gluonlstm's own
    "convert_checkpoint.py": [],
    "torch_lstm.py": ["torch", "tvm"],
    "train_and_deploy.py": ["mxnet", "tvm"],
}


def run(*arguments: str) -> str:
    """Run Python on the arguments in the checkout; return what it printed."""
    environment = {**os.environ, "COLUMNS": "120", "NO_COLOR": "1"}
    command = [sys.executable, *arguments]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def skip_without(modules: list[str]) -> None:
    absent = [name for name in modules if importlib.util.find_spec(name) is None]
    if absent:
        pytest.skip(f"{', '.join(absent)} not installed")


def test_every_example_is_here():
    assert {path.name for path in EXAMPLES.glob("*.py")} == NEEDS.keys()


@pytest.mark.parametrize("name", NEEDS)
def test_example_says_what_it_shows(name):
    opening = (EXAMPLES / name).read_text().split('"""')[1].strip().splitlines()
    assert len(opening) == 3


@pytest.mark.parametrize("name", NEEDS)
def test_example(name):
    skip_without(NEEDS[name])
    assert run(str(EXAMPLES / name)).strip()


@pytest.mark.slow
def test_demonstration(tmp_path):
    skip_without(["mxnet", "tvm", "rich"])
    options = ["--seconds", "8", "--hidden", "48", "--characters", "80"]
    printed = run("-m", "examples.char_lm", *options, "--folder", str(tmp_path / "demo output"))
    assert "Trained on" in printed
    rows = {
        cells[0]: cells[1:]
        for line in printed.splitlines()
        if len(cells := [cell.strip() for cell in line.strip("│┃ ").split("│")]) == 4
    }
    assert max(map(float, rows["difference from stock's logits"][1:])) < 1e-4
    bits = [float(cell) for cell in rows["bits a character, held-out text"]]
    # The same model three times; how well it is trained depends on how busy the machine is.
    assert max(bits) - min(bits) < 0.002
    assert 1 < bits[0] < 7
    assert rows["imports MXNet or the compiler"] == ["mxnet", "mxnet", "no"]
