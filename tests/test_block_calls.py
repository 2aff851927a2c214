"""How the block is called: arguments, structure of results, cached graphs, contexts."""

from __future__ import annotations

import numpy as np
import pytest

from gluonlstm.errors import ShapeMismatchError
from gluonlstm.spec import LSTMSpec
from tests import lstm_cases
from tests.mxnet_cases import (
    KINDS,
    MODES,
    STATIC,
    arguments,
    array,
    layer,
    listed,
    semantics,
)

pytestmark = pytest.mark.mxnet
PLAIN = KINDS["plain"]
SPECS = list(KINDS.values())


@pytest.fixture(params=[None, {}], ids=["eager", "hybrid"])
def mode(request):
    return request.param


@pytest.fixture(params=[False, True], ids=["nd", "np"])
def kind(request):
    with semantics(request.param):
        yield request.param


@pytest.mark.parametrize("spec", SPECS, ids=list(KINDS))
@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("static", [{}, STATIC])
def test_states_come_back_when_they_were_given(spec, first, static, kind):
    """Stock's hybridized layer goes on as it was first called."""
    net = layer(spec, mode=static)
    x, states, *lengths = arguments(spec)
    for given in (first, not first, first, not first):
        result = net(x, states if given else None, *lengths)
        assert isinstance(result, (list, tuple)) == given
        outputs = listed(result)
        assert len(outputs) == (3 if given else 1)
        eager = listed(layer(spec)(x, states if given else None, *lengths))
        for a, b in zip(outputs, eager, strict=True):
            np.testing.assert_allclose(a.asnumpy(), b.asnumpy(), atol=1e-6)


@pytest.mark.parametrize("spec", SPECS, ids=list(KINDS))
def test_no_states_are_zeros(spec, mode, kind):
    net = layer(spec, mode=mode)
    x, states, *lengths = arguments(spec)
    zero = [array(np.zeros(state.shape, spec.dtype)) for state in states]
    y, _ = net(x, zero, *lengths)
    np.testing.assert_array_equal(net(x, None, *lengths).asnumpy(), y.asnumpy())
    y, _ = net(x, tuple(zero), *lengths)  # a tuple does as well
    np.testing.assert_array_equal(net(x, None, *lengths).asnumpy(), y.asnumpy())


def test_results_are_of_the_kind_of_the_inputs(mode, kind):
    from gluonlstm.mxnet_compat import mx

    for spec in SPECS:
        for output in listed(layer(spec, mode=mode)(*arguments(spec))):
            assert type(output) is (mx.np.ndarray if kind else mx.nd.NDArray)
            assert np.dtype(output.dtype) == spec.dtype


def test_training_and_inference_alternate(kind):
    """Where the path depends on it, each has its graph."""
    from gluonlstm.mxnet_compat import mx

    spec = LSTMSpec(5, 2, bidirectional=True, input_size=3, projection_size=2)
    net = layer(spec, mode={})
    x, states = arguments(spec)
    inference = [o.asnumpy() for o in listed(net(x, states))]
    for _ in range(2):
        with mx.autograd.record():
            recorded = listed(net(x, states))
        recorded[0].backward()
        for a, b, c in zip(recorded, inference, listed(net(x, states)), strict=True):
            np.testing.assert_allclose(a.asnumpy(), b, atol=1e-6)
            np.testing.assert_array_equal(c.asnumpy(), b)
        with mx.autograd.train_mode():
            np.testing.assert_allclose(net(x).shape, (5, 2, 4))


def test_projection_alone_without_states_is_inferred(kind):
    spec = LSTMSpec(5, 2, bidirectional=True, input_size=3, projection_size=2)
    x, states = arguments(spec)
    zero = [array(np.zeros(state.shape, "float32")) for state in states]
    expected = layer(spec)(x, zero)[0].asnumpy()
    for options in MODES:
        got = layer(spec, mode=options)(x).asnumpy()
        np.testing.assert_allclose(got, expected, atol=1e-6)


def test_hooks_see_the_call(mode):
    net = layer(PLAIN, mode=mode)
    seen = []
    net.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs)))
    net.register_forward_hook(
        lambda _, inputs, output: seen.append((inputs[0].shape, output.shape))
    )
    net(arguments(PLAIN)[0])
    assert seen == [2, ((5, 2, 3), (5, 2, 4))]


def test_a_subclass_may_override():
    import gluonlstm

    class Doubled(gluonlstm.LSTM):
        def hybrid_forward(self, F, inputs, states, **params):
            return super().hybrid_forward(F, inputs * 2, states, **params)

    net = Doubled(4, input_size=3, prefix="x_")
    net.initialize()
    same = gluonlstm.LSTM(4, params=net.collect_params())
    x, _ = arguments(PLAIN)
    np.testing.assert_array_equal(net(x).asnumpy(), same(x * 2).asnumpy())
    net.hybridize()
    np.testing.assert_allclose(net(x).asnumpy(), same(x * 2).asnumpy(), atol=1e-6)


