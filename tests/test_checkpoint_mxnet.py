"""Checkpoints against MXNet 1.9.1: what it writes is read, and what is written it loads."""

from __future__ import annotations

import functools

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gluonlstm import checkpoint, params_file
from gluonlstm.spec import LSTMSpec
from tests.checkpoint_cases import OTHERS, assert_same_params, params_of, specs, structural

pytestmark = pytest.mark.mxnet
some = functools.partial(settings, suppress_health_check=[HealthCheck.function_scoped_fixture])
# float16 layers can be saved and loaded, only not run.
GLUON = specs(bias=True, layers=st.integers(1, 10))


@pytest.fixture(scope="module")
def mx():
    from gluonlstm.mxnet_compat import mx

    return mx


def layer_of(mx, spec, prefix=None, params=None):
    """Return stock's layer with these parameters, or with random ones."""
    layer = mx.gluon.rnn.LSTM(
        spec.hidden_size,
        spec.num_layers,
        bidirectional=spec.bidirectional,
        input_size=spec.input_size,
        projection_size=spec.projection_size,
        dropout=spec.dropout,
        dtype=spec.dtype,
        prefix=prefix,
    )
    layer.initialize()
    for name, parameter in layer._reg_params.items():
        parameter.set_data(mx.nd.array((params or params_of(spec))[name], dtype=spec.dtype))
    return layer


def values(layer):
    return {name: parameter.data().asnumpy() for name, parameter in layer._reg_params.items()}


def model_of(mx, spec):
    """Return an embedding, two LSTMs (one twice) and a dense layer."""

    class Model(mx.gluon.HybridBlock):
        def __init__(self):
            super().__init__(prefix="model0_")
            with self.name_scope():
                self.embed = mx.gluon.nn.Embedding(9, spec.input_size)
                self.encoder = layer_of(mx, spec)
                self.tail = mx.gluon.nn.HybridSequential()
                with self.tail.name_scope():
                    self.tail.add(layer_of(mx, spec.replace(input_size=spec.output_size)))
                    self.tail.add(mx.gluon.nn.Dense(3, flatten=False, in_units=spec.output_size))

        def hybrid_forward(self, F, x):
            return self.tail(self.encoder(self.embed(x)))

    model = Model()
    model.embed.initialize()
    model.tail[1].initialize()
    return model


@given(spec=GLUON)
@some(max_examples=30)
def test_every_way_of_saving_is_read(mx, tmp_path, spec):
    layer = layer_of(mx, spec, prefix="enc_")
    ways = {
        "structural": layer.save_parameters,
        "deduplicated": lambda path: layer.save_parameters(path, deduplicate=True),
        "full": layer.collect_params().save,
        "stripped": lambda path: layer.collect_params().save(path, strip_prefix="enc_"),
    }
    for name, save in ways.items():
        path = tmp_path / name
        save(str(path))
        found_spec, found = checkpoint.canonical(checkpoint.read(path))
        assert found_spec == spec
        assert_same_params(found, values(layer))


@given(spec=specs(bias=True, layers=st.integers(11, 13)))
@some(max_examples=3)
def test_more_than_ten_layers(mx, tmp_path, spec):
    layer = layer_of(mx, spec, prefix="enc_")
    layer.collect_params().save(str(tmp_path / "full"))  # stock cannot save_parameters
    found_spec, found = checkpoint.canonical(checkpoint.read(tmp_path / "full"))
    assert found_spec == spec
    assert_same_params(found, values(layer))


