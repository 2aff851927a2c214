"""The emulated device's memory: what is found there, and every access that it does not allow."""

from __future__ import annotations

import numpy as np
import pytest

from tests import emulator

pytestmark = pytest.mark.skipif(not emulator.available(), reason=emulator.available().reason)

F32 = np.float32


def kernel(body, parameters="float* x, float* y, int n", before=""):
    return f'{before}\nextern "C" __global__ void f({parameters}) {{\n{body}\n}}\n'


def launch(source, grid, block, arrays, *scalars, **options):
    named = {str(i): a for i, a in enumerate(arrays)}
    return list(emulator.run(source, "f", grid, block, named, *scalars, **options).values())


def arrays(n=64, dtype=F32):
    return [np.arange(n, dtype=dtype), np.zeros(n, dtype)]


# ---- what works ----------------------------------------------------------------------------------


def test_indices_of_threads_and_ctas():
    body = """
      int cta = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
      int thread = (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
      int i = cta * (blockDim.x * blockDim.y * blockDim.z) + thread;
      uint3 t = threadIdx;
      x[i] = i + 1000 * ((int)t.y == (int)threadIdx.y) + warpSize * 0;"""
    count = 2 * 3 * 4 * 5 * 2 * 3
    (x,) = launch(kernel(body, "int* x"), (2, 3, 4), (5, 2, 3), [np.zeros(count, np.int32)])
    np.testing.assert_array_equal(x, np.arange(count) + 1000)


@pytest.mark.parametrize("where", ["inside", "outside"])
def test_shared_memory_static_and_dynamic(where):
    declaration = "extern __shared__ __align__(16) float pool[];"
    body = """
      __shared__ alignas(64) float reversed[32][2];
      __shared__ double sum;
      float* half = pool + 32;
      half[threadIdx.x] = x[threadIdx.x];
      reversed[31 - threadIdx.x][1] = x[threadIdx.x];
      if (threadIdx.x == 0) sum = 0.5;
      __syncthreads();
      y[threadIdx.x] = half[(threadIdx.x + 1) % 32] * 100 + reversed[threadIdx.x][1] + sum;"""
    source = kernel(declaration + body) if where == "inside" else kernel(body, before=declaration)
    _, y = launch(source, 1, 32, arrays(32), 32, shared_bytes=256)
    i = np.arange(32)
    np.testing.assert_array_equal(y, (i + 1) % 32 * 100 + 31 - i + 0.5)


def test_shared_memory_belongs_to_one_cta():
    body = """
      __shared__ float s[32];
      s[threadIdx.x] = blockIdx.x;
      __syncthreads();
      y[blockIdx.x * 32 + threadIdx.x] = s[31 - threadIdx.x];"""
    _, y = launch(kernel(body), 8, 32, arrays(256), 0)
    np.testing.assert_array_equal(y, np.repeat(np.arange(8), 32))


def test_vectors_halves_and_bfloat16():
    body = """
      float4 v = *(float4*)(x + threadIdx.x * 4);
      float2 w = make_float2(v.x + v.y, v.z + v.w);
      __half h = __float2half_rn(w.x);
      nv_bfloat16 b = __float2bfloat16_rn(w.y);
      __half2 pair = __floats2half2_rn(v.x, v.y);
      y[threadIdx.x * 4] = __half2float(h);
      y[threadIdx.x * 4 + 1] = __bfloat162float(b);
      y[threadIdx.x * 4 + 2] = __half2float(__hadd(__low2half(pair), __high2half(pair)));
      y[threadIdx.x * 4 + 3] = __half2float(hexp(__float2half(0.0f))) + (float)htanh(b);"""
    x = np.linspace(-3, 3, 64, dtype=F32)
    _, y = launch(kernel(body), 1, 16, [x, np.zeros_like(x)], 0)
    v = x.reshape(16, 4)
    low, high = v[:, 0] + v[:, 1], v[:, 2] + v[:, 3]
    half = low.astype(np.float16).astype(F32)
    np.testing.assert_array_equal(y[0::4], half)
    np.testing.assert_allclose(y[1::4], high, rtol=2**-8)
    np.testing.assert_allclose(y[2::4], low, rtol=2**-9, atol=1e-3)
    np.testing.assert_allclose(y[3::4], 1 + np.tanh(high), rtol=0.02, atol=0.01)


