"""gluonlstm.export: node for node what stock MXNet writes for the same net."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gluonlstm import params_file
from gluonlstm.errors import ArgumentTypeError, InvalidArgumentError
from gluonlstm.spec import LSTMSpec
from tests import lstm_cases
from tests.lstm_cases import parameters
from tests.mxnet_cases import (
    KINDS,
    arguments,
    array,
    filled,
    layer,
    listed,
    options,
    semantics,
    stock_layer,
)

pytestmark = pytest.mark.mxnet
SPECS = lstm_cases.specs(most_units=5, biases=(True,))


@pytest.fixture
def folder(tmp_path):
    return tmp_path


def exported(net, folder, name="model"):
    """What gluonlstm.export writes: the document and the arrays."""
    import gluonlstm

    symbol, params = gluonlstm.export(net, folder / name)
    assert (symbol, params) == (f"{folder / name}-symbol.json", f"{folder / name}-0000.params")
    return read(symbol, params)


def read(symbol, params):
    return json.loads(Path(symbol).read_text()), params_file.load(params)


def stock_graph(net, *inputs):
    """What stock would write; its operator need not be able to run.

    ``export`` needs a call first, so the graph is made as that call would make it.
    """
    symbol = net._get_graph(*inputs)[1]
    return json.loads(symbol.tojson())


def assert_same_graph(ours, theirs):
    assert ours == theirs  # nodes with names, attributes and inputs, heads, everything


@settings(max_examples=60)
@given(SPECS, st.booleans(), st.booleans())
def test_a_layer(tmp_path_factory, spec, given_states, called):
    folder = tmp_path_factory.mktemp("layer")
    net = layer(spec, mode={}, prefix="enc_")
    args = arguments(spec)
    x, states, *lengths = args
    if called:
        net(x, states if given_states else None, *lengths)
    else:
        given_states = False
    graph, arrays = exported(net, folder)
    stock = stock_layer(spec, prefix="enc_")
    stock.skip_states = not given_states
    assert_same_graph(graph, stock_graph(stock, *args))
    params = parameters(spec)
    assert sorted(arrays) == sorted(f"arg:enc_{name}" for name in params)
    for name, value in params.items():
        assert arrays[f"arg:enc_{name}"].tobytes() == value.tobytes()
    order = [node["name"] for node in graph["nodes"] if node["op"] == "null"]
    assert [name.removeprefix("arg:") for name in arrays] == [
        n for n in order if n.startswith("enc")
    ]


def net_of(lstm, spec):
    """A tagger around a layer, with the same names whatever the layer's class."""
    from gluonlstm.mxnet_compat import mx

    class Net(mx.gluon.HybridBlock):
        def __init__(self):
            super().__init__(prefix="net_")
            with self.name_scope():
                self.embedding = mx.gluon.nn.Embedding(9, spec.input_size, dtype=spec.dtype)
                self.norm = mx.gluon.nn.BatchNorm(in_channels=spec.output_size, axis=2)
                self.norm.cast(spec.dtype)
                self.decoder = mx.gluon.nn.Dense(
                    4, flatten=False, dtype=spec.dtype, in_units=spec.output_size
                )
                self.lstm = lstm()

        def hybrid_forward(self, F, words, *rest):
            rest = list(rest)
            lengths = [rest.pop()] if spec.use_sequence_length else []
            y = self.lstm(self.embedding(words), rest or None, *lengths)
            y = y[0] if rest else y
            return self.decoder(self.norm(y))

    net = Net()
    filled(net.lstm, spec)
    for block in (net.embedding, net.norm, net.decoder):
        block.initialize()
    return net


def net_arguments(spec, given_states):
    _, states, *lengths = arguments(spec)
    words = array(np.zeros(spec.data_shape(5, 2)[:2], "float32"))
    return [words, *(states if given_states else []), *lengths]


