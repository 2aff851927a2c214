"""Packed weights: every element is where the kernels' texts say, the rest is 0."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.lstm_cases import parameters, specs

pytestmark = pytest.mark.tvm  # importing gluonlstm.codegen's siblings is not needed; plan is

SMALL = st.integers(1, 9)


@given(SMALL, SMALL, SMALL, st.integers(1, 5))
def test_interleave(groups, per_group, depth, lanes):
    from gluonlstm.codegen.packing import interleave

    matrix = np.arange(1, groups * per_group * depth + 1).reshape(groups * per_group, depth)
    packed = interleave(matrix, groups, lanes)
    assert packed.shape == (-(-per_group // lanes), depth, groups, lanes)
    assert packed.flags.c_contiguous
    for g in range(groups):
        for m in range(per_group):
            np.testing.assert_array_equal(
                packed[m // lanes, :, g, m % lanes], matrix[g * per_group + m]
            )
    assert packed.astype(bool).sum() == matrix.size


@given(SMALL, SMALL, SMALL, st.integers(1, 5))
def test_interleave_columns(groups, rows, depth, lanes):
    from gluonlstm.codegen.packing import interleave_columns

    matrix = np.arange(1, rows * depth + 1).reshape(rows, depth)
    packed = interleave_columns(matrix, groups, lanes)
    assert packed.shape == (-(-rows // (groups * lanes)), depth, groups, lanes)
    for m in range(rows):
        block, rest = divmod(m, groups * lanes)
        np.testing.assert_array_equal(packed[block, :, rest // lanes, rest % lanes], matrix[m])
    assert packed.astype(bool).sum() == matrix.size


@given(specs(most_units=9, biases=(True,)))
def test_the_two_biases_are_added(spec):
    from gluonlstm.codegen.packing import interleave, pack_layer

    params = parameters(spec)
    packed = pack_layer(spec, 0, params, 4, spec.dtype)
    for d, letter in enumerate("lr"[: spec.directions]):
        i2h, h2h = (params[f"{letter}0_{kind}_bias"] for kind in ("i2h", "h2h"))
        total = (i2h.astype(np.float64) + h2h).astype(spec.dtype)
        np.testing.assert_array_equal(packed["bias"][d], interleave(total[:, None], 4, 4)[:, 0])


@given(specs(most_units=9, biases=(False,)))
def test_without_biases_they_are_zero(spec):
    from gluonlstm.codegen.packing import pack_layer

    assert not pack_layer(spec, 0, parameters(spec), 4, spec.dtype)["bias"].any()


@given(specs(most_units=9, clips=False, lengths=False))
def test_cuda_weights_are_where_the_kernels_look(spec):
    from gluonlstm.codegen.packing import pack_layer_cuda

    params = parameters(spec)
    packed = pack_layer_cuda(spec, 0, params)
    hidden = spec.hidden_size
    assert all(array.dtype == np.float32 and array.flags.c_contiguous for array in packed.values())
    for d, letter in enumerate("lr"[: spec.directions]):
        for gate in range(4):
            rows = slice(gate * hidden, (gate + 1) * hidden)
            i2h, h2h = (params[f"{letter}0_{kind}_weight"][rows] for kind in ("i2h", "h2h"))
            own = packed["w_i2h"].reshape(spec.input_size, spec.directions, hidden, 4)
            np.testing.assert_array_equal(own[:, d, :, gate], i2h.T.astype("float32"))
            np.testing.assert_array_equal(packed["w_h2h"][d, :, :, gate], h2h.T.astype("float32"))
            bias = np.zeros(hidden)
            if spec.bias:
                pair = [params[f"{letter}0_{kind}_bias"][rows] for kind in ("i2h", "h2h")]
                bias = sum(part.astype(np.float64) for part in pair)
            got = packed["b"].reshape(spec.directions, hidden, 4)[d, :, gate]
            np.testing.assert_array_equal(got, bias.astype("float32"))
        if spec.projection_size:
            projection = params[f"{letter}0_h2r_weight"].T.astype("float32")
            np.testing.assert_array_equal(packed["w_h2r"][d], projection)
    assert ("w_h2r" in packed) == bool(spec.projection_size)