def test_fast_math_is_ordinary_math():
    body = """
      float a = x[threadIdx.x];
      y[threadIdx.x] = __expf(a) + __logf(a + 4) + __fdividef(1.0f, a + 5) + rsqrtf(a + 6)
        + __powf(a + 4, 0.5f) + __saturatef(a) + __uint_as_float(__float_as_uint(a))
        + max(a, 0.5f) + min(threadIdx.x, 7u) + __fmaf_rn(a, 2.0f, 1.0f)
        + __ldg(x + threadIdx.x);"""
    x = np.linspace(-2, 2, 32, dtype=F32)
    _, y = launch(kernel(body), 1, 32, [x, np.zeros_like(x)], 0)
    a = x.astype(np.float64)
    expected = (
        np.exp(a) + np.log(a + 4) + 1 / (a + 5) + (a + 6) ** -0.5 + (a + 4) ** 0.5
        + np.clip(a, 0, 1) + a + np.maximum(a, 0.5) + np.minimum(np.arange(32), 7) + 2 * a + 1 + a
    )  # fmt: skip
    np.testing.assert_allclose(y, expected, rtol=1e-6)


def test_constants_and_device_functions():
    before = """
      __constant__ float table[4] = {1, 2, 4, 8};
      template <typename T> __device__ __forceinline__ T twice(T v) { return v + v; }
      __device__ __noinline__ void store(float* __restrict__ to, float v) { *to = v; }"""
    body = "store(y + threadIdx.x, twice(table[threadIdx.x % 4]));"
    _, y = launch(kernel(body, before=before), 1, 8, arrays(8), 0)
    np.testing.assert_array_equal(y, [2, 4, 8, 16] * 2)


def test_unwritten_memory_is_nan():
    body = """
      __shared__ float s[4];
      x[threadIdx.x] = s[threadIdx.x];
      float* none; (void)none;"""
    module = emulator.CudaModule(kernel(body, "float* x"))
    fresh = emulator.DeviceArray((4,), F32)
    for dtype in (np.float16, F32, np.float64):
        assert np.isnan(emulator.DeviceArray((9,), dtype).numpy()).all()
    assert emulator.DeviceArray((3,), np.int32).numpy().min() > 2**30
    fresh.write(np.zeros(4, F32))
    module.launch("f", 1, 4, fresh)
    assert np.isnan(fresh.numpy()).all()


# ---- what is refused -----------------------------------------------------------------------------


def fails(source, grid=1, block=32, with_arrays=None, n=0, **options):
    """The report of a launch that must fail."""
    with pytest.raises(emulator.LaunchError) as failure:
        launch(source, grid, block, with_arrays or arrays(), n, **options)
    return str(failure.value)


@pytest.mark.parametrize(
    ("body", "report"),
    [
        ("y[threadIdx.x + 33] = 0;", "writes 4 bytes out of bounds: 0 bytes past the end of device "
         "memory (allocation "),
        ("y[threadIdx.x] = x[(int)threadIdx.x - 1];", "out of bounds: 4 bytes before"),
        ("y[0] = __ldg(x + 64 + n);", "0 bytes past the end"),
        ("*(float4*)(y + 61) = make_float4(0, 0, 0, 0);", "multiple of its alignment"),
        ("y[threadIdx.x] = x[1 << 24];", " bytes past the end"),
        ("((double*)(y + 1))[0] = 1;", "no multiple of it: byte 4"),
        ("atomicAdd(y + 64, 1.0f);", "past the end"),
        ("float* p = nullptr; p += n; *p = 1;", "not in device memory: the null pointer"),
        ("__shared__ float s[8]; s[threadIdx.x] = 1;", "shared memory between two variables"),
        ("extern __shared__ float s[]; s[threadIdx.x] = 1;", "out of bounds"),
    ],
)  # fmt: skip
def test_accesses_out_of_bounds(body, report):
    text = fails(kernel(body), shared_bytes=64)
    assert report in text
    assert "by thread (" in text
    assert "kernel.cu:3: " + body.split("\n")[0][:60] in text


