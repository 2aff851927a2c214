"""Values and gradients of the block against the float64 reference, over all configurations."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gluonlstm.reference import lstm, lstm_gradients
from gluonlstm.spec import LSTMSpec
from tests import lstm_cases
from tests.lstm_cases import TOLERANCE, parameters
from tests.mxnet_cases import (
    MODES,
    STATIC,
    Case,
    array,
    assert_case,
    calls,
    canonical,
    layer,
    listed,
    semantics,
)

pytestmark = pytest.mark.mxnet
SMALL = lstm_cases.specs(most_units=6)


@settings(max_examples=250)
@given(calls(SMALL))
def test_equals_reference(case):
    assert_case(case)


@settings(max_examples=25)
@given(calls(SMALL))
def test_again_and_between_inference(case):
    # With grad_req="add" the gradients are those of both recordings.
    assert_case(case, recordings=2)


@settings(max_examples=25)
@given(calls(lstm_cases.specs(most_units=6, clips=False, lengths=False, dtypes=["float32"])))
def test_plain_float32(case):
    assert_case(case, recordings=2)


@settings(max_examples=25)
@given(calls(lstm_cases.specs(most_units=5, dtypes=["float64"], most_layers=3)))
def test_parameter_gradients_need_no_input_gradient(case):
    # The native RNN operator forgets the layers below the last when its input has no gradient.
    case.grad_req = None
    assert_case(case)


@settings(max_examples=15)
@given(calls(lstm_cases.specs(most_units=6, dtypes=["float16"], clips=False)))
def test_float16_on_the_cpu(case):
    case.grad_req = None
    with semantics(case.numpy):
        net = layer(case.spec, mode=case.mode)
        x, states, lengths = case.arguments()
        states = states and [array(s) for s in states]
        result = listed(net(array(x), states, None if lengths is None else array(lengths)))
        params = canonical(net)
    y, finals = lstm(case.spec, params, *case.arguments())
    for got, want in zip(result, [y, *finals], strict=False):
        assert got.dtype == np.float16
        np.testing.assert_allclose(got.asnumpy(), want, atol=TOLERANCE["float16"])


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("numpy", [False, True])
def test_everything_at_once(mode, numpy):
    spec = LSTMSpec(
        5, 3, "NTC", 0.0, True, 4, 7, -0.2, 0.15, True, "float32", True, True
    )  # a projection wider than the cells, too
    assert_case(Case(spec, steps=7, batch=4, mode=mode, numpy=numpy), recordings=2)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("layers", [11, 12])
def test_more_than_ten_layers(layers, dtype):
    spec = LSTMSpec(3, layers, bidirectional=True, input_size=2, dtype=dtype)
    assert_case(Case(spec, mode={}))


@pytest.mark.parametrize("projection", [None, 3])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_lengths_of_every_size_and_padding_of_any_value(dtype, projection):
    # 0, 1, T - 1 and T; what stands in the padding, NaN even, must not matter.
    spec = LSTMSpec(
        4, 2, bidirectional=True, input_size=3, dtype=dtype, use_sequence_length=True,
        projection_size=projection,
    )  # fmt: skip
    steps, lengths = 5, [0, 1, 4, 5, 3]
    args = lstm_cases.call(spec, steps, len(lengths))
    clean = args.x.copy()
    for row, length in enumerate(lengths):
        args.x[length:, row], clean[length:, row] = np.nan, 0
    from gluonlstm.mxnet_compat import mx

    net = layer(spec)
    x = array(args.x)
    x.attach_grad()
    with mx.autograd.record():
        outputs = listed(net(x, [array(s) for s in args.states], array(lengths)))
        total = sum((output**2).sum() for output in outputs)
    total.backward()
    y, finals = lstm(spec, canonical(net), clean, args.states, lengths)
    lstm_cases.assert_close([o.asnumpy() for o in outputs], [y, *finals], TOLERANCE[dtype])
    want = lstm_gradients(
        spec, canonical(net), clean, args.states, lengths,
        d_output=2 * y, d_states=[2 * final for final in finals],
    )  # fmt: skip
    for name, parameter in net._reg_params.items():
        np.testing.assert_allclose(
            parameter.grad().asnumpy(), want[name], atol=100 * TOLERANCE[dtype], err_msg=name
        )
    np.testing.assert_allclose(x.grad.asnumpy(), want["x"], atol=100 * TOLERANCE[dtype])


@pytest.mark.parametrize("nan", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_nan_in_the_cell_state(nan, dtype):
    spec = LSTMSpec(
        4, 2, input_size=3, dtype=dtype, state_clip_min=-0.3, state_clip_max=0.2,
        state_clip_nan=nan,
    )  # fmt: skip
    args = lstm_cases.call(spec, 4, 3)
    args.states[1][0, 1, 2] = np.nan
    net = layer(spec, mode={})
    got = [o.asnumpy() for o in listed(net(array(args.x), [array(s) for s in args.states]))]
    y, finals = lstm(spec, canonical(net), args.x, args.states)
    lstm_cases.assert_close(got, [y, *finals], TOLERANCE[dtype])
    assert np.isnan(y).any() == (not nan)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_clip_bounds_may_be_infinite(dtype):
    bounds = {"state_clip_min": -np.inf, "state_clip_max": 0.1}
    spec = LSTMSpec(3, input_size=2, dtype=dtype, **bounds)
    assert_case(Case(spec, steps=5))


@pytest.mark.parametrize("steps", [100, 200])
def test_float32_stays_within_the_stated_error(steps):
    # 2e-6 for |x| <= 1 and T <= 200
    spec = LSTMSpec(64, 2, bidirectional=True, input_size=32)
    params = parameters(spec, scale=0.1)
    args = lstm_cases.call(spec, steps, 3)
    net = layer(spec, params, mode={})
    got = net(array(args.x), [array(s) for s in args.states])
    y, finals = lstm(spec, params, args.x, args.states)
    lstm_cases.assert_close([o.asnumpy() for o in listed(got)], [y, *finals], 2e-6)


@settings(max_examples=20)
@given(calls(lstm_cases.specs(most_units=5, dtypes=["float64"])), st.data())
def test_gradients_by_finite_differences(case, data):
    """Independent of the reference's backward pass, in float64."""
    from gluonlstm.mxnet_compat import mx

    net = layer(case.spec)
    case.given, case.numpy, case.mode = True, False, None
    x, states, lengths = case.arguments()
    weights = [array(weight) for weight in case.weights()]
    tensors = {"x": array(x), "h0": array(states[0]), "c0": array(states[1])}
    lengths = None if lengths is None else array(lengths)
    tensors |= {name: p.data() for name, p in net._reg_params.items()}

    def total():
        outputs = listed(net(tensors["x"], [tensors["h0"], tensors["c0"]], lengths))
        return sum((a * b).sum() for a, b in zip(outputs, weights, strict=True))

    for name in ("x", "h0", "c0"):
        tensors[name].attach_grad()
    with mx.autograd.record():
        loss = total()
    loss.backward()
    name = data.draw(st.sampled_from(sorted(tensors)))
    tensor = tensors[name]
    direction = np.random.default_rng(case.seed).choice([-1.0, 1.0], tensor.shape)
    slope = float((tensor.grad.asnumpy() * direction).sum())
    kept, losses = tensor.copy(), []
    for step in (1e-6, -1e-6):
        tensor[:] = kept + step * array(direction)
        losses.append(total().asscalar())
    tensor[:] = kept
    # From both sides: a cell state that lies near a clip bound has a slope on each.
    loss = loss.asscalar()
    low, high = sorted([(losses[0] - loss) / 1e-6, (loss - losses[1]) / 1e-6])
    margin = 1e-4 * max(1, abs(slope))
    assert low - margin <= slope <= high + margin, (name, slope, low, high)