@settings(max_examples=40)
@given(SPECS, st.booleans())
def test_a_net(tmp_path_factory, spec, given_states):
    import gluonlstm
    from gluonlstm.mxnet_compat import mx

    folder = tmp_path_factory.mktemp("net")
    arguments_of = options(spec)
    net = net_of(lambda: gluonlstm.LSTM(**arguments_of), spec)
    del arguments_of["bias"]
    stock = net_of(lambda: mx.gluon.rnn.LSTM(**arguments_of), spec)
    args = net_arguments(spec, given_states)
    net.hybridize()
    net(*args)
    before = net._cached_graph
    graph, arrays = exported(net, folder)
    assert net._cached_graph is before
    assert_same_graph(graph, stock_graph(stock, *args))
    kinds = {name.partition(":")[0] for name in arrays}
    assert kinds == {"arg", "aux"}
    assert {name[4:] for name in arrays} == set(net.collect_params())
    if not spec.clips and not spec.use_sequence_length and not spec.projection_size:
        # Stock can run this one: compare with the files that it writes.
        stock = net_of(lambda: mx.gluon.rnn.LSTM(**arguments_of), spec)
        stock.hybridize()
        stock(*args)
        path = str(folder / "stock")
        stock.export(path)
        theirs, their_arrays = read(f"{path}-symbol.json", f"{path}-0000.params")
        assert graph == theirs
        assert list(arrays) == list(their_arrays)