def test_the_argument_that_is_overrun_is_named():
    assert "bytes, argument y)" in fails(kernel("y[64] = n;"))


def test_memory_of_the_host_and_freed_memory():
    body = "y[threadIdx.x] = ((float*)x)[threadIdx.x];"
    source = kernel(body)
    host = np.zeros(64, F32)
    y = emulator.DeviceArray((64,), F32)
    module = emulator.CudaModule(source)
    with pytest.raises(emulator.LaunchError, match="an address of the host"):
        module.launch("f", 1, 32, np.uint64(host.ctypes.data), y, 0)
    freed = emulator.DeviceArray((64,), F32)
    address = np.uint64(freed.pointer)
    freed.free()
    with pytest.raises(emulator.LaunchError, match="reads 4 bytes after cudaFree: byte 0"):
        module.launch("f", 1, 1, address, y, 0)


def test_local_memory_of_another_thread():
    body = """
      __shared__ float* pointer;
      float mine = threadIdx.x;
      if (threadIdx.x == 0) pointer = &mine;
      __syncthreads();
      y[threadIdx.x] = *pointer;
      __syncthreads();"""
    assert "not in device memory" in fails(kernel(body))


def test_division_by_zero_and_traps():
    assert "divides an integer by zero" in fails(kernel("y[threadIdx.x] = 7 / n;"))
    assert "__trap()" in fails(kernel("if (threadIdx.x == 5) __trap();"))
    assert "assertion failed: n == 1" in fails(kernel("assert(n == 1);"))


def test_local_variables_that_need_too_much():
    body = "volatile float big[40000]; for (int i = 0; i < 40000; ++i) big[i] = n; y[0] = big[n];"
    assert "local variables" in fails(kernel(body), block=1)


def test_endless_loops_end():
    with emulator.settings(time_limit_ms=200):
        assert "time limit of 200 ms" in fails(kernel("for (int i = n;; ++i) y[i % 2] = i;"), 1, 1)
        silent = "unsigned k = n; while (k != 1) k = k * 3 + 3 * n; y[0] = k;"
        assert "time limit, in a loop" in fails(kernel(silent), 1, 1)


def test_copies_out_of_bounds():
    array = emulator.DeviceArray((8,), F32)
    array.nbytes = 36
    with pytest.raises(
        emulator.LaunchError, match="a copy of 36 bytes writes byte 0 of device mem"
    ):
        array.write(np.zeros(9, F32))
    array.nbytes = 32
    array.free()
    with pytest.raises(emulator.LaunchError, match="whose kind does not fit its pointers"):
        array.numpy()


def test_allocations_are_counted_and_freed_once():
    before = emulator.live_allocations()
    array = emulator.DeviceArray((8,), F32)
    assert emulator.live_allocations() == before + 1
    pointer = array.pointer
    array.free()
    assert emulator.live_allocations() == before
    array.pointer = pointer
    with pytest.raises(emulator.LaunchError, match="not, or no longer, allocated"):
        array.free()


def test_a_kernel_that_failed_leaves_the_device_usable():
    source = kernel("if (n) y[99] = 1; y[threadIdx.x] = x[threadIdx.x] + 1;")
    for n in (1, 0, 1, 0):
        if n:
            fails(source, n=1)
        else:
            _, y = launch(source, 1, 64, arrays(), 0)
            np.testing.assert_array_equal(y, np.arange(64) + 1)
