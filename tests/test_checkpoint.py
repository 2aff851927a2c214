"""Every naming of an LSTM's parameters leads to the same specification and canonical parameters."""

from __future__ import annotations

import random
import re

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from gluonlstm import checkpoint
from gluonlstm.errors import (
    InvalidArgumentError,
    MissingParameterError,
    ShapeMismatchError,
)
from gluonlstm.spec import LSTMSpec
from tests.checkpoint_cases import (
    NAMINGS,
    OTHERS,
    assert_same_params,
    gates,
    packed,
    params_of,
    prefixed,
    specs,
    stack,
    torch_names,
)


@pytest.mark.parametrize("naming", NAMINGS)
@given(spec=specs(), seed=st.integers(0, 2**32 - 1))
@settings(max_examples=25)
def test_every_naming_is_read(naming, spec, seed):
    name, before, key = NAMINGS[naming]
    params = params_of(spec, seed)
    arrays = list(name(spec, params, before).items())
    random.Random(seed).shuffle(arrays)
    found_spec, found = checkpoint.canonical(dict(arrays))
    assert found_spec == spec
    assert_same_params(found, params)
    given_spec, found = checkpoint.canonical(
        dict(arrays), spec.replace(input_size=0, dropout=0.5, layout="NTC")
    )
    assert given_spec == spec.replace(dropout=0.5, layout="NTC")
    assert_same_params(found, params)
    arrays += OTHERS.items()
    random.Random(seed).shuffle(arrays)
    (item,) = checkpoint.find_lstms(dict(arrays)).items()
    assert item[0] == key
    assert item[1][0] == spec
    assert_same_params(item[1][1], params)
    assert checkpoint.canonical(dict(arrays), prefix=key)[0] == spec
    assert checkpoint.canonical(dict(arrays), ignore_extra=True)[0] == spec
    with pytest.raises(InvalidArgumentError, match="5 in all"):
        checkpoint.canonical(dict(arrays))


@given(
    data=st.lists(
        st.tuples(specs(layers=st.integers(1, 3)), st.sampled_from(list(NAMINGS))), max_size=4
    )
)
@settings(max_examples=60)
def test_all_lstms_of_a_model_are_found(data):
    arrays, expected = dict(OTHERS), {}
    for i, (spec, naming) in enumerate(data):
        name, before, _ = NAMINGS[naming]
        head, separator = re.fullmatch(r"(.*?)([._]?)", before).groups()
        owner = f"{head}{'x' if head else ''}{i}{separator or '.'}"
        if name is prefixed and not separator:
            owner = f"x{i}_"
        params = params_of(spec, i)
        arrays |= name(spec, params, owner)
        key = owner.removeprefix("arg:").removeprefix("aux:").removesuffix(".")
        if name is gates and not owner.endswith(("_", ".")):
            owner += "_"
        expected[key] = (spec, params)
    found = checkpoint.find_lstms(arrays)
    assert list(found) == list(expected)
    for key, (spec, params) in expected.items():
        assert found[key][0] == spec
        assert_same_params(found[key][1], params)
    if len(data) > 1:
        with pytest.raises(InvalidArgumentError, match="several LSTMs"):
            checkpoint.canonical(arrays, ignore_extra=True)


def test_find_lstms_of_a_file_without_any():
    assert checkpoint.find_lstms(OTHERS) == {}
    assert checkpoint.find_lstms({}) == {}


@given(spec=specs(layers=st.just(1)))
@settings(max_examples=30)
def test_single_cells(spec):
    params = params_of(spec)
    bare = {key[3:]: value for key, value in params.items() if key[0] == "l"}
    cells = {"decoder." + k: v for k, v in bare.items()}
    if spec.bidirectional:
        cells = {f"decoder.{key[0]}_cell.{key[3:]}": value for key, value in params.items()}
    else:
        # LSTMCell by itself, in collect_params, and torch.nn.LSTMCell
        assert checkpoint.canonical(bare)[0] == spec
        assert checkpoint.canonical(prefixed(spec, bare, "lstm0_"))[0] == spec
        no_layer = {key.replace("_l0", ""): v for key, v in torch_names(spec, params).items()}
        if not spec.projection_size:
            assert checkpoint.canonical(no_layer)[0] == spec
    ((key, (found_spec, found)),) = checkpoint.find_lstms(cells | OTHERS).items()
    assert (key, found_spec) == ("decoder", spec)
    assert_same_params(found, params)


