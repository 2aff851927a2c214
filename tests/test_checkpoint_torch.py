"""Checkpoints against torch.nn.LSTM."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings

from gluonlstm import checkpoint
from gluonlstm.errors import InvalidArgumentError, ParamsFormatError
from gluonlstm.spec import LSTMSpec
from tests.checkpoint_cases import UP_TO_12, assert_same_params, params_of, specs

pytestmark = pytest.mark.torch
same_folder = settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch")


def module_of(torch, spec):
    assume(not spec.projection_size or spec.projection_size < spec.hidden_size)
    return torch.nn.LSTM(
        spec.input_size,
        spec.hidden_size,
        spec.num_layers,
        bias=spec.bias,
        bidirectional=spec.bidirectional,
        proj_size=spec.projection_size or 0,
        dtype=getattr(torch, spec.dtype),
    )


@given(spec=specs(layers=UP_TO_12))
@same_folder
def test_a_state_dict_is_read(torch, spec):
    module = module_of(torch, spec)
    found_spec, found = checkpoint.canonical(module.state_dict())
    assert found_spec == spec
    names = checkpoint.spellings(spec, "torch")
    assert list(names.values()) == list(module.state_dict())
    for key, name in names.items():
        assert np.array_equal(found[key], module.state_dict()[name].numpy())
        assert np.shares_memory(found[key], module.state_dict()[name].numpy())


@given(spec=specs())
@same_folder
def test_torch_loads_what_is_written(torch, tmp_path, spec):
    load_file = pytest.importorskip("safetensors.torch").load_file
    module = module_of(torch, spec)
    params = params_of(spec)
    checkpoint.write(tmp_path / "x.safetensors", spec, params, "torch", owner="encoder")
    parent = torch.nn.ModuleDict({"encoder": module})
    parent.load_state_dict(load_file(tmp_path / "x.safetensors"))
    assert_same_params(checkpoint.canonical(module.state_dict())[1], params)


def test_gate_order_and_meaning(torch):
    # The same numbers through torch and the reference, so that the names mean the same.
    from gluonlstm.reference import lstm

    spec = LSTMSpec(
        4, num_layers=2, bidirectional=True, input_size=3, projection_size=2, dtype="float64"
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # LSTM with projections is not supported with oneDNN
        module = module_of(torch, spec)
        x = torch.randn(5, 2, 3, dtype=torch.float64)
        expected, _ = module(x)
    _, params = checkpoint.canonical(module.state_dict())
    y, *_ = lstm(spec, params, x.numpy())
    assert np.allclose(y, expected.detach().numpy(), atol=1e-12)


def test_bfloat16(torch):
    pytest.importorskip("ml_dtypes")
    module = torch.nn.LSTM(3, 4, dtype=torch.bfloat16)
    spec, params = checkpoint.canonical(module.state_dict())
    assert spec == LSTMSpec(4, input_size=3, dtype="bfloat16")
    assert np.array_equal(params["l0_i2h_bias"].astype("f4"), module.bias_ih_l0.detach().float())


def test_parameters_that_require_gradients(torch):
    module = torch.nn.LSTM(3, 4)
    assert checkpoint.canonical(dict(module.named_parameters()))[0].hidden_size == 4


@pytest.mark.parametrize("kind", ["GRU", "RNN"])
def test_other_modules_are_no_lstm(torch, kind):
    module = getattr(torch.nn, kind)(3, 4, 2, bidirectional=True)
    assert checkpoint.find_lstms(module.state_dict()) == {}
    with pytest.raises(InvalidArgumentError, match="not of an LSTM"):
        checkpoint.canonical(module.state_dict())


@pytest.mark.parametrize("zip_", [True, False])
def test_pickles_are_refused_unread(torch, tmp_path, zip_):
    path = tmp_path / "x.pt"
    state = torch.nn.LSTM(3, 4).state_dict()
    torch.save(state, path, _use_new_zipfile_serialization=zip_)
    with pytest.raises(ParamsFormatError, match=r"pickle.*safetensors\.torch\.save_file"):
        checkpoint.read(path)
