"""GPU passes: outputs that the caller brings, and schedules of operators around the kernels."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytestmark = pytest.mark.tvm


def built_for_cpu(model):
    """Build with the passes for outputs, but for the CPU; return a virtual machine."""
    import tvm
    from tvm import relax
    from tvm.ir.transform import Sequential

    from gluonlstm.codegen import pipeline
    from gluonlstm.codegen.cuda.outputs import CopySharedOutputs, PassOutputs
    from gluonlstm.codegen.cuda.passes import legalize_operators
    from gluonlstm.codegen.target import resolve

    target = resolve("llvm")
    r = relax.transform
    legalize = [legalize_operators(), CopySharedOutputs()]
    calls = [r.ToNonDataflow(), r.RemovePurityChecking(), r.CallTIRRewrite(), PassOutputs()]
    with target.tvm():
        mod = Sequential([*legalize, *calls])(model.mod)
        for name, passes in pipeline.relax_phases(target):
            if name not in ("legalize", "lower-calls"):
                mod = passes(mod)
        executable = relax.build(
            mod, target.tvm(), relax_pipeline=None, tir_pipeline=pipeline.tir_pipeline()
        )
    return relax.VirtualMachine(executable, tvm.cpu())


KINDS = ("computed", "input", "reshaped", "flattened", "twice", "sum", "part")


@settings(max_examples=25)
@given(st.lists(st.sampled_from(KINDS), min_size=1, max_size=6), st.integers(1, 3))
def test_outputs_are_written_where_the_caller_says(kinds, steps):
    import tvm
    from tvm import relax

    from gluonlstm.codegen.frontend.builder import ModelBuilder

    x_value = np.arange(steps * 4, dtype="float32").reshape(steps, 2, 2)
    w_value = np.array([[3, 5], [7, 11]], "float32")
    with ModelBuilder() as builder:
        x = builder.input("x", ("T", 2, 2), "float32")
        w = builder.weight("w", w_value)
        y = builder.emit(relax.op.multiply(x, w))
        rows = builder.symbol("T")
        halves = builder.emit(relax.op.split(y, 2, axis=2))
        values = {
            "computed": y,
            "input": x,
            "reshaped": builder.emit(relax.op.reshape(y, [rows, 4])),
            "flattened": builder.emit(relax.op.flatten(y)),
            "twice": y,
            "sum": builder.emit(relax.op.add(y, x)),
            "part": builder.emit(relax.TupleGetItem(halves, 1)),
        }
        outputs = [(f"{kind}{i}", values[kind]) for i, kind in enumerate(kinds)]
        model = builder.finish(outputs)
    y_value = x_value * w_value
    expected = {
        "computed": y_value,
        "input": x_value,
        "reshaped": y_value.reshape(steps, 4),
        "flattened": y_value.reshape(-1),
        "twice": y_value,
        "sum": y_value + x_value,
        "part": y_value[..., 1:],
    }
    machine = built_for_cpu(model)
    given = tvm.runtime.tensor(x_value)
    shapes = [tuple(shape) for shape in machine["output_shapes"](given)]
    assert shapes == [expected[kind].shape for kind in kinds]
    memory = [tvm.runtime.tensor(np.full(shape, np.nan, "float32")) for shape in shapes]
    returned = machine["main"](given, *memory, tvm.runtime.tensor(w_value))
    for kind, own, result in zip(kinds, memory, returned, strict=True):
        np.testing.assert_array_equal(own.numpy(), expected[kind])
        assert result.data_ptr() == own.data_ptr()
    assert (given.numpy() == x_value).all()


def cuda_of(folder, emit, *inputs):
    """Return the CUDA C of a Relax module whose main is ``emit`` of variables."""
    from tvm import relax

    from gluonlstm.codegen import pipeline
    from gluonlstm.codegen.cuda.build import link_cuda
    from gluonlstm.codegen.cuda.compiler import CompiledSource
    from gluonlstm.codegen.cuda.toolchain import using
    from gluonlstm.codegen.frontend.builder import ModelBuilder
    from gluonlstm.codegen.target import resolve

    sources = []

    class Reading:
        name = "reading"

        def compile(self, source, archs, ptx):
            sources.append(source)
            return CompiledSource(b"", (), self.name)

    with ModelBuilder() as builder:
        variables = [
            builder.input(f"x{i}", shape, dtype) for i, (shape, dtype) in enumerate(inputs)
        ]
        model = builder.finish([("y", builder.emit(emit(relax.op, *variables)))])
    target = resolve("cuda")
    mod = pipeline.run_relax(model.mod, target)
    with using(Reading()):
        compiled = link_cuda(mod, target, pipeline.tir_pipeline("cuda"), folder / "m.so")
    assert compiled.compiler == "reading"
    return "\n".join(sources)


TENSOR = (("T", "N", 8), "float32")


@pytest.mark.parametrize(
    ("emit", "inputs"),
    [
        (lambda op, x: op.permute_dims(x, [1, 0, 2]), [TENSOR]),
        (lambda op, x: op.astype(x, "bfloat16"), [TENSOR]),
        (lambda op, x: op.astype(x, "float16"), [TENSOR]),
        (lambda op, x, y: op.concat([x, y], axis=0), [TENSOR, TENSOR]),
        (lambda op, x: op.strided_slice(x, [2], [3], [7]), [TENSOR]),
        (lambda op, x: op.tanh(op.add(x, x)), [TENSOR]),
        (lambda op, x: op.broadcast_to(x, [4, 5]), [((5,), "float32")]),
    ],
)
def test_elementwise_operators_are_one_kernel_that_strides(tmp_path, emit, inputs):
    source = cuda_of(tmp_path, emit, *inputs)
    kernels = set(re.findall(r"__launch_bounds__\((\d+)\) (\w+)\(", source))
    assert len(kernels) == 1
    assert {threads for threads, _ in kernels} == {"256"}
    assert "__expf" not in source


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_products_and_reductions_compile(tmp_path, dtype):
    source = cuda_of(
        tmp_path,
        lambda op, x, w: op.sum(op.matmul(x, w), axis=-1),
        (("T", "N", 64), dtype),
        ((64, 32), dtype),
    )
    assert source.count("__global__") >= 2


def test_exponentials_are_exact(tmp_path):
    source = cuda_of(tmp_path, lambda op, x: op.exp(op.sigmoid(op.log(x))), TENSOR)
    assert not re.search(r"__(exp|log)f", source)
    assert re.search(r"\bexpf\(", source)
    assert re.search(r"\blogf\(", source)
