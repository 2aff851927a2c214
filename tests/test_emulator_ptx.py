"""Inline PTX on the emulated device: arithmetic, matrices, memory, asynchronous copies."""

from __future__ import annotations

import numpy as np
import pytest

from tests import emulator

ml_dtypes = pytest.importorskip("ml_dtypes")
pytestmark = pytest.mark.skipif(not emulator.available(), reason=emulator.available().reason)

F32 = np.float32
SEEDS = range(3)


def kernel(body, parameters="float* x, float* y, int n", before=""):
    return f'{before}\nextern "C" __global__ void f({parameters}) {{\n{body}\n}}\n'


def launch(source, grid, block, arrays, *scalars, **options):
    named = {str(i): a for i, a in enumerate(arrays)}
    return list(emulator.run(source, "f", grid, block, named, *scalars, **options).values())


def fails(source, grid, block, arrays, *scalars, **options):
    with pytest.raises(emulator.LaunchError) as failure:
        launch(source, grid, block, arrays, *scalars, **options)
    return str(failure.value)


# ---- arithmetic ----------------------------------------------------------------------------------


def ptx(text, x, result, operand="f"):
    """What `text` (of %0 the result, %1 an element of x) gives for each element of x."""
    names = {np.float32: "float", np.uint32: "unsigned", np.int32: "int", np.uint64: "uint64_t",
             np.uint16: "unsigned short"}  # fmt: skip
    letters = {np.float32: "f", np.uint32: "r", np.int32: "r", np.uint64: "l", np.uint16: "h"}
    body = f"""
      {names[result]} out;
      {names[x.dtype.type]} in = x[threadIdx.x];
      asm volatile("{text}" : "={letters[result]}"(out) : "{operand}"(in));
      y[threadIdx.x] = out;"""
    source = kernel(body, f"{names[x.dtype.type]}* x, {names[result]}* y")
    return launch(source, 1, x.size, [x, np.zeros(x.size, result)])[1]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ex2.approx.ftz.f32 %0, %1;", np.exp2),
        ("tanh.approx.f32 %0, %1;", np.tanh),
        ("rcp.approx.ftz.f32 %0, %1;", lambda x: 1 / x),
        ("rsqrt.approx.f32 %0, %1;", lambda x: x**-0.5),
        ("lg2.approx.f32 %0, %1;", np.log2),
        ("fma.rn.f32 %0, %1, 0f40000000, %1;", lambda x: 3 * x),
        ("{ .reg .f32 t; add.f32 t, %1, 0f3F800000; mul.ftz.f32 %0, t, %1; }",
         lambda x: (x + 1) * x),
        ("{ .reg .pred p; setp.gt.f32 p, %1, 0f3F800000; selp.f32 %0, 0f40000000, %1, p; }",
         lambda x: np.where(x > 1, 2, x)),
        ("max.f32 %0, %1, 0f3F800000;", lambda x: np.maximum(x, 1)),
        ("neg.f32 %0, %1;", np.negative),
        ("{ .reg .b16 h; cvt.rn.f16.f32 h, %1; cvt.f32.f16 %0, h; }",
         lambda x: x.astype(np.float16)),
        ("{ .reg .b16 h; cvt.rn.bf16.f32 h, %1; cvt.f32.bf16 %0, h; }",
         lambda x: x.astype(ml_dtypes.bfloat16)),
    ],
)  # fmt: skip
def test_floating_point(text, expected):
    x = np.linspace(0.1, 3, 32, dtype=F32)
    np.testing.assert_allclose(ptx(text, x, np.float32), expected(x).astype(F32), rtol=1e-6)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("and.b32 %0, %1, 0xff;", lambda x: x & 255),
        ("{ shl.b32 %0, %1, 3; xor.b32 %0, %0, 1; }", lambda x: x << 3 ^ 1),
        ("shr.u32 %0, %1, 40;", lambda x: 0 * x),
        ("shr.s32 %0, %1, 31;", lambda x: np.where(x >> 31, 0xFFFFFFFF, 0)),
        ("mul.hi.u32 %0, %1, 0x10000;", lambda x: x >> 16),
        ("mad.lo.u32 %0, %1, 3, 7;", lambda x: 3 * x + 7),
        ("{ .reg .b64 w; mul.wide.u32 w, %1, %1; cvt.u32.u64 %0, w; }", lambda x: x * x),
        ("{ .reg .b16 a, b; mov.b32 {a, b}, %1; mov.b32 %0, {b, a}; }",
         lambda x: x << 16 | x >> 16),
        ("{ .reg .pred p, q; setp.lt.u32 p|q, %1, 100; mov.u32 %0, 5; @q mov.u32 %0, %laneid; }",
         lambda x: np.where(x < 100, 5, np.arange(32))),
        ("popc.b32 %0, %1;", lambda x: np.array([bin(v).count("1") for v in x])),
    ],
)  # fmt: skip
def test_integers(text, expected):
    x = np.random.default_rng(0).integers(0, 2**32, 32, dtype=np.uint32)
    x[:8] = np.arange(8)
    got = ptx(text.replace("%laneid", "%%laneid"), x, np.uint32, "r")
    np.testing.assert_array_equal(got, expected(x).astype(np.uint32))