@pytest.mark.parametrize("given_states", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_under_numpy_semantics(kind, given_states, folder):
    spec = KINDS[kind]
    with semantics():
        net = layer(spec, mode={}, prefix="enc_")
        args = arguments(spec)
        x, states, *lengths = args
        net(x, states if given_states else None, *lengths)
        graph, arrays = exported(net, folder)
        stock = stock_layer(spec, prefix="enc_")
        stock.skip_states = not given_states
        assert_same_graph(graph, stock_graph(stock, *args))
        assert graph["attrs"]["is_np_shape"] == ["int", 1]
        from gluonlstm.mxnet_compat import mx

        loaded = mx.npx.load(str(folder / "model-0000.params"))  # V3: only under these semantics
        assert list(loaded) == list(arrays)


def test_a_net_without_states_under_numpy_semantics(folder):
    """Stock's zeros of batch size 0 cannot run there; these take N from the input."""
    import gluonlstm
    from gluonlstm.mxnet_compat import mx

    spec = KINDS["plain"]
    with semantics():
        net = net_of(lambda: gluonlstm.LSTM(**options(spec)), spec)
        net.hybridize()
        args = net_arguments(spec, given_states=False)
        expected = net(*args).asnumpy()
        graph, _ = exported(net, folder)
        assert [node["op"] for node in graph["nodes"]].count("RNN") == 1
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            block = mx.gluon.SymbolBlock.imports(
                str(folder / "model-symbol.json"), ["data"], str(folder / "model-0000.params")
            )
        np.testing.assert_allclose(block(*args).asnumpy(), expected, atol=1e-6)
        assert block(args[0][:3, :1]).shape == (3, 1, 4)


def test_what_can_run_on_the_cpu_computes_the_same(folder):
    from gluonlstm.mxnet_compat import mx

    for number, spec in enumerate(
        [
            LSTMSpec(4, 12, bidirectional=True, input_size=3),
            LSTMSpec(4, 2, "NTC", 0.5, True, 3, dtype="float64"),
            LSTMSpec(4, 2, bidirectional=True, input_size=3, projection_size=2),
            LSTMSpec(4, 2, bidirectional=True, input_size=3, bias=False),
            LSTMSpec(4, 2, input_size=3, projection_size=4, bias=False, dtype="float64"),
        ]
    ):
        net = layer(spec, mode={})
        args = arguments(spec)
        with mx.autograd.record():  # whatever path that takes
            expected = listed(net(*args))
        expected = listed(net(*args)) if spec.dropout else expected
        exported(net, folder, f"m{number}")
        path = str(folder / f"m{number}")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            block = mx.gluon.SymbolBlock.imports(
                f"{path}-symbol.json", ["data0", "data1", "data2"], f"{path}-0000.params"
            )
        result = block(args[0], *args[1])
        for a, b in zip(result, expected, strict=True):
            np.testing.assert_allclose(a.asnumpy(), b.asnumpy(), atol=1e-6)


@pytest.mark.parametrize("called", [False, True])
def test_no_bias_exports_biases_of_zeros(called, folder):
    """So that it is, but for their values, the file of a layer with biases."""
    spec = LSTMSpec(4, 2, input_size=3, bias=False)
    net = layer(spec, mode={}, prefix="enc_")
    args = arguments(spec)
    if called:
        net(*args)
    graph, arrays = exported(net, folder)
    full = spec.replace(bias=True)
    other = layer(full, mode={}, prefix="enc_")
    if called:
        other(*args)
    theirs, _ = exported(other, folder, "full")
    assert_same_graph(graph, theirs)
    for name in parameters(full):
        value = arrays[f"arg:enc_{name}"]
        expected = parameters(spec).get(name, np.zeros(16, "float32"))
        assert value.tobytes() == expected.tobytes()
    assert len(list(net.collect_params())) == 4  # and the layer has none still


def test_the_epoch_is_part_of_the_name(folder):
    import gluonlstm

    net = layer(KINDS["plain"])
    assert gluonlstm.export(net, str(folder / "m"), epoch=12)[1].endswith("m-0012.params")
    assert sorted(path.name for path in folder.iterdir()) == ["m-0012.params", "m-symbol.json"]


def test_a_failed_write_leaves_what_was_there(folder, monkeypatch):
    import gluonlstm

    net = layer(KINDS["plain"])
    paths = gluonlstm.export(net, folder / "m")
    before = [Path(path).read_bytes() for path in paths]

    def fail(*_args, **_kwargs):
        raise OSError("disk full")

    monkeypatch.setattr("gluonlstm.params_file.dumps", fail)
    other = layer(KINDS["plain"], parameters(KINDS["plain"], seed=9))
    with pytest.raises(OSError, match="disk full"):
        gluonlstm.export(other, folder / "m")
    assert [Path(path).read_bytes() for path in paths] == before
    assert len(list(folder.iterdir())) == 2


def test_the_layer_goes_on_as_before(folder):
    from gluonlstm.mxnet_compat import mx

    spec = LSTMSpec(4, 2, input_size=3, projection_size=2, dropout=0.2)
    net = layer(spec, mode={})
    x, states = arguments(spec)
    expected = net(x, states)[0].asnumpy()
    exported(net, folder)
    np.testing.assert_array_equal(net(x, states)[0].asnumpy(), expected)
    assert net(x).shape == (5, 2, 2)
    exported(net, folder)
    with mx.autograd.record():
        loss = net(x).sum()
    loss.backward()


def test_imported_nets_are_written_as_they_are(folder):
    from gluonlstm.mxnet_compat import mx

    spec = KINDS["plain"]
    graph, arrays = exported(layer(spec), folder)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        block = mx.gluon.SymbolBlock.imports(
            str(folder / "model-symbol.json"), ["data0", "data1", "data2"],
            str(folder / "model-0000.params"),
        )  # fmt: skip
    again, other = exported(block, folder, "again")
    assert graph["nodes"] == again["nodes"]
    assert arrays.keys() == other.keys()


def test_what_cannot_be_exported(folder):
    import gluonlstm
    from gluonlstm.mxnet_compat import mx

    with pytest.raises(ArgumentTypeError, match="net must be a HybridBlock"):
        gluonlstm.export(mx.gluon.nn.Sequential(), folder / "m")
    with pytest.raises(InvalidArgumentError, match=r"call net.initialize\(\)"):
        gluonlstm.export(gluonlstm.LSTM(3, input_size=2), folder / "m")
    net = gluonlstm.LSTM(3)
    net.initialize()
    with pytest.raises(InvalidArgumentError, match="run one batch through"):
        gluonlstm.export(net, folder / "m")
    with pytest.raises(FileNotFoundError):
        gluonlstm.export(layer(KINDS["plain"]), folder / "no such folder" / "m")
    assert not list(folder.iterdir())
