"""The README's Python code runs, in order, and its commands exist."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)


@pytest.mark.mxnet
@pytest.mark.tvm
def test_python_code(tmp_path, monkeypatch):
    import gluonlstm
    from gluonlstm.mxnet_compat import mx

    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(0)
    old = mx.gluon.rnn.LSTM(256, num_layers=2, projection_size=128, input_size=80)
    old.initialize()
    old.save_parameters("old.params")
    names = {
        "x": random.standard_normal((5, 3, 80)).astype(np.float32),
        "h0": np.zeros((2, 3, 128), np.float32),
        "c0": np.zeros((2, 3, 256), np.float32),
    }
    exported = gluonlstm.LSTM(8, input_size=80)
    exported.initialize()
    gluonlstm.export(exported, "model")
    for block in BLOCKS:
        exec(block, names)
    expected = old(mx.nd.array(names["x"])).asnumpy()
    np.testing.assert_allclose(names["y"], expected, atol=2e-6)
    assert names["model"].spec.hidden_size == 8
    assert names["spec"].projection_size == 128
    assert Path("new.safetensors").is_file()


@pytest.mark.parametrize("target", re.findall(r"\]\(([^)#]+)\)", TEXT))
def test_links_lead_somewhere(target):
    assert (ROOT / target).exists()


@pytest.mark.parametrize("command", re.findall(r"(?m)^gluonlstm (\w+) .*\.(?:params|so)\b", TEXT))
def test_commands_exist(command):
    pytest.importorskip("typer", reason="typer is not installed")
    from gluonlstm.cli import app

    assert command in {info.callback.__name__ for info in app.registered_commands}
