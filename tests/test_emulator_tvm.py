"""TVM on the emulated device: its kernels, its host code, Relax, CUDA graphs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests import emulator

pytestmark = [
    pytest.mark.tvm,
    pytest.mark.skipif(not emulator.available(), reason=emulator.available().reason),
]

F32 = np.float32


@pytest.fixture(scope="module")
def tvm():
    emulator.install()
    import tvm

    yield tvm
    emulator.uninstall_compiler()


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def lstm(gates, weight, h, c):
    """y (T, N, H) from x's share of the gates (T, N, 4 * H) and the weights (4 * H, H)."""
    y = []
    for x in gates:
        i, f, g, o = np.split(x + h @ weight.T, 4, axis=1)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
        y.append(h)
    return np.stack(y)


def inputs(steps, batch, hidden):
    rng = np.random.default_rng(0)
    shapes = (steps, batch, 4 * hidden), (4 * hidden, hidden), (batch, hidden), (batch, hidden)
    return [(0.4 * rng.standard_normal(shape)).astype(F32) for shape in shapes]


BARRIER = r"""
__forceinline__ __device__ void test_grid_barrier(void* count, unsigned target) {
  __syncthreads();
  if (threadIdx.x == 0) {
    asm volatile("red.release.gpu.global.add.u32 [%0], 1;" :: "l"(count) : "memory");
    unsigned seen;
    do {
      asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(seen) : "l"(count) : "memory");
    } while (seen < target);
  }
  __syncthreads();
}
"""


