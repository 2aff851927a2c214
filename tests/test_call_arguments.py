"""Binding the arguments of a call to a model's inputs."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gluonlstm.artifact import InputInfo
from gluonlstm.call_arguments import Signature
from gluonlstm.errors import ArgumentTypeError, InvalidArgumentError

DATA = InputInfo("data", ("T", "N", 8), "float32")
H0 = InputInfo("h0", (2, "N", 4), "float32", "hidden", optional=True)
C0 = InputInfo("c0", (2, "N", 4), "float32", "cell", optional=True)
LENGTHS = InputInfo("lengths", ("N",), "int32", "lengths", optional=True)
LSTM = Signature((DATA, H0, C0, LENGTHS))

x, h, c, n = (np.full(2, value) for value in range(4))  # compared by identity


def bound(*args, **kwargs):
    """Return which of x, h, c, n each input got, as text; "-" is None."""
    names = {id(x): "x", id(h): "h", id(c): "c", id(n): "n", id(None): "-"}
    return "".join(names[id(value)] for value in LSTM.bind(args, kwargs))


EQUIVALENT = {
    "x---": [((x,), {}), ((), {"data": x}), ((x, None), {}), ((x, None, None), {}), (([x],), {}),
             ((x, None, None, None), {}), ((x, ()), {}), ((x,), {"states": None}),
             ((x,), {"sequence_length": None}), ((x, [None, None]), {})],
    "xhc-": [((x, (h, c)), {}), ((x, [h, c]), {}), ((x, h, c), {}), (([x, [h, [c]]],), {}),
             ((x,), {"states": (h, c)}), ((x,), {"states": [[h], c]}), ((x,), {"h0": h, "c0": c}),
             ((x, h), {"c0": c}), ((), {"c0": c, "h0": h, "data": x}), ((x, (h, c), None), {}),
             ((x, None), {"states": (h, c)})],
    "xhcn": [((x, (h, c), n), {}), ((x, h, c, n), {}), ((x, (h, c)), {"sequence_length": n}),
             ((x, (h, c)), {"lengths": n}), ((), {"data": x, "states": (h, c), "lengths": n})],
    "x--n": [((x, None, n), {}), ((x, None, None, n), {}), ((x,), {"sequence_length": n}),
             ((x, (None, None), n), {}), ((x,), {"states": None, "lengths": n})],
}  # fmt: skip


@pytest.mark.parametrize("expected", EQUIVALENT)
def test_equivalent_calls(expected):
    for args, kwargs in EQUIVALENT[expected]:
        assert bound(*args, **kwargs) == expected, (args, kwargs)


@pytest.mark.parametrize(
    ("args", "kwargs", "message"),
    [
        ((), {}, r"input\(s\) data missing; the model takes data, \[h0\], \[c0\], \[lengths\]"),
        ((None,), {}, r"data missing"),
        ((x, h, c, n, x), {}, r"5 arguments were given; the model takes data, \[h0\]"),
        ((x, (h, c), n, None), {}, r"5 arguments were given"),
        ((x,), {"data": x}, r"data was given twice"),
        ((x, h, c), {"states": (h, c)}, r"h0 was given twice"),
        ((x,), {"h0": h, "states": (h, c)}, r"h0 was given twice"),
        ((x,), {"lengths": n, "sequence_length": n}, r"lengths was given twice"),
        ((x,), {"lenghts": n}, r"no input 'lenghts'.* Did you mean lengths\?"),
        ((x,), {"state": (h, c)}, r"Did you mean states\?"),
        ((x,), {"whatever": n}, r"\(also as states, sequence_length\)\.$"),
        ((x,), {"states": h}, r"states must be \(h0, c0\), got 1 array"),
        ((x,), {"states": (h, c, h)}, r"states must be \(h0, c0\), got 3 array"),
        ((x,), {"states": []}, r"states must be \(h0, c0\), got 0 array"),
    ],
)
def test_calls_that_do_not_fit(args, kwargs, message):
    with pytest.raises(ArgumentTypeError, match=message):
        LSTM.bind(args, kwargs)


@pytest.mark.parametrize(
    ("args", "kwargs", "message"),
    [
        ((x, h), {}, "h0 was given without c0"),
        ((x,), {"c0": c}, "c0 was given without h0"),
        ((x,), {"states": (h, None)}, "h0 was given without c0"),
    ],
)
def test_half_a_state(args, kwargs, message):
    with pytest.raises(InvalidArgumentError, match=message):
        LSTM.bind(args, kwargs)


def test_required_states_are_missed_by_name():
    signature = Signature((DATA, InputInfo("h", (1,), "float32", "hidden"), C0))
    with pytest.raises(ArgumentTypeError, match=r"input\(s\) h missing"):
        signature.bind((x,), {})


def test_input_names_come_before_aliases():
    signature = Signature((DATA, H0, C0, InputInfo("states", (2,), "float32")))
    assert signature.bind((x,), {"states": n})[3] is n
    with pytest.raises(ArgumentTypeError, match="was given twice"):
        signature.bind((x, h, c, n), {"states": n})


def test_two_pairs_of_states_have_no_alias():
    more = (InputInfo("h1", (1,), "float32", "hidden"), InputInfo("c1", (1,), "float32", "cell"))
    signature = Signature((DATA, H0, C0, *more))
    assert signature.state_pairs == ((1, 2), (3, 4))
    with pytest.raises(ArgumentTypeError, match="no input 'states'"):
        signature.bind((x,), {"states": (h, c)})
    with pytest.raises(InvalidArgumentError, match="c0 was given without h0"):
        signature.bind((x,), {"c0": c, "h1": h, "c1": c})


# --- nested lists of numbers are one array, lists of arrays are several ---------------------

numbers = st.one_of(st.integers(-9, 9), st.floats(-1, 1), st.booleans())


def nested(depth):
    strategy = numbers
    for _ in range(depth):
        strategy = st.lists(strategy, min_size=1, max_size=2)
    return strategy


@given(nested(3), nested(3), nested(3), nested(1), st.booleans())
def test_nested_numbers_are_arrays(data, hidden, cell, lengths, as_pair):
    states = ((hidden, cell),) if as_pair else (hidden, cell)
    assert LSTM.bind((data, *states, lengths), {}) == [data, hidden, cell, lengths]
    assert LSTM.bind((data,), {"states": (hidden, cell)}) == [data, hidden, cell, None]
    assert LSTM.bind((data, None, lengths), {}) == [data, None, None, lengths]


@given(st.data())
def test_any_grouping_of_arrays_is_flattened(data):
    """However the arrays are grouped into tuples and lists, they stand in the same order."""

    def group(values):
        if len(values) < 2 or data.draw(st.booleans()):
            return list(values)
        cut = data.draw(st.integers(1, len(values) - 1))
        kind = data.draw(st.sampled_from([list, tuple]))
        return [kind(group(values[:cut])), *group(values[cut:])]

    assert bound(*group([x, h, c, n])) == "xhcn"
