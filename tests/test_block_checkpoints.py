"""Checkpoints: both ways with stock bit for bit, and every other naming into the block."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gluonlstm import checkpoint, params_file
from gluonlstm.errors import (
    ArgumentTypeError,
    InvalidArgumentError,
    MissingParameterError,
    ParamsFormatError,
    ShapeMismatchError,
)
from gluonlstm.spec import LSTMSpec
from tests import lstm_cases
from tests.checkpoint_cases import params_of
from tests.lstm_cases import parameters
from tests.mxnet_cases import canonical, filled, layer, options, semantics, stock_layer

pytestmark = pytest.mark.mxnet
PREFIX = "enc_"


def stock_specs(**changes):
    """What stock can hold: everything but a lack of biases."""
    return lstm_cases.specs(**{"biases": (True,), "most_units": 5, "most_layers": 10, **changes})


def assert_same(net, params):
    values = canonical(net)
    assert values.keys() == params.keys()
    for name, value in params.items():
        assert values[name].dtype == value.dtype
        assert values[name].tobytes() == value.tobytes(), name


def fresh(spec, stock=False, **extra):
    """A layer that has not been initialised, and does not know its input size."""
    import gluonlstm
    from gluonlstm.mxnet_compat import mx

    arguments = {**options(spec), "input_size": 0, **extra}
    if stock:
        del arguments["bias"]
    return (mx.gluon.rnn.LSTM if stock else gluonlstm.LSTM)(**arguments)


@settings(max_examples=40)
@given(stock_specs())
def test_save_parameters_both_ways(tmp_path_factory, spec):
    path = str(tmp_path_factory.mktemp("save") / "net.params")
    params = parameters(spec)
    for saved_by, loaded_by in ((layer, True), (stock_layer, False)):
        saved_by(spec, params).save_parameters(path)
        net = fresh(spec, stock=loaded_by)
        net.load_parameters(path)
        assert_same(net, params)
    one, other = (layer(spec, params), stock_layer(spec, params))
    one.save_parameters(path)
    ours = Path(path).read_bytes()
    other.save_parameters(path)
    assert ours == Path(path).read_bytes()


@pytest.mark.parametrize("layers", [11, 12])
@pytest.mark.parametrize("parent", [False, True])
def test_more_than_ten_layers(layers, parent, tmp_path):
    from gluonlstm.mxnet_compat import mx

    spec = LSTMSpec(3, layers, bidirectional=True, input_size=2)
    params = parameters(spec)
    path = str(tmp_path / "net.params")

    def wrapped(net):
        if not parent:
            return net
        block = mx.gluon.nn.HybridSequential()
        block.add(net)
        return block

    wrapped(layer(spec, params)).save_parameters(path)
    names = list(params_file.load(path))
    assert names[-1] == f"{'0.' if parent else ''}_unfused.{layers - 1}.r_cell.h2h_bias"
    net = fresh(spec)
    wrapped(net).load_parameters(path)
    assert_same(net, params)
    net = layer(spec)
    net.collect_params().save(path)
    again = fresh(spec, prefix=net.prefix)
    again.load_parameters(path)
    assert_same(again, parameters(spec))
    # Stock saves and loads these through collect_params.
    stock = stock_layer(spec, parameters(spec, seed=7), prefix=net.prefix)
    stock.collect_params().save(path)
    again.load_parameters(path)
    assert_same(again, parameters(spec, seed=7))


@settings(max_examples=25)
@given(stock_specs(most_layers=12), st.sampled_from(["mine_", PREFIX]))
def test_every_form_that_stock_writes(tmp_path_factory, spec, prefix):
    from gluonlstm.mxnet_compat import mx

    folder = tmp_path_factory.mktemp("forms")
    params = parameters(spec)
    stock = stock_layer(spec, params, prefix=PREFIX)
    files = [str(folder / f"{number}.params") for number in range(4)]
    stock.collect_params().save(files[0])  # full prefix
    stock.collect_params().save(files[1], strip_prefix=PREFIX)
    with pytest.warns(UserWarning, match="deprecated"):
        stock.save_params(files[2])
    arrays = {f"arg:{name}": p.data() for name, p in stock.collect_params().items()}
    mx.nd.save(files[3], arrays)  # export
    for path in files:
        net = fresh(spec, prefix=prefix)
        net.load_parameters(path)
        assert_same(net, params)


@settings(max_examples=30)
@given(
    lstm_cases.specs(most_units=5, most_layers=4),
    st.sampled_from(["torch", "structural", "prefix", "stack"]),
    st.sampled_from([".params", ".npz", ".safetensors"]),
)
def test_other_forms_and_files(tmp_path_factory, spec, form, suffix):
    if suffix == ".safetensors":
        pytest.importorskip("safetensors")
    folder = tmp_path_factory.mktemp("forms")
    params = params_of(spec)
    arrays = checkpoint.rename(spec, params, form)
    path = folder / f"net{suffix}"
    if suffix == ".params":
        params_file.save(path, arrays)
    elif suffix == ".npz":
        np.savez(path, **arrays)
    else:
        from safetensors.numpy import save_file

        save_file(arrays, path)
    net = fresh(spec)
    net.load_parameters(path)
    assert_same(net, params)


def test_packed_vector(tmp_path):
    spec = LSTMSpec(4, 2, bidirectional=True, input_size=3, projection_size=2)
    params = parameters(spec)
    params_file.save(tmp_path / "p.params", {"lstm_parameters": checkpoint.pack(spec, params)})
    net = fresh(spec)
    net.load_parameters(tmp_path / "p.params")
    assert_same(net, params)


def test_unfused_cells(tmp_path):
    """What _unfuse's stack saves comes back into the layer."""
    spec = LSTMSpec(4, 3, dropout=0.3, bidirectional=True, input_size=3)
    params = parameters(spec)
    path = str(tmp_path / "stack.params")
    layer(spec, params)._unfuse().save_parameters(path)
    net = fresh(spec)
    net.load_parameters(path)
    assert_same(net, params)


