"""A small GPU model for tests of the toolchain and the runtime: two kernels, no LSTM."""

from __future__ import annotations

import numpy as np

CTAS, THREADS, WIDTH = 4, 64, 8


def gate_kernel(sign=1):
    """Return y = sign * sigmoid(x) * tanh(x) over (T, N, 8), in the tirx dialect."""
    from tvm.script.ir_builder import IRBuilder

    from gluonlstm.codegen.kernels.simt import kernel_attributes, when
    from gluonlstm.codegen.kernels.tir import T, tirx

    with IRBuilder() as builder, T.prim_func():
        T.func_name("gate")
        T.func_attr(kernel_attributes())
        steps, batch = tirx.Var("T", "int64"), tirx.Var("N", "int64")
        x, y = (
            T.arg(name, tirx.decl_buffer((steps, batch, WIDTH), "float32", name)) for name in "xy"
        )
        T.device_entry()
        count = steps * batch * WIDTH
        cta = T.cta_id([T.cast(T.max((count + (THREADS - 1)) // THREADS, 1), "int32")])
        thread = T.thread_id([THREADS])
        index = T.cast(cta, "int64") * THREADS + thread
        with when(index < count):
            value = tirx.BufferLoad(x, [0, 0, index])
            gated = T.float32(sign) * T.sigmoid(value) * T.tanh(value)
            T.buffer_store(y, gated, [0, 0, index])
    return builder.get()


def total_kernel():
    """Return z = y + w * sum(y) over (T, N, 8): one cooperative kernel with a grid barrier.

    Its second output (CTAS,) is the workspace for the CTAs' parts of the sum.
    """
    from tvm.script.ir_builder import IRBuilder

    from gluonlstm.codegen.kernels.simt import kernel_attributes, sync_grid, warp_sum, when
    from gluonlstm.codegen.kernels.tir import T, tirx

    with IRBuilder() as builder, T.prim_func():
        T.func_name("total")
        T.func_attr(kernel_attributes(cooperative=True))
        steps, batch = tirx.Var("T", "int64"), tirx.Var("N", "int64")
        shapes = {"y": (steps, batch, WIDTH), "w": (WIDTH,), "z": (steps, batch, WIDTH)}
        y, w, z, work = (
            T.arg(name, tirx.decl_buffer(shape, "float32", name))
            for name, shape in {**shapes, "work": (CTAS,)}.items()
        )
        T.device_entry()
        count = steps * batch * WIDTH
        stride = 32 * CTAS
        rounds = (count + (stride - 1)) // stride
        cta, lane = T.cta_id([CTAS]), T.thread_id([32])
        sums = T.alloc_local((1,), "float32")
        T.buffer_store(sums, T.float32(0), [0])
        with T.serial(rounds) as i:
            index = i * stride + cta * 32 + lane
            with when(index < count):
                value = tirx.BufferLoad(sums, [0]) + tirx.BufferLoad(y, [0, 0, index])
                T.buffer_store(sums, value, [0])
        part = warp_sum(tirx.BufferLoad(sums, [0]))
        with when(lane == 0):
            T.buffer_store(work, part, [cta])
        sync_grid()
        whole = tirx.BufferLoad(work, [0])
        for other in range(1, CTAS):
            whole = whole + tirx.BufferLoad(work, [other])
        with T.serial(rounds) as i:
            index = i * stride + cta * 32 + lane
            with when(index < count):
                value = tirx.BufferLoad(y, [0, 0, index])
                scaled = tirx.BufferLoad(w, [index % WIDTH]) * whole
                T.buffer_store(z, value + scaled, [0, 0, index])
    return builder.get()


def small_model(weights, prefix="", sign=1):
    """Return the lowered model: data (T, N, 8), optional states and lengths -> z, h, c.

    They are what :func:`expected` says, z times ``sign``; ``prefix`` begins the kernels' names.
    """
    from tvm import relax

    from gluonlstm.codegen.frontend.builder import ModelBuilder

    with ModelBuilder() as builder:
        x = builder.input("data", ("T", "N", WIDTH), "float32")
        h0 = builder.input("h0", (2, "N", 4), "float32", "hidden", True)
        c0 = builder.input("c0", (2, "N", 4), "float32", "cell", True)
        lengths = builder.input("lengths", ("N",), "int32", "lengths", True)
        w = builder.weight("w", weights)
        steps, batch = builder.symbol("T"), builder.symbol("N")
        kind = relax.TensorType([steps, batch, WIDTH], "float32")
        gate, total = (
            builder.bb.add_func(kernel.with_attr("global_symbol", prefix + name), prefix + name)
            for name, kernel in {"gate": gate_kernel(sign), "total": total_kernel()}.items()
        )
        y = builder.emit(relax.call_tir(gate, [x], out_ty=kind))
        work = relax.TensorType([CTAS], "float32")
        both = builder.emit(relax.call_tir(total, [y, w], out_ty=[kind, work]))
        z = builder.emit(relax.TupleGetItem(both, 0))
        moved = builder.emit(relax.op.permute_dims(h0, [1, 0, 2]))
        counts = builder.emit(relax.op.astype(lengths, "float32"))
        counts = builder.emit(relax.op.reshape(counts, [batch, 1, 1]))
        h = builder.emit(relax.op.add(moved, counts))
        return builder.finish([("z", z), ("h", h), ("c", c0)])


def expected(weights, x, h0, c0, lengths):
    """Compute what :func:`small_model` does, in float64."""
    x = x.astype(np.float64)
    y = np.tanh(x) / (1 + np.exp(-x))
    h = h0.transpose(1, 0, 2) + np.asarray(lengths, np.float64)[:, None, None]
    return y + weights * y.sum(), h, c0


def write_small_model(path, weights, target="cuda", returns="layer", **facts):
    """Compile :func:`small_model` to an artifact."""
    from gluonlstm.codegen.build import write_artifact
    from gluonlstm.codegen.target import resolve

    write_artifact(small_model(weights), resolve(target), path, returns=returns, facts=facts)
    return path


def write_moving_model(path, dtype):
    """Compile x (T, N, 8), h0 (2, N, 4) -> x transposed to (N, T, 8), and h0 itself."""
    from tvm import relax

    from gluonlstm.codegen.build import write_artifact
    from gluonlstm.codegen.frontend.builder import ModelBuilder
    from gluonlstm.codegen.target import resolve

    with ModelBuilder() as builder:
        x = builder.input("x", ("T", "N", WIDTH), dtype)
        h0 = builder.input("h0", (2, "N", 4), dtype, "hidden", True)
        moved = builder.emit(relax.op.permute_dims(x, [1, 0, 2]))
        model = builder.finish([("y", moved), ("h", h0)])
    write_artifact(model, resolve("cuda"), path, returns="heads")
    return path
