"""Construction, names, initialisation and sharing of the block's parameters."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings

from gluonlstm.errors import ArgumentTypeError, InvalidArgumentError
from gluonlstm.spec import LSTMSpec
from tests import lstm_cases
from tests.mxnet_cases import KINDS, arguments, array, layer, listed, options, stock_layer

pytestmark = pytest.mark.mxnet


def make(*args, **kwargs):
    import gluonlstm

    return gluonlstm.LSTM(*args, **kwargs)


def make_stock(*args, **kwargs):
    from gluonlstm.mxnet_compat import mx

    return mx.gluon.rnn.LSTM(*args, **kwargs)


@settings(max_examples=60)
@given(lstm_cases.specs(biases=(True,)))
def test_the_same_parameters_as_stock(spec):
    arguments = {k: v for k, v in options(spec).items() if k != "bias"}
    ours, stock = make(prefix="p_", **arguments), make_stock(prefix="p_", **arguments)
    assert list(ours.collect_params()) == list(stock.collect_params())
    for one, other in zip(ours.params.values(), stock.params.values(), strict=True):
        assert (one.shape, one.dtype, one.init) == (other.shape, other.dtype, other.init)
    assert list(ours._collect_params_with_prefix("a")) == list(
        stock._collect_params_with_prefix("a")
    )
    assert repr(ours) == repr(stock)
    assert ours.state_info(3) == stock.state_info(3)
    assert ours.spec == spec


@settings(max_examples=30)
@given(lstm_cases.specs())
def test_the_parameters_of_the_specification(spec):
    net = make(prefix="p_", **options(spec))
    assert {name.removeprefix("p_"): p.shape for name, p in net.params.items()} == {
        parameter.name: parameter.shape for parameter in spec.parameters()
    }


def test_repr():
    net = make(6, 2, "NTC", 0.3, True, 4)
    assert repr(net) == "LSTM(4 -> 6, NTC, num_layers=2, dropout=0.3, bidirectional)"
    assert repr(make(6)) == "LSTM(None -> 6, TNC)"


def test_automatic_prefixes():
    from gluonlstm.mxnet_compat import mx

    net = mx.gluon.nn.HybridSequential(prefix="net_")
    with net.name_scope():
        net.add(make(3), make_stock(3), make(3))
    names = [child.prefix for child in net._children.values()]
    assert names == ["net_lstm0_", "net_lstm1_", "net_lstm2_"]
    assert make(3).prefix.startswith("lstm")


def test_arguments_by_position_and_numpy_integers():
    net = make(np.int64(5), np.int32(2), "TNC", 0, False, np.int64(4))
    assert net.spec == LSTMSpec(5, 2, input_size=4)
    net.initialize()
    assert net(array(np.ones((2, 3, 4), "float32"))).shape == (2, 3, 5)
    assert make(5, projection_size=0).spec.projection_size is None
    with pytest.raises(TypeError):
        make(*[1] * 17)  # bias and use_sequence_length are keywords


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        (
            {"hidden_size": 0},
            InvalidArgumentError,
            "hidden_size=0 must be an integer",
        ),
        ({"hidden_size": 2.5}, ArgumentTypeError, "hidden_size=2.5"),
        ({"num_layers": 0}, InvalidArgumentError, "num_layers=0"),
        ({"num_layers": -1}, InvalidArgumentError, "num_layers=-1"),
        ({"layout": "CTN"}, InvalidArgumentError, "layout='CTN' must be one of"),
        ({"dropout": 1.5}, InvalidArgumentError, r"dropout=1.5 must lie in \[0, 1\)"),
        ({"dropout": 1}, InvalidArgumentError, "dropout=1"),
        ({"projection_size": -2}, InvalidArgumentError, "projection_size=-2"),
        ({"state_clip_min": -1.0}, InvalidArgumentError, "must be given together"),
        ({"state_clip_max": 1.0}, InvalidArgumentError, "state_clip_min=None and state_clip_max"),
        ({"state_clip_min": 1.0, "state_clip_max": 0.0}, InvalidArgumentError, "must not exceed"),
        ({"state_clip_min": np.nan, "state_clip_max": 0.0}, InvalidArgumentError, "NaN"),
        ({"dtype": "bfloat16"}, ArgumentTypeError, "MXNet cannot make bfloat16 arrays"),
        ({"dtype": "int8"}, ArgumentTypeError, "dtype='int8' must be one of"),
        ({"dtype": "no such"}, ArgumentTypeError, "dtype='no such'"),
    ],
)
def test_arguments_without_meaning(changes, error, message):
    with pytest.raises(error, match=message):
        make(**{"hidden_size": 3, **changes})


@pytest.mark.parametrize("dtype", ["float64", np.float64, np.dtype("float64")])
def test_dtype_in_any_spelling(dtype):
    net = make(3, input_size=2, dtype=dtype)
    net.initialize()
    assert net.spec.dtype == "float64"
    assert net(array(np.ones((2, 1, 2)))).dtype == np.float64
    assert net.state_info()[0]["dtype"] == dtype


@pytest.mark.parametrize("which", ["i2h", "h2h"])
@pytest.mark.parametrize("deferred", [False, True])
def test_lstmbias_for_either_bias(which, deferred):
    from gluonlstm.mxnet_compat import mx

    for initializer, value in (("lstmbias", 1.0), (mx.init.LSTMBias(forget_bias=2.5), 2.5)):
        net = make(
            4, 2, bidirectional=True, input_size=0 if deferred else 3,
            **{f"{which}_bias_initializer": initializer},
        )  # fmt: skip
        for _ in range(2):
            net.initialize(mx.init.Xavier(), force_reinit=True)
            net(array(np.ones((2, 1, 3), "float32")))
            for name, parameter in net._reg_params.items():
                if name.endswith("bias"):
                    want = np.zeros(16)
                    want[4:8] = value if which in name else 0
                    np.testing.assert_array_equal(parameter.data().asnumpy(), want)


def test_initialisers_of_each_kind():
    net = make(
        4, input_size=3, projection_size=2, i2h_weight_initializer="ones",
        h2h_weight_initializer="orthogonal", h2r_weight_initializer="zeros",
        i2h_bias_initializer="ones",
    )  # fmt: skip
    net.initialize()
    value = {name: p.data().asnumpy() for name, p in net._reg_params.items()}
    assert (value["l0_i2h_weight"] == 1).all()
    assert (value["l0_i2h_bias"] == 1).all()
    assert not value["l0_h2r_weight"].any()
    assert not value["l0_h2h_bias"].any()
    gram = value["l0_h2h_weight"].T @ value["l0_h2h_weight"]
    np.testing.assert_allclose(gram, gram[0, 0] * np.eye(2), atol=1e-5)


def test_sharing():
    first = make(4, 2, input_size=3, prefix="enc_")
    second = make(4, 2, input_size=3, prefix="dec_", params=first.collect_params())
    assert list(second.collect_params()) == list(first.collect_params())
    first.initialize()
    x = array(np.ones((2, 1, 3), "float32"))
    np.testing.assert_array_equal(first(x).asnumpy(), second(x).asnumpy())
    deeper = make(4, 3, input_size=3, params=first.collect_params())
    assert "enc_l2_i2h_weight" in deeper.collect_params()
    with pytest.raises(AssertionError, match="desired"):
        make(7, input_size=4, params=first.collect_params())


def test_sharing_with_stock_both_ways():
    for one, other in ((make, make_stock), (make_stock, make)):
        donor = one(4, 2, bidirectional=True, input_size=3)
        donor.initialize()
        taker = other(4, 2, bidirectional=True, input_size=3, params=donor.collect_params())
        x = array(np.ones((2, 1, 3), "float32"))
        np.testing.assert_allclose(taker(x).asnumpy(), donor(x).asnumpy(), atol=1e-6)


@pytest.mark.parametrize("spec", KINDS.values(), ids=list(KINDS))
def test_cast(spec):
    net = layer(spec, mode={})
    args = arguments(spec)
    before = [o.asnumpy() for o in listed(net(*args))]
    for dtype, tolerance in (("float64", 1e-6), ("float16", 4e-3), ("float32", 4e-3)):
        net.cast(dtype)
        assert net.spec.dtype == dtype
        assert net.state_info()[1]["dtype"] == dtype
        assert np.dtype(net.begin_state(2)[0].dtype) == dtype
        x, states, *lengths = args
        result = listed(net(x.astype(dtype), [s.astype(dtype) for s in states], *lengths))
        for a, b in zip(result, before, strict=True):
            assert np.dtype(a.dtype) == dtype
            np.testing.assert_allclose(a.asnumpy(), b, atol=tolerance)
    for dtype in ("bfloat16", "int32"):
        with pytest.raises(ArgumentTypeError):
            net.cast(dtype)
    assert net.spec.dtype == "float32"


def test_begin_state():
    from gluonlstm.mxnet_compat import mx

    net = make(4, 2, bidirectional=True, projection_size=3, prefix="p_")
    h, c = net.begin_state(5)
    assert (h.shape, c.shape) == ((4, 5, 3), (4, 5, 4))
    assert (net.begin_state(5, func=mx.nd.ones)[1].asnumpy() == 1).all()
    assert [s.name for s in net.begin_state(func=mx.sym.var)] == ["p_h0_0", "p_h0_1"]
    assert net.begin_state(1, dtype="float64")[0].dtype == np.float64


def test_begin_state_of_a_subclass_is_used():
    import gluonlstm

    class Ones(gluonlstm.LSTM):
        def begin_state(self, batch_size=0, **kwargs):
            return [state + 1 for state in super().begin_state(batch_size, **kwargs)]

    net = Ones(4, input_size=3)
    net.initialize()
    x = array(np.ones((2, 3, 3), "float32"))
    ones = [array(np.ones((1, 3, 4), "float32"))] * 2
    for _ in range(2):
        np.testing.assert_allclose(net(x).asnumpy(), net(x, ones)[0].asnumpy(), atol=1e-6)
        net.hybridize()


@pytest.mark.parametrize("given", [False, True])
def test_summary(given, capsys):
    for spec in KINDS.values():
        x, states, *lengths = arguments(spec)
        net = layer(spec)
        net.summary(x, states if given else None, *lengths)
        printed = capsys.readouterr().out
        assert f"Total params: {sum(p.size for p in spec.parameters())}" in printed
    deep = make(3, 11)
    deep.initialize()
    deep.summary(array(np.ones((2, 1, 2), "float32")))


def test_summary_of_a_net(capsys):
    from gluonlstm.mxnet_compat import mx

    net = mx.gluon.nn.Sequential()
    with net.name_scope():
        net.add(mx.gluon.nn.Embedding(40, 30), make(30))
        net.add(mx.gluon.nn.Dense(40, flatten=False, params=net[0].params))
    net.initialize()
    net.summary(array(np.ones((8, 3))))
    assert "LSTM-2" in capsys.readouterr().out


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("dropout", [0, 0.3])
def test_unfuse(bidirectional, dropout):
    net = make(4, 2, dropout=dropout, bidirectional=bidirectional, input_size=3)
    net.initialize("normal")
    stack = net._unfuse()
    assert set(stack.collect_params()) == set(net.collect_params())
    x = array(np.random.default_rng(0).uniform(-1, 1, (5, 2, 3)).astype("float32"))
    y, _ = stack.unroll(5, x, layout="TNC", merge_outputs=True)
    np.testing.assert_allclose(y.asnumpy(), net(x).asnumpy(), atol=1e-6)


def test_unfuse_refuses_what_cells_lack():
    with pytest.raises(AssertionError, match="projection"):
        make(4, projection_size=2)._unfuse()
    with pytest.raises(AssertionError, match="clipping"):
        make(4, state_clip_min=-1, state_clip_max=1)._unfuse()
    with pytest.raises(InvalidArgumentError, match="bias=False"):
        make(4, bias=False)._unfuse()


def test_deepcopy_before_use():
    import copy

    net = layer(KINDS["plain"])
    other = copy.deepcopy(net)
    x = array(np.ones((2, 1, 3), "float32"))
    np.testing.assert_array_equal(net(x).asnumpy(), other(x).asnumpy())


def test_trains_with_a_trainer():
    from gluonlstm.mxnet_compat import mx

    mx.random.seed(0)
    for kind in ("plain", "clip", "projection", "lengths", "float64"):
        spec = KINDS[kind]
        net = layer(spec, mode={})
        trainer = mx.gluon.Trainer(net.collect_params(), "adam", {"learning_rate": 0.02})
        x, states, *lengths = arguments(spec)
        losses = []
        for _ in range(25):
            with mx.autograd.record():
                y, _ = net(x, states, *lengths)
                loss = ((y - 0.2) ** 2).mean()
            loss.backward()
            trainer.step(1)
            losses.append(loss.asscalar())
        assert losses[-1] < 0.5 * losses[0], kind


def test_stock_and_ours_train_alike():
    from gluonlstm.mxnet_compat import mx

    spec = LSTMSpec(6, 2, bidirectional=True, input_size=4)
    nets = [layer(spec, mode={}), stock_layer(spec, mode={})]
    x, states = arguments(spec)
    for net in nets:
        trainer = mx.gluon.Trainer(net.collect_params(), "sgd", {"learning_rate": 0.5})
        for _ in range(10):
            with mx.autograd.record():
                loss = (net(x, states)[0] ** 2).sum()
            loss.backward()
            trainer.step(1)
    pairs = zip(*(net._reg_params.values() for net in nets), strict=True)
    for one, other in pairs:
        np.testing.assert_allclose(one.data().asnumpy(), other.data().asnumpy(), atol=1e-5)