@given(spec=GLUON, old=st.sampled_from(["model.params", "prefix"]))
@some(max_examples=20)
def test_stock_loads_what_is_written(mx, tmp_path, spec, old):
    params = params_of(spec)
    checkpoint.write(tmp_path / "gluon", spec, params, "gluon")
    layer = layer_of(mx, spec, params=params_of(spec, 1))
    layer.load_parameters(str(tmp_path / "gluon"))
    assert_same_params(values(layer), params)
    # byte for byte what stock writes
    layer.save_parameters(str(tmp_path / "stock"))
    assert (tmp_path / "gluon").read_bytes() == (tmp_path / "stock").read_bytes()
    # stripped and full prefixes
    params_file.save(tmp_path / "stripped", params)
    layer = layer_of(mx, spec, params=params_of(spec, 1))
    layer.load_parameters(str(tmp_path / "stripped"))
    assert_same_params(values(layer), params)
    params_file.save(tmp_path / "full", checkpoint.rename(spec, params, "prefix", "enc_"))
    layer = layer_of(mx, spec, prefix="enc_", params=params_of(spec, 1))
    layer.collect_params().load(str(tmp_path / "full"))
    assert_same_params(values(layer), params)
    layer.collect_params().save(str(tmp_path / "stock"))
    assert (tmp_path / "full").read_bytes() == (tmp_path / "stock").read_bytes()


# Without projections: running several bidirectional layers whose P is 4 H or more writes beyond the
# end of MXNet 1.9.1's own buffers on the CPU.
@given(spec=specs(bias=True, projection=False, layers=st.integers(1, 3)))
@some(max_examples=10)
def test_models(mx, tmp_path, spec):
    spec = spec.replace(dtype="float32")
    model = model_of(mx, spec)
    expected = {
        "structural": ("encoder", "tail.0"),
        "full": ("model0_lstm0_", "model0_hybridsequential0_lstm0_"),
        "export": ("model0_lstm0_", "model0_hybridsequential0_lstm0_"),
        "old": ("lstm0_", "hybridsequential0_lstm0_"),
    }
    model.hybridize()
    model(mx.nd.zeros((2, 3)))
    model.save_parameters(str(tmp_path / "structural"))
    model.collect_params().save(str(tmp_path / "full"))
    model.export(str(tmp_path / "export"))
    (tmp_path / "export-0000.params").rename(tmp_path / "export")
    with pytest.warns(UserWarning, match="deprecated"):
        model.save_params(str(tmp_path / "old"))
    for name, keys in expected.items():
        found = checkpoint.find_lstms(checkpoint.read(tmp_path / name))
        assert tuple(found) == keys
        for key, layer in zip(keys, (model.encoder, model.tail[0]), strict=True):
            assert found[key][0] == spec.replace(input_size=layer._input_size)
            assert_same_params(found[key][1], values(layer))
        # A Gluon file stays a Gluon file.
        checkpoint.convert(tmp_path / name, tmp_path / "converted", "gluon")
        if name != "export":  # whose order is that of the graph
            assert (tmp_path / "converted").read_bytes() == (tmp_path / name).read_bytes()
        arrays = checkpoint.read(tmp_path / name)
        assert {k: v.tobytes() for k, v in checkpoint.read(tmp_path / "converted").items()} == {
            k: v.tobytes() for k, v in arrays.items()
        }


def test_a_torch_model_becomes_a_gluon_model(mx, tmp_path):
    # Paths of attributes are the same in both; so one model's file fits the other.
    spec = LSTMSpec(4, num_layers=2, input_size=3, bidirectional=True)
    model = model_of(mx, spec)
    model.save_parameters(str(tmp_path / "gluon"))
    checkpoint.convert(tmp_path / "gluon", tmp_path / "x.safetensors", "torch")
    names = list(checkpoint.read(tmp_path / "x.safetensors"))
    assert "encoder.weight_ih_l1_reverse" in names
    assert "tail.0.bias_hh_l0" in names
    checkpoint.convert(tmp_path / "x.safetensors", tmp_path / "back", "gluon")
    other = model_of(mx, spec)
    other.load_parameters(str(tmp_path / "back"))
    for a, b in zip(model.collect_params().values(), other.collect_params().values(), strict=True):
        assert np.array_equal(a.data().asnumpy(), b.data().asnumpy())


