"""Compiled LSTMs as users call them: against the reference, and against torch.nn.LSTM."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gluonlstm
from gluonlstm import reference
from gluonlstm.errors import ArgumentTypeError, InvalidArgumentError, ShapeMismatchError
from gluonlstm.spec import LSTMSpec
from tests import artifact_cases as cases

pytestmark = pytest.mark.tvm

SPECS = {
    "one layer": LSTMSpec(5, input_size=3),
    "NTC, float64": LSTMSpec(4, layout="NTC", input_size=3, dtype="float64", bias=False),
    "everything": LSTMSpec(
        20, 2, "TNC", 0.0, True, 3, projection_size=7, state_clip_min=-0.2, state_clip_max=0.3,
        use_sequence_length=True,
    ),
}  # fmt: skip
TOLERANCE = {"float32": 2e-6, "float64": 1e-12}


def parameters(spec):
    generator = np.random.default_rng(0)
    return {
        parameter.name: generator.uniform(-0.5, 0.5, parameter.shape).astype(spec.dtype)
        for parameter in spec.parameters()
    }


@pytest.fixture(scope="module", params=SPECS)
def compiled(request):
    spec = SPECS[request.param]
    return gluonlstm.compile(spec, parameters(spec))


@settings(max_examples=25)
@given(data=st.data())
def test_against_the_reference(compiled, data):
    spec = compiled.spec
    steps, rows = data.draw(st.integers(0, 9)), data.draw(st.integers(0, 5))
    generator = np.random.default_rng(data.draw(st.integers(0, 99)))

    def draw(shape):
        return generator.uniform(-1, 1, shape).astype(spec.dtype)

    x = draw(spec.data_shape(steps, rows))
    states = [draw(shape) for shape in spec.state_shapes(rows)]
    states = states if data.draw(st.booleans()) else None
    lengths = generator.integers(0, steps + 1, rows) if spec.use_sequence_length else None
    y, finals = reference.lstm(spec, parameters(spec), x, states, lengths)
    result = compiled(x, states, lengths) if lengths is not None else compiled(x, states)
    results = [result] if states is None else [result[0], *result[1]]
    for actual, wanted in zip(results, [y, *finals], strict=states is not None):
        assert actual.dtype == spec.dtype
        np.testing.assert_allclose(actual, wanted, rtol=0, atol=TOLERANCE[spec.dtype])


@pytest.mark.parametrize("compiled", ["one layer", "NTC, float64"], indirect=True)
def test_steps_one_by_one(compiled):
    """T steps are T calls with carried states, in either kind of array."""
    spec = compiled.spec
    axis = spec.layout.index("T")
    x = np.random.default_rng(1).normal(size=spec.data_shape(6, 2)).astype(spec.dtype)
    zeros = [np.zeros(shape, spec.dtype) for shape in spec.state_shapes(2)]
    wanted, _ = compiled(x, zeros)
    for results in ("numpy", "dlpack"):
        states, outputs = zeros, []
        for step in np.split(x, 6, axis):
            y, states = compiled(step, states, results=results)
            outputs.append(np.from_dlpack(y))
        np.testing.assert_allclose(np.concatenate(outputs, axis), wanted, atol=2e-6)


def test_threads_compute_what_one_computes(compiled):
    spec = compiled.spec
    lengths = [[9, 4, 0]] * spec.use_sequence_length
    inputs = [
        np.random.default_rng(seed).normal(size=spec.data_shape(9, 3)).astype(spec.dtype)
        for seed in range(8)
    ]
    wanted = [compiled(x, None, *lengths) for x in inputs]
    results: dict[int, list[np.ndarray]] = {}

    def work(name):
        results[name] = [compiled(x, None, *lengths) for x in inputs * 5]

    threads = [threading.Thread(target=work, args=(name,)) for name in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for name in range(3):
        for actual, one in zip(results[name], wanted * 5, strict=True):
            np.testing.assert_array_equal(actual, one)


# --- torch --------------------------------------------------------------------------------------

# torch says so of its own module.
ignore_projection = pytest.mark.filterwarnings("ignore:LSTM with projections is not supported")

MODULES = {
    "plain": {"num_layers": 2},
    "batch first, two directions": {"batch_first": True, "bidirectional": True, "bias": False},
    "projection": {"bidirectional": True, "proj_size": 4, "num_layers": 2},
}


@pytest.fixture(scope="module", params=MODULES)
def pair(request):
    """A torch.nn.LSTM and what it was compiled to."""
    torch = pytest.importorskip("torch", reason="torch is not installed")
    torch.manual_seed(0)
    module = torch.nn.LSTM(3, 6, **MODULES[request.param]).eval()
    return module, gluonlstm.compile(module)


def torch_states(module, *rows):
    """Draw h0 and c0; without ``rows`` for a single sequence."""
    import torch

    count = module.num_layers * (1 + module.bidirectional)
    return (
        torch.randn(count, *rows, module.proj_size or module.hidden_size),
        torch.randn(count, *rows, module.hidden_size),
    )


def check(actual, wanted):
    import torch

    y, states = wanted
    assert isinstance(actual, tuple)
    assert isinstance(actual[1], tuple)
    for one, other in zip((actual[0], *actual[1]), (y, *states), strict=True):
        if isinstance(other, torch.nn.utils.rnn.PackedSequence):
            assert isinstance(one, torch.nn.utils.rnn.PackedSequence)
            assert torch.equal(one.batch_sizes, other.batch_sizes)
            for name in ("sorted_indices", "unsorted_indices"):
                mine, theirs = getattr(one, name), getattr(other, name)
                assert (mine is None and theirs is None) or torch.equal(mine, theirs)
            one, other = one.data, other.data
        assert not one.requires_grad
        torch.testing.assert_close(one, other.detach(), rtol=0, atol=2e-6)


@pytest.mark.torch
@ignore_projection
def test_torch_batches(pair):
    import torch

    module, model = pair
    for steps, rows in ((5, 3), (1, 1), (40, 8)):
        shape = (rows, steps, 3) if module.batch_first else (steps, rows, 3)
        x, states = torch.randn(shape, requires_grad=True), torch_states(module, rows)
        check(model(x), module(x))
        check(model(x, states), module(x, states))
        check(model(x.transpose(0, 1).contiguous().transpose(0, 1), states), module(x, states))
        values = [array.detach().numpy() for array in (x, *states)]
        y, finals = model(values[0], values[1:])  # NumPy in, NumPy out, arranged as torch does
        assert type(y) is np.ndarray
        assert isinstance(finals, tuple)
        check(model(x, states), (torch.from_numpy(y), tuple(map(torch.from_numpy, finals))))
        assert type(model(x, results="numpy")[0]) is np.ndarray
        assert isinstance(model(values[0], results="torch")[0], torch.Tensor)


@pytest.mark.torch
@ignore_projection
def test_torch_single_sequences(pair):
    import torch

    module, model = pair
    x, states = torch.randn(5, 3), torch_states(module)
    check(model(x), module(x))
    check(model(x, states), module(x, states))
    with pytest.raises(InvalidArgumentError, match="the results are torch's, too"):
        model(x, results="numpy")
    with pytest.raises(ShapeMismatchError, match=r"data: expected shape"):
        model(x.numpy())


@pytest.mark.torch
@ignore_projection
@settings(max_examples=25)
@given(data=st.data())
def test_packed_sequences(pair, data):
    import torch
    from torch.nn.utils.rnn import pack_padded_sequence

    module, model = pair
    lengths = data.draw(st.lists(st.integers(1, 7), min_size=1, max_size=6))
    ordered = data.draw(st.booleans())
    if ordered:
        lengths = sorted(lengths, reverse=True)
    torch.manual_seed(data.draw(st.integers(0, 99)))
    batch = torch.randn(max(lengths), len(lengths), 3, requires_grad=data.draw(st.booleans()))
    packed = pack_padded_sequence(batch, torch.tensor(lengths), enforce_sorted=ordered)
    states = torch_states(module, len(lengths)) if data.draw(st.booleans()) else None
    check(model(packed, states), module(packed, states))
    if states is not None:
        named = model(data=packed, h0=states[0], c0=states[1])
        check(named, module(packed, states))


@pytest.mark.torch
@ignore_projection
def test_packed_sequences_that_do_not_fit(pair):
    import torch
    from torch.nn.utils.rnn import pack_sequence

    module, model = pair
    packed = pack_sequence([torch.randn(3, 3), torch.randn(2, 3)])
    h, c = torch_states(module, 2)
    for call, error, message in (
        (lambda: model(packed, results="numpy"), InvalidArgumentError, "results='numpy'"),
        (lambda: model(packed, sequence_length=[3, 2]), ArgumentTypeError, "has its own lengths"),
        (lambda: model(packed, (h.numpy(), c)), ArgumentTypeError, "h0 must be a torch tensor"),
        (lambda: model(packed, h), InvalidArgumentError, "h0 was given without c0"),
        (lambda: model(packed, (h[:, :1], c)), ShapeMismatchError, "h0: expected shape"),
        (lambda: model(packed.to(torch.float64)), ArgumentTypeError, "got torch.float64"),
    ):
        with pytest.raises(error, match=message):
            call()
    check(model(packed, (h, c)), module(packed, (h, c)))


@pytest.mark.torch
def test_packed_sequences_in_models_without_lengths():
    import torch
    from torch.nn.utils.rnn import pack_sequence

    spec = SPECS["one layer"]
    model = gluonlstm.compile(spec, parameters(spec))
    rows = [torch.randn(4, 3) for _ in range(2)]
    y = model(pack_sequence(rows))  # all of one length: none are needed
    assert isinstance(y, torch.nn.utils.rnn.PackedSequence)
    batch = model(torch.stack(rows, 1))
    assert torch.equal(y.data.reshape(batch.shape), batch)
    with pytest.raises(ArgumentTypeError, match="compiled without sequence lengths"):
        model(pack_sequence([rows[0], rows[1][:2]]))


@pytest.mark.torch
def test_packed_sequences_are_for_layers(tmp_path):
    import torch

    model = gluonlstm.load(cases.identity(tmp_path / "identity.so"))
    with pytest.raises(ArgumentTypeError, match="which only a model of one LSTM layer takes"):
        model(torch.nn.utils.rnn.pack_sequence([torch.zeros(2, 2)]))


@pytest.mark.torch
def test_empty_batches_of_torch(pair):
    import torch

    module, model = pair
    for steps, rows in ((0, 2), (3, 0), (0, 0)):
        x = torch.zeros((rows, steps, 3) if module.batch_first else (steps, rows, 3))
        y, (h, c) = model(x, states := torch_states(module, rows))
        assert y.shape[:2] == x.shape[:2]
        if steps == 0:
            check((y, (h, c)), (torch.zeros_like(y), states))
