"""LSTMs compiled for CUDA, on the emulated GPU: values, every kernel, and no barrier too few."""

from __future__ import annotations

import numpy as np
import pytest

from gluonlstm import LSTMSpec
from gluonlstm.errors import GluonLSTMError
from gluonlstm.reference import lstm
from tests.codegen.emulated import compiling, require_emulator
from tests.lstm_cases import TOLERANCE, assert_close, call, parameters

pytestmark = pytest.mark.tvm

CLIP = {"state_clip_min": -0.2, "state_clip_max": 0.3}
SPECS = {
    "plain": LSTMSpec(20, input_size=7),
    "two-layers": LSTMSpec(20, num_layers=2, bidirectional=True, layout="NTC", input_size=5),
    "lengths": LSTMSpec(12, bidirectional=True, input_size=7, use_sequence_length=True),
    "projection": LSTMSpec(21, input_size=7, projection_size=9, use_sequence_length=True, **CLIP),
    "wide-projection": LSTMSpec(9, bidirectional=True, input_size=3, projection_size=20),
    "nan-clip": LSTMSpec(12, input_size=7, bias=False, state_clip_nan=True, **CLIP),
    "float16": LSTMSpec(20, input_size=7, dtype="float16"),
}


@pytest.fixture(autouse=True)
def emulated_gpu():
    require_emulator()


@pytest.fixture(params=["cta", "grid"])
def kernel(request, monkeypatch):
    """Let small layers take the kernel of large ones too."""
    from gluonlstm.codegen import plan_cuda

    if request.param == "grid":
        monkeypatch.setattr(plan_cuda, "_MOST_UNITS_OF_A_CTA", 0)
    return request.param


def compiled(spec, params, folder, edit=None):
    from gluonlstm.codegen.api import compile_lstm
    from gluonlstm.runtime import load

    with compiling(edit) as compiler:
        compile_lstm(spec, params, folder / "model.so", target="cuda")
    return load(folder / "model.so"), "".join(compiler.sources)


def check(model, spec, params, steps, batch, tolerance=None):
    args = call(spec, steps, batch)
    if spec.state_clip_nan and args.states[1].size:
        args.states[1].flat[0] = np.nan
    y, states = lstm(spec, params, args.x, args.states, args.lengths)
    lengths = {} if args.lengths is None else {"sequence_length": args.lengths}
    got, (h, c) = model(args.x, args.states, **lengths)
    assert_close([got, h, c], [y, *states], tolerance or TOLERANCE[spec.dtype])


@pytest.mark.parametrize("name", SPECS)
def test_equals_reference(tmp_path, kernel, name):
    spec = SPECS[name]
    params = parameters(spec, scale=0.4)
    model, source = compiled(spec, params, tmp_path)
    assert f"lstm_cuda_{kernel}" in source
    for steps, batch in ((3, 11), (1, 1), (0, 2), (2, 0)):
        check(model, spec, params, steps, batch)


@pytest.mark.parametrize("name", ["lengths", "projection"])
def test_every_barrier_is_needed(tmp_path, kernel, name):
    from tests import emulator

    # Several warps, and several slices of the GEMM's depth: else some barriers are idle.
    spec = SPECS[name].replace(bidirectional=False, hidden_size=40, input_size=40)
    params = parameters(spec, scale=0.4)
    _, source = compiled(spec, params, tmp_path)
    mutants = [
        mutant
        for mutant in emulator.mutations(source)
        if mutant.kind == "removed" and "any_device" not in mutant.description
    ]
    assert len(mutants) >= 4
    for number, mutant in enumerate(mutants):
        folder = tmp_path / str(number)
        folder.mkdir()
        model, _ = compiled(spec, params, folder, lambda _, mutant=mutant: mutant.source)
        with pytest.raises((GluonLSTMError, AssertionError)):
            check(model, spec, params, 3, 11)
        emulator.clear_report()
