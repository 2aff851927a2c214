"""Arguments that do not fit: an error at the call, which says what was given and expected."""

from __future__ import annotations

import sys
import types

import numpy as np
import pytest

from gluonlstm.errors import ArgumentTypeError, InvalidArgumentError, ShapeMismatchError
from tests.mxnet_cases import KINDS, arguments, array, layer, options, semantics

pytestmark = pytest.mark.mxnet
PLAIN, LENGTHS = KINDS["plain"], KINDS["lengths"]


@pytest.fixture(params=[None, {}], ids=["eager", "hybrid"])
def mode(request):
    return request.param


@pytest.fixture(params=[False, True], ids=["nd", "np"])
def kind(request):
    with semantics(request.param):
        yield request.param


@pytest.mark.parametrize("spec", KINDS.values(), ids=list(KINDS))
@pytest.mark.parametrize("warm", [False, True])
@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda x, s: (x, [s[0][:, 1:], s[1]]), ShapeMismatchError, r"h0: expected .*, 2, \d\)"),
        (lambda x, s: (x, [s[0], s[1][:, :, :3]]), ShapeMismatchError, r"c0: .*got \(.*, 2, 3\)"),
        (lambda x, s: (x, [s[0], s[1][0]]), ShapeMismatchError, "c0: "),
        (lambda x, s: (x, [s[0]]), InvalidArgumentError, "got 1 elements"),
        (lambda x, s: (x, [*s, s[0]]), InvalidArgumentError, "got 3 elements"),
        (lambda x, s: (x, []), InvalidArgumentError, "got 0 elements"),
        (lambda x, s: (x, s[0]), ArgumentTypeError, r"states must be a list \[h0, c0\]"),
        (lambda x, s: (x, [s, s]), ArgumentTypeError, "h0 must be an array"),
        (lambda x, s: (x, [s[0], s[1].asnumpy()]), ArgumentTypeError, "c0 must be an array"),
        (lambda x, s: (x, [s[0].astype("int8"), s[1]]), ArgumentTypeError, "h0 has dtype int8"),
        (lambda x, s: (x[0], s), ShapeMismatchError, r"expected shape \(T, N, 3\), got \(2, 3\)"),
        (lambda x, s: (x[:, :, :2], s), ShapeMismatchError, r"inputs: .*got \(5, 2, 2\)"),
        (lambda x, s: (x.astype("int32"), s), ArgumentTypeError, "inputs has dtype int32"),
        (lambda x, s: (x.asnumpy(), s), ArgumentTypeError, "inputs must be an MXNet array"),
        (lambda x, s: (x.swapaxes(0, 1), s), ShapeMismatchError, "layout TNC"),
    ],
)  # fmt: skip
def test_arguments_that_do_not_fit(spec, mode, kind, warm, change, error, message):
    net = layer(spec, mode=mode)
    x, states, *lengths = arguments(spec)
    if warm:
        net(x, states, *lengths)
    x, states = change(x, states)
    if spec.use_sequence_length and "layout" in message:
        message = "sequence_length: "  # is the first that does not fit
    with pytest.raises(error, match=message) as caught:
        net(x, states, *lengths)  # and nothing waited for
    assert isinstance(caught.value, (ValueError, TypeError))


@pytest.mark.parametrize(
    ("lengths", "error", "message"),
    [
        (None, InvalidArgumentError, "use_sequence_length=True, so call it with sequence_length"),
        ([1, 2, 3], ShapeMismatchError, r"sequence_length: expected shape \(2,\), got \(3,\)"),
        ([[1, 2]], ShapeMismatchError, r"got \(1, 2\)"),
        ([1, 6], InvalidArgumentError, r"must lie in \[0, T=5\], got values from 1.* to 6"),
        ([-1, 5], InvalidArgumentError, "got values from -1"),
        ([np.nan, 5], InvalidArgumentError, "got values from nan"),
        ([2.5, 3], InvalidArgumentError, "whole numbers"),
    ],
)
def test_lengths_that_do_not_fit(lengths, error, message, mode, kind):
    net = layer(LENGTHS, mode=mode)
    x, states, _ = arguments(LENGTHS)
    lengths = None if lengths is None else array(np.array(lengths, "float32"))
    with pytest.raises(error, match=message):
        net(x, states, lengths)
    with pytest.raises(error, match=message):
        net(x, None, lengths)
    with pytest.raises(ArgumentTypeError, match="sequence_length must be an array"):
        net(x, None, [1, 2])