def persistent(hidden, barrier):
    """One warp for each hidden unit, with its 4 rows of the weights in registers."""
    from tvm.script import tirx as T

    units, lanes = 4, 32  # hidden units of a CTA
    ctas, part = hidden // units, hidden // lanes
    own_barrier = barrier == "own"

    @T.prim_func
    def lstm_persistent(
        gates_p: T.handle, weight_p: T.handle, c_p: T.handle, h_p: T.handle, count_p: T.handle
    ):
        steps = T.int32()
        batch = T.int32()
        gates = T.match_buffer(gates_p, (steps, batch, 4 * hidden), "float32")
        weight = T.match_buffer(weight_p, (4 * hidden, hidden), "float32")
        cell = T.match_buffer(c_p, (batch, hidden), "float32")
        h = T.match_buffer(h_p, (steps + 1, batch, hidden), "float32")
        count = T.match_buffer(count_p, (1,), "uint32")
        T.device_entry()
        T.attr({"tirx.launch_bounds_min_blocks_per_sm": 1})
        cta = T.cta_id([ctas])
        tx = T.thread_id([units * lanes])
        unit = T.meta_var(cta * units + tx // lanes)
        lane = T.meta_var(tx % lanes)
        rows = T.alloc_local((4 * part,), "float32")
        total = T.alloc_local((4,), "float32")
        for g in T.unroll(4):
            for k in T.unroll(part):
                rows[g * part + k] = weight[g * hidden + unit, k * lanes + lane]
        for t in T.serial(steps, annotations={"disable_unroll": True}):
            for n in T.serial(batch, annotations={"disable_unroll": True}):
                for g in T.unroll(4):
                    total[g] = T.float32(0)
                    for k in T.unroll(part):
                        total[g] = total[g] + rows[g * part + k] * h[t, n, k * lanes + lane]
                    for s in T.unroll(5):
                        total[g] = total[g] + T.cuda.__shfl_xor_sync(
                            T.uint32(0xFFFFFFFF), total[g], T.shift_right(16, s), 32
                        )
                    total[g] = total[g] + gates[t, n, g * hidden + unit]
                if lane == 0:
                    cell[n, unit] = T.sigmoid(total[1]) * cell[n, unit] + T.sigmoid(
                        total[0]
                    ) * T.tanh(total[2])
                    h[t + 1, n, unit] = T.sigmoid(total[3]) * T.tanh(cell[n, unit])
            if own_barrier:
                T.cuda.func_call(
                    "test_grid_barrier",
                    count.ptr_to([0]),
                    T.cast((t + 1) * ctas, "uint32"),
                    source_code=BARRIER,
                )
            else:
                T.cuda.grid_sync()

    return lstm_persistent.with_attr("global_symbol", "lstm").with_attr(
        "tirx.kernel_launch_params", ["tirx.use_cooperative_launch"]
    )


def target(tvm, arch="sm_90"):
    return tvm.target.Target(
        {
            "kind": "cuda",
            "arch": arch,
            "max_shared_memory_per_block": 49152,
            "max_threads_per_block": 1024,
        },
        host="llvm",
    )


def compiled(tvm, function, name):
    where = target(tvm)
    with where:
        return tvm.compile(tvm.IRModule({name: function}), target=where, tir_pipeline="tirx")


def run_lstm(tvm, function, steps, batch, hidden):
    gates, weight, h, c = inputs(steps, batch, hidden)
    states = np.zeros((steps + 1, batch, hidden), F32)
    states[0] = h
    device = tvm.cuda(0)
    arrays = [gates, weight, c, states, np.zeros(1, np.uint32)]
    tensors = [tvm.runtime.tensor(a, device) for a in arrays]
    function(*tensors)
    return tensors[3].numpy()[1:], lstm(gates, weight, h, c)


def test_the_device(tvm):
    device = tvm.cuda(0)
    assert device.exist
    assert (device.compute_version, device.multi_processor_count) == ("9.0", 132)
    assert device.device_name == "emulated sm_90"
    with emulator.settings(arch="sm_80"):
        assert (device.compute_version, device.multi_processor_count) == ("8.0", 108)
    assert not tvm.cuda(1).exist


@pytest.mark.parametrize("barrier", ["own", "cooperative groups"])
def test_a_persistent_kernel(tvm, barrier, tmp_path):
    program = compiled(tvm, persistent(64, barrier), "lstm")
    program.export_library(str(tmp_path / "lstm.so"))
    loaded = tvm.runtime.load_module(str(tmp_path / "lstm.so"))
    for seed in range(2):
        with emulator.settings(seed=seed):
            got, expected = run_lstm(tvm, loaded["lstm"], 5, 3, 64)
        np.testing.assert_allclose(got, expected, atol=1e-6)


@pytest.mark.parametrize("barrier", ["own", "cooperative groups"])
def test_every_broken_persistent_kernel_is_caught(tvm, barrier):
    function = persistent(32, barrier)
    source = compiled(tvm, function, "lstm").mod.imports[0].inspect_source()
    found = emulator.mutations(source)
    assert len(found) == (7 if barrier == "own" else 1)
    for mutation in found:
        with emulator.compiler(edit=lambda _, text=mutation.source: text):
            program = compiled(tvm, function, "lstm")
        with pytest.raises(Exception, match=r"race on byte \d+ of device memory"):
            run_lstm(tvm, program["lstm"], 3, 2, 32)


def test_refused_cooperative_launches_raise(tvm):
    program = compiled(tvm, persistent(64, "own"), "lstm")
    reason = "a cooperative launch of 16 CTAs; 14 are resident"
    with emulator.settings(multiprocessors=7), pytest.raises(Exception, match=reason):
        run_lstm(tvm, program["lstm"], 1, 2, 64)


def matrix_product(dtype):
    """C (16, 8) += A (16, K) B (8, K)^T by tensor cores, K split over four warps."""
    from tvm.script import tirx as T

    kind = {"float16": "f16", "bfloat16": "bf16"}[dtype]
    instruction = f"mma.sync.aligned.m16n8k16.row.col.f32.{kind}.{kind}.f32"

    @T.prim_func
    def product(
        a: T.Buffer((16, 64), dtype), b: T.Buffer((8, 64), dtype), c: T.Buffer((16, 8), "float32")
    ):
        T.device_entry()
        tx = T.thread_id([128])
        group = T.meta_var(tx % 32 // 4)
        member = T.meta_var(tx % 4)
        depth = T.meta_var(tx // 32 * 16)
        left = T.alloc_local((8,), dtype)
        right = T.alloc_local((4,), dtype)
        total = T.alloc_local((4,), "float32")
        left_words = left.view("uint32")
        right_words = right.view("uint32")
        parts = T.alloc_buffer((4, 16, 8), "float32", scope="shared")
        for i in T.unroll(4):
            total[i] = T.float32(0)
            for j in T.unroll(2):
                left[i * 2 + j] = a[i % 2 * 8 + group, depth + i // 2 * 8 + member * 2 + j]
        for i in T.unroll(2):
            for j in T.unroll(2):
                right[i * 2 + j] = b[group, depth + i * 8 + member * 2 + j]
        T.ptx[instruction](
            total[0], total[1], total[2], total[3],
            left_words[0], left_words[1], left_words[2], left_words[3],
            right_words[0], right_words[1],
            total[0], total[1], total[2], total[3],
        )  # fmt: skip
        for i in T.unroll(4):
            parts[tx // 32, i // 2 * 8 + group, member * 2 + i % 2] = total[i]
        T.cuda.cta_sync()
        for w in T.unroll(4):
            c[tx // 8, tx % 8] = c[tx // 8, tx % 8] + parts[w, tx // 8, tx % 8]

    return product.with_attr("global_symbol", "product")


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_tensor_cores(tvm, dtype):
    import ml_dtypes

    numpy_dtype = {"float16": np.float16, "bfloat16": ml_dtypes.bfloat16}[dtype]
    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal((n, 64)).astype(numpy_dtype) for n in (16, 8))
    c = rng.standard_normal((16, 8)).astype(F32)
    function = matrix_product(dtype)
    program = compiled(tvm, function, "product")
    device = tvm.cuda(0)

    def run(program):
        tensors = [tvm.runtime.tensor(x, device) for x in (a, b, c)]
        program["product"](*tensors)
        return tensors[2].numpy()

    expected = c + a.astype(np.float64) @ b.astype(np.float64).T
    np.testing.assert_allclose(run(program), expected, atol=1e-5)
    (mutation,) = emulator.mutations(program.mod.imports[0].inspect_source())
    with emulator.compiler(edit=lambda _: mutation.source):
        broken = compiled(tvm, function, "product")
    with pytest.raises(Exception, match=r"race on byte .* of the shared variable parts"):
        run(broken)


def test_clusters(tvm):
    from tvm.script import tirx as T

    @T.prim_func
    def rotate(a: T.Buffer((16, 64), "float32"), b: T.Buffer((16, 64), "float32")):
        T.device_entry()
        cluster = T.cluster_id([4])
        rank = T.cta_id_in_cluster([4])
        tx = T.thread_id([64])
        own = T.alloc_buffer((64,), "float32", scope="shared")
        mapped = T.alloc_local([1], "uint64")
        own[tx] = a[cluster * 4 + rank, tx]
        T.cuda.cluster_sync()
        T.ptx.mapa.u64(mapped[0], own.ptr_to([tx]), T.uint32((rank + 1) % 4))
        pointer = T.reinterpret(tvm.ir.PointerType(tvm.ir.PrimType("float32"), "shared"), mapped[0])
        far = T.decl_buffer([1], "float32", data=pointer, scope="shared")
        b[cluster * 4 + rank, tx] = far[0]
        T.cuda.cluster_sync()

    program = compiled(tvm, rotate.with_attr("global_symbol", "rotate"), "rotate")
    a = np.arange(1024, dtype=F32).reshape(16, 64)
    tensors = [tvm.runtime.tensor(x, tvm.cuda(0)) for x in (a, np.zeros_like(a))]
    program["rotate"](*tensors)
    expected = np.roll(a.reshape(4, 4, 64), -1, axis=1).reshape(16, 64)
    np.testing.assert_array_equal(tensors[1].numpy(), expected)


@pytest.mark.parametrize("graph", [False, True])
@pytest.mark.parametrize("lazy", [False, True])
def test_relax(tvm, graph, lazy):
    from tvm import relax
    from tvm.relax import op

    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType((33, 17), "float32"))
    w = relax.Var("w", relax.TensorType((17, 40), "float32"))
    with builder.function("main", [x, w], attrs={"num_input": 1}):
        with builder.dataflow():
            hidden = builder.emit(op.tanh(op.matmul(x, w)))
            hidden = builder.emit(op.matmul(op.add(hidden, hidden), op.permute_dims(w)))
            out = builder.emit_output(op.nn.softmax(hidden, axis=-1))
        builder.emit_func_output(out)
    where = target(tvm)
    config = {"relax.backend.use_cuda_graph": graph}
    with tvm.transform.PassContext(opt_level=3, config=config), where:
        program = relax.build(builder.finalize(), target=where)
    assert ("cuda_graph.run_or_capture" in program.as_text()) == graph
    device = tvm.cuda(0)
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((17, 40)).astype(F32)
    with emulator.settings(lazy_streams=lazy):
        machine = relax.VirtualMachine(program, device)
        kept = tvm.runtime.tensor(weight, device)
        for _ in range(3):  # run, capture; then replay
            value = rng.standard_normal((33, 17)).astype(F32)
            result = machine["main"](tvm.runtime.tensor(value, device), kept).numpy()
            scores = np.exp(2 * np.tanh(value @ weight) @ weight.T)
            np.testing.assert_allclose(result, scores / scores.sum(-1, keepdims=True), rtol=1e-4)


def test_the_compiler_is_given_back(tvm):
    import tvm_ffi

    def callback():
        return tvm_ffi.get_global_func("tvm_callback_cuda_compile")

    emulator.uninstall_compiler()
    tvm_ffi.register_global_func("tvm_callback_cuda_compile", lambda code: b"mine", override=True)
    assert bytes(callback()("x")) == b"mine"
    kernel = 'extern "C" __global__ void f(float* x) { x[0] = 1; }'
    with emulator.compiler(edit=lambda code: code.replace("BODY", kernel)):
        assert bytes(callback()("BODY")).startswith(b"EMUCUDA1")
        with emulator.compiler():
            assert bytes(callback()(kernel)).startswith(b"EMUCUDA1")
        assert bytes(callback()("BODY")).startswith(b"EMUCUDA1")
    assert bytes(callback()("x")) == b"mine"
    emulator.install()
    emulator.install()
    assert bytes(callback()(kernel)).startswith(b"EMUCUDA1")
    emulator.uninstall_compiler()
    assert bytes(callback()("x")) == b"mine"


@pytest.mark.parametrize("order", ["before", "after", "without the tvm package"])
def test_it_is_installed_at_any_time(order, tmp_path):
    """Before and after `import tvm`; a program that was exported runs with tvm_ffi alone."""
    steps = {
        "before": "emulator.install(); import tvm",
        "after": "import tvm; emulator.install()",
    }
    code = f"""
import sys
from tests import emulator
from tests.test_emulator_tvm import compiled, persistent, run_lstm
{steps.get(order, steps["before"])}
program = compiled(tvm, persistent(32, "own"), "lstm")
got, expected = run_lstm(tvm, program["lstm"], 2, 2, 32)
assert abs(got - expected).max() < 1e-6
program.export_library(sys.argv[1])
print("ran")
"""
    path = str(tmp_path / "lstm.so")
    root = Path(__file__).resolve().parents[1]

    def run(code):
        return subprocess.run([sys.executable, "-c", code, path], cwd=root, env=dict(os.environ),
                              capture_output=True, text=True, check=False)  # fmt: skip

    result = run(code)
    assert result.stdout == "ran\n", result.stderr
    if order != "without the tvm package":
        return
    code = """
import sys
import numpy as np
from tests import emulator
from tests.emulator import driver
driver.load()
from gluonlstm import cuda_library, tvm_library
ffi = tvm_library.load_runtime()
cuda_library.load_cuda(ffi)
program = ffi.load_module(sys.argv[1])
allocate = ffi.get_global_func("runtime.TVMTensorAllocWithScope")
copy = ffi.get_global_func("runtime.TVMTensorCopyFromTo")
device = ffi.device("cuda:0")
def tensor(array):
    result = allocate(ffi.Shape(array.shape), ffi.dtype(str(array.dtype)), device, None)
    copy(ffi.from_dlpack(array), result)
    return result
shapes = (2, 2, 128), (128, 32), (2, 32), (3, 2, 32)
arrays = [np.full(shape, 0.1, np.float32) for shape in shapes] + [np.zeros(1, np.uint32)]
tensors = [tensor(array) for array in arrays]
program["lstm"](*tensors)
copy(tensors[3], ffi.from_dlpack(arrays[3]))
driver.synchronize()
assert "tvm" not in sys.modules
assert np.ptp(arrays[3][2]) == 0 and 0.1 < arrays[3][2].max() < 0.5
print("ran")
"""
    result = run(code)
    assert result.stdout == "ran\n", result.stderr