@pytest.mark.parametrize("mode", [None, STATIC])
@pytest.mark.parametrize(
    "extra", [{}, {"projection_size": 2}, {"use_sequence_length": True}], ids=str
)
def test_partly_frozen(extra, mode):
    spec = LSTMSpec(4, 2, input_size=3, dtype="float64", **extra)
    case = Case(spec, grad_req=None)
    net = layer(spec)
    net.l0_i2h_weight.grad_req = "null"
    net.l1_h2h_bias.grad_req = "add"
    if mode is not None:
        net.hybridize(**mode)
    from gluonlstm.mxnet_compat import mx

    x, states, lengths = case.arguments()
    arguments = [array(x), [array(s) for s in states]] + (
        [array(lengths)] if extra.get("use_sequence_length") else []
    )
    weights = case.weights()
    for _ in range(2):
        with mx.autograd.record():
            outputs = listed(net(*arguments))
            total = sum((a * array(w)).sum() for a, w in zip(outputs, weights, strict=True))
        total.backward()
    _, want = case.expected(canonical(net), weights)
    for name, parameter in net._reg_params.items():
        if parameter.grad_req != "null":
            times = 2 if parameter.grad_req == "add" else 1
            np.testing.assert_allclose(parameter.grad().asnumpy(), times * want[name], atol=1e-10)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("projection", [None, 3])
def test_recording_in_predict_mode(dtype, projection):
    """record(train_mode=False) gives gradients, without dropout."""
    from gluonlstm.mxnet_compat import mx

    spec = LSTMSpec(4, 2, input_size=3, dtype=dtype, dropout=0.5, projection_size=projection)
    case = Case(spec, given=False, grad_req=None)
    net = layer(spec)
    weight = case.weights()[0]
    with mx.autograd.record(train_mode=False):
        total = (net(array(case.arguments()[0])) * array(weight, dtype)).sum()
    total.backward()
    _, want = case.expected(canonical(net), [weight])
    for name, parameter in net._reg_params.items():
        np.testing.assert_allclose(
            parameter.grad().asnumpy(), want[name], atol=50 * TOLERANCE[dtype], err_msg=name
        )
