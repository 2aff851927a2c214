"""Dropout: between the layers, in training alone, on every path."""

from __future__ import annotations

import numpy as np
import pytest

from gluonlstm.reference import lstm, lstm_gradients
from gluonlstm.spec import LSTMSpec
from tests.lstm_cases import TOLERANCE, parameters
from tests.mxnet_cases import MODES, array, canonical, layer, listed

pytestmark = pytest.mark.mxnet
BASE = LSTMSpec(6, 2, dropout=0.4, input_size=3)
SPECS = {
    "float32": BASE,
    "float64": BASE.replace(dtype="float64"),
    "bidirectional": BASE.replace(bidirectional=True, layout="NTC"),
    "projection": BASE.replace(projection_size=4),
    "clip": BASE.replace(state_clip_min=-1, state_clip_max=1),
    "lengths": BASE.replace(use_sequence_length=True),
}


def identity(spec):
    """Parameters with which the second layer tells what came through from the first.

    Its candidate gate reads one element each of its input, its others are open or shut; so
    c_t of cell k is the sum of tanh(input element k) over time.
    """
    params = parameters(spec)
    hidden, width = spec.hidden_size, spec.layer_input_size(1)
    for direction in "lr"[: spec.directions]:
        for kind in ("i2h_weight", "h2h_weight", "i2h_bias", "h2h_bias"):
            params[f"{direction}1_{kind}"][:] = 0
        i2h, bias = params[f"{direction}1_i2h_weight"], params[f"{direction}1_i2h_bias"]
        for unit in range(min(hidden, width)):
            i2h[2 * hidden + unit, unit] = 1
        bias[:hidden], bias[hidden : 2 * hidden] = 1e3, -1e3  # i = 1, f = 0: c_t = tanh(x_t)
    return params


@pytest.mark.parametrize("spec", SPECS.values(), ids=list(SPECS))
@pytest.mark.parametrize("mode", MODES, ids=str)
def test_masks_are_inverted_dropout(spec, mode):
    """What the second layer sees is 0 or 1 / (1 - p) times the first layer's output."""
    from gluonlstm.mxnet_compat import mx

    mx.random.seed(3)
    spec = spec.replace(use_sequence_length=False) if spec.use_sequence_length else spec
    params = identity(spec)
    steps, batch = 1, 400
    x = np.random.default_rng(0).uniform(-1, 1, spec.data_shape(steps, batch)).astype(spec.dtype)
    net = layer(spec, params, mode)
    zero = [np.zeros(shape, spec.dtype) for shape in spec.state_shapes(batch)]
    with mx.autograd.train_mode():
        _, (_, c) = net(array(x), [array(state) for state in zero])
    first, _ = lstm(spec.replace(num_layers=1), {k: v for k, v in params.items() if k[1] == "0"}, x)
    first = np.swapaxes(first, 0, 1) if spec.layout == "NTC" else first
    seen = np.arctanh(c.asnumpy()[spec.directions].astype(np.float64))  # (N, H) of layer 1
    units = min(seen.shape[1], first.shape[2])
    ratio = seen[:, :units] / first[0][:, :units]
    kept = ~np.isclose(ratio, 0, atol=1e-4)
    np.testing.assert_allclose(ratio[kept], 1 / (1 - spec.dropout), rtol=2e-3)
    assert abs(kept.mean() - (1 - spec.dropout)) < 5 * np.sqrt(0.24 / kept.size)


@pytest.mark.parametrize("spec", SPECS.values(), ids=list(SPECS))
@pytest.mark.parametrize("mode", MODES, ids=str)
def test_only_in_training(spec, mode):
    from gluonlstm.mxnet_compat import mx

    net = layer(spec, mode=mode)
    plain = layer(spec.replace(dropout=0), mode=mode)
    steps, batch = 5, 3
    rng = np.random.default_rng(1)
    x = array(rng.uniform(-1, 1, spec.data_shape(steps, batch)).astype(spec.dtype))
    arguments = (x, None, array(np.array([5, 2, 0]))) if spec.use_sequence_length else (x,)
    expected = plain(*arguments).asnumpy()

    def differs():
        return np.abs(net(*arguments).asnumpy() - expected).max() > 1e-3

    assert not differs()
    with mx.autograd.record():
        assert differs()
        one, two = net(*arguments).asnumpy(), net(*arguments).asnumpy()
    assert np.abs(one - two).max() > 1e-3  # a new mask for every call
    with mx.autograd.record(train_mode=False):
        assert not differs()
    with mx.autograd.train_mode():
        assert differs()
    with mx.autograd.record(), mx.autograd.predict_mode():
        assert not differs()
    assert not differs()
    np.testing.assert_allclose(net(*arguments).asnumpy(), expected, atol=1e-6)


