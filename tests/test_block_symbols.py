"""The block as part of symbols: variables, Module, SymbolBlock, imports in other processes."""

from __future__ import annotations

import subprocess
import sys
import warnings

import numpy as np
import pytest

from gluonlstm.spec import LSTMSpec
from tests.mxnet_cases import KINDS, arguments, array, layer, listed, options, semantics

pytestmark = pytest.mark.mxnet


@pytest.mark.parametrize("spec", KINDS.values(), ids=list(KINDS))
@pytest.mark.parametrize("given", [False, True])
def test_symbols(spec, given):
    from gluonlstm.mxnet_compat import mx

    net = layer(spec)
    x, states, *lengths = arguments(spec)
    names = ["x", "h", "c", "n"]
    variables = [mx.sym.var(name) for name in names]
    symbols = variables[3:] if spec.use_sequence_length else []
    result = net(variables[0], variables[1:3] if given else None, *symbols)
    outputs = mx.sym.Group(listed(result))
    for steps, batch in ((5, 2), (3, 4)):  # T and N are free
        x, states, *lengths = arguments(spec, steps, batch)
        tensors = {"x": x, **({"h": states[0], "c": states[1]} if given else {})}
        tensors |= {"n": lengths[0]} if lengths else {}
        values = {p.name: p.data() for p in net._reg_params.values()}
        executor = outputs.bind(mx.cpu(), {**tensors, **values})
        expected = listed(net(x, states if given else None, *lengths))
        for a, b in zip(executor.forward(), expected, strict=True):
            np.testing.assert_allclose(a.asnumpy(), b.asnumpy(), atol=1e-6)


def model(spec):
    """Embedding, LSTM and Dense in one hybridized block."""
    from gluonlstm.mxnet_compat import mx

    class Tagger(mx.gluon.HybridBlock):
        def __init__(self, lstm):
            super().__init__()
            with self.name_scope():
                self.embedding = mx.gluon.nn.Embedding(10, spec.input_size, dtype=spec.dtype)
                self.lstm = lstm
                self.decoder = mx.gluon.nn.Dense(5, flatten=False, dtype=spec.dtype)

        def hybrid_forward(self, F, words, *rest):
            rest = list(rest)
            lengths = [rest.pop()] if spec.use_sequence_length else []
            y = self.lstm(self.embedding(words), rest or None, *lengths)
            if not rest:
                return self.decoder(y)
            return self.decoder(y[0]), y[1][0], y[1][1]

    net = Tagger(layer(spec))
    net.embedding.initialize("normal")
    net.decoder.initialize("normal")
    net.hybridize()
    return net


def model_arguments(spec, given, steps=5, batch=2, seed=0):
    _, states, *lengths = arguments(spec, steps, batch, seed)
    words = np.random.default_rng(seed).integers(0, 10, spec.data_shape(steps, batch)[:2])
    return [array(words.astype("float32")), *(states if given else []), *lengths]


@pytest.mark.parametrize("spec", KINDS.values(), ids=list(KINDS))
@pytest.mark.parametrize("given", [False, True])
@pytest.mark.parametrize("kind", [False, True], ids=["nd", "np"])
def test_exported_models_import_again(spec, given, kind, tmp_path):
    """With T and N free."""
    path = str(tmp_path / "model")
    with semantics(kind):
        net = model(spec)
        args = model_arguments(spec, given)
        net(*args)
        net.export(path)
        block = imported(path, names_of(args))
        for steps, batch in ((5, 2), (3, 4), (1, 1)):
            args = model_arguments(spec, given, steps, batch)
            for a, b in zip(flat(block(*args)), flat(net(*args)), strict=True):
                np.testing.assert_allclose(a.asnumpy(), b.asnumpy(), atol=1e-6)


def names_of(args):
    return ["data"] if len(args) == 1 else [f"data{number}" for number in range(len(args))]


def imported(path, names):
    from gluonlstm.mxnet_compat import mx

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the types of the inputs are not in the file
        return mx.gluon.SymbolBlock.imports(f"{path}-symbol.json", names, f"{path}-0000.params")


def flat(result):
    return list(result) if isinstance(result, (list, tuple)) else [result]


@pytest.mark.parametrize("spec", KINDS.values(), ids=list(KINDS))
def test_gradients_through_an_imported_model(spec, tmp_path):
    from gluonlstm.mxnet_compat import mx

    path = str(tmp_path / "model")
    net = model(spec)
    args = model_arguments(spec, given=False)
    net(*args)
    net.export(path)
    block = imported(path, names_of(args))
    for one in (net, block):
        with mx.autograd.record():
            loss = (one(*args) ** 2).sum()
        loss.backward()
    theirs = block.collect_params()
    for name, parameter in net.collect_params().items():
        np.testing.assert_allclose(
            theirs[name].grad().asnumpy(), parameter.grad().asnumpy(), atol=1e-4, err_msg=name
        )