# --- stacks of cells ------------------------------------------------------------------------------


@given(spec=specs(), gaps=st.lists(st.integers(1, 4), min_size=12, max_size=12))
@settings(max_examples=40)
def test_stacks_may_have_gaps_anywhere(spec, gaps):
    positions = np.cumsum(gaps)
    arrays = {}
    for key, value in stack(spec, params_of(spec), step=1).items():
        layer, rest = key.split(".", 1)
        arrays[f"{positions[int(layer)]}.{rest}"] = value
    found_spec, found = checkpoint.canonical(arrays)
    assert found_spec == spec
    assert_same_params(found, params_of(spec))


def test_an_old_gluon_lstm_with_dropout_is_a_stack_itself():
    spec = LSTMSpec(4, num_layers=3, input_size=2)
    params = params_of(spec)
    arrays = {"_unfused." + key: value for key, value in stack(spec, params).items()}
    assert "_unfused.4.h2h_bias" in arrays
    assert checkpoint.canonical(arrays)[0] == spec
    assert_same_params(checkpoint.canonical(arrays, spec)[1], params)
    # but with 5 layers, two of them are missing
    with pytest.raises(MissingParameterError) as caught:
        checkpoint.canonical(arrays, spec.replace(num_layers=5))
    assert "_unfused.1.i2h_weight" in caught.value.missing


def test_cells_that_cannot_follow_each_other_are_apart():
    one, two = LSTMSpec(3, input_size=2), LSTMSpec(4, input_size=7)
    arrays = {f"cells.0.{k[3:]}": v for k, v in params_of(one).items()}
    arrays |= {f"cells.1.{k[3:]}": v for k, v in params_of(two).items()}
    found = checkpoint.find_lstms(arrays)
    assert {key: spec for key, (spec, _) in found.items()} == {"cells.0": one, "cells.1": two}
    assert checkpoint.canonical(arrays, prefix="cells.1")[0] == two
    with pytest.raises(ShapeMismatchError, match=r"cells.1.i2h_weight: expected shape \(12, 3\)"):
        checkpoint.canonical(arrays)


def test_residual_cells_are_apart():
    spec = LSTMSpec(3, input_size=3)
    arrays = {f"{i}.base_cell.{k[3:]}": v for i in range(2) for k, v in params_of(spec, i).items()}
    assert list(checkpoint.find_lstms(arrays)) == ["0.base_cell", "1.base_cell"]


def _numbered(spec, prefix, first=0):
    """Cells in collect_params: only their prefixes' numbers tell them apart."""
    numbers = {}
    arrays = {}
    for key, value in params_of(spec).items():
        cell, kind = key.split("_", 1)
        number = numbers.setdefault(cell, len(numbers) + first)
        arrays[f"{prefix}{number}_{kind}"] = value
    return arrays


@given(spec=specs(), prefix=st.sampled_from(["lstm", "rnn_lstm", "decoder"]))
@settings(max_examples=60)
def test_cells_numbered_by_their_prefixes(spec, prefix):
    arrays = _numbered(spec, prefix, 9)  # lstm9_, lstm10_, ...: not in the order of letters
    found_spec, found = checkpoint.canonical(arrays, spec)
    assert found_spec == spec
    assert_same_params(found, params_of(spec))
    cells = spec.num_layers * spec.directions
    if cells == 1:
        return
    assert len(checkpoint.find_lstms(arrays)) == cells
    assert list(checkpoint.find_lstms(arrays, spec)) == [prefix]
    if cells == 2 and spec.input_size == spec.direction_size:
        with pytest.raises(InvalidArgumentError, match="Give the LSTMSpec"):
            checkpoint.canonical(arrays)
    else:
        assert checkpoint.canonical(arrays)[0] == spec


def test_layers_and_directions_that_cannot_be_told_apart_are_refused():
    layers = LSTMSpec(3, num_layers=2, input_size=3)
    arrays = _numbered(layers, "lstm")
    with pytest.raises(InvalidArgumentError, match="lstm0_, lstm1_ may be 2 layers or the two"):
        checkpoint.canonical(arrays)
    assert checkpoint.canonical(arrays, layers)[0] == layers
    both = layers.replace(num_layers=1, bidirectional=True)
    assert checkpoint.canonical(arrays, both)[0] == both