@pytest.mark.parametrize("kind", ["f16", "bf16"])
def test_packed_halves(kind):
    dtype = np.float16 if kind == "f16" else ml_dtypes.bfloat16
    values = np.linspace(-2, 2, 64, dtype=F32).astype(dtype)
    x = values.view(np.uint32)

    def of(text):
        return ptx(text, x, np.uint32, "r").view(dtype).astype(F32)

    np.testing.assert_array_equal(of(f"add.{kind}x2 %0, %1, %1;"), 2 * values.astype(F32))
    expected = np.tanh(values.astype(F32)).astype(dtype).astype(F32)
    np.testing.assert_array_equal(of(f"tanh.approx.{kind}x2 %0, %1;"), expected)
    squares = (values.astype(F32) ** 2 + values.astype(F32)).astype(dtype).astype(F32)
    np.testing.assert_array_equal(of(f"fma.rn.{kind}x2 %0, %1, %1, %1;"), squares)
    packed = ptx(f"cvt.rn.{kind}x2.f32 %0, %1, 0f40000000;", values[:32].astype(F32), np.uint32)
    np.testing.assert_array_equal(packed.view(dtype)[1::2], values[:32])
    assert (packed.view(dtype)[0::2].astype(F32) == 2).all()


def test_tf32_rounds_to_ten_bits():
    x = np.random.default_rng(0).standard_normal(32).astype(F32)
    got = ptx("cvt.rna.tf32.f32 %0, %1;", x, np.uint32).view(F32)
    np.testing.assert_allclose(got, x, rtol=2**-11)
    assert (got.view(np.uint32) % 2**13 == 0).all()


def test_special_registers_and_time():
    body = """
      unsigned a, b, c;
      uint64_t t0, t1;
      asm volatile("mov.u64 %0, %globaltimer;" : "=l"(t0));
      asm volatile("mov.u32 %0, %%tid.x;\\n\\tmov.u32 %1, %%ctaid.x;" : "=r"(a), "=r"(b));
      asm volatile("mov.u32 %[out], %%lanemask_lt;" : [out] "=r"(c));
      asm volatile("mov.u64 %0, %clock64;" : "=l"(t1));
      y[b * 32 + a] = (t1 > t0) * 1000 + __popc(c);
      asm volatile("prefetch.global.L2 [%0];" :: "l"(x));
      asm volatile("griddepcontrol.wait;" ::: "memory");
      asm volatile("nanosleep.u32 100;");"""
    _, y = launch(kernel(body), 2, 32, [np.zeros(64, F32), np.zeros(64, F32)], 0)
    np.testing.assert_array_equal(y, 1000 + np.tile(np.arange(32), 2))


def test_warp_instructions():
    body = """
      unsigned v = x[threadIdx.x], r, m, p = 0;
      asm volatile("{ .reg .pred q; shfl.sync.bfly.b32 %0|q, %1, 5, 0x1f, 0xffffffff; }"
                   : "=r"(r) : "r"(v));
      asm volatile("redux.sync.add.u32 %0, %1, 0xffffffff;" : "=r"(m) : "r"(v));
      asm volatile("{\\n.reg .pred %%px;\\n elect.sync _|%%px, %1;\\n@%%px mov.s32 %0, 1;\\n}"
                   : "+r"(p) : "r"(0xFFFFFFFF));
      y[threadIdx.x] = r + m * 100 + p * 1000000;"""
    x = np.arange(32, dtype=F32)
    _, y = launch(kernel(body), 1, 32, [x, np.zeros(32, F32)], 0)
    i = np.arange(32)
    np.testing.assert_array_equal(y, (i ^ 5) + 49600 + 1000000 * (i == 0))


