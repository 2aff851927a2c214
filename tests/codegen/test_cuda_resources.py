"""What the kernels need of a multiprocessor, as the CUDA compiler reports it: no spills."""

import pytest

from gluonlstm import LSTMSpec
from gluonlstm.artifact import read
from gluonlstm.errors import MissingDependencyError
from tests.lstm_cases import parameters

pytestmark = pytest.mark.tvm

CLIP = {"state_clip_min": -3, "state_clip_max": 3}
LARGEST = LSTMSpec(1024, input_size=64)
SPECS = {
    "small": LSTMSpec(128, input_size=64),
    "small-all": LSTMSpec(128, input_size=64, bidirectional=True, projection_size=64, **CLIP),
    "medium": LSTMSpec(512, input_size=64),
    "medium-all": LSTMSpec(
        300, input_size=64, use_sequence_length=True, projection_size=96, **CLIP
    ),
    "largest": LARGEST,
}


@pytest.mark.parametrize("name", SPECS)
def test_nothing_spills(tmp_path, name):
    from gluonlstm.codegen.api import compile_lstm
    from gluonlstm.codegen.cuda.toolchain import find_compiler

    try:
        find_compiler()
    except MissingDependencyError as error:
        pytest.skip(str(error))
    spec = SPECS[name]
    target = {"kind": "cuda", "arch": ["sm_90"]}
    compile_lstm(spec, parameters(spec), tmp_path / "model.so", target=target)
    kernels = [row for row in read(tmp_path / "model.so").info.plan if "registers" in row]
    main = [row for row in kernels if not row["kernel"].startswith("any_device")]
    assert {row["arch"] for row in kernels} == {"sm_90"}
    assert len(main) == 2  # the GEMM and the recurrence
    for row in main:
        assert row["spill_bytes"] == row["stack_bytes"] == 0, row
        assert row["registers"] <= 255
        assert row["shared_bytes"] <= 48 << 10
    if spec is LARGEST:  # 256 threads of these share the multiprocessor's 65536 registers
        assert main[-1]["shared_bytes"] == 32 * 1024
        assert main[-1]["registers"] * 256 <= 65536