@pytest.mark.parametrize("spec", SPECS.values(), ids=list(SPECS))
def test_inside_a_hybridized_net(spec):
    """One graph, traced in whichever mode came first, does for both."""
    from gluonlstm.mxnet_compat import mx

    for training_first in (False, True):
        net = mx.gluon.nn.HybridSequential()
        lstm_layer = layer(spec.replace(use_sequence_length=False))
        net.add(lstm_layer)
        net.hybridize()
        x = array(np.ones(spec.data_shape(4, 3), spec.dtype))
        with mx.autograd.train_mode() if training_first else mx.autograd.predict_mode():
            net(x)
        without = layer(lstm_layer.spec.replace(dropout=0))(x).asnumpy()
        np.testing.assert_allclose(net(x).asnumpy(), without, atol=1e-6)
        with mx.autograd.record():
            y = net(x)
        y.backward()
        assert np.abs(y.asnumpy() - without).max() > 1e-3


@pytest.mark.parametrize("spec", SPECS.values(), ids=list(SPECS))
def test_gradients_see_the_same_mask(spec):
    """The mask that a call drew is read off its output, then the reference is given it."""
    from gluonlstm.mxnet_compat import mx

    mx.random.seed(11)
    spec = spec.replace(use_sequence_length=False, bidirectional=False, layout="TNC")
    params = identity(spec)
    net = layer(spec, params)
    x = np.random.default_rng(2).uniform(-1, 1, (1, 5, 3)).astype(spec.dtype)
    zero = [np.zeros(shape, spec.dtype) for shape in spec.state_shapes(5)]
    with mx.autograd.record():
        outputs = listed(net(array(x), [array(state) for state in zero]))
        total = sum(output.sum() for output in outputs)
    total.backward()
    units = spec.layer_input_size(1)
    mask = (np.abs(outputs[2].asnumpy()[1][:, :units]) > 1e-6) / (1 - spec.dropout)
    want = lstm_gradients(
        spec, canonical(net), x, zero, None, [mask[None]],
        d_output=np.ones(outputs[0].shape), d_states=[np.ones(o.shape) for o in outputs[1:]],
    )  # fmt: skip
    for name, parameter in net._reg_params.items():
        np.testing.assert_allclose(
            parameter.grad().asnumpy(), want[name], atol=100 * TOLERANCE[spec.dtype], err_msg=name
        )


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_one_layer_has_none(dtype):
    from gluonlstm.mxnet_compat import mx

    spec = LSTMSpec(4, 1, dropout=0.9, bidirectional=True, input_size=3, dtype=dtype)
    net = layer(spec)
    x = array(np.ones((3, 2, 3), dtype))
    expected = net(x).asnumpy()
    with mx.autograd.record():
        np.testing.assert_allclose(net(x).asnumpy(), expected, atol=1e-6)


@pytest.mark.parametrize(("dtype", "layers"), [("float32", 3), ("float64", 2)])
@pytest.mark.parametrize("lengths", [False, True])
def test_gradients_at_inference_of_a_static_graph(dtype, layers, lengths):
    # MXNet fails on such a graph if it is built with static_shape: "vector::_M_range_check".
    from gluonlstm.mxnet_compat import mx

    spec = LSTMSpec(
        4, num_layers=layers, input_size=3, dropout=0.5, dtype=dtype, use_sequence_length=lengths
    )
    net = layer(spec, mode={"static_alloc": True, "static_shape": True})
    x = mx.nd.ones((3, 2, 3), dtype=dtype)
    x.attach_grad()
    more = (None, mx.nd.array([3, 1])) if lengths else ()
    with mx.autograd.record(train_mode=False):
        total = net(x, *more).sum()
    total.backward()
    got = x.grad.asnumpy()
    net.hybridize(active=False)
    with mx.autograd.record(train_mode=False):
        total = net(x, *more).sum()
    total.backward()
    np.testing.assert_allclose(got, x.grad.asnumpy(), rtol=1e-4, atol=1e-6)
    assert np.abs(got).sum() > 0
