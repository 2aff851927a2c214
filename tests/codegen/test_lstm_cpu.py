"""The CPU kernel alone: every option, tile shape and vector width against the reference."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gluonlstm import LSTMSpec
from gluonlstm.machine import cpu_flags
from gluonlstm.reference import lstm
from tests.codegen.kernel_cases import run_layers
from tests.lstm_cases import TOLERANCE, assert_close, call, parameters, specs

pytestmark = pytest.mark.tvm


def check(spec, calls, target="llvm", scale=0.6, **tiles):
    from gluonlstm.codegen.target import resolve

    params = parameters(spec, scale=scale)
    for args in calls:
        y, states = lstm(spec, params, args.x, args.states, args.lengths)
        got = run_layers(spec, params, args, resolve(target), **tiles)
        assert_close(got, [y, *states], TOLERANCE[spec.dtype])


@settings(max_examples=12)
@given(
    specs(layouts=("TNC",), most_layers=1),
    st.integers(0, 12),
    st.integers(0, 15),
    st.integers(1, 6),
    st.integers(1, 40),
)
def test_any_tile_gives_the_same(spec, steps, batch, rows, chunk_rows):
    check(spec, [call(spec, steps, batch)], rows=rows, chunk_rows=chunk_rows)


@pytest.mark.parametrize("mcpu", ["x86-64", "x86-64-v3", "x86-64-v4"])
@pytest.mark.parametrize("projection", [None, 7])
def test_every_vector_width(mcpu, projection):
    from gluonlstm.codegen.target import resolve

    target = {"kind": "llvm", "mcpu": mcpu, "mtriple": "x86_64-linux-gnu"}
    missing = set(resolve(target).cpu_features) - set(cpu_flags() or ())
    if missing:
        pytest.skip(f"this CPU lacks {', '.join(sorted(missing))}")
    spec = LSTMSpec(21, input_size=9, bidirectional=True, projection_size=projection)
    check(spec, [call(spec, 5, 13)], target)


def test_narrow_layers_run_on_one_thread():
    # One block of units and one direction: nothing to share out, and TVM has no loop of extent 1.
    spec = LSTMSpec(3, input_size=2)
    check(spec, [call(spec, 4, 2), call(spec, 1, 1)])


@pytest.mark.parametrize("nan", [False, True])
def test_nan_follows_the_reference(nan):
    spec = LSTMSpec(18, input_size=4, state_clip_min=-0.25, state_clip_max=0.5, state_clip_nan=nan)
    args = call(spec, 6, 3)
    args.x[2, 1, 0] = np.nan
    check(spec, [args])


@pytest.mark.parametrize("projection", [None, 34])
@pytest.mark.parametrize("rows", [1, 6])
def test_nothing_is_divided_by_an_empty_batch(projection, rows):
    # TVM's CommonSubexprElim moved a division by N out of a loop over N.
    spec = LSTMSpec(36, input_size=10, use_sequence_length=True, projection_size=projection)
    check(spec, [call(spec, 3, 0), call(spec, 0, 3), call(spec, 0, 0)], rows=rows, chunk_rows=14)


def test_infinite_inputs_saturate():
    spec = LSTMSpec(18, input_size=4)
    args = call(spec, 6, 3)
    args.x *= 1e30
    check(spec, [args])


def test_long_sequences_keep_the_accuracy():
    spec = LSTMSpec(64, input_size=48)
    check(spec, [call(spec, 200, 7)])


def test_threads_share_nothing_but_r():
    # Many short steps on all threads; a buffer shared by mistake shows up within a few hundred.
    spec = LSTMSpec(40, input_size=3, projection_size=20, bidirectional=True)
    check(spec, [call(spec, 300, 5, seed) for seed in range(3)], scale=0.2)


@pytest.mark.parametrize("change", [{"lanes": 0}, {"rows": 0}, {"chunk_rows": 0}])
def test_impossible_tiles_are_refused(change):
    from gluonlstm.codegen.kernels.lstm_cpu import CPUTiles

    with pytest.raises(ValueError, match="at least 1"):
        dataclasses.replace(CPUTiles(16, 6, 384), **change)
