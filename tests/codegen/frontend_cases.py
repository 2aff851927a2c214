"""Graphs of one LSTM in every spelling, and an emitter that runs gluonlstm.reference in the module.

With it a lowered graph needs no kernel to be run: what is tested is the frontend alone.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

import numpy as np
import tvm
import tvm_ffi
from hypothesis import strategies as st
from tvm import relax

from gluonlstm import reference
from gluonlstm.codegen.frontend.builder import dtype_of, sizes_of
from gluonlstm.spec import LSTMSpec
from gluonlstm.symbol import Entry, Graph, Node

_numbers = itertools.count()


class ReferenceEmitter:
    """Emits a call of the float64 reference, with the weights as parameters of the module."""

    def __init__(self):
        self.specs = []

    def emit(self, builder, name, spec, params, x, h0, c0, lengths):
        self.specs.append(spec)
        inner = spec.replace(layout="TNC", bias=True, use_sequence_length=lengths is not None)
        names = [parameter.name for parameter in inner.parameters()]
        assert params.keys() == set(names)
        function = f"test.lstm.{next(_numbers)}"

        @tvm_ffi.register_global_func(function)
        def run(*tensors):
            arrays = [tensor.numpy() for tensor in tensors[:-3]]
            data, h, c, *rest = arrays
            valid = rest.pop() if lengths is not None else None
            weights = dict(zip(names, rest, strict=True))
            y, states = reference.lstm(inner, weights, data, [h, c], valid)
            for tensor, value in zip(tensors[-3:], (y, *states), strict=True):
                tensor.copyfrom(value.astype(spec.dtype))

        weights = [builder.weight(f"{name}_{key}", params[key]) for key in names]
        steps, batch, _ = sizes_of(x)
        shapes = [(steps, batch, spec.output_size), *spec.state_shapes(batch)]
        call = relax.call_dps_packed(
            function,
            [x, h0, c0, *weights, *([] if lengths is None else [lengths])],
            [relax.TensorType(list(shape), dtype_of(x)) for shape in shapes],
        )
        result = builder.emit(call)
        return tuple(builder.emit(relax.TupleGetItem(result, i)) for i in range(3))


def run(lowered, arrays):
    """Compile the module and call it; inputs that are left out are zeros of the batch's size."""
    machine = relax.VirtualMachine(tvm.compile(lowered.mod, target="llvm"), tvm.cpu())
    sizes = {}
    for info in lowered.inputs:
        if info.name in arrays:
            assert len(info.shape) == np.ndim(arrays[info.name])
            sizes.update(zip(info.shape, np.shape(arrays[info.name]), strict=True))
    given = []
    for info in lowered.inputs:
        array = arrays.get(info.name)
        if array is None:
            assert info.optional, info
            array = np.zeros([sizes.get(size, size) for size in info.shape])
        given.append(np.ascontiguousarray(array, info.dtype))
    tensors = [tvm.runtime.tensor(a) for a in (*given, *lowered.weights.values())]
    results = [tensor.numpy() for tensor in machine["main"](*tensors)]
    for info, result in zip(lowered.outputs, results, strict=True):
        expected = tuple(sizes.get(size, size) for size in info.shape)
        assert result.shape == expected, info
        assert str(result.dtype) == info.dtype
    return results


@st.composite
def specs(draw, **fixed):
    """Any small LSTM, with or without a projection, clipping and lengths."""
    clip = draw(st.sampled_from([None, (-0.1, 0.2), (-3.0, 3.0)]))
    values = {
        "hidden_size": draw(st.integers(1, 5)),
        "num_layers": draw(st.integers(1, 3)),
        "layout": draw(st.sampled_from(["TNC", "NTC"])),
        "bidirectional": draw(st.booleans()),
        "input_size": draw(st.integers(1, 5)),
        "projection_size": draw(st.sampled_from([None, 1, 3])),
        "state_clip_min": clip and clip[0],
        "state_clip_max": clip and clip[1],
        "state_clip_nan": draw(st.booleans()),
        "dtype": draw(st.sampled_from(["float32", "float64"])),
        "use_sequence_length": draw(st.booleans()),
    }
    return LSTMSpec(**{**values, **fixed})


def random_params(spec, rng):
    return {
        p.name: (rng.standard_normal(p.shape) / 2).astype(spec.dtype) for p in spec.parameters()
    }


def random_arrays(spec, rng, steps, batch):
    """Return x, h0, c0, lengths."""
    h_shape, c_shape = spec.state_shapes(batch)
    x = rng.standard_normal(spec.data_shape(steps, batch)).astype(spec.dtype)
    h0, c0 = (rng.standard_normal(shape).astype(spec.dtype) for shape in (h_shape, c_shape))
    return x, h0, c0, rng.integers(0, steps + 1, batch).astype(np.int32)


@dataclass
class Spelling:
    """How a graph of one LSTM is written."""

    states: str = "free"  # free | zeros (unknown batch) | fixed (zeros of a known batch)
    packing: str = "_rnn_param_concat"  # | Concat | concat | packed: one variable
    reshape: str = "Reshape"  # | _np_reshape
    swap: str = "SwapAxis"  # | transpose
    true: str = "True"
    false: str | None = "False"  # None: attributes with default values are left out
    passes: tuple[str, ...] = ()  # operators that do nothing, around the LSTM
    state_outputs: bool = True
    heads: tuple[int, ...] = (0, 1, 2)  # y, h, c
    prefix: str = ""  # of parameter names in the checkpoint
    batch: int | None = None  # of fixed states


