"""The CUDA plan: complete, within shared memory and multiprocessors, with a fallback."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gluonlstm import LSTMSpec
from gluonlstm.errors import InvalidArgumentError
from tests.lstm_cases import specs

pytestmark = pytest.mark.tvm


def plan(spec, target="cuda", **options):
    from gluonlstm.codegen.plan_cuda import plan_lstm_cuda
    from gluonlstm.codegen.target import resolve

    return plan_lstm_cuda(spec, resolve(target), spec.use_sequence_length, **options)


@given(specs(dtypes=("float32", "float16", "bfloat16"), most_units=700), st.booleans())
def test_every_layer_fits(spec, any_device):
    from gluonlstm.codegen.target import resolve

    for layer, chosen in enumerate(plan(spec, any_device=any_device)):
        assert chosen.layer == layer
        assert chosen.shape.dtype == "float32"
        assert chosen.resident_ctas <= resolve("cuda").multiprocessors
        assert (chosen.cta is None) == (chosen.kernel == "lstm_cuda_grid")
        assert (chosen.cta is None) == (chosen.resident_ctas > 0)
        if chosen.cta is not None:
            assert chosen.cta.shared_bytes(chosen.shape) <= 48 << 10
        if any_device:
            assert chosen.resident_ctas == 0
        assert chosen.reason
        assert chosen.to_dict()["kernel"] == chosen.kernel


@pytest.mark.parametrize(
    ("spec", "kernel"),
    [
        (LSTMSpec(128, input_size=64), "lstm_cuda_cta"),
        (LSTMSpec(129, input_size=64), "lstm_cuda_grid"),
        (LSTMSpec(512, input_size=64), "lstm_cuda_grid"),
        (LSTMSpec(1056, input_size=64), "lstm_cuda_cta"),  # too many weights for registers
        (LSTMSpec(1024, input_size=64, bidirectional=True), "lstm_cuda_cta"),  # 256 CTAs
    ],
)
def test_the_regimes(spec, kernel):
    assert plan(spec)[0].kernel == kernel


def test_fewer_multiprocessors_mean_another_kernel():
    spec = LSTMSpec(1024, input_size=64)  # 128 CTAs
    assert plan(spec, "cuda -arch=sm_90")[0].kernel == "lstm_cuda_grid"
    assert plan(spec, "cuda -arch=sm_80")[0].kernel == "lstm_cuda_cta"


def test_what_no_kernel_takes_is_refused():
    with pytest.raises(InvalidArgumentError, match="float64"):
        plan(LSTMSpec(8, input_size=8, dtype="float64"))
    with pytest.raises(InvalidArgumentError, match="hidden_size=7000"):
        plan(LSTMSpec(7000, input_size=8))