@pytest.mark.parametrize("saved", [False, True])
@pytest.mark.parametrize("loaded", [False, True])
def test_between_semantics(saved, loaded, tmp_path):
    """Files written under NumPy semantics are V3, others V2; MXNet takes each in its own only."""
    spec = LSTMSpec(4, 2, input_size=3)
    params = parameters(spec)
    path = str(tmp_path / "net.params")
    with semantics(saved):
        layer(spec, params).save_parameters(path)
    with semantics(loaded):
        net = fresh(spec)
        net.load_parameters(path)
        assert_same(net, params)


def test_no_bias(tmp_path):
    spec = LSTMSpec(4, 2, input_size=3, bias=False)
    params = parameters(spec)
    path = tmp_path / "net.params"
    layer(spec, params).save_parameters(str(path))
    assert not any("bias" in name for name in params_file.load(path))
    net = fresh(spec)
    net.load_parameters(path)
    assert_same(net, params)
    # Biases of zeros, as older exports hold, are no biases; others are.
    full = spec.replace(bias=True)
    zeros = {n: v * 0 if n.endswith("bias") else v for n, v in parameters(full).items()}
    layer(full, zeros).save_parameters(str(path))
    net.load_parameters(path)
    assert_same(net, {n: v for n, v in zeros.items() if not n.endswith("bias")})
    layer(full).save_parameters(str(path))
    with pytest.raises(InvalidArgumentError, match="bias"):
        net.load_parameters(path)
    layer(spec).save_parameters(str(path))
    with pytest.raises(MissingParameterError, match=r"_unfused\.0\.i2h_bias"):
        fresh(full).load_parameters(path)


def test_contexts_and_devices(tmp_path):
    from gluonlstm.mxnet_compat import mx

    spec = LSTMSpec(4, input_size=3)
    path = str(tmp_path / "net.params")
    layer(spec).save_parameters(path)
    net = fresh(spec)
    net.load_parameters(path, ctx=[mx.cpu(0), mx.cpu(1)])
    assert net.l0_i2h_weight.list_ctx() == [mx.cpu(0), mx.cpu(1)]
    net.save_parameters(path)
    assert_same(layer(spec), canonical_on(net, mx.cpu(1)))


def canonical_on(net, context):
    return {name: p.data(context).asnumpy() for name, p in net._reg_params.items()}


def test_loading_into_a_hybridized_layer_counts_at_once(tmp_path):
    spec = LSTMSpec(4, 2, input_size=3)
    path = str(tmp_path / "net.params")
    layer(spec, parameters(spec, seed=3)).save_parameters(path)
    net = layer(spec, mode={"static_alloc": True, "static_shape": True})
    from tests.mxnet_cases import arguments

    x, states = arguments(spec)
    net(x, states)
    net.load_parameters(path)
    expected = layer(spec, parameters(spec, seed=3))(x, states)[0].asnumpy()
    np.testing.assert_allclose(net(x, states)[0].asnumpy(), expected, atol=1e-6)