def test_lengths_without_use_are_ignored_with_a_warning(mode):
    net = layer(PLAIN, mode=mode)
    x, _ = arguments(PLAIN)
    with pytest.warns(UserWarning, match="without use_sequence_length=True"):
        y = net(x, sequence_length=array(np.array([1, 2])))
    np.testing.assert_array_equal(y.asnumpy(), net(x).asnumpy())


def test_the_other_kind_of_array():
    from gluonlstm.mxnet_compat import mx

    net = layer(PLAIN)
    x, _ = arguments(PLAIN)
    with pytest.raises(ArgumentTypeError, match=r"an mx.np array while NumPy semantics are off"):
        net(x.as_np_ndarray())
    with semantics(), pytest.raises(ArgumentTypeError, match=r"as_np_ndarray\(\)"):
        net(x)
    with pytest.raises(ArgumentTypeError, match="h0"):
        net(x, [mx.nd.zeros((1, 2, 4)).as_np_ndarray(), mx.nd.zeros((1, 2, 4))])


def test_contexts_that_differ():
    from gluonlstm.mxnet_compat import mx

    for spec in KINDS.values():
        net = layer(spec, mode={})
        net.collect_params().reset_ctx([mx.cpu(0), mx.cpu(1)])
        x, states, *lengths = arguments(spec)
        with pytest.raises(InvalidArgumentError, match=r"h0 is on cpu\(1\), inputs on cpu\(0\)"):
            net(x, [states[0].as_in_context(mx.cpu(1)), states[1]], *lengths)


def test_not_initialised():
    import gluonlstm

    for spec in KINDS.values():
        net = gluonlstm.LSTM(**{**options(spec), "input_size": 0})
        with pytest.raises(RuntimeError, match="has not been initialized"):
            net(*arguments(spec))
        assert net.spec.input_size == 0  # the call that failed leaves no trace


def test_unexpected_argument():
    import gluonlstm

    with pytest.raises(TypeError, match="foo"):
        gluonlstm.LSTM(4, foo=1)
    with pytest.raises(TypeError, match="foo"):
        layer(PLAIN)(arguments(PLAIN)[0], foo=1)


def test_mixed_precision_casts_are_left_to_mxnet(monkeypatch):
    """With AMP on, operators cast their inputs, so another dtype is no error of the caller."""
    from gluonlstm import block_checks

    amp = types.ModuleType("mxnet.contrib.amp.amp")
    amp._amp_initialized = True
    half = array(np.zeros((5, 2, 3), "float16"))
    monkeypatch.setitem(sys.modules, "mxnet.contrib.amp.amp", amp)
    assert block_checks.check_data(PLAIN, half) == (5, 2, 3)
    amp._amp_initialized = False
    with pytest.raises(ArgumentTypeError, match="float16"):
        block_checks.check_data(PLAIN, half)


def test_symbols_that_do_not_fit():
    from gluonlstm.mxnet_compat import mx

    x, h = mx.sym.var("x"), mx.sym.var("h")
    with pytest.raises(InvalidArgumentError, match="call it with sequence_length"):
        layer(LENGTHS)(x)
    with pytest.raises(InvalidArgumentError, match="got 1 elements"):
        layer(PLAIN)(x, [h])
    with pytest.raises(ArgumentTypeError, match="states must be a list"):
        layer(PLAIN)(x, h)
