"""The float64 reference: against torch, finite differences, identities and a hand-worked step."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gluonlstm import LSTMSpec
from gluonlstm.errors import InvalidArgumentError, MissingParameterError, ShapeMismatchError
from gluonlstm.reference import lstm, lstm_gradients
from tests.lstm_cases import assert_close, call, parameters, specs

SMALL = specs(dtypes=("float64",), most_units=5)
SIZES = st.integers(0, 4)


def run(spec, params, args, **changes):
    values = {"x": args.x, "states": args.states, "sequence_length": args.lengths} | changes
    y, states = lstm(spec, params, **values)
    return [y, *states]


def test_one_step_by_hand():
    # H = 1, all weights 0: the gates are the biases' sums.
    spec = LSTMSpec(1, input_size=1)
    sums = {"i": 0.3, "f": -0.2, "g": 0.9, "o": 0.4}
    params = {p.name: np.zeros(p.shape) for p in spec.parameters()}
    params["l0_i2h_bias"] = np.array([*sums.values()]) - 0.1
    params["l0_h2h_bias"] = np.full(4, 0.1)
    y, (h, c) = lstm(spec, params, [[[7.0]]], [[[[5.0]]], [[[0.5]]]])

    def sigmoid(value):
        return 1 / (1 + math.exp(-value))

    cell = sigmoid(-0.2) * 0.5 + sigmoid(0.3) * math.tanh(0.9)
    hidden = sigmoid(0.4) * math.tanh(cell)
    assert y.item() == pytest.approx(hidden, abs=1e-15)
    assert h.item() == pytest.approx(hidden, abs=1e-15)
    assert c.item() == pytest.approx(cell, abs=1e-15)


@pytest.mark.torch
@settings(max_examples=60)
@given(
    specs(dtypes=("float64",), clips=False, lengths=False, most_units=8),
    st.integers(1, 5),
    st.integers(1, 4),
)
def test_equals_torch(spec, steps, batch):
    torch = pytest.importorskip("torch")
    if (spec.projection_size or 0) >= spec.hidden_size:  # torch takes smaller projections only
        spec = spec.replace(projection_size=None)
    module = torch.nn.LSTM(
        spec.input_size,
        spec.hidden_size,
        spec.num_layers,
        bias=spec.bias,
        batch_first=spec.layout == "NTC",
        bidirectional=spec.bidirectional,
        proj_size=spec.projection_size or 0,
        dtype=torch.float64,
    )
    params, args = parameters(spec), call(spec, steps, batch)
    theirs = {"i2h": "ih", "h2h": "hh", "h2r": "hr"}
    with torch.no_grad():
        for p in spec.parameters():
            kind, _, what = p.kind.partition("_")
            name = f"{what}_{theirs[kind]}_l{p.layer}" + "_reverse" * p.direction
            getattr(module, name).copy_(torch.from_numpy(params[p.name]))
        x, h0, c0 = (torch.from_numpy(a) for a in (args.x, *args.states))
        y, (h, c) = module(x, (h0, c0))
    assert_close(run(spec, params, args), [y, h, c], 1e-12)


@settings(max_examples=40)
@given(SMALL, SIZES, SIZES, st.booleans())
def test_gradients_are_finite_differences(spec, steps, batch, drops):
    params, args = parameters(spec), call(spec, steps, batch)
    rng = np.random.default_rng(1)
    masks = [
        rng.integers(0, 2, (steps, batch, spec.output_size)) * 2.0
        for _ in range(spec.num_layers - 1)
    ] if drops else []  # fmt: skip
    outputs = run(spec, params, args, dropout_masks=masks)
    direction = [rng.standard_normal(output.shape) for output in outputs]
    grads = lstm_gradients(
        spec, params, args.x, args.states, args.lengths, masks,
        d_output=direction[0], d_states=direction[1:],
    )  # fmt: skip

    def loss(values):
        states = [values["h0"], values["c0"]]
        shifted = run(spec, values, args, x=values["x"], states=states, dropout_masks=masks)
        return sum(float((a * b).sum()) for a, b in zip(shifted, direction, strict=True))

    at = {**params, "x": args.x, "h0": args.states[0], "c0": args.states[1]}
    assert grads.keys() == at.keys()
    for name, value in at.items():
        if not value.size:
            continue
        way = rng.standard_normal(value.shape)
        step = 1e-6
        difference = (
            loss({**at, name: value + step * way}) - loss({**at, name: value - step * way})
        ) / (2 * step)
        # A clip bound inside the step would make both sides wrong by the same order as the step.
        assert float((grads[name] * way).sum()) == pytest.approx(difference, rel=1e-5, abs=1e-5)


@given(SMALL, SIZES, SIZES)
def test_batch_major_is_time_major_transposed(spec, steps, batch):
    spec = spec.replace(layout="TNC")
    params, args = parameters(spec), call(spec, steps, batch)
    expected = run(spec, params, args)
    got = run(spec.replace(layout="NTC"), params, args, x=args.x.swapaxes(0, 1))
    assert_close([got[0].swapaxes(0, 1), *got[1:]], expected, 0)


@given(specs(dtypes=("float64",), most_units=5, lengths=False), st.integers(1, 6), SIZES)
def test_a_sequence_is_its_steps_with_states_carried(spec, steps, batch):
    spec = spec.replace(layout="TNC", bidirectional=False)
    params, args = parameters(spec), call(spec, steps, batch)
    expected = run(spec, params, args)
    states, rows = args.states, []
    for t in range(steps):
        y, *states = run(spec, params, args, x=args.x[t : t + 1], states=states)
        rows.append(y)
    assert_close([np.concatenate(rows), *states], expected, 1e-14)


@given(SMALL, SIZES, SIZES)
def test_bidirectional_is_two_lstms(spec, steps, batch):
    spec = spec.replace(layout="TNC", bidirectional=True, num_layers=1)
    params, args = parameters(spec), call(spec, steps, batch)
    y, h, c = run(spec, params, args)
    one = spec.replace(bidirectional=False)
    lengths = np.full(batch, steps) if args.lengths is None else args.lengths
    for direction, letter in enumerate("lr"):
        own = {f"l{name[1:]}": value for name, value in params.items() if name[0] == letter}
        turned = _reverse(args.x, lengths) if direction else args.x
        states = [state[direction : direction + 1] for state in args.states]
        y1, h1, c1 = run(one, own, args, x=turned, states=states)
        part = y[:, :, direction * one.direction_size :][:, :, : one.direction_size]
        expected = _reverse(y1, lengths) if direction else y1
        assert_close([part, h[direction], c[direction]], [expected, h1[0], c1[0]], 1e-14)


def _reverse(data, lengths):
    """Reverse each row's valid steps in time."""
    result = data.copy()
    for n, length in enumerate(lengths):
        result[:length, n] = data[:length, n][::-1]
    return result