def test_shared_layers(mx, tmp_path):
    spec = LSTMSpec(3, input_size=3)

    class Model(mx.gluon.Block):
        def __init__(self):
            super().__init__()
            self.encoder = layer_of(mx, spec)
            self.decoder = mx.gluon.rnn.LSTM(3, input_size=3, params=self.encoder.params)

    model = Model()
    model.save_parameters(str(tmp_path / "all"))
    model.save_parameters(str(tmp_path / "once"), deduplicate=True)
    assert list(checkpoint.find_lstms(checkpoint.read(tmp_path / "all"))) == ["encoder", "decoder"]
    found = checkpoint.find_lstms(checkpoint.read(tmp_path / "once"))
    assert list(found) == ["decoder"]  # MXNet keeps the last of the names
    assert_same_params(found["decoder"][1], values(model.encoder))
    checkpoint.convert(tmp_path / "once", tmp_path / "again", "gluon")
    other = Model()
    other.load_parameters(str(tmp_path / "again"))
    assert_same_params(values(other.encoder), values(model.encoder))


@given(spec=specs(bias=True, projection=False, layers=st.integers(1, 4)), dropout=st.booleans())
@some(max_examples=20)
def test_unfused_stacks(mx, tmp_path, spec, dropout):
    layer = layer_of(mx, spec.replace(dropout=0.2 * dropout))
    stack = layer._unfuse()
    stack.save_parameters(str(tmp_path / "structural"))
    stack.collect_params().save(str(tmp_path / "full"))
    names = checkpoint.spellings(spec.replace(dropout=0.2 * dropout), "stack")
    assert list(checkpoint.read(tmp_path / "structural")) == list(names.values())
    for name in ("structural", "full"):
        found_spec, found = checkpoint.canonical(checkpoint.read(tmp_path / name))
        assert found_spec == spec
        assert_same_params(found, values(layer))
    stored = checkpoint.rename(spec.replace(dropout=0.2 * dropout), values(layer), "stack")
    params_file.save(tmp_path / "ours", stored)
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "structural").read_bytes()


def test_cells(mx, tmp_path):
    rnn, contrib = mx.gluon.rnn, mx.gluon.contrib.rnn
    stack = rnn.HybridSequentialRNNCell(prefix="rnn_")
    with stack.name_scope():
        stack.add(rnn.LSTMCell(4, input_size=3))
        stack.add(rnn.ZoneoutCell(rnn.LSTMCell(4, input_size=4)))
        stack.add(rnn.LSTMCell(4, input_size=4))
    cases = {
        "": (rnn.LSTMCell(4, input_size=3), ["", "lstm0_"], LSTMSpec(4, input_size=3)),
        "p": (
            contrib.LSTMPCell(4, 2, input_size=3, prefix="p_"),
            ["", "p_"],
            LSTMSpec(4, input_size=3, projection_size=2),
        ),
        "both": (
            rnn.BidirectionalCell(
                rnn.LSTMCell(4, input_size=3, prefix="l0_"),
                rnn.LSTMCell(4, input_size=3, prefix="r0_"),
            ),
            ["", ""],
            LSTMSpec(4, input_size=3, bidirectional=True),
        ),
        "residual": (
            rnn.ResidualCell(rnn.LSTMCell(4, input_size=4, prefix="z_")),
            ["base_cell", "z_"],
            LSTMSpec(4, input_size=4),
        ),
    }
    for cell, keys, spec in cases.values():
        cell.initialize()
        cell.save_parameters(str(tmp_path / "structural"))
        cell.collect_params().save(str(tmp_path / "full"))
        for name, key in zip(("structural", "full"), keys, strict=True):
            ((found, (found_spec, _)),) = checkpoint.find_lstms(
                checkpoint.read(tmp_path / name)
            ).items()
            assert found_spec == spec
            assert found.rstrip("_0123456789") == key.rstrip("_0123456789")
    stack.initialize()
    stack.save_parameters(str(tmp_path / "structural"))
    found = checkpoint.find_lstms(checkpoint.read(tmp_path / "structural"))
    assert {key: spec.hidden_size for key, (spec, _) in found.items()} == {
        "0": 4,
        "1.base_cell": 4,
        "2": 4,
    }
    stack.collect_params().save(str(tmp_path / "full"))
    found = checkpoint.find_lstms(checkpoint.read(tmp_path / "full"))
    assert list(found) == ["rnn_lstm0_", "rnn_lstm1_", "rnn_lstm2_"]


