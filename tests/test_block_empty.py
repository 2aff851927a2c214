"""T = 0 returns nothing and the initial states, N = 0 empty arrays; neither crashes."""

from __future__ import annotations

import numpy as np
import pytest

from gluonlstm.spec import LSTMSpec
from tests.mxnet_cases import KINDS, MODES, arguments, array, layer, listed, semantics

pytestmark = pytest.mark.mxnet
SIZES = [(0, 3), (4, 0), (0, 0)]
SPECS = KINDS | {
    "ntc": LSTMSpec(4, 2, "NTC", input_size=3),
    "dropout": LSTMSpec(4, 2, dropout=0.5, input_size=3),
    "bias": LSTMSpec(4, bidirectional=True, input_size=3, bias=False),
    "float16": LSTMSpec(4, input_size=3, dtype="float16"),
    "everything": LSTMSpec(
        4, 2, "NTC", 0.5, True, 3, 5, -0.5, 0.5, True, "float64", True, False
    ),
}  # fmt: skip


@pytest.fixture(params=[False, True], ids=["nd", "np"])
def kind(request):
    """Empty arrays exist under NumPy shape semantics only; array semantics need not be on."""
    from gluonlstm.mxnet_compat import mx

    with mx.util.np_shape(True), mx.util.np_array(request.param):
        yield request.param


def check(spec, steps, batch, outputs, states):
    shapes = [spec.data_shape(steps, batch, spec.output_size), *spec.state_shapes(batch)]
    assert [output.shape for output in outputs] == shapes[: len(outputs)]
    for output, state in zip(outputs[1:], states, strict=False):
        if batch:
            np.testing.assert_array_equal(output.asnumpy(), state)


@pytest.mark.parametrize("spec", SPECS.values(), ids=list(SPECS))
@pytest.mark.parametrize("mode", MODES, ids=str)
def test_layer(spec, mode, kind):
    from gluonlstm.mxnet_compat import mx

    net = layer(spec, mode=mode)
    usual = arguments(spec, 3, 2)
    expected = [o.asnumpy() for o in listed(net(*usual))]
    for steps, batch in SIZES:
        x, states, *lengths = arguments(spec, steps, batch)
        given = [state.asnumpy() if batch else None for state in states]
        for tensor in (x, *states):
            tensor.attach_grad()
        check(spec, steps, batch, listed(net(x, states, *lengths)), given)
        check(spec, steps, batch, listed(net(x, None, *lengths)), [])
        with mx.autograd.record():
            outputs = listed(net(x, states, *lengths))
            total = outputs[1].sum() + (2 * outputs[2]).sum() + outputs[0].sum()
        total.backward()
        check(spec, steps, batch, outputs, given)
        for parameter in net._reg_params.values():
            assert not parameter.grad().asnumpy().any()
        if batch:  # no steps: what comes in goes out
            np.testing.assert_array_equal(states[0].grad.asnumpy(), 1)
            np.testing.assert_array_equal(states[1].grad.asnumpy(), 2)
    for a, b in zip(listed(net(*usual)), expected, strict=True):
        np.testing.assert_array_equal(a.asnumpy(), b)
    mx.nd.waitall()


@pytest.mark.parametrize("spec", SPECS.values(), ids=list(SPECS))
@pytest.mark.parametrize("first", [False, True], ids=["usual first", "empty first"])
@pytest.mark.parametrize("mode", MODES[1:], ids=str)
def test_inside_a_hybridized_net(spec, first, mode, kind):
    from gluonlstm.mxnet_compat import mx

    class Net(mx.gluon.HybridBlock):
        def __init__(self):
            super().__init__()
            self.lstm = layer(spec)

        def hybrid_forward(self, F, x, *lengths):
            return self.lstm(x * 2, None, *lengths)

    net = Net()
    net.hybridize(**mode)
    x, _, *lengths = arguments(spec, 3, 2)
    expected = None if first else net(x, *lengths).asnumpy()
    for steps, batch in SIZES:
        empty, _, *none = arguments(spec, steps, batch)
        with mx.autograd.record():
            y = net(empty, *none)
        y.backward()
        assert y.shape == spec.data_shape(steps, batch, spec.output_size)
    again = net(x, *lengths).asnumpy()
    if expected is None:
        expected = net.lstm(x * 2, None, *lengths).asnumpy()
        np.testing.assert_allclose(again, expected, atol=2e-3 if spec.dtype == "float16" else 1e-6)
    else:
        np.testing.assert_array_equal(again, expected)
    mx.nd.waitall()


def test_a_graph_made_before_shape_semantics_were_on():
    from gluonlstm.mxnet_compat import mx

    net = mx.gluon.nn.HybridSequential()
    net.add(layer(KINDS["plain"]))
    net.hybridize()
    assert net(mx.nd.ones((2, 3, 3))).shape == (2, 3, 4)
    with mx.util.np_shape(True):
        assert net(mx.nd.zeros((2, 0, 3))).shape == (2, 0, 4)
        mx.nd.waitall()
    assert net(mx.nd.ones((2, 3, 3))).shape == (2, 3, 4)


def test_other_nets_are_left_alone():
    """Only nets with a gluonlstm.LSTM in them get a graph for empty inputs."""
    from gluonlstm.mxnet_compat import mx

    with semantics():
        dense = mx.gluon.nn.Dense(3, in_units=2, flatten=False)
        dense.initialize()
        dense.hybridize()
        dense(array(np.ones((2, 2), "float32")))
        made = dense._cached_op
        assert dense(array(np.ones((2, 2), "float32"))).shape == (2, 3)
        assert dense._cached_op is made


def test_no_width():
    from gluonlstm.errors import ShapeMismatchError

    with semantics():
        import gluonlstm

        net = gluonlstm.LSTM(3)
        net.initialize()
        with pytest.raises(ShapeMismatchError, match="C must not be 0"):
            net(array(np.zeros((2, 2, 0), "float32")))
