"""Layers, calls and comparisons for tests of the block; MXNet is imported when first used."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, fields

import numpy as np
from hypothesis import strategies as st

from gluonlstm.reference import lstm, lstm_gradients
from gluonlstm.spec import LSTMSpec
from tests import lstm_cases
from tests.lstm_cases import TOLERANCE, parameters

# How a block is hybridized; None is eager.
STATIC = {"static_alloc": True, "static_shape": True}
MODES = (None, {}, {"static_alloc": True}, STATIC)

# One specification for each path that the block may take on a CPU.
KINDS = {
    "plain": LSTMSpec(4, input_size=3),
    "clip": LSTMSpec(4, input_size=3, state_clip_min=-1, state_clip_max=1),
    "lengths": LSTMSpec(4, input_size=3, use_sequence_length=True),
    "float64": LSTMSpec(4, 2, input_size=3, dtype="float64"),
    "projection": LSTMSpec(4, 2, bidirectional=True, input_size=3, projection_size=3),
}


@contextlib.contextmanager
def semantics(numpy=True):
    """NumPy semantics (npx.set_np), or the legacy ones."""
    from gluonlstm.mxnet_compat import mx

    with mx.util.np_shape(numpy), mx.util.np_array(numpy):
        yield


def array(value, dtype=None):
    """An array of the kind that is switched on."""
    from gluonlstm.mxnet_compat import mx

    make = mx.np.array if mx.util.is_np_array() else mx.nd.array
    return make(value, dtype=dtype or np.asarray(value).dtype)


def options(spec):
    """The keyword arguments of the layer that ``spec`` describes."""
    return {field.name: getattr(spec, field.name) for field in fields(spec)}


def layer(spec, params=None, mode=None, **extra):
    """A gluonlstm.LSTM with the given (or random) parameters."""
    import gluonlstm

    return filled(gluonlstm.LSTM(**{**options(spec), **extra}), spec, params, mode)


def stock_layer(spec, params=None, mode=None, **extra):
    """A mxnet.gluon.rnn.LSTM with the given (or random) parameters."""
    from gluonlstm.mxnet_compat import mx

    arguments = options(spec)
    del arguments["bias"]
    return filled(mx.gluon.rnn.LSTM(**{**arguments, **extra}), spec, params, mode)


def filled(net, spec, params=None, mode=None):
    net.initialize()
    params = parameters(spec) if params is None else params
    for name, parameter in net._reg_params.items():
        parameter.set_data(array(params[name]))
    if mode is not None:
        net.hybridize(**mode)
    return net


def canonical(net):
    """The parameters of a layer by canonical name."""
    return {name: p.data().asnumpy() for name, p in net._reg_params.items()}


def arguments(spec, steps=5, batch=2, seed=0):
    """x, [h0, c0] and, if the layer takes them, lengths: arguments of one call."""
    args = lstm_cases.call(spec, steps, batch, seed)
    lengths = [] if args.lengths is None else [array(args.lengths)]
    return array(args.x), [array(state) for state in args.states], *lengths


@st.composite
def calls(draw, specs):
    """A spec, and what a call of its layer needs besides."""
    spec = draw(specs)
    steps, batch = draw(st.integers(1, 6)), draw(st.integers(1, 4))
    lengths_dtype = draw(st.sampled_from(["float32", "int32", "int64", "float64"]))
    return Case(
        spec=spec,
        steps=steps,
        batch=batch,
        seed=draw(st.integers(0, 2**16)),
        given=draw(st.booleans()),
        mode=draw(st.sampled_from(MODES)),
        numpy=draw(st.booleans()),
        lengths_dtype=lengths_dtype,
        grad_req=draw(st.sampled_from([None, "write", "add"])),
        deferred=draw(st.booleans()),
    )


@dataclass
class Case:
    """One layer and one call of it."""

    spec: object
    steps: int = 4
    batch: int = 3
    seed: int = 0
    given: bool = True  # whether states are passed
    mode: dict | None = None
    numpy: bool = False
    lengths_dtype: str = "int32"
    grad_req: str | None = "write"  # of input and states
    deferred: bool = False

    def arguments(self):
        """x, [h0, c0] or None, lengths or None as NumPy arrays."""
        call = lstm_cases.call(self.spec, self.steps, self.batch, self.seed)
        lengths = None if call.lengths is None else call.lengths.astype(self.lengths_dtype)
        return call.x, call.states if self.given else None, lengths

    def expected(self, params, weights):
        """Outputs, and the gradients of sum(output * weight)."""
        arguments = self.arguments()
        y, states = lstm(self.spec, params, *arguments)
        gradients = lstm_gradients(
            self.spec,
            params,
            *arguments,
            d_output=weights[0],
            d_states=weights[1:] if self.given else None,
        )
        return [y, *states] if self.given else [y], gradients

    def weights(self):
        """What each output is multiplied with before all are summed."""
        rng = np.random.default_rng(self.seed + 1)
        shapes = [self.spec.data_shape(self.steps, self.batch, self.spec.output_size)]
        shapes += list(self.spec.state_shapes(self.batch)) if self.given else []
        return [rng.uniform(-1, 1, shape) for shape in shapes]


def backward(net, case, recordings=1):
    """Call the layer with gradients; return outputs and gradients by name.

    With ``recordings`` > 1 the call is repeated, after calls that are not recorded.
    """
    from gluonlstm.mxnet_compat import mx

    x, states, lengths = case.arguments()
    x, states = array(x), states and [array(state) for state in states]
    inputs = {"x": x, **dict(zip(("h0", "c0"), states or (), strict=False))}
    for tensor in inputs.values():
        if case.grad_req:
            tensor.attach_grad(case.grad_req)
    arguments = (x, states) if lengths is None else (x, states, array(lengths))
    weights = [array(weight, case.spec.dtype) for weight in case.weights()]
    for recording in range(recordings):
        if recording:
            net(*arguments)
        with mx.autograd.record():
            outputs = listed(net(*arguments))
            total = sum((a * b).sum() for a, b in zip(outputs, weights, strict=True))
        total.backward()
    gradients = {name: p.grad().asnumpy() for name, p in net._reg_params.items()}
    if case.grad_req:
        scale = recordings if case.grad_req == "add" else 1
        gradients |= {name: tensor.grad.asnumpy() / scale for name, tensor in inputs.items()}
    return [output.asnumpy() for output in outputs], gradients


def listed(result):
    """[y] or [y, h, c] of what a layer returns."""
    return [result[0], *result[1]] if isinstance(result, (list, tuple)) else [result]


def assert_case(case, recordings=1):
    """Compare a layer's outputs and gradients with the reference."""
    with semantics(case.numpy):
        spec = case.spec
        net = layer_deferred(spec, case) if case.deferred else layer(spec, mode=case.mode)
        outputs, gradients = backward(net, case, recordings)
        params = canonical(net)
    expected, expected_gradients = case.expected(params, case.weights())
    tolerance = TOLERANCE[spec.dtype]
    assert len(outputs) == len(expected)
    for got, want in zip(outputs, expected, strict=True):
        np.testing.assert_allclose(got, want, rtol=0, atol=tolerance)
    for name, gradient in gradients.items():
        want = expected_gradients[name]
        scale = 20 * max(1.0, np.abs(want).max(initial=0))
        np.testing.assert_allclose(gradient, want, rtol=0, atol=scale * tolerance, err_msg=name)
    return net


def layer_deferred(spec, case):
    """A layer that learns its input size from its first call."""
    import gluonlstm

    net = gluonlstm.LSTM(**{**options(spec), "input_size": 0})
    net.initialize("normal")
    if case.mode is not None:
        net.hybridize(**case.mode)
    x, states, lengths = case.arguments()
    states = states and [array(state) for state in states]
    net(array(x), states, None if lengths is None else array(lengths))
    assert net.spec == spec
    for name, value in parameters(spec).items():
        net._reg_params[name].set_data(array(value))
    return net