@pytest.mark.parametrize("mode", ["up", "down", "idx"])
def test_shuffle_instructions_say_what_is_in_range(mode):
    body = f"""
      unsigned v = threadIdx.x, r, in;
      asm volatile("{{ .reg .pred p; shfl.sync.{mode}.b32 %0|p, %2, 3, %3, 0xffffffff;"
                   " selp.u32 %1, 1, 0, p; }}" : "=r"(r), "=r"(in) : "r"(v), "r"(n));
      y[threadIdx.x] = r + 100 * in;"""
    i = np.arange(32)
    arrays = [np.zeros(32, F32), np.zeros(32, F32)]
    # Segments of 8 lanes: 0x18 in bits 8 to 12, and the clamp in bits 0 to 4.
    clamp = 0 if mode == "up" else 31
    _, y = launch(kernel(body), 1, 32, arrays, 0x1800 | clamp)
    wanted = {"up": i - 3, "down": i + 3, "idx": i // 8 * 8 + 3}[mode]
    inside = wanted // 8 == i // 8
    np.testing.assert_array_equal(y, np.where(inside, wanted + 100, i))


# ---- matrices ------------------------------------------------------------------------------------

MMA = """
  // Fragments as in the PTX manual; A (16, K) by rows, B (K, 8) by columns.
  constexpr int K = {K}, PER = {PER}, STEP = 4 * PER;
  int group = threadIdx.x / 4, member = threadIdx.x % 4;
  unsigned a[4], b[2];
  for (int w = 0; w < K / STEP; ++w) {{
    T* pa = (T*)x + w * STEP + member * PER;
    a[2 * w] = *(unsigned*)(pa + group * K);
    a[2 * w + 1] = *(unsigned*)(pa + (group + 8) * K);
    b[w] = *(unsigned*)((T*)x + 16 * K + group * K + w * STEP + member * PER);
  }}
  float d[4], c[4];
  for (int i = 0; i < 4; ++i) c[i] = y[(group + i / 2 * 8) * 8 + member * 2 + i % 2];
  asm volatile("mma.sync.aligned.m16n8k{K}.row.col.f32.{kind}.{kind}.f32 "
    "{{%0, %1, %2, %3}}, {A}, {B}, {{%4, %5, %6, %7}};"
    : "=f"(d[0]), "=f"(d[1]), "=f"(d[2]), "=f"(d[3])
    : "f"(c[0]), "f"(c[1]), "f"(c[2]), "f"(c[3]), {operands});
  for (int i = 0; i < 4; ++i) y[(group + i / 2 * 8) * 8 + member * 2 + i % 2] = d[i];"""


def mma_kernel(kind, k):
    per = 1 if kind == "tf32" else 2
    words = k // (4 * per)
    a = "{" + ", ".join(f"%{8 + i}" for i in range(2 * words)) + "}"
    b = "{" + ", ".join(f"%{8 + 2 * words + i}" for i in range(words)) + "}"
    names = [f"a[{i}]" for i in range(2 * words)] + [f"b[{i}]" for i in range(words)]
    operands = ", ".join(f'"r"({name})' for name in names)
    body = MMA.format(K=k, PER=per, kind=kind, A=a, B=b, operands=operands)
    c_type = {"f16": "__half", "bf16": "nv_bfloat16", "tf32": "float"}[kind]
    return kernel(f"typedef {c_type} T;" + body, "void* x, float* y")


@pytest.mark.parametrize(
    ("kind", "k"), [("f16", 16), ("bf16", 16), ("tf32", 8), ("f16", 8), ("bf16", 8), ("tf32", 4)]
)
def test_matrix_products(kind, k):
    rng = np.random.default_rng(k)
    dtype = {"f16": np.float16, "bf16": ml_dtypes.bfloat16, "tf32": F32}[kind]
    a = rng.standard_normal((16, k)).astype(dtype)
    b = rng.standard_normal((8, k)).astype(dtype)  # by columns
    c = rng.standard_normal((16, 8)).astype(F32)
    packed = np.concatenate([a, b]).ravel()
    _, d = launch(mma_kernel(kind, k), 1, 32, [packed, c])
    if kind == "tf32":  # the low 13 bits are ignored
        a, b = ((m.view(np.uint32) & 0xFFFFE000).view(F32) for m in (a, b))
    expected = a.astype(np.float64) @ b.astype(np.float64).T + c
    np.testing.assert_allclose(d, expected, rtol=1e-6, atol=1e-6)
    np.testing.assert_array_less(1e-3, np.abs(expected).max())


def test_a_matrix_product_needs_the_whole_warp():
    report = fails(mma_kernel("f16", 16), 1, 16, [np.zeros(400, np.float16), np.zeros(128, F32)])
    assert "mma.sync in a warp that lacks some of its 32 lanes" in report
    source = mma_kernel("f16", 16).replace("asm volatile", "if (threadIdx.x < 30) asm volatile")
    arrays = [np.zeros(24 * 16, np.float16), np.zeros(128, F32)]
    assert "mma.sync in a warp that lacks" in fails(source, 1, 32, arrays) or "deadlock" in fails(
        source, 1, 32, arrays
    )


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("count", [1, 2, 4])
def test_matrices_from_shared_memory(count, transposed):
    registers = ", ".join(f"%{i}" for i in range(count))
    outputs = ", ".join(f'"=r"(r[{i}])' for i in range(count))
    trans = ".trans" if transposed else ""
    body = f"""
      __shared__ alignas(128) unsigned short tile[{count}][8][16];  // rows 32 bytes apart
      for (int i = threadIdx.x; i < {count} * 64; i += 32)
        tile[i / 64][i / 8 % 8][i % 8] = ((unsigned short*)x)[i];
      __syncwarp();
      unsigned r[4];
      int row = threadIdx.x % ({count} * 8);
      unsigned address = __cvta_generic_to_shared(&tile[row / 8][row % 8][0]);
      asm volatile("ldmatrix.sync.aligned.m8n8.x{count}{trans}.shared.b16 "
                   "{{{registers}}}, [%{count}];"
                   : {outputs} : "r"(address) : "memory");
      for (int i = 0; i < {count}; ++i) ((unsigned*)y)[i * 32 + threadIdx.x] = r[i];"""
    x = np.arange(count * 64, dtype=np.uint16)
    _, y = launch(kernel(body, "void* x, void* y"), 1, 32, [x, np.zeros(count * 64, np.uint16)])
    matrices = x.reshape(count, 8, 8)
    expected = matrices.transpose(0, 2, 1) if transposed else matrices
    np.testing.assert_array_equal(y.reshape(count, 8, 8), expected)


# ---- memory --------------------------------------------------------------------------------------


def test_loads_and_stores_of_all_sizes():
    body = """
      __shared__ alignas(16) unsigned s[64];
      unsigned at = (unsigned)__cvta_generic_to_shared(s) + threadIdx.x * 16, a, b, c, d;
      uint64_t wide, from = __cvta_generic_to_global(x + threadIdx.x * 4);
      asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
                   : "=r"(a), "=r"(b), "=r"(c), "=r"(d) : "l"(from));
      asm volatile("st.shared.v4.b32 [%0], {%1, %2, %3, %4};"
                   :: "r"(at), "r"(d), "r"(c), "r"(b), "r"(a) : "memory");
      asm volatile("{ ld.shared.u64 %0, [%2 + 8]; ld.shared.s8 %1, [%2]; }"
                   : "=l"(wide), "=r"(a) : "r"(at) : "memory");
      asm volatile("st.global.v2.u32 [%0], {%1, %2};"
                   :: "l"(y + threadIdx.x * 4), "r"((unsigned)wide), "r"((unsigned)(wide >> 32)));
      asm volatile("st.u32 [%0 + 8], %1;" :: "l"(y + threadIdx.x * 4), "r"(a) : "memory");"""
    x = np.random.default_rng(0).integers(0, 2**32, 64, dtype=np.uint32)
    source = kernel(body, "unsigned* x, unsigned* y")
    _, y = launch(source, 1, 16, [x, np.zeros(64, np.uint32)])
    x, y = x.reshape(16, 4), y.reshape(16, 4)
    np.testing.assert_array_equal(y[:, 0], x[:, 1])
    np.testing.assert_array_equal(y[:, 1], x[:, 0])
    signed = x[:, 3].astype(np.uint8).astype(np.int8).astype(np.int32)
    np.testing.assert_array_equal(y[:, 2].view(np.int32), signed)


def test_loads_out_of_bounds_and_misaligned():
    arrays = [np.zeros(8, F32), np.zeros(8, F32)]
    body = 'asm volatile("ld.global.v4.f32 {%0, %0, %0, %0}, [%1];" : "=f"(y[0]) : "l"(x + n));'
    assert "reads 16 bytes out of bounds" in fails(kernel(body), 1, 1, arrays, 8)
    assert "accesses 16 bytes at an address that is no multiple" in fails(
        kernel(body), 1, 1, arrays, 1
    )


def test_atomics_with_results():
    body = """
      unsigned old;
      asm volatile("atom.add.acq_rel.gpu.global.u32 %0, [%1], 2;" : "=r"(old) : "l"(x) : "memory");
      y[threadIdx.x] = old;
      asm volatile("atom.global.cas.b32 %0, [%1], 0, %2;"
                   : "=r"(old) : "l"(x + 1), "r"(threadIdx.x + 1) : "memory");
      asm volatile("red.global.max.s32 [%0], %1;" :: "l"(x + 2), "r"(threadIdx.x) : "memory");
      asm volatile("red.add.f32 [%0], 0f3F000000;" :: "l"(x + 3) : "memory");"""
    source = kernel(body, "unsigned* x, unsigned* y")
    x, y = launch(source, 1, 40, [np.zeros(4, np.uint32), np.zeros(40, np.uint32)])
    assert sorted(y) == list(range(0, 80, 2))
    assert x[0] == 80
    assert 1 <= x[1] <= 40
    assert x[2] == 39
    assert x[3:].view(F32)[0] == 20


# ---- asynchronous copies -------------------------------------------------------------------------

PIPELINE = """
  __shared__ alignas(16) float s[2][128];
  for (int i = 0; i < n + 1; ++i) {
    if (i < n) {
      unsigned to = __cvta_generic_to_shared(&s[i % 2][threadIdx.x * 4]);
      asm volatile("cp.async.cg.shared.global [%0], [%1], 16;"
                   :: "r"(to), "l"(x + i * 128 + threadIdx.x * 4) : "memory");
    }
    asm volatile("cp.async.commit_group;" ::: "memory");
    if (i > 0) {
      asm volatile("cp.async.wait_group 1;" ::: "memory");
      __syncthreads();
      for (int k = 0; k < 4; ++k)
        y[(i - 1) * 128 + k * 32 + threadIdx.x] = s[(i - 1) % 2][127 - k * 32 - threadIdx.x];
      __syncthreads();
    }
  }"""


def pipeline_arrays(n=5):
    return [np.arange(n * 128, dtype=F32), np.zeros(n * 128, F32)]


def test_asynchronous_copies():
    for seed in SEEDS:
        with emulator.settings(seed=seed):
            x, y = launch(kernel(PIPELINE), 1, 32, pipeline_arrays(), 5)
        np.testing.assert_array_equal(y.reshape(5, 128), x.reshape(5, 128)[:, ::-1])


def test_every_broken_pipeline_is_caught():
    found = emulator.mutations(kernel(PIPELINE))
    assert [m.description.partition("without ")[2] for m in found] == [
        "`__syncthreads();`",
        "`__syncthreads();`",
        "`cp.async.wait_group 1;`",
    ]
    for mutation in found:
        report = fails(mutation.source, 1, 32, pipeline_arrays(), 5)
        assert "race on byte" in report
    late = kernel(PIPELINE.replace("wait_group 1", "wait_group 2"))
    report = fails(late, 1, 32, pipeline_arrays(), 5)
    assert "while an asynchronous copy by thread (" in report
    with emulator.settings(check_races=False):
        _, y = launch(late, 1, 32, pipeline_arrays(), 5)
        assert np.isnan(y).any()


def test_asynchronous_copies_fill_with_zeros():
    body = """
      __shared__ alignas(16) float s[32];
      unsigned to = __cvta_generic_to_shared(s + threadIdx.x * 4), take = threadIdx.x * 4 % 20;
      asm volatile("{ .reg .pred p; setp.ne.b32 p, %3, 7;"
                   " @p cp.async.ca.shared.global [%0], [%1], 16, %2; }"
                   :: "r"(to), "l"(x + threadIdx.x * 4), "r"(take), "r"(threadIdx.x) : "memory");
      if (threadIdx.x == 7)
        asm volatile("cp.async.ca.shared.global [%0], [%1], %2;" :: "r"(to), "l"(x), "n"(4));
      asm volatile("cp.async.wait_all;" ::: "memory");
      __syncthreads();
      for (int k = 0; k < 4; ++k) y[threadIdx.x + 8 * k] = s[threadIdx.x + 8 * k];"""
    x, y = launch(kernel(body), 1, 8, [np.arange(1, 33, dtype=F32), np.zeros(32, F32)], 0)
    expected = x.reshape(8, 4).copy()
    for thread in range(8):
        expected[thread, thread % 5 :] = 0
    assert y[28] == 1
    np.testing.assert_array_equal(y[:28], expected.ravel()[:28])
    assert np.isnan(y[29:]).all()


BULK = """
  __shared__ alignas(128) float s[2][64];
  __shared__ alignas(8) uint64_t full[2];
  unsigned barrier = __cvta_generic_to_shared(full), data = __cvta_generic_to_shared(s);
  if (threadIdx.x == 0) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" :: "r"(barrier) : "memory");
    asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" :: "r"(barrier + 8) : "memory");
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  }
  __syncthreads();
  for (int i = 0; i < n; ++i) {
    unsigned slot = i % 2, parity = i / 2 % 2;
    if (threadIdx.x == 0) {
      asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], 256;"
                   :: "r"(barrier + 8 * slot) : "memory");
      asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes"
                   " [%0], [%1], 256, [%2];"
                   :: "r"(data + 256 * slot), "l"(x + 64 * i), "r"(barrier + 8 * slot) : "memory");
    }
    asm volatile("{\\n.reg .pred P1;\\nLAB_WAIT:\\n"
                 "mbarrier.try_wait.parity.shared::cta.b64 P1, [%0], %1, %2;\\n"
                 "@P1 bra.uni DONE;\\nbra.uni LAB_WAIT;\\nDONE:\\n}"
                 :: "r"(barrier + 8 * slot), "r"(parity), "r"(0x989680) : "memory");
    y[i * 64 + threadIdx.x] = s[slot][63 - threadIdx.x];
    __syncthreads();
  }"""


def test_bulk_copies_and_their_barriers():
    x = np.arange(6 * 64, dtype=F32)
    for seed in SEEDS:
        with emulator.settings(seed=seed):
            _, y = launch(kernel(BULK), 1, 64, [x, np.zeros_like(x)], 6)
        np.testing.assert_array_equal(y.reshape(6, 64), x.reshape(6, 64)[:, ::-1])
    for mutation in emulator.mutations(kernel(BULK)):
        report = fails(mutation.source, 1, 64, [x, np.zeros_like(x)], 6)
        assert "race on byte" in report or "before mbarrier.init" in report, mutation.description
    short = kernel(BULK.replace("_, [%0], 256;", "_, [%0], 512;"))
    report = fails(short, 1, 64, [x, np.zeros_like(x)], 6)
    assert "64 wait in spin in a wait for an mbarrier" in report
    twice = kernel(
        BULK.replace(
            'if (threadIdx.x == 0) {\n      asm volatile("mbarrier.arrive',
            'if (threadIdx.x < 2) {\n      asm volatile("mbarrier.arrive',
        )
    )
    assert "more arrivals at an mbarrier" in fails(twice, 1, 64, [x, np.zeros_like(x)], 6)


def test_stores_into_the_shared_memory_of_others_in_the_cluster():
    body = """
      __shared__ alignas(16) float s[64];
      __shared__ alignas(8) uint64_t full;
      unsigned rank, barrier = __cvta_generic_to_shared(&full), far, far_barrier;
      asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
      if (threadIdx.x == 0) {
        asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" :: "r"(barrier) : "memory");
        asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], 256;" :: "r"(barrier));
      }
      asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");
      asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
      unsigned to = __cvta_generic_to_shared(s + threadIdx.x);
      asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(far) : "r"(to), "r"(rank ^ 1));
      asm volatile("mapa.shared::cluster.u32 %0, %1, %2;"
                   : "=r"(far_barrier) : "r"(barrier), "r"(rank ^ 1));
      asm volatile("st.async.shared::cluster.mbarrier::complete_tx::bytes.b32 [%0], %1, [%2];"
                   :: "r"(far), "r"(__float_as_uint(x[blockIdx.x * 64 + threadIdx.x])),
                      "r"(far_barrier) : "memory");
      unsigned done = 0;
      while (!done)
        asm volatile("{ .reg .pred p;"
                     " mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 p, [%1], 0;"
                     " selp.u32 %0, 1, 0, p; }" : "=r"(done) : "r"(barrier) : "memory");
      y[blockIdx.x * 64 + threadIdx.x] = s[63 - threadIdx.x];"""
    x = np.arange(128, dtype=F32)
    for seed in SEEDS:
        with emulator.settings(seed=seed):
            _, y = launch(kernel(body), 2, 64, [x, np.zeros_like(x)], 0, cluster=2)
        np.testing.assert_array_equal(y, x[::-1])
