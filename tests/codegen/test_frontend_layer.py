"""One LSTM given as a spec and weights, and the builder that every lowering uses."""

from __future__ import annotations

import gc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("tvm", reason="tvm is not installed")

import tvm
from tvm import relax
from tvm.script import relax as R

from gluonlstm import reference
from gluonlstm.codegen.frontend.builder import ModelBuilder
from gluonlstm.codegen.frontend.layer import lower_lstm
from gluonlstm.codegen.frontend.sizes import Letters, Size, resolve, unify, unify_shapes
from gluonlstm.errors import InvalidArgumentError, MissingParameterError, ShapeMismatchError
from gluonlstm.spec import LSTMSpec
from tests.codegen import frontend_cases as cases
from tests.codegen.frontend_cases import ReferenceEmitter

pytestmark = pytest.mark.tvm
SPEC = LSTMSpec(4, input_size=3)


# --- a spec and weights ----------------------------------------------------------------------


@given(st.data(), st.booleans(), st.integers(0, 4), st.integers(0, 3), st.booleans())
@settings(max_examples=25)
def test_any_spec_computes_the_reference(data, bias, steps, batch, with_states):
    spec = data.draw(cases.specs(bias=bias))
    rng = np.random.default_rng(0)
    params = cases.random_params(spec, rng)
    x, h0, c0, lengths = cases.random_arrays(spec, rng, steps, batch)
    arrays = {"data": x, "sequence_length": lengths}
    arrays |= {"h0": h0, "c0": c0} if with_states else {}
    lowered = lower_lstm(spec, params, ReferenceEmitter())
    got = cases.run(lowered, arrays)
    valid = lengths if spec.use_sequence_length else None
    y, states = reference.lstm(spec, params, x, [h0, c0] if with_states else None, valid)
    for value, want in zip(got, (y, *states), strict=True):
        np.testing.assert_allclose(value, want, rtol=0, atol=2e-6)
    assert lowered.spec == spec


def test_inputs_and_outputs():
    spec = SPEC.replace(layout="NTC", bidirectional=True, projection_size=2, num_layers=2)
    params = cases.random_params(spec, np.random.default_rng(0))
    lowered = lower_lstm(spec, params, ReferenceEmitter(), optional_lengths=True)
    assert [(i.name, i.shape, i.dtype, i.role, i.optional) for i in lowered.inputs] == [
        ("data", ("N", "T", 3), "float32", "data", False),
        ("h0", (4, "N", 2), "float32", "hidden", True),
        ("c0", (4, "N", 4), "float32", "cell", True),
        ("sequence_length", ("N",), "int32", "lengths", True),
    ]
    assert [(o.name, o.shape) for o in lowered.outputs] == [
        ("output", ("N", "T", 4)),
        ("h", (4, "N", 2)),
        ("c", (4, "N", 4)),
    ]
    needed = lower_lstm(
        spec.replace(use_sequence_length=True), params, ReferenceEmitter(), optional_lengths=False
    )
    assert not needed.inputs[3].optional


def test_shapes_fix_sizes():
    params = cases.random_params(SPEC, np.random.default_rng(0))
    lowered = lower_lstm(SPEC, params, ReferenceEmitter(), shapes={"data": (7, 2, 3)})
    assert [i.shape for i in lowered.inputs] == [(7, 2, 3), (1, 2, 4), (1, 2, 4)]


def test_weights_take_the_dtype_of_the_spec():
    params = cases.random_params(SPEC, np.random.default_rng(0))
    lowered = lower_lstm(SPEC.replace(dtype="float64"), params, ReferenceEmitter())
    assert {str(array.dtype) for array in lowered.weights.values()} == {"float64"}
    assert lowered.outputs[0].dtype == "float64"


@pytest.mark.parametrize(
    ("changes", "shapes", "error", "match"),
    [
        ({"l0_i2h_bias": None}, {}, MissingParameterError, "l0_i2h_bias"),
        ({"l0_h2h_weight": (4, 16)}, {}, ShapeMismatchError, r"l0_h2h_weight.*\(16, 4\)"),
        ({}, {"x": (1, 2, 3)}, InvalidArgumentError, "'x', which is no input.*'data', 'h0', 'c0'"),
        ({}, {"data": (None, None, 4)}, ShapeMismatchError, r"shapes\['data'\]"),
        ({}, {"data": (None, 2, 3), "h0": (1, 3, 4)}, ShapeMismatchError, r"shapes\['h0'\]"),
    ],
)
def test_what_does_not_fit(changes, shapes, error, match):
    params = cases.random_params(SPEC, np.random.default_rng(0))
    for name, shape in changes.items():
        params.pop(name) if shape is None else params.update({name: np.zeros(shape)})
    with pytest.raises(error, match=match):
        lower_lstm(SPEC, params, ReferenceEmitter(), shapes=shapes)


