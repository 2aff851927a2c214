"""Barriers, warps, clusters and atomics of the emulated device, and reports of their misuse."""

from __future__ import annotations

import numpy as np
import pytest

from tests import emulator

pytestmark = pytest.mark.skipif(not emulator.available(), reason=emulator.available().reason)

F32 = np.float32
SEEDS = range(4)

GRID_BARRIER = r"""
__device__ void grid_barrier(unsigned* count, unsigned target) {
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
FENCE_BARRIER = r"""
__device__ void grid_barrier(unsigned* count, unsigned target) {
  __syncthreads();
  if (threadIdx.x == 0) {
    __threadfence();
    atomicAdd(count, 1u);
    while (*(volatile unsigned*)count < target) {}
    __threadfence();
  }
  __syncthreads();
}
"""


def kernel(body, parameters="float* x, float* y, int n", before="", head=""):
    return f'{before}\nextern "C" __global__ void {head} f({parameters}) {{\n{body}\n}}\n'


def launch(source, grid, block, arrays, *scalars, **options):
    named = {str(i): a for i, a in enumerate(arrays)}
    return list(emulator.run(source, "f", grid, block, named, *scalars, **options).values())


def iota(n, dtype=F32):
    return np.arange(n, dtype=dtype)


def fails(source, grid=1, block=64, arrays=None, n=0, **options):
    with pytest.raises(emulator.LaunchError) as failure:
        launch(source, grid, block, arrays or [iota(1024), np.zeros(1024, F32)], n, **options)
    return str(failure.value)


# ---- CTA barriers --------------------------------------------------------------------------------

REVERSE = """
  __shared__ float s[64];
  s[threadIdx.x] = x[blockIdx.x * 64 + threadIdx.x];
  {barrier}
  y[blockIdx.x * 64 + threadIdx.x] = s[63 - threadIdx.x];"""


def reverse(barrier):
    return kernel(REVERSE.replace("{barrier}", barrier))


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(
    "barrier",
    [
        "__syncthreads();",
        "if (threadIdx.x < 32) __syncthreads(); else __syncthreads();",
        "__syncthreads_or(0);",
        'asm volatile("bar.sync 0;" ::: "memory");',
        'asm volatile("bar.sync %0, %1;" :: "r"(3), "n"(64) : "memory");',
        'asm volatile("barrier.sync 5;" ::: "memory");',
        "cooperative_groups::this_thread_block().sync();",
    ],
)
def test_cta_barriers(barrier, seed):
    source = "#include <cooperative_groups.h>\n" + reverse(barrier)
    with emulator.settings(seed=seed):
        _, y = launch(source, 3, 64, [iota(192), np.zeros(192, F32)], 0)
    np.testing.assert_array_equal(y, iota(192).reshape(3, 64)[:, ::-1].ravel())


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(
    "barrier", ["", "__threadfence();", "__syncwarp();", "__threadfence_block();"]
)
def test_without_a_barrier_there_is_a_race(barrier, seed):
    with emulator.settings(seed=seed):
        report = fails(reverse(barrier))
    assert "race on byte" in report
    assert "of the shared variable s (256 bytes)" in report
    assert "kernel.cu:5: s[threadIdx.x] =" in report
    assert "kernel.cu:7: y[blockIdx.x" in report


def test_wrong_results_without_race_reports():
    """What a missing barrier does to the results: some seed shows it."""
    wrong = 0
    for seed in range(8):
        with emulator.settings(seed=seed, check_races=False):
            _, y = launch(reverse(""), 1, 64, [iota(64), np.zeros(64, F32)], 0)
            wrong += not np.array_equal(y, iota(64)[::-1])
    assert wrong > 2


def test_barriers_that_reduce():
    body = """
      int p = threadIdx.x % 3 == 0;
      y[threadIdx.x] = __syncthreads_count(p) + 1000 * __syncthreads_and(threadIdx.x < 64)
        + 100 * __syncthreads_or(threadIdx.x == n);"""
    for n, some in ((7, 100), (99, 0)):
        _, y = launch(kernel(body), 1, 64, [iota(64), np.zeros(64, F32)], n)
        np.testing.assert_array_equal(y, np.full(64, 22 + 1000 + some))


def test_a_named_barrier_between_producers_and_consumers():
    body = """
      __shared__ float s[2][32];
      int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
      for (int i = 0; i < 6; ++i) {
        if (warp == 0) {
          if (i >= 2) asm volatile("bar.sync %0, 64;" :: "r"(3 + i % 2) : "memory");
          s[i % 2][lane] = x[i * 32 + lane];
          asm volatile("bar.arrive %0, 64;" :: "r"(1 + i % 2) : "memory");
        } else {
          asm volatile("bar.sync %0, 64;" :: "r"(1 + i % 2) : "memory");
          y[i * 32 + lane] = s[i % 2][31 - lane];
          if (i < 4) asm volatile("bar.arrive %0, 64;" :: "r"(3 + i % 2) : "memory");
        }
      }"""
    source = kernel(body)
    arrays = [iota(192), np.zeros(192, F32)]
    for seed in SEEDS:
        with emulator.settings(seed=seed):
            _, y = launch(source, 1, 64, arrays, 0)
        np.testing.assert_array_equal(y, iota(192).reshape(6, 32)[:, ::-1].ravel())
    assert len(emulator.mutations(source)) == 4
    for mutation in emulator.mutations(source):
        assert any(word in fails(mutation.source) for word in ("race", "deadlock"))


def test_divergent_barriers_are_deadlocks():
    report = fails(kernel("if (threadIdx.x < 32) __syncthreads(); else __syncwarp(1u << 40 % 32);"))
    assert "lanes" in report or "leaves out the lane" in report
    report = fails(
        kernel("""
      if (threadIdx.x < 32) __syncthreads();
      else asm volatile("bar.sync 1, 64;" ::: "memory");""")
    )
    assert "deadlock: no thread can go on" in report
    assert "32 wait in __syncthreads\n    kernel.cu:4: if (threadIdx.x < 32)" in report
    assert "32 wait in bar.sync\n    kernel.cu:5: else asm volatile" in report
    assert "such as thread (" in report


def test_threads_that_have_ended_are_not_waited_for():
    body = "if (threadIdx.x >= 40) return; __syncthreads(); y[threadIdx.x] = 1;"
    _, y = launch(kernel(body), 1, 64, [iota(64), np.zeros(64, F32)], 0)
    np.testing.assert_array_equal(y, iota(64) < 40)


def test_misused_barriers():
    assert "there is no barrier 16" in fails(kernel('asm volatile("bar.sync 16;");'))
    report = fails(kernel('asm volatile("bar.sync 1, 48;");'))
    assert "48 threads: not a multiple of the warp size" in report
    report = fails(kernel("""
      if (threadIdx.x < 32) asm volatile("bar.sync 1, 32;");
      else asm volatile("bar.sync 1, 64;");"""))  # fmt: skip
    assert "different numbers of threads" in report or "deadlock" in report


# ---- warps ---------------------------------------------------------------------------------------


def lanes(expression, width=32, block=64):
    """What each thread computes from its x, by the emulator."""
    body = f"""
      const unsigned all = 0xffffffffu;
      const float v = x[threadIdx.x];
      y[threadIdx.x] = {expression};"""
    arrays = [iota(block), np.zeros(block, F32)]
    return launch(kernel(body), 1, block, arrays, width)[1]


@pytest.mark.parametrize("width", [4, 32])
def test_shuffles(width):
    i = np.arange(64)
    lane, first = i % 32, i - i % width
    np.testing.assert_array_equal(lanes("__shfl_sync(all, v, 3, n)", width), first + 3)
    np.testing.assert_array_equal(
        lanes("__shfl_up_sync(all, v, 2, n)", width), np.where(i - 2 >= first, i - 2, i)
    )
    np.testing.assert_array_equal(
        lanes("__shfl_down_sync(all, v, 2, n)", width), np.where(i + 2 < first + width, i + 2, i)
    )
    np.testing.assert_array_equal(lanes("__shfl_xor_sync(all, v, 2, n)", width), i ^ 2)
    np.testing.assert_array_equal(
        lanes("__shfl_sync(all, make_long(v), lane_of() ^ 1)".replace("make_long(v)", "(double)v")
              .replace("lane_of()", "(threadIdx.x % 32)")), i ^ 1
    )  # fmt: skip
    assert (lane < 32).all()


def test_shuffles_within_part_of_a_warp():
    body = """
      const unsigned mask = threadIdx.x % 2 ? 0xaaaaaaaau : 0x55555555u;
      float v = x[threadIdx.x];
      if (threadIdx.x % 2) { v += __shfl_xor_sync(mask, v, 2); v += __shfl_xor_sync(mask, v, 4); }
      else v = __shfl_down_sync(mask, v, 8) * 10;
      y[threadIdx.x] = v;"""
    _, y = launch(kernel(body), 1, 32, [iota(32), np.zeros(32, F32)], 0)
    i = np.arange(32)
    odd = sum(i ^ m for m in (0, 2, 4, 6))
    even = np.where(i + 8 < 32, i + 8, i) * 10
    np.testing.assert_array_equal(y, np.where(i % 2, odd, even))


def test_votes_and_reductions():
    i = np.arange(64)
    np.testing.assert_array_equal(lanes("__ballot_sync(all, threadIdx.x % 32 < 4)"), 15)
    np.testing.assert_array_equal(lanes("__any_sync(all, threadIdx.x == 40)"), i >= 32)
    np.testing.assert_array_equal(lanes("__all_sync(all, threadIdx.x < 32)"), i < 32)
    np.testing.assert_array_equal(
        lanes("__popc(__match_any_sync(all, (int)threadIdx.x / 8 % 2))"), 16
    )
    np.testing.assert_array_equal(
        lanes("__reduce_add_sync(all, threadIdx.x)"), np.repeat([496, 496 + 1024], 32)
    )
    np.testing.assert_array_equal(
        lanes("__reduce_min_sync(all, -(int)threadIdx.x)"), np.repeat([-31, -63], 32)
    )
    np.testing.assert_array_equal(lanes("__reduce_or_sync(all, threadIdx.x % 4)"), 3)


def test_tiles_of_cooperative_groups():
    body = """
      auto tile = cooperative_groups::tiled_partition<8>(cooperative_groups::this_thread_block());
      float v = x[threadIdx.x];
      for (int i = 4; i > 0; i /= 2) v += tile.shfl_xor(v, i);
      tile.sync();
      y[threadIdx.x] = v + 1000 * tile.thread_rank();"""
    source = kernel(body, before="#include <cooperative_groups.h>")
    _, y = launch(source, 1, 64, [iota(64), np.zeros(64, F32)], 0)
    sums = iota(64).reshape(8, 8).sum(1).repeat(8)
    np.testing.assert_array_equal(y, sums + 1000 * (np.arange(64) % 8))


def test_lanes_that_take_no_part_give_nan():
    body = "float v = 1; if (threadIdx.x < 16) v = __shfl_sync(0xffffu, v, 20); y[threadIdx.x] = v;"
    _, y = launch(kernel(body), 1, 32, [iota(32), np.zeros(32, F32)], 0)
    assert np.isnan(y[:16]).all()
    assert (y[16:] == 1).all()


def test_a_shuffle_orders_no_memory_and_syncwarp_does():
    body = """
      __shared__ float s[64];
      s[threadIdx.x] = x[threadIdx.x];
      {sync}
      y[threadIdx.x] = s[threadIdx.x ^ 1];"""
    source = kernel(body.replace("{sync}", "__syncwarp();"))
    for seed in SEEDS:
        with emulator.settings(seed=seed):
            _, y = launch(source, 1, 64, [iota(64), np.zeros(64, F32)], 0)
            np.testing.assert_array_equal(y, np.arange(64) ^ 1)
            shuffled = body.replace("{sync}", "__shfl_xor_sync(0xffffffffu, 1, 1);")
            assert "race on byte" in fails(kernel(shuffled))
            apart = body.replace("{sync}", "__syncwarp(0x5u << (threadIdx.x % 2));")
            assert "race" in fails(kernel(apart)) or "leaves out" in fails(kernel(apart))


def test_misused_warp_functions():
    report = fails(kernel("if (threadIdx.x < 4) y[threadIdx.x] = __shfl_sync(0xf0u, 1.0f, 4);"))
    assert (
        "a warp shuffle with the mask 0x000000f0, which leaves out the lane that calls it" in report
    )
    report = fails(kernel("if (threadIdx.x % 2) __syncwarp(); else __any_sync(0xffffffffu, 1);"))
    assert "lanes of one warp have diverged" in report
    report = fails(kernel("if (threadIdx.x % 32 < 31) __syncwarp(); else __syncthreads();"))
    assert "deadlock" in report


# ---- grids ---------------------------------------------------------------------------------------

ROTATE = """
  int i = blockIdx.x * blockDim.x + threadIdx.x, all = gridDim.x * blockDim.x;
  for (int step = 0; step < 3; ++step) {
    float* from = step % 2 ? y : x;
    float* to = step % 2 ? x : y;
    to[i] = from[(i + 7) % all];
    {barrier}
  }"""
GRID_SYNC = "cooperative_groups::this_grid().sync();"
GRID_CALL = "grid_barrier(count, (step + 1) * gridDim.x);"


def rotate(barrier, before):
    parameters = "float* x, float* y, unsigned* count"
    return kernel(ROTATE.replace("{barrier}", barrier), parameters, before)


GRID_KERNELS = {
    "grid.sync": rotate(GRID_SYNC, "#include <cooperative_groups.h>"),
    "release and acquire": rotate(GRID_CALL, GRID_BARRIER),
    "fences and volatile": rotate(GRID_CALL, FENCE_BARRIER),
}


def rotated(ctas, threads):
    return [iota(ctas * threads), np.zeros(ctas * threads, F32), np.zeros(1, np.uint32)]


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", GRID_KERNELS)
def test_grid_barriers(name, seed):
    with emulator.settings(seed=seed):
        _, y, _ = launch(GRID_KERNELS[name], 9, 64, rotated(9, 64), cooperative=True)
    np.testing.assert_array_equal(y, np.roll(iota(9 * 64), -21))


@pytest.mark.parametrize("name", GRID_KERNELS)
def test_every_broken_grid_barrier_is_caught(name):
    found = emulator.mutations(GRID_KERNELS[name])
    assert len(found) >= (1 if name == "grid.sync" else 5)
    for mutation in found:
        with pytest.raises(emulator.LaunchError, match=r"race on byte \d+ of device memory"):
            launch(mutation.source, 9, 64, rotated(9, 64), cooperative=True)


def test_a_grid_as_large_as_the_device():
    _, y, _ = launch(GRID_KERNELS["release and acquire"], 132, 256, rotated(132, 256),
                     cooperative=True)  # fmt: skip
    np.testing.assert_array_equal(y, np.roll(iota(132 * 256), -21))


def test_grids_that_wait_for_what_cannot_run():
    report = fails(GRID_KERNELS["grid.sync"], 8, 64, rotated(8, 64))
    assert "a grid barrier in a kernel that was not launched cooperatively" in report
    with pytest.raises(emulator.LaunchError, match="4 CTAs have not started: only a cooperative"):
        launch(GRID_KERNELS["release and acquire"], 8, 64, rotated(8, 64))
    missing = kernel("if (blockIdx.x) " + GRID_SYNC, before="#include <cooperative_groups.h>")
    with pytest.raises(emulator.LaunchError, match="192 wait in the grid barrier"):
        launch(missing, 4, 64, [iota(4), iota(4)], 0, cooperative=True)


def test_a_lost_arrival_is_a_deadlock():
    source = GRID_KERNELS["release and acquire"].replace("add.u32 [%0], 1", "add.u32 [%0], 0")
    with pytest.raises(emulator.LaunchError) as failure:
        launch(source, 4, 64, rotated(4, 64), cooperative=True)
    report = str(failure.value)
    assert "4 wait in spin in an atomic access\n    kernel.cu:8: asm volatile" in report
    assert "252 wait in __syncthreads" in report


# ---- clusters ------------------------------------------------------------------------------------

NEIGHBOUR = """
  __shared__ float s[64];
  unsigned rank, count, own, far;
  asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  asm volatile("mov.u32 %0, %%cluster_nctarank;" : "=r"(count));
  s[threadIdx.x] = x[blockIdx.x * 64 + threadIdx.x];
  asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");
  asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
  own = __cvta_generic_to_shared(s + threadIdx.x);
  asm volatile("mapa.shared::cluster.u32 %0, %1, %2;"
               : "=r"(far) : "r"(own), "r"((rank + 1) % count));
  float v;
  asm volatile("ld.shared::cluster.f32 %0, [%1];" : "=f"(v) : "r"(far) : "memory");
  y[blockIdx.x * 64 + threadIdx.x] = v;
  asm volatile("barrier.cluster.arrive.aligned;" ::: "memory");
  asm volatile("barrier.cluster.wait.aligned;" ::: "memory");"""


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("size", [1, 4, 16])
def test_clusters_read_each_others_shared_memory(size, seed):
    n = 2 * size * 64
    with emulator.settings(seed=seed):
        arrays = [iota(n), np.zeros(n, F32)]
        _, y = launch(kernel(NEIGHBOUR), 2 * size, 64, arrays, 0, cluster=size)
    expected = np.roll(iota(n).reshape(2, size, 64), -1, axis=1)
    np.testing.assert_array_equal(y, expected.ravel())


def test_every_broken_cluster_barrier_is_caught():
    found = emulator.mutations(kernel(NEIGHBOUR))
    assert len(found) == 5  # four removed, one release weakened
    for mutation in found:
        words = ("race", "deadlock", "without barrier.cluster", "twice without", "that has ended",
                 "may not have started")  # fmt: skip
        report = fails(mutation.source, 8, 64, [iota(512), np.zeros(512, F32)], cluster=4)
        assert any(word in report for word in words), mutation.description
    last = "".join(NEIGHBOUR.rpartition("asm volatile")[:1]).rpartition("asm volatile")[0]
    report = fails(kernel(last), 8, 64, [iota(512), np.zeros(512, F32)], cluster=4)
    assert "of a CTA that has ended" in report


def test_clusters_through_cooperative_groups_and_pointers():
    body = """
      __shared__ float s[64];
      auto cluster = cooperative_groups::this_cluster();
      s[threadIdx.x] = blockIdx.x * 100;
      cluster.sync();
      float* far = cluster.map_shared_rank(s, cluster.num_blocks() - 1 - cluster.block_rank());
      far[threadIdx.x] += threadIdx.x;
      cluster.barrier_arrive();
      cluster.barrier_wait();
      y[blockIdx.x * 64 + threadIdx.x] = s[threadIdx.x];"""
    source = kernel(
        body, before="#include <cooperative_groups.h>", head="__cluster_dims__(2, 1, 1)"
    )
    _, y = launch(source, 4, 64, [iota(256), np.zeros(256, F32)], 0)
    np.testing.assert_array_equal(y.reshape(4, 64), 100 * np.arange(4)[:, None] + np.arange(64))


def test_misused_clusters():
    far = NEIGHBOUR.replace("(rank + 1) % count", "count")
    assert "mapa to rank 2 of a cluster of 2 CTAs" in fails(kernel(far), 2, 64, cluster=2)
    body = 'asm volatile("ld.shared.f32 %0, [%1];" : "=f"(y[0]) : "r"(4096));'
    assert "0x1000, which is no address of shared memory" in fails(kernel(body))
    assert "takes the shared address of what is not shared" in fails(
        kernel("y[0] = __cvta_generic_to_shared(x);")
    )


# ---- atomics and order ---------------------------------------------------------------------------


def test_atomics():
    body = """
      int i = blockIdx.x * blockDim.x + threadIdx.x;
      atomicAdd(x, 1.0f); atomicAdd((unsigned*)x + 1, 1u); atomicSub((int*)x + 2, 2);
      atomicMax((int*)x + 3, i - 5); atomicMin((int*)x + 4, i - 5);
      atomicOr((unsigned*)x + 5, 1u << i % 8); atomicXor((unsigned*)x + 6, 1u);
      atomicInc((unsigned*)x + 7, 9); atomicAdd((double*)(x + 8), 0.5);
      if (atomicCAS((int*)x + 10, 0, 1) == 0) atomicExch(x + 11, 5.0f);
      atomicAdd((unsigned long long*)(x + 12), 1ull << 32);"""
    (x, _) = launch(kernel(body), 3, 64, [np.zeros(16, F32), np.zeros(1, F32)], 0)
    ints = x.view(np.int32)
    assert x[0] == 192
    assert list(ints[1:8]) == [192, -384, 186, -5, 255, 0, 192 % 10]
    assert x[8:10].view(np.float64)[0] == 96
    assert (ints[10], x[11]) == (1, 5)
    assert x[12:14].view(np.uint64)[0] == 192 << 32


@pytest.mark.parametrize(
    ("release", "acquire", "ordered"),
    [
        ("st.release.gpu.global", "ld.acquire.gpu.global", True),
        ("st.release.sys.global", "ld.acquire.gpu.global", True),
        ("st.relaxed.gpu.global", "ld.acquire.gpu.global", False),
        ("st.release.gpu.global", "ld.relaxed.gpu.global", False),
        ("st.release.cta.global", "ld.acquire.gpu.global", False),
        ("st.release.gpu.global", "ld.acquire.cta.global", False),
        ("st.volatile.global", "ld.volatile.global", False),
    ],
)
def test_messages_need_release_and_acquire_of_a_scope_that_spans_both(release, acquire, ordered):
    body = f"""
      if (blockIdx.x == 0) {{
        y[0] = 42;
        asm volatile("{release}.u32 [%0], 1;" :: "l"(x) : "memory");
      }} else {{
        unsigned seen;
        do asm volatile("{acquire}.u32 %0, [%1];" : "=r"(seen) : "l"(x) : "memory");
        while (!seen);
        y[1] = y[0];
      }}"""
    for seed in SEEDS:
        arrays = [np.zeros(1, F32), np.zeros(2, F32)]
        with emulator.settings(seed=seed):
            if ordered:
                _, y = launch(kernel(body), 2, 1, arrays, 0, cooperative=True)
                assert list(y) == [42, 42]
            else:
                assert "race on byte 0" in fails(kernel(body), 2, 1, arrays, cooperative=True)


def test_a_lock():
    body = """
      if (threadIdx.x == 0) {
        while (atomicCAS((int*)x, 0, 1)) __nanosleep(20);
        __threadfence();
        y[0] += 1;
        __threadfence();
        atomicExch((int*)x, 0);
      }"""
    arrays = [np.zeros(1, F32), np.zeros(1, F32)]
    for seed in SEEDS:
        with emulator.settings(seed=seed):
            _, y = launch(kernel(body), 16, 32, arrays, 0, cooperative=True)
        assert y[0] == 16
    for mutation in emulator.mutations(kernel(body)):
        assert "race on byte 0" in fails(mutation.source, 16, 32, arrays, cooperative=True)


def test_atomic_and_ordinary_accesses_do_not_mix():
    assert "atomically" in fails(kernel("if (threadIdx.x) atomicAdd(y, 1.0f); else y[0] = 1;"))
    assert "race" in fails(kernel("y[0] = 1;"), 1, 2)
    assert "race" in fails(kernel("y[0] = 1;"), 2, 1)


def test_bytes_and_halves_are_told_apart():
    body = """
      ((unsigned char*)y)[threadIdx.x] = threadIdx.x;
      ((unsigned short*)x)[threadIdx.x] = threadIdx.x;
      __syncthreads();
      ((unsigned*)y)[threadIdx.x + 32] = ((unsigned*)x)[threadIdx.x / 2];"""
    _, y = launch(kernel(body), 1, 32, [np.zeros(64, F32), np.zeros(64, F32)], 0)
    np.testing.assert_array_equal(y.view(np.uint8)[:32], np.arange(32))
    clash = body.replace("char*)y)[threadIdx.x]", "char*)y)[threadIdx.x / 2]")
    assert "race" in fails(kernel(clash), 1, 32)
    clash = body.replace("      __syncthreads();\n", "")
    assert "race" in fails(kernel(clash), 1, 32)


def test_runs_repeat_with_the_same_seed():
    body = "float old = atomicAdd(x, 1.0f); y[blockIdx.x * 64 + threadIdx.x] = old;"

    def run(seed):
        with emulator.settings(seed=seed):
            return launch(kernel(body), 8, 64, [np.zeros(1, F32), np.zeros(512, F32)], 0)[1]

    orders = [run(seed) for seed in SEEDS]
    for seed, order in zip(SEEDS, orders, strict=True):
        np.testing.assert_array_equal(run(seed), order)
        assert sorted(order) == list(range(512))
    assert len({tuple(order) for order in orders}) == len(orders)