@pytest.mark.parametrize("kind", ["GRU", "RNN"])
@given(spec=specs(bias=True, projection=False, layers=st.integers(1, 3)))
@some(max_examples=10)
def test_other_layers_are_passed_over(mx, tmp_path, kind, spec):
    layer = getattr(mx.gluon.rnn, kind)(
        spec.hidden_size,
        spec.num_layers,
        bidirectional=spec.bidirectional,
        input_size=spec.input_size,
    )
    layer.initialize()
    layer.save_parameters(str(tmp_path / "structural"))
    layer.collect_params().save(str(tmp_path / "full"))
    for name in ("structural", "full"):
        arrays = checkpoint.read(tmp_path / name)
        assert checkpoint.find_lstms(arrays) == {}
        both = arrays | structural(spec, params_of(spec), "other.") | OTHERS
        assert list(checkpoint.find_lstms(both)) == ["other"]


@given(
    spec=specs(bias=True, projection=False, layers=st.integers(1, 3)),
    seed=st.integers(0, 2**32 - 1),
)
@some(max_examples=20)
def test_fused_cells_of_mx_rnn(mx, tmp_path, spec, seed):
    spec = spec.replace(dtype="float32")
    cell = mx.rnn.FusedRNNCell(
        spec.hidden_size,
        spec.num_layers,
        mode="lstm",
        bidirectional=spec.bidirectional,
        prefix="lstm_",
    )
    params = params_of(spec, seed)
    vector = checkpoint.pack(spec, params)
    args = {"lstm_parameters": mx.nd.array(vector)}
    params_file.save(tmp_path / "packed", {"arg:lstm_parameters": vector})
    mx.nd.save(str(tmp_path / "gates"), cell.unpack_weights(args))
    for name, hint in (("packed", spec.replace(input_size=0)), ("gates", None)):
        found_spec, found = checkpoint.canonical(checkpoint.read(tmp_path / name), hint)
        assert found_spec == spec
        assert_same_params(found, params)
    # The cells that it unfuses to have a tensor for each direction and layer again.
    whole = cell.unfuse().pack_weights(cell.unpack_weights(args))
    found_spec, found = checkpoint.canonical({k: v.asnumpy() for k, v in whole.items()})
    assert found_spec == spec
    assert_same_params(found, params)


def test_mxnet_arrays_are_taken_as_they_are(mx):
    spec = LSTMSpec(3, input_size=2)
    layer = layer_of(mx, spec)
    arrays = {name: p.data() for name, p in layer._collect_params_with_prefix().items()}
    assert checkpoint.canonical(arrays)[0] == spec
    assert_same_params(checkpoint.canonical(arrays)[1], values(layer))


def test_numpy_semantics(mx, tmp_path):
    spec = LSTMSpec(3, input_size=2)
    with mx.util.np_shape(True), mx.util.np_array(True):
        layer = mx.gluon.rnn.LSTM(3, input_size=2)
        layer.initialize()
        layer.save_parameters(str(tmp_path / "x"))
        found_spec, found = checkpoint.canonical(checkpoint.read(tmp_path / "x"))
        assert found_spec == spec
        assert_same_params(found, values(layer))
        # Ours is a V2 file, which Gluon reads here too.
        checkpoint.write(tmp_path / "ours", spec, params_of(spec))
        layer.load_parameters(str(tmp_path / "ours"))
        assert_same_params(values(layer), params_of(spec))