def test_an_unknown_input_size():
    with pytest.raises(InvalidArgumentError, match="input_size=0"):
        lower_lstm(LSTMSpec(4), {}, ReferenceEmitter())


# --- the builder -----------------------------------------------------------------------------


def test_module_is_the_one_written_by_hand():
    with ModelBuilder() as builder:
        x = builder.input("data 0", ("N", 3), "float32")
        w = builder.weight("w.0", np.ones((3, 4), np.float32))
        y = builder.emit(relax.op.matmul(x, w))
        lowered = builder.finish([("y", y), ("x", x)])

    @R.function
    def main(x: R.Tensor(("N", 3), "float32"), w: R.Tensor((3, 4), "float32")):
        R.func_attr({"num_input": 1})
        with R.dataflow():
            y = R.matmul(x, w)
            out = y
            same = x
            R.output(out, same)
        return (out, same)

    tvm.ir.assert_structural_equal(lowered.mod["main"], main.with_attr("global_symbol", "main"))
    assert [info.name for info in lowered.inputs] == ["data 0"]
    assert list(lowered.weights) == ["w.0"]
    assert [(info.name, info.shape) for info in lowered.outputs] == [
        ("y", ("N", 4)),
        ("x", ("N", 3)),
    ]


def test_sizes_that_are_formulas():
    with ModelBuilder() as builder:
        x = builder.input("x", ("T", "N", 3), "float32")
        flat = builder.emit(relax.op.reshape(x, [-1, 3]))
        lowered = builder.finish([("flat", flat)])
    assert lowered.outputs[0].shape in {("T * N", 3), ("N * T", 3)}


def test_one_array_under_one_name_is_one_weight():
    array = np.ones(3, np.float32)
    with ModelBuilder() as builder:
        x = builder.input("x", (3,), "float32")
        same = [builder.weight("w", array), builder.weight("w", array)]
        other = builder.weight("w", 2 * array)
        total = builder.emit(relax.op.add(relax.op.add(x, same[0]), other))
        lowered = builder.finish([("y", total)])
    assert same[0].same_as(same[1])
    assert list(lowered.weights) == ["w", "w_1"]
    (y,) = cases.run(lowered, {"x": array})
    np.testing.assert_array_equal(y, 4 * array)


def test_an_input_twice():
    with ModelBuilder() as builder:
        builder.input("x", (3,), "float32")
        with pytest.raises(InvalidArgumentError, match="two inputs named 'x'"):
            builder.input("x", (3,), "float32")


def test_scopes_are_left_on_errors(capfd):
    before = len(relax.BlockBuilder._stack)
    with pytest.raises(ZeroDivisionError), ModelBuilder():
        raise ZeroDivisionError
    ModelBuilder().__exit__(None, None, None)  # also without an error, and unfinished
    assert len(relax.BlockBuilder._stack) == before
    gc.collect()
    assert "remaining blocks" not in capfd.readouterr().err


# --- sizes -----------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.integers(0, 7), st.integers(0, 7)), max_size=12), st.data())
def test_unify_is_equality(pairs, data):
    # Sizes 0..5 are free, 6 and 7 are the numbers 3 and 4; an oracle keeps sets of equals.
    sizes = [*(Size(letter) for letter in "abcdef"), 3, 4]
    classes = [{i} for i in range(8)]
    for left, right in pairs:
        merged = classes[left] | classes[right]
        if {6, 7} <= merged:
            assert not unify(sizes[left], sizes[right])
            return
        assert unify(sizes[left], sizes[right])
        for i in merged:
            classes[i] = merged
    for i in range(8):
        for j in range(8):
            assert (resolve(sizes[i]) is resolve(sizes[j])) == (j in classes[i])
    letters = Letters().shape(sizes)
    assert [isinstance(letter, int) for letter in letters] == [bool({6, 7} & c) for c in classes]


def test_letters():
    steps, other, batch, nameless = Size("T"), Size("T"), Size("N"), Size()
    assert unify(nameless, batch)
    assert unify_shapes((steps, Size()), (steps, 5))
    names = Letters().shape((steps, other, nameless, Size(), steps, batch))
    assert names == ("T", "T2", "N", "S", "T", "N")
    assert repr(nameless) == "N"
    assert not unify_shapes((steps,), (1, 2))
