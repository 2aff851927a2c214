"""Artifacts for tests: metadata and weights drawn at random, and small compiled models."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from gluonlstm.artifact import InputInfo, ModelInfo, OutputInfo, write
from gluonlstm.bfloat16 import STRUCTURED
from gluonlstm.model_info import DTYPES
from gluonlstm.spec import LSTMSpec

ELF = b"\x7fELF"

names = st.text(min_size=1, max_size=8)
sizes = st.one_of(st.integers(0, 2**40), st.sampled_from(["T", "N", "rows"]))
shapes = st.lists(sizes, max_size=4).map(tuple)
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    # JSON cannot hold a lone surrogate as UTF-8.
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=5,
)
json_objects = st.dictionaries(st.text(max_size=5), json_values, max_size=3)


@st.composite
def inputs(draw):
    role = draw(st.sampled_from(["data", "hidden", "cell", "lengths"]))
    optional = role != "data" and draw(st.booleans())
    if role == "lengths":
        return InputInfo(draw(names), (draw(sizes),), "int32", role, optional)
    return InputInfo(draw(names), draw(shapes), draw(st.sampled_from(DTYPES)), role, optional)


outputs = st.builds(OutputInfo, names, shapes, st.sampled_from(DTYPES))


@st.composite
def model_infos(draw):
    returns = draw(st.sampled_from(["heads", "layer", "torch"]))
    count = {"min_size": 3, "max_size": 3} if returns != "heads" else {"min_size": 1, "max_size": 3}
    spec = LSTMSpec(
        draw(st.integers(1, 9)), draw(st.integers(1, 3)), bidirectional=draw(st.booleans())
    )
    first = InputInfo("first", ("T", "N", "rows", draw(sizes)), draw(st.sampled_from(DTYPES)))
    more = draw(st.lists(inputs(), max_size=3, unique_by=lambda info: info.name))
    return ModelInfo(
        inputs=(first, *(info for info in more if info.name != "first")),
        outputs=tuple(draw(st.lists(outputs, **count))),
        returns=returns,
        target={**draw(json_objects), "kind": "llvm", "cpu_features": ["sse2"]},
        spec=draw(st.none() | st.just(spec)),
        plan=tuple(draw(st.lists(json_objects, max_size=2))),
        version=draw(names),
    )


@st.composite
def weights(draw):
    dtype = draw(
        st.sampled_from([np.dtype(name) for name in DTYPES if name != "bfloat16"] + [STRUCTURED])
    )
    shape = tuple(draw(st.lists(st.integers(0, 7), max_size=4)))
    size = int(np.prod(shape)) * dtype.itemsize
    array = np.frombuffer(draw(st.binary(min_size=size, max_size=size)), dtype).reshape(shape)
    return draw(
        st.sampled_from([array, np.asfortranarray(array), array[..., ::-1] if shape else array])
    )


codes = st.binary(max_size=200).map(ELF.__add__)


def simple_info(**changes) -> ModelInfo:
    """Return the metadata of a model with one input and one output."""
    fields = {
        "inputs": (InputInfo("x", ("T", "N", 8), "float32"),),
        "outputs": (OutputInfo("y", ("T", "N", 8), "float32"),),
        "returns": "heads",
        "target": {"kind": "llvm", "cpu_features": []},
    }
    return ModelInfo(**{**fields, **changes})


def stub_lstm(
    path,
    *,
    dtype="float32",
    layout="TNC",
    returns="layer",
    with_lengths=True,
    sizes=("T", "N"),
    optional=True,
    target=None,
    scale=1.0,
):
    """Write a compiled model that looks like an LSTM from outside; C=8, H=4, L*D=2.

    y = x + w, h = h0 + lengths + 1, c = scale * c0.
    """  # fmt: skip
    from tvm import relax, tirx

    free = {size: tirx.Var(size, "int64") for size in sizes if isinstance(size, str)}
    rows = sizes[1]
    infos = [
        InputInfo("data", (*(sizes if layout == "TNC" else sizes[::-1]), 8), dtype),
        InputInfo("h0", (2, rows, 4), dtype, "hidden", optional),
        InputInfo("c0", (2, rows, 4), dtype, "cell", optional),
        InputInfo("lengths", (rows,), "int32", "lengths", optional),
    ][: 4 if with_lengths else 3]
    weights = {"w": np.arange(8, dtype=dtype), "scale": np.array([scale], dtype)}

    def variable(name, shape, kind):
        return relax.Var(name, relax.TensorType([free.get(size, size) for size in shape], kind))

    inputs = [variable(info.name, info.shape, info.dtype) for info in infos]
    params = [variable(name, array.shape, dtype) for name, array in weights.items()]
    x, h0, c0, *lengths = inputs
    builder, op = relax.BlockBuilder(), relax.op
    with builder.function("main", inputs + params, attrs={"num_input": len(inputs)}):
        with builder.dataflow():
            h = builder.emit(op.add(h0, relax.const(1, dtype)))
            if lengths:
                steps = op.reshape(op.astype(lengths[0], dtype), [1, free.get(rows, rows), 1])
                h = builder.emit(op.add(h, steps))
            y = builder.emit(op.add(x, params[0]))
            c = builder.emit(op.multiply(c0, params[1]))
            results = builder.emit_output(relax.Tuple([y, h, c]))
        builder.emit_func_output(results)
    export(path, builder.finalize(), weights, ModelInfo(
        inputs=tuple(infos),
        outputs=(
            OutputInfo("y", infos[0].shape, dtype),
            OutputInfo("h", infos[1].shape, dtype),
            OutputInfo("c", infos[2].shape, dtype),
        ),
        returns=returns,
        target=target or {"kind": "llvm", "cpu_features": []},
        spec=LSTMSpec(4, 2, layout, input_size=8, dtype=dtype, use_sequence_length=with_lengths),
    ))  # fmt: skip
    return path


def identity(path):
    """Write a compiled model whose outputs are its input, twice, and its weight."""
    from tvm import relax, tirx

    rows, kind = tirx.Var("N", "int64"), "float32"
    x = relax.Var("x", relax.TensorType((rows, 2), kind))
    w = relax.Var("w", relax.TensorType((2,), kind))
    builder = relax.BlockBuilder()
    with builder.function("main", [x, w], attrs={"num_input": 1}):
        builder.emit_func_output(relax.Tuple([x, x, w]))
    outputs = [("a", ("N", 2)), ("b", ("N", 2)), ("c", (2,))]
    info = simple_info(
        inputs=(InputInfo("x", ("N", 2), kind),),
        outputs=tuple(OutputInfo(name, shape, kind) for name, shape in outputs),
    )
    export(path, builder.finalize(), {"w": np.array([5, 6], kind)}, info)
    return path


def export(path, module, weights, info):
    """Compile a Relax module into an artifact."""
    import tvm

    library = path.with_suffix(".library.so")
    tvm.compile(module, target="llvm").export_library(str(library))
    write(path, library, weights, info)
    library.unlink()


def busy(path):
    """Write a compiled model that spreads its work over threads: y[i] = sum of sqrt(x[i] + k)."""
    from tvm import relax, tirx
    from tvm.script import tirx as T

    @T.prim_func
    def work(x_handle: T.handle, y_handle: T.handle):
        T.func_attr({"tirx.noalias": True, "tirx.is_scheduled": True})
        rows = T.int64()
        x = T.match_buffer(x_handle, (rows,), "float32")
        y = T.match_buffer(y_handle, (rows,), "float32")
        for row in T.parallel(rows):
            y[row] = T.float32(0)
            for k in T.serial(20000):
                y[row] = y[row] + T.sqrt(x[row] + T.Cast("float32", k))

    rows, kind = tirx.Var("N", "int64"), "float32"
    x = relax.Var("x", relax.TensorType((rows,), kind))
    builder = relax.BlockBuilder()
    function = builder.add_func(work.with_attr("global_symbol", "work"), "work")
    with builder.function("main", [x], attrs={"num_input": 1}):
        call = relax.call_tir(function, [x], out_ty=relax.TensorType((rows,), kind))
        builder.emit_func_output(relax.Tuple([builder.emit(call)]))
    shape = ("N",)
    info = simple_info(
        inputs=(InputInfo("x", shape, kind),), outputs=(OutputInfo("y", shape, kind),)
    )
    export(path, builder.finalize(), {}, info)
    return path


def meeting(path):
    """Write a compiled model that calls the registered function gluonlstm.test.meet."""
    from tvm import relax, tirx

    rows, kind = tirx.Var("N", "int64"), "float32"
    x = relax.Var("x", relax.TensorType((rows,), kind))
    builder = relax.BlockBuilder()
    with builder.function("main", [x], attrs={"num_input": 1}):
        met = relax.call_pure_packed(
            "gluonlstm.test.meet", x, ty_args=[relax.TensorType((rows,), kind)]
        )
        builder.emit_func_output(relax.Tuple([builder.emit(met)]))
    shape = ("N",)
    info = simple_info(
        inputs=(InputInfo("x", shape, kind),), outputs=(OutputInfo("y", shape, kind),)
    )
    export(path, builder.finalize(), {}, info)
    return path