STOCK_PROCESS = """
import sys
import numpy as np
if "bool" not in vars(np):
    np.bool = bool
from warnings import simplefilter
simplefilter("ignore")
import mxnet as mx
assert "gluonlstm" not in sys.modules
for path in sys.argv[1:]:
    inputs = np.load(path + ".npz")
    names = [name for name in inputs if name.startswith("data")]
    symbol, params = path + "-symbol.json", path + "-0000.params"
    block = mx.gluon.SymbolBlock.imports(symbol, names, params)
    outputs = block(*(mx.nd.array(inputs[name], dtype=inputs[name].dtype) for name in names))
    outputs = outputs if isinstance(outputs, list) else [outputs]
    for number, output in enumerate(outputs):
        error = abs(output.asnumpy() - inputs["out%d" % number]).max()
        assert error < 1e-6, (path, number, error)
print("equal")
"""
FOR_STOCK = {
    **KINDS,
    "ntc": LSTMSpec(4, 2, "NTC", bidirectional=True, input_size=3),
    "ntc projection": LSTMSpec(4, 1, "NTC", input_size=3, projection_size=2),
    "dropout": LSTMSpec(4, 3, dropout=0.3, input_size=3),
    "bias": LSTMSpec(4, 2, input_size=3, bias=False),
}


@pytest.mark.skipif(
    np.lib.NumpyVersion(np.__version__) >= "2.0.0" or sys.version_info >= (3, 12),
    reason="plain MXNet needs NumPy 1, and distutils",
)
@pytest.mark.parametrize("whole", [False, True], ids=["layer", "model"])
def test_a_process_with_stock_mxnet_computes_the_same(whole, tmp_path):
    paths = []
    for number, spec in enumerate(FOR_STOCK.values()):
        for given in (False, True):
            path = str(tmp_path / f"{number}{given}")
            if whole:
                net, args = model(spec), model_arguments(spec, given)
                result = flat(net(*args))
            else:
                net, (x, states, *lengths) = layer(spec, mode={}), arguments(spec)
                result = listed(net(x, states if given else None, *lengths))
                # A layer's graph has its states as inputs, given or not.
                states = [s if given else s * 0 for s in states]
                args = [x, *states, *lengths]
            net.export(path)
            values = {n: a.asnumpy() for n, a in zip(names_of(args), args, strict=True)}
            outputs = {f"out{i}": o.asnumpy() for i, o in enumerate(result)}
            np.savez(f"{path}.npz", **values, **outputs)
            paths.append(path)
    done = subprocess.run(
        [sys.executable, "-c", STOCK_PROCESS, *paths],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.stdout.strip() == "equal", done.stderr


@pytest.mark.parametrize("spec", KINDS.values(), ids=list(KINDS))
def test_module(spec):
    """mx.mod.Module trains a symbol with the layer in it."""
    from gluonlstm.mxnet_compat import mx

    net = layer(spec)
    x, n = mx.sym.var("data"), mx.sym.var("n")
    lengths = [n] if spec.use_sequence_length else []
    loss = mx.sym.MakeLoss(mx.sym.sum(net(x, None, *lengths) ** 2))
    names = ["data", *(["n"] if lengths else [])]
    module = mx.mod.Module(loss, data_names=names, label_names=None, context=mx.cpu())
    shapes = [("data", (5, 2, 3), "TNC"), ("n", (2,), "N")][: len(names)]
    types = [mx.io.DataDesc(name, shape, spec.dtype, axes) for name, shape, axes in shapes]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that initializers are given by name
        mx.random.seed(0)
        module.bind(types)
        module.init_params(mx.init.Normal(0.3))
    module.init_optimizer(optimizer_params={"learning_rate": 0.03})
    args, _, *rest = arguments(spec)
    batch = mx.io.DataBatch([args, *rest])
    losses = []
    for _ in range(5):
        module.forward(batch, is_train=True)
        losses.append(module.get_outputs()[0].asscalar())
        module.backward()
        module.update()
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < losses[0]
    other = mx.io.DataBatch([a[:, :1] if a.ndim == 3 else a[:1] for a in batch.data])
    module.forward(other, is_train=False)  # another batch size
    assert module.get_outputs()[0].asscalar() < losses[-1]


def test_saved_symbols_load(tmp_path):
    from gluonlstm.mxnet_compat import mx

    path = str(tmp_path / "symbol.json")
    for spec in KINDS.values():
        net = layer(spec)
        variables = [mx.sym.var(name) for name in ("x", "n")]
        symbol = net(variables[0], None, *variables[1 : 1 + spec.use_sequence_length])
        symbol.save(path)
        assert mx.sym.load(path).list_arguments() == symbol.list_arguments()
        shapes = {"x": (5, 2, 3)} | ({"n": (2,)} if spec.use_sequence_length else {})
        _, outputs, _ = mx.sym.load(path).infer_shape(**shapes)
        assert outputs == [(5, 2, spec.output_size)]


@pytest.mark.parametrize("kind", [False, True], ids=["nd", "np"])
@pytest.mark.parametrize("spec", KINDS.values(), ids=list(KINDS))
def test_deferred_sizes_inside_a_hybridized_net(spec, kind):
    """The input size is inferred backwards through each path's graph."""
    import gluonlstm
    from gluonlstm.mxnet_compat import mx

    class Net(mx.gluon.HybridBlock):
        def __init__(self):
            super().__init__()
            with self.name_scope():
                self.dense = mx.gluon.nn.Dense(7, flatten=False, dtype=spec.dtype)
                self.lstm = gluonlstm.LSTM(**{**options(spec), "input_size": 0})

        def hybrid_forward(self, F, x, *lengths):
            return self.lstm(self.dense(x), None, *lengths)

    with semantics(kind):
        net = Net()
        net.initialize()
        net.hybridize()
        x, _, *lengths = arguments(spec)
        assert net(x, *lengths).shape == (5, 2, spec.output_size)
        assert net.lstm.spec.input_size == 7
        again = net.lstm(net.dense(x), None, *lengths)
        np.testing.assert_allclose(net(x, *lengths).asnumpy(), again.asnumpy(), atol=1e-6)
