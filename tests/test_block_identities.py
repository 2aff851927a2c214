"""What must hold between calls of the block, whatever the values: no oracle needed."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import lstm_cases
from tests.lstm_cases import parameters
from tests.mxnet_cases import MODES, array, layer, listed

pytestmark = pytest.mark.mxnet
EXAMPLES = settings(max_examples=25)
MODE = st.sampled_from(MODES)
SIZE = st.integers(1, 5)
TOLERANCE = {"float32": 1e-6, "float64": 1e-14}


def specs(**changes):
    return lstm_cases.specs(**{"most_units": 6, "layouts": ("TNC",), **changes})


def run(net, args, **changes):
    """Call with NumPy arrays; return y, h, c as NumPy arrays."""
    values = {"x": args.x, "states": args.states, "lengths": args.lengths} | changes
    lengths = values["lengths"]
    outputs = net(
        array(values["x"]),
        [array(state) for state in values["states"]],
        None if lengths is None else array(lengths),
    )
    return [output.asnumpy() for output in listed(outputs)]


def close(spec, got, expected):
    lstm_cases.assert_close(got, expected, TOLERANCE[spec.dtype])


@EXAMPLES
@given(specs(), SIZE, SIZE, MODE)
def test_ntc_is_tnc_transposed(spec, steps, batch, mode):
    args = lstm_cases.call(spec, steps, batch)
    y, h, c = run(layer(spec, mode=mode), args)
    transposed = layer(spec.replace(layout="NTC"), mode=mode)
    other_y, *others = run(transposed, args, x=args.x.swapaxes(0, 1))
    close(spec, [other_y.swapaxes(0, 1), *others], [y, h, c])


@EXAMPLES
@given(specs(lengths=False), SIZE, SIZE, MODE)
def test_steps_are_calls_with_carried_states(spec, steps, batch, mode):
    spec = spec.replace(bidirectional=False)
    args = lstm_cases.call(spec, steps, batch)
    net = layer(spec, mode=mode)
    outputs, states = [], args.states
    for step in range(steps):
        y, *states = run(net, args, x=args.x[step : step + 1], states=states)
        outputs.append(y)
    close(spec, [np.concatenate(outputs), *states], run(net, args))


@EXAMPLES
@given(specs(), SIZE, st.integers(2, 5), MODE)
def test_rows_of_a_batch_are_independent(spec, steps, batch, mode):
    args = lstm_cases.call(spec, steps, batch)
    net = layer(spec, mode=mode)
    y, h, c = run(net, args)
    for row in range(batch):
        some = slice(row, row + 1)
        alone = run(
            net,
            args,
            x=args.x[:, some],
            states=[state[:, some] for state in args.states],
            lengths=None if args.lengths is None else args.lengths[some],
        )
        close(spec, alone, [y[:, some], h[:, some], c[:, some]])


@EXAMPLES
@given(specs(), SIZE, SIZE, MODE)
def test_bidirectional_is_two_layers(spec, steps, batch, mode):
    spec = spec.replace(bidirectional=True, num_layers=1)
    one = spec.replace(bidirectional=False)
    args = lstm_cases.call(spec, steps, batch)
    params = parameters(spec)
    y, h, c = run(layer(spec, params, mode), args)
    lengths = np.full(batch, steps) if args.lengths is None else args.lengths
    time = np.arange(steps)[:, None]
    backward = np.where(time < lengths, lengths - 1 - time, time)  # (T, N)
    results = []
    for direction, letter in enumerate("lr"):
        own = {name.replace(letter, "l", 1): v for name, v in params.items() if name[0] == letter}
        x = args.x[backward, np.arange(batch)] if direction else args.x
        states = [state[direction : direction + 1] for state in args.states]
        part = run(layer(one, own, mode), args, x=x, states=states)
        if direction:
            part[0] = part[0][backward, np.arange(batch)]
        results.append(part)
    parts = [
        np.concatenate(p, axis)
        for p, axis in zip(zip(*results, strict=True), (2, 0, 0), strict=True)
    ]
    close(spec, parts, [y, h, c])


@EXAMPLES
@given(specs(), SIZE, SIZE, MODE)
def test_a_stack_is_its_layers(spec, steps, batch, mode):
    args = lstm_cases.call(spec, steps, batch)
    params = parameters(spec)
    x, finals = args.x, []
    for number in range(spec.num_layers):
        one = spec.replace(num_layers=1, input_size=x.shape[2])
        own = {
            name.replace(str(number), "0", 1): value
            for name, value in params.items()
            if name[1 : name.index("_")] == str(number)
        }
        rows = slice(number * spec.directions, (number + 1) * spec.directions)
        states = [state[rows] for state in args.states]
        x, *states = run(layer(one, own, mode), args, x=x, states=states)
        finals.append(states)
    stacked = [np.concatenate(parts) for parts in zip(*finals, strict=True)]
    close(spec, [x, *stacked], run(layer(spec, params, mode), args))


@EXAMPLES
@given(specs(), SIZE, SIZE, MODE)
def test_full_lengths_are_no_lengths(spec, steps, batch, mode):
    spec = spec.replace(use_sequence_length=True)
    args = lstm_cases.call(spec, steps, batch)
    full = run(layer(spec, mode=mode), args, lengths=np.full(batch, steps, "int32"))
    without = layer(spec.replace(use_sequence_length=False), mode=mode)
    close(spec, full, run(without, args, lengths=None))


@EXAMPLES
@given(specs(), SIZE, SIZE, MODE, st.integers(1, 4))
def test_more_padding_changes_nothing(spec, steps, batch, mode, more):
    spec = spec.replace(use_sequence_length=True)
    args = lstm_cases.call(spec, steps, batch)
    net = layer(spec, mode=mode)
    y, h, c = run(net, args)
    padding = np.full((more, *args.x.shape[1:]), 1e3, args.x.dtype)
    longer = run(net, args, x=np.concatenate([args.x, padding]))
    assert not longer[0][steps:].any()
    close(spec, [longer[0][:steps], *longer[1:]], [y, h, c])


@EXAMPLES
@given(specs(biases=(True,)), SIZE, SIZE, MODE)
def test_no_bias_is_a_bias_of_zeros(spec, steps, batch, mode):
    args = lstm_cases.call(spec, steps, batch)
    params = parameters(spec)
    zeros = {n: v * 0 if n.endswith("bias") else v for n, v in params.items()}
    without = layer(spec.replace(bias=False), params, mode)
    close(spec, run(without, args), run(layer(spec, zeros, mode), args))


@EXAMPLES
@given(specs(clips=False), SIZE, SIZE, MODE)
def test_wide_clip_bounds_change_nothing(spec, steps, batch, mode):
    args = lstm_cases.call(spec, steps, batch)
    clipped = layer(spec.replace(state_clip_min=-1e6, state_clip_max=1e6), mode=mode)
    close(spec, run(clipped, args), run(layer(spec, mode=mode), args))


@EXAMPLES
@given(specs(), SIZE, SIZE)
def test_modes_agree(spec, steps, batch):
    args = lstm_cases.call(spec, steps, batch)
    eager = run(layer(spec), args)
    for mode in MODES[1:]:
        net = layer(spec, mode=mode)
        close(spec, run(net, args), eager)
        # And again with other sizes, and back.
        other = lstm_cases.call(spec, steps + 1, batch + 2)
        assert run(net, other)[0].shape == spec.data_shape(steps + 1, batch + 2, spec.output_size)
        close(spec, run(net, args), eager)