@given(SMALL, SIZES, st.integers(1, 4))
def test_rows_of_a_batch_are_independent(spec, steps, batch):
    spec = spec.replace(layout="TNC")
    params, args = parameters(spec), call(spec, steps, batch)
    expected = run(spec, params, args)
    for n in range(batch):
        keep = slice(n, n + 1)
        lengths = None if args.lengths is None else args.lengths[keep]
        states = [state[:, keep] for state in args.states]
        got = run(spec, params, args, x=args.x[:, keep], states=states, sequence_length=lengths)
        assert_close(got, [value[:, keep] for value in expected], 1e-14)


@given(specs(dtypes=("float64",), most_units=5), SIZES, SIZES)
def test_lengths_cut_each_row(spec, steps, batch):
    spec = spec.replace(layout="TNC", use_sequence_length=True)
    params, args = parameters(spec), call(spec, steps, batch)
    y, h, c = run(spec, params, args)
    for n, length in enumerate(args.lengths):
        own = call(spec, steps, batch)
        alone = run(
            spec.replace(use_sequence_length=False), params, own,
            x=args.x[:length, n : n + 1],
            states=[state[:, n : n + 1] for state in args.states],
            sequence_length=None,
        )  # fmt: skip
        assert not y[length:, n].any()
        assert_close([y[:length, n], h[:, n], c[:, n]], [a[:, 0] for a in alone], 1e-14)


@pytest.mark.parametrize(("nan", "kept"), [(False, np.nan), (True, -0.5)])
def test_nan_is_clipped_only_if_asked(nan, kept):
    spec = LSTMSpec(2, input_size=1, state_clip_min=-0.5, state_clip_max=0.5, state_clip_nan=nan)
    params, args = parameters(spec), call(spec, 1, 1)
    args.states[1][...] = np.nan
    _, _, c = run(spec, params, args)
    np.testing.assert_array_equal(c.ravel(), [kept, kept])


def test_wrong_arguments_are_named():
    spec = LSTMSpec(2, input_size=3, use_sequence_length=True)
    params, args = parameters(spec), call(spec, 4, 2)
    with pytest.raises(ShapeMismatchError, match=r"c0: expected shape \(1, 2, 2\)"):
        run(spec, params, args, states=[args.states[0], args.states[1][:, :1]])
    with pytest.raises(InvalidArgumentError, match="needs sequence_length"):
        run(spec, params, args, sequence_length=None)
    with pytest.raises(InvalidArgumentError, match=r"\[0, 4\]"):
        run(spec, params, args, sequence_length=[5, 0])
    with pytest.raises(ShapeMismatchError, match="sequence_length"):
        run(spec, params, args, sequence_length=[1])
    with pytest.raises(MissingParameterError, match="l0_h2h_bias"):
        run(spec, {k: v for k, v in params.items() if k != "l0_h2h_bias"}, args)