def test_missing(tmp_path):
    spec = LSTMSpec(4, 2, input_size=3)
    params = parameters(spec)
    path = tmp_path / "net.params"
    for form in ("structural", "prefix", "torch"):
        names = checkpoint.spellings(spec, form)
        arrays = {names[n]: v for n, v in params.items() if n != "l1_h2h_bias"}
        params_file.save(path, arrays)
        net = layer(spec, parameters(spec, seed=1))
        with pytest.raises(MissingParameterError, match=names["l1_h2h_bias"].replace(".", r"\.")):
            net.load_parameters(path)
        assert_same(net, parameters(spec, seed=1))
        net.load_parameters(path, allow_missing=True)
        kept = {"l1_h2h_bias": parameters(spec, seed=1)["l1_h2h_bias"]}
        assert_same(net, {**params, **kept})


def test_extra(tmp_path):
    spec = LSTMSpec(4, input_size=3)
    params = parameters(spec)
    arrays = checkpoint.rename(spec, params, "structural") | {"other": np.zeros(2, "float32")}
    path = tmp_path / "net.params"
    params_file.save(path, arrays)
    net = fresh(spec)
    with pytest.raises(InvalidArgumentError, match="other"):
        net.load_parameters(path)
    net.load_parameters(path, ignore_extra=True)
    assert_same(net, params)


def test_dtypes(tmp_path):
    spec = LSTMSpec(4, input_size=3)
    params = {n: v.astype("float64") for n, v in parameters(spec).items()}
    path = tmp_path / "net.params"
    params_file.save(path, params)
    net = layer(spec)
    with pytest.raises(ArgumentTypeError, match="cast_dtype=True"):
        net.load_parameters(path)
    net.load_parameters(path, cast_dtype=True)
    assert_same(net, parameters(spec))
    net.load_parameters(path, cast_dtype=True, dtype_source="saved")
    assert_same(net, params)
    assert net.spec.dtype == "float64"
    from tests.mxnet_cases import array

    assert net(array(np.ones((2, 1, 3)))).dtype == np.float64
    with pytest.raises(ValueError, match="dtype_source='both'"):
        net.load_parameters(path, cast_dtype=True, dtype_source="both")


def test_shapes(tmp_path):
    spec = LSTMSpec(4, 2, input_size=3)
    path = tmp_path / "net.params"
    layer(spec.replace(input_size=5)).save_parameters(str(path))
    with pytest.raises(ShapeMismatchError, match="i2h_weight"):
        layer(spec).load_parameters(path)
    with pytest.raises((MissingParameterError, InvalidArgumentError)):
        fresh(spec.replace(num_layers=3)).load_parameters(path)
    with pytest.raises((MissingParameterError, InvalidArgumentError)):
        fresh(spec.replace(bidirectional=True)).load_parameters(path)


def test_not_a_checkpoint(tmp_path):
    path = tmp_path / "net.params"
    path.write_bytes(b"nothing of the kind")
    with pytest.raises(ParamsFormatError):
        fresh(LSTMSpec(4)).load_parameters(path)
    with pytest.raises(FileNotFoundError):
        fresh(LSTMSpec(4)).load_parameters(tmp_path / "absent.params")


def test_shared_parameters_in_a_parent(tmp_path):
    """Saved once with deduplicate=True, loaded into both."""
    from gluonlstm.mxnet_compat import mx

    spec = LSTMSpec(3, input_size=3)

    def twins():
        net = mx.gluon.nn.HybridSequential()
        first = fresh(spec)
        net.add(first, fresh(spec, params=first.collect_params()))
        return net

    net = twins()
    filled_deferred(net[0], spec)
    path = str(tmp_path / "net.params")
    net.save_parameters(path, deduplicate=True)
    assert len(params_file.load(path)) == 4
    other = twins()
    other.load_parameters(path)
    assert_same(other[0], parameters(spec))


@settings(max_examples=20)
@given(stock_specs(most_layers=3))
def test_inside_a_parent_both_ways(tmp_path_factory, spec):
    from gluonlstm.mxnet_compat import mx

    path = str(tmp_path_factory.mktemp("parent") / "net.params")

    def parent(stock):
        net = mx.gluon.nn.HybridSequential()
        net.add(mx.gluon.nn.Dense(2, in_units=2, flatten=False), fresh(spec, stock))
        return net

    for stock in (False, True):
        net = parent(stock)
        net[0].initialize()
        filled_deferred(net[1], spec)
        net.save_parameters(path)
        other = parent(not stock)
        other.load_parameters(path)
        assert_same(other[1], parameters(spec))


def filled_deferred(net, spec):
    for name, parameter in net._reg_params.items():
        parameter.shape = parameters(spec)[name].shape
    filled(net, spec)
