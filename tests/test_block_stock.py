"""The block against stock MXNet where stock is right: the same values, gradients, structure."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import lstm_cases
from tests.mxnet_cases import (
    MODES,
    arguments,
    array,
    backward,
    calls,
    layer,
    listed,
    semantics,
    stock_layer,
)

pytestmark = [
    pytest.mark.mxnet,
    # Stock's own call, of its own property.
    pytest.mark.filterwarnings("ignore:ndarray.context has been renamed:DeprecationWarning"),
]
RIGHT = lstm_cases.specs(clips=False, lengths=False, biases=(True,), most_units=8)


@settings(max_examples=80)
@given(calls(RIGHT))
def test_values_and_gradients(case):
    """Stock cannot train projections, and needs the input's gradient in float64."""
    spec = case.spec = case.spec.replace(projection_size=None)
    if spec.dtype == "float64":
        case.grad_req = "write"
    with semantics(case.numpy):
        ours, our_gradients = backward(layer(spec, mode=case.mode), case)
        theirs, gradients = backward(stock_layer(spec, mode=case.mode), case)
    tolerance = 1e-6 if spec.dtype == "float32" else 1e-13
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance)
    for name, gradient in gradients.items():
        scale = 10 * max(1, np.abs(gradient).max(initial=0))
        np.testing.assert_allclose(
            our_gradients[name], gradient, rtol=0, atol=scale * tolerance, err_msg=name
        )


@settings(max_examples=40)
@given(RIGHT, st.integers(1, 5), st.integers(1, 4), st.sampled_from(MODES), st.booleans())
def test_inference(spec, steps, batch, mode, numpy):
    """With projections no wider than the cells, beyond which stock writes past its buffers."""
    if (spec.projection_size or 0) > spec.hidden_size:
        spec = spec.replace(projection_size=spec.hidden_size)
    with semantics(numpy):
        args = arguments(spec, steps, batch)
        ours = listed(layer(spec, mode=mode)(*args))
        # With static_shape, stock may take inference for training, which projections refuse.
        stock_mode = {} if spec.projection_size and mode else mode
        theirs = listed(stock_layer(spec, mode=stock_mode)(*args))
        for a, b in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(a.asnumpy(), b.asnumpy(), rtol=0, atol=1e-6)


def test_structure_of_results():
    """Eager calls return tuples, hybridized ones lists, as stock's do."""
    spec = lstm_cases.LSTMSpec(3, 2, input_size=2)
    x, states = arguments(spec)
    for mode in MODES:
        ours, theirs = (make(spec, mode=mode)(x, states) for make in (layer, stock_layer))
        assert type(ours) is type(theirs)
        assert type(ours[1]) is type(theirs[1])
        assert type(ours[0]) is type(theirs[0])


def test_sequence_of_parameters_in_the_trainer_and_names_of_states():
    from gluonlstm.mxnet_compat import mx

    spec = lstm_cases.LSTMSpec(3, 2, bidirectional=True, input_size=2)
    ours, theirs = layer(spec, prefix="p_"), stock_layer(spec, prefix="p_")
    trainers = [mx.gluon.Trainer(net.collect_params(), "sgd") for net in (ours, theirs)]
    first, second = ([p.name for p in trainer._params] for trainer in trainers)
    assert first == second
    for net in (ours, theirs):
        symbol = net(mx.sym.var("x"))
        assert symbol.list_arguments()[0] == "x"
    assert ours(mx.sym.var("x")).tojson() == theirs(mx.sym.var("x")).tojson()


def test_grad_req_of_the_whole_layer():
    from gluonlstm.mxnet_compat import mx

    spec = lstm_cases.LSTMSpec(3, 2, input_size=2)
    net = layer(spec)
    net.collect_params().setattr("grad_req", "null")
    x = array(np.ones((4, 2, 2), "float32"))
    x.attach_grad()
    with mx.autograd.record():
        total = net(x).sum()
    total.backward()
    stock = stock_layer(spec)
    other = x.copy()
    other.attach_grad()
    with mx.autograd.record():
        total = stock(other).sum()
    total.backward()
    np.testing.assert_allclose(x.grad.asnumpy(), other.grad.asnumpy(), atol=1e-6)