def test_two_contexts():
    from gluonlstm.mxnet_compat import mx

    contexts = [mx.cpu(0), mx.cpu(1)]
    for spec in SPECS:
        net = layer(spec)
        net.collect_params().reset_ctx(contexts)
        x, states, *lengths = arguments(spec)
        expected = layer(spec)(x, states, *lengths)
        for options in ({}, STATIC):
            net.hybridize(**options)
            with mx.autograd.record():
                results = [
                    net(
                        x.as_in_context(context),
                        [state.as_in_context(context) for state in states],
                        *(length.as_in_context(context) for length in lengths),
                    )
                    for context in contexts
                ]
            mx.autograd.backward([result[0] for result in results])
            for context, result in zip(contexts, results, strict=True):
                assert result[0].ctx == context
                for a, b in zip(listed(result), listed(expected), strict=True):
                    np.testing.assert_allclose(a.asnumpy(), b.asnumpy(), atol=1e-6)


def test_deferred_size_comes_from_the_input(mode, kind):
    import gluonlstm

    for options in ({}, {"use_sequence_length": True}, {"projection_size": 3, "layout": "NTC"}):
        net = gluonlstm.LSTM(4, 2, bidirectional=True, **options)
        net.initialize()
        assert net.spec.input_size == 0
        if mode is not None:
            net.hybridize(**mode)
        x = array(np.zeros((3, 3, 7), "float32"))
        lengths = array(np.zeros(3)) if net.spec.use_sequence_length else None
        net(x, None, lengths)
        assert net.spec.input_size == 7
        assert net.r0_i2h_weight.shape == (16, 7)
        with pytest.raises(ShapeMismatchError, match=r"expected shape \([TN], [TN], 7\)"):
            net(array(np.zeros((3, 3, 8), "float32")), None, lengths)


def test_a_layer_used_twice_in_a_net(kind):
    """Shared by two places of one graph, for each path."""
    from gluonlstm.mxnet_compat import mx

    for spec in SPECS:
        square = spec.replace(input_size=spec.output_size)

        class Twice(mx.gluon.HybridBlock):
            def __init__(self, lstm):
                super().__init__()
                self.lstm = lstm

            def hybrid_forward(self, F, x, *rest):
                h0, c0, *lengths = rest
                y, states = self.lstm(x, [h0, c0], *lengths)
                return self.lstm(y, states, *lengths)[0]

        x, states, *lengths = arguments(square)
        lstm = layer(square)
        net = Twice(lstm)
        expected = net(x, *states, *lengths).asnumpy()
        for options in MODES[1:]:
            net.hybridize(**options)
            with mx.autograd.record():
                y = net(x, *states, *lengths)
            y.backward()
            np.testing.assert_allclose(y.asnumpy(), expected, atol=1e-6)


def test_hybridizing_again_forgets_graphs():
    from gluonlstm.mxnet_compat import mx

    net = layer(PLAIN, mode={})
    x, states = arguments(PLAIN)
    net(x, states)
    net(x)
    net.cast("float64")
    assert net(x.astype("float64")).dtype == np.float64
    net.hybridize(static_alloc=True)
    assert net(x.astype("float64"), [s.astype("float64") for s in states])[0].dtype == np.float64
    net.hybridize(False)
    assert isinstance(net(x.astype("float64")), mx.nd.NDArray)


def test_changed_parameters_count_at_once():
    """A graph with static memory does not keep old weights."""
    for spec in SPECS:
        net = layer(spec, mode=STATIC)
        x, states, *lengths = arguments(spec)
        net(x, states, *lengths)
        new = lstm_cases.parameters(spec, seed=5)
        for name, value in new.items():
            net._reg_params[name].set_data(array(value))
        expected = listed(layer(spec, new)(x, states, *lengths))
        for a, b in zip(listed(net(x, states, *lengths)), expected, strict=True):
            np.testing.assert_allclose(a.asnumpy(), b.asnumpy(), atol=1e-6)


def test_optimize_for_a_backend(monkeypatch):
    """The graph that was made beforehand is the one that calls use."""
    net = layer(PLAIN)
    x, states = arguments(PLAIN)
    expected = [o.asnumpy() for o in listed(net(x, states))]
    net.optimize_for(x, states, backend="MKLDNN")
    made = net._cached_op
    assert made is not None
    for a, b in zip(listed(net(x, states)), expected, strict=True):
        np.testing.assert_allclose(a.asnumpy(), b, atol=1e-6)
    assert net._cached_op is made
    net.optimize_for(x, backend="MKLDNN")
    assert net(x).shape == (5, 2, 4)