@st.composite
def spellings(draw):
    state_outputs = draw(st.booleans())
    numbers = st.integers(0, 2 if state_outputs else 0)
    states = draw(st.sampled_from(["free", "zeros", "fixed"]))
    return Spelling(
        states=states,
        packing=draw(st.sampled_from(["_rnn_param_concat", "Concat", "concat", "packed"])),
        reshape=draw(st.sampled_from(["Reshape", "_np_reshape"])),
        swap=draw(st.sampled_from(["SwapAxis", "transpose"])),
        true=draw(st.sampled_from(["True", "true", "1"])),
        false=draw(st.sampled_from(["False", "false", "0", None])),
        passes=tuple(
            draw(st.lists(st.sampled_from(["Dropout", "_copy", "BlockGrad"]), max_size=2))
        ),
        state_outputs=state_outputs,
        heads=tuple(draw(st.lists(numbers, min_size=1, max_size=3))),
        prefix=draw(st.sampled_from(["", "arg:", "aux:"])),
        batch=draw(st.integers(1, 3)) if states == "fixed" else None,
    )


@dataclass
class GraphWriter:
    """Collects nodes; every method returns the entry of what it added."""

    nodes: list[Node] = field(default_factory=list)

    def var(self, name, **attrs):
        return self.call("null", name, [], **attrs)

    def call(self, op, name, inputs, **attrs):
        self.nodes.append(Node(name, op, attrs, tuple(inputs)))
        return Entry(len(self.nodes) - 1)

    def graph(self, heads):
        arguments = tuple(node.name for node in self.nodes if node.is_variable)
        return Graph(tuple(self.nodes), tuple(heads), arguments, 10901)


def lstm_graph(spec, params, spelling):
    """Write a graph of one LSTM; return it and its checkpoint."""
    writer, checkpoint = GraphWriter(), {}
    x = data = writer.var("data0")
    swap = {"dim1": "0", "dim2": "1"} if spelling.swap == "SwapAxis" else {"axes": "(1, 0, 2)"}
    for number, op in enumerate(spelling.passes):
        x = writer.call(op, f"pass{number}", [x])
    if spec.layout == "NTC":
        x = writer.call(spelling.swap, "swap0", [x], **swap)
    packed = _packed(writer, spec, params, spelling, checkpoint)
    states = [_state(writer, spec, spelling, number) for number in (0, 1)]
    lengths = [writer.var("data3")] if spec.use_sequence_length else []
    rnn = writer.call("RNN", "lstm0_rnn0", [x, packed, *states, *lengths], **_rnn(spec, spelling))
    outputs = [rnn, Entry(rnn.node, 1), Entry(rnn.node, 2)]
    if spec.layout == "NTC":
        outputs[0] = writer.call(spelling.swap, "swap1", [rnn], **swap)
    for number, op in enumerate(spelling.passes):
        outputs[0] = writer.call(op, f"pass_out{number}", [outputs[0]])
    assert data == Entry(0)
    return writer.graph([outputs[head] for head in spelling.heads]), checkpoint


def _packed(writer, spec, params, spelling, checkpoint):
    parts = []
    if spelling.packing == "packed":
        arrays = [params[p.name].reshape(-1) for p in spec.packed_parameters()]
        checkpoint[f"{spelling.prefix}lstm0_parameters"] = np.concatenate(arrays)
        return writer.var("lstm0_parameters")
    for number, parameter in enumerate(spec.packed_parameters()):
        name = f"lstm0_{parameter.name}"
        shape = (parameter.shape[0], *(0 for _ in parameter.shape[1:]))  # 0: not known
        checkpoint[spelling.prefix + name] = params[parameter.name]
        attrs = {"shape": "-1"} if spelling.reshape == "Reshape" else {"newshape": "(-1,)"}
        var = writer.var(name, __shape__=str(shape), __dtype__="0")
        parts.append(writer.call(spelling.reshape, f"reshape{number}", [var], **attrs))
    return writer.call(spelling.packing, "concat", parts, dim="0", num_args=str(len(parts)))


def _state(writer, spec, spelling, number):
    if spelling.states == "free":
        return writer.var(f"data{number + 1}")
    rows, batch, width = spec.state_shapes(spelling.batch or 0)[number]
    attrs = {"shape": f"({rows}L, {batch}L, {width}L)", "__layout__": "LNC", "dtype": spec.dtype}
    return writer.call("_zeros", f"state{number}", [], **attrs)


def _rnn(spec, spelling):
    values = {
        "bidirectional": (spec.bidirectional, False),
        "lstm_state_clip_max": (spec.state_clip_max, None),
        "lstm_state_clip_min": (spec.state_clip_min, None),
        "lstm_state_clip_nan": (spec.state_clip_nan, False),
        "p": (spec.dropout, 0.0),
        "projection_size": (spec.projection_size, None),
        "state_outputs": (spelling.state_outputs, False),
        "use_sequence_length": (spec.use_sequence_length, False),
    }
    attrs = {
        "mode": "lstm",
        "num_layers": str(spec.num_layers),
        "state_size": str(spec.hidden_size),
    }
    for name, (value, default) in values.items():
        if value == default and spelling.false is None:
            continue
        words = {True: spelling.true, False: spelling.false}
        attrs[name] = words[value] if isinstance(value, bool) else str(value)
    return attrs