@given(spec=specs())
@settings(max_examples=30)
def test_prefixes_that_end_in_a_letter(spec):
    assume(spec.num_layers > 1 or spec.bidirectional)
    params = params_of(spec)
    arrays = prefixed(spec, params, "enc")  # encl0_i2h_weight, encr0_i2h_weight, ...
    found_spec, found = checkpoint.canonical(arrays, spec)
    assert found_spec == spec
    assert_same_params(found, params)


# --- flat vectors ---------------------------------------------------------------------------------

VECTOR_NAMES = (
    "lstm_parameters",
    "arg:lstm_parameters",
    "parameters",
    "encoder.rnn_param",
    "rnn_param",
    "p",
)


@given(spec=specs(), name=st.sampled_from(VECTOR_NAMES))
@settings(max_examples=60)
def test_flat_vectors(spec, name):
    params = params_of(spec)
    full = spec.replace(bias=True)
    with_biases = {
        p.name: params.get(p.name, np.zeros(p.shape, spec.dtype)) for p in full.parameters()
    }
    vector = packed(full, with_biases, name)
    assert checkpoint.pack(spec, params).tobytes() == vector[name].tobytes()
    assert_same_params(checkpoint.unpack(spec, vector[name]), params)
    assert_same_params(checkpoint.unpack(spec.replace(input_size=0), vector[name]), params)
    for hint in (spec, spec.replace(input_size=0)):
        found_spec, found = checkpoint.canonical(vector, hint)
        assert found_spec == spec
        assert_same_params(found, params)
    if name != "p":
        ((key, (found_spec, _)),) = checkpoint.find_lstms(vector | OTHERS, spec).items()
        assert found_spec == spec
        assert checkpoint.find_lstms(vector | OTHERS) == {}
        assert checkpoint.find_lstms(vector | OTHERS, {key: spec})[key][0] == spec
        with pytest.raises(InvalidArgumentError, match="does not tell hidden size"):
            checkpoint.canonical(vector)


@given(spec=specs(), change=st.integers(-3, 3))
@settings(max_examples=60)
def test_flat_vectors_of_the_wrong_length(spec, change):
    assume(change)
    vector = np.zeros(spec.packed_size + change, "f4")
    with pytest.raises(ShapeMismatchError, match="vector: expected shape") as caught:
        checkpoint.unpack(spec, vector)
    assert caught.value.got == vector.shape
    open_size = spec.replace(input_size=0)
    rows = 4 * spec.hidden_size * spec.directions
    if change % rows or spec.input_size + change // rows < 1:
        with pytest.raises(ShapeMismatchError, match="input_size=unknown"):
            checkpoint.unpack(open_size, vector)


def test_flat_vectors_of_other_shapes_and_specs():
    spec = LSTMSpec(2, input_size=3)
    with pytest.raises(ShapeMismatchError, match="flat"):
        checkpoint.unpack(spec, np.zeros((spec.packed_size, 1)))
    with pytest.raises(InvalidArgumentError, match="l0_i2h_bias of vector is not zero"):
        checkpoint.unpack(spec.replace(bias=False), np.ones(spec.packed_size))
    with pytest.raises(MissingParameterError, match="l0_h2h_bias"):
        checkpoint.pack(spec, {k: v for k, v in params_of(spec).items() if k != "l0_h2h_bias"})
    with pytest.raises(ShapeMismatchError, match="l0_h2h_weight"):
        checkpoint.pack(spec, params_of(spec) | {"l0_h2h_weight": np.zeros((8, 3))})
    two = {"a_parameters": np.zeros(spec.packed_size), "b_parameters": np.zeros(spec.packed_size)}
    with pytest.raises(InvalidArgumentError, match="several"):
        checkpoint.find_lstms(two, spec)
    with pytest.raises(InvalidArgumentError, match="several LSTMs: 'a_', 'b_'"):
        checkpoint.canonical(two, spec)
    assert list(checkpoint.find_lstms(two, {"b_": spec})) == ["b_"]
