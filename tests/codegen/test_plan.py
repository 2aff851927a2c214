"""The plan: pure, complete, and within the registers of the target."""

import pytest
from hypothesis import given

from tests.lstm_cases import specs

pytestmark = pytest.mark.tvm

CPUS = ("x86-64", "x86-64-v3", "x86-64-v4")


@given(specs())
def test_every_layer_is_planned(spec):
    from gluonlstm.codegen.plan import plan_lstm
    from gluonlstm.codegen.target import resolve

    for mcpu in CPUS:
        target = resolve({"kind": "llvm", "mcpu": mcpu, "mtriple": "x86_64-linux-gnu"})
        plans = plan_lstm(spec, target, lengths=spec.use_sequence_length)
        assert [plan.layer for plan in plans] == list(range(spec.num_layers))
        for plan in plans:
            accumulators = 4 * plan.tiles.rows
            assert accumulators + 4 + 1 <= target.vector_registers
            assert plan.shape.input_size == spec.layer_input_size(plan.layer)
            assert plan.shape.output_size == spec.direction_size
            assert (plan.shape.clip is not None) == spec.clips
            assert str(plan.tiles.rows) in plan.reason
            assert plan.to_dict()["lanes"] == target.lanes(plan.shape.dtype)
