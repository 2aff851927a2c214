"""What the emulated device launches and refuses, and in which order: limits, streams, graphs."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests import emulator
from tests.emulator import driver

pytestmark = pytest.mark.skipif(not emulator.available(), reason=emulator.available().reason)

F32 = np.float32


def kernel(body, parameters="float* x, float* y, int n", head=""):
    return f'extern "C" __global__ void {head} f({parameters}) {{\n{body}\n}}\n'


def refused(source, grid, block, *, cooperative=False, cluster=None, shared_bytes=0):
    arrays = [emulator.DeviceArray((4,), F32), emulator.DeviceArray((4,), F32)]
    module = emulator.CudaModule(source)
    with pytest.raises(emulator.LaunchError) as failure:
        module.launch("f", grid, block, *arrays, 0, cooperative=cooperative, cluster=cluster,
                      shared_bytes=shared_bytes)  # fmt: skip
    return str(failure.value)


def accepted(source, grid, block, **options):
    arrays = [emulator.DeviceArray((4,), F32), emulator.DeviceArray((4,), F32)]
    emulator.CudaModule(source).launch("f", grid, block, *arrays, 0, **options)


# ---- limits --------------------------------------------------------------------------------------

NOTHING = kernel("")


@pytest.mark.parametrize(
    ("grid", "block", "report"),
    [
        (1, 1025, "CUDA error 1: kernel f is not launched: grid (1,1,1) of CTAs of (1025,1,1)"),
        (1, (64, 32), "2048 threads per CTA"),
        ((1, 65536), 32, "grid (1,65536,1)"),
        (0, 32, "grid (0,1,1)"),
        (1, (1, 1, 65), "(1,1,65) threads"),
    ],
)
def test_sizes(grid, block, report):
    assert report in refused(NOTHING, grid, block)


def test_launch_bounds():
    source = kernel("", head="__launch_bounds__(64)")
    accepted(source, 1, 64)
    report = refused(source, 1, 96)
    assert "CUDA error 701" in report
    assert "96 threads per CTA, compiled for at most 64" in report


@pytest.mark.parametrize(("arch", "kib"), [("sm_75", 64), ("sm_80", 163), ("sm_90", 227)])
def test_shared_memory(arch, kib):
    with emulator.settings(arch=arch):
        accepted(NOTHING, 1, 32, shared_bytes=kib << 10)
        assert "of dynamic and 0 of static shared memory: the device has" in refused(
            NOTHING, 1, 32, shared_bytes=(kib << 10) + 1
        )
        some = kernel("__shared__ float s[300]; s[threadIdx.x] = n;")
        assert "1200 of static" in refused(some, 1, 32, shared_bytes=(kib << 10) - 1199)
        accepted(some, 1, 32, shared_bytes=(kib << 10) - 1200)
        much = kernel("__shared__ float s[13000]; s[threadIdx.x] = n;")
        assert "52000 bytes of shared variables, more than 48 KiB" in refused(much, 1, 32)


def test_dynamic_shared_memory_beyond_48_kib_needs_the_attribute():
    module = emulator.CudaModule(NOTHING)
    function = module.function("f")
    config = driver._LaunchConfig((1, 1, 1), (32, 1, 1), 49153, None, None, 0)
    arguments = (ctypes.c_void_p * 3)(*[ctypes.addressof(ctypes.c_uint64(0))] * 3)
    launch = driver._library().cuda.cuLaunchKernelEx
    assert launch(ctypes.byref(config), function, arguments, None) == 1
    assert "the function's attribute allows 49152" in emulator.last_report()


@pytest.mark.parametrize(
    ("head", "block", "shared_kib", "per_sm"),
    [
        ("__launch_bounds__(256, 1)", 256, 0, 1),  # 255 registers each, so the compiler may use
        ("__launch_bounds__(256, 2)", 256, 0, 2),
        ("__launch_bounds__(256, 2)", 256, 120, 1),
        ("__maxnreg__(32)", 256, 0, 8),
        ("__maxnreg__(32)", 1024, 0, 2),
        ("__launch_bounds__(32, 32)", 32, 0, 32),
        ("", 64, 0, 4),
    ],
)
def test_cooperative_launches_must_be_resident(head, block, shared_kib, per_sm):
    source = kernel("", head=head)
    resident = per_sm * 132
    options = {"cooperative": True, "shared_bytes": shared_kib << 10}
    report = refused(source, resident + 1, block, **options)
    assert "CUDA error 720" in report
    assert f"{resident} are resident at a time (132 multiprocessors, {per_sm} each)" in report
    with emulator.settings(multiprocessors=2):
        accepted(source, 2 * per_sm, block, **options)
        assert f"{2 * per_sm} are resident" in refused(source, 2 * per_sm + 1, block, **options)
    count = ctypes.c_int()
    function = (module := emulator.CudaModule(source)).function("f")
    occupancy = driver._library().cuda.cuOccupancyMaxActiveBlocksPerMultiprocessor
    assert occupancy(ctypes.byref(count), function, block, ctypes.c_size_t(shared_kib << 10)) == 0
    assert count.value == per_sm
    module.unload()


def test_clusters():
    accepted(NOTHING, 32, 32, cluster=16)
    report = refused(NOTHING, 12, 32, cluster=8)
    assert "CUDA error 912" in report
    assert "a grid of (12,1,1) is no whole number of clusters of (8,1,1)" in report
    assert "clusters of 32 CTAs" in refused(NOTHING, 32, 32, cluster=32)
    with emulator.settings(arch="sm_80"):
        assert "clusters need sm_90" in refused(NOTHING, 8, 32, cluster=8)


def test_modules():
    module = emulator.CudaModule(NOTHING)
    with pytest.raises(emulator.LaunchError, match="the module has no kernel g"):
        module.function("g")
    handle = ctypes.c_void_p()
    load = driver._library().cuda.cuModuleLoadData
    assert load(ctypes.byref(handle), b"\x7fELF" + bytes(64)) == 200
    assert "not compiled for the emulator" in emulator.last_report()
    with emulator.settings(arch="sm_80"):
        image = emulator.compile_cuda(NOTHING, "sm_90")
        assert load(ctypes.byref(handle), image) == 209
        assert "compiled for sm_90, the device is sm_80" in emulator.last_report()


def test_sources_are_compiled_for_the_architecture():
    body = """
    #if __CUDA_ARCH__ >= 900
      y[0] = 9;
    #else
      y[0] = __CUDA_ARCH__ / 100;
    #endif"""
    for arch, expected in (("sm_80", 8), ("sm_90", 9)):
        with emulator.settings(arch=arch):
            arrays = {"x": np.zeros(1, F32), "y": np.zeros(1, F32)}
            assert emulator.run(kernel(body), "f", 1, 1, arrays, 0)["y"][0] == expected


def test_settings_are_checked_and_restored():
    before = emulator.current_settings()
    with emulator.settings(arch="sm_80", seed=7, multiprocessors=3) as inside:
        assert (inside.arch, inside.seed, inside.multiprocessors) == ("sm_80", 7, 3)
    assert emulator.current_settings() == before
    with pytest.raises(ValueError, match="arch 'sm_61': one of sm_75"):
        emulator.configure(arch="sm_61")
    with pytest.raises(TypeError, match="sead"):
        emulator.configure(sead=1)


def test_errors_of_the_compiler_are_shown():
    with pytest.raises(emulator.ToolchainError, match=r"kernel\.cu:2.*no_such_thing"):
        emulator.compile_cuda(kernel("no_such_thing();"))


# ---- streams -------------------------------------------------------------------------------------

STEP = kernel("y[threadIdx.x] = 10 * y[threadIdx.x] + n;")


class Work:
    """Kernels that append digits to a number, so that their order shows."""

    def __init__(self):
        self.module = emulator.CudaModule(STEP)
        self.array = emulator.DeviceArray.of(np.zeros(1, F32))

    def step(self, digit, stream=None):
        self.module.launch("f", 1, 1, self.array, self.array, digit, stream=stream)

    @property
    def digits(self):
        return int(self.array.numpy()[0])


def test_lazy_streams_run_when_the_host_waits():
    with emulator.settings(lazy_streams=True):
        work = Work()
        work.step(1)
        work.step(2)
        assert work.digits == 12  # a copy to the host waits
        stream = emulator.Stream(blocking=False)
        work.step(3, stream)
        stream.synchronize()
        assert work.digits == 123


def test_streams_that_are_not_ordered_show_it():
    orders = set()
    with emulator.settings(lazy_streams=True):
        for seed in range(12):
            emulator.configure(seed=seed)
            work = Work()
            streams = [emulator.Stream(blocking=False) for _ in range(2)]
            for digit, stream in zip((1, 2), streams, strict=True):
                work.step(digit, stream)
            emulator.synchronize()
            orders.add(work.digits)
    assert orders == {12, 21}


def test_events_order_streams():
    with emulator.settings(lazy_streams=True):
        for seed in range(8):
            emulator.configure(seed=seed)
            work = Work()
            one, two = (emulator.Stream(blocking=False) for _ in range(2))
            first, second = emulator.Event(), emulator.Event()
            work.step(1, one)
            one.record(first)
            two.wait(first)
            work.step(2, two)
            two.record(second)
            one.wait(second)
            work.step(3, one)
            one.synchronize()
            assert work.digits == 123


def test_the_default_stream_is_ordered_with_blocking_ones():
    with emulator.settings(lazy_streams=True):
        for seed in range(8):
            emulator.configure(seed=seed)
            work = Work()
            stream = emulator.Stream()
            work.step(1)
            work.step(2, stream)
            work.step(3)
            work.step(4, stream)
            stream.synchronize()
            assert work.digits == 1234


def test_errors_of_lazy_launches_come_when_the_host_waits():
    with emulator.settings(lazy_streams=True):
        stream = emulator.Stream()
        module = emulator.CudaModule(kernel("y[99] = 1;"))
        array = emulator.DeviceArray((4,), F32)
        module.launch("f", 1, 1, array, array, 0, stream=stream)
        with pytest.raises(emulator.LaunchError, match="out of bounds"):
            stream.synchronize()


def test_freeing_waits_for_the_device():
    with emulator.settings(lazy_streams=True):
        work = Work()
        work.step(7)
        other = emulator.DeviceArray((4,), F32)
        other.free()
        assert work.digits == 7


# ---- graphs --------------------------------------------------------------------------------------


@pytest.mark.parametrize("lazy", [False, True])
def test_graphs_are_recorded_and_replayed(lazy):
    with emulator.settings(lazy_streams=lazy):
        work = Work()
        one, two = emulator.Stream(), emulator.Stream(blocking=False)
        fork, join = emulator.Event(), emulator.Event()
        one.begin_capture()
        work.step(1, one)
        one.record(fork)
        two.wait(fork)
        work.step(2, two)
        two.record(join)
        one.wait(join)
        work.step(3, one)
        graph = one.end_capture()
        assert work.digits == 0
        graph.launch(one)
        graph.launch(one)
        one.synchronize()
        assert work.digits == 123123
        work.step(4, two)
        two.synchronize()
        assert work.digits == 1231234


def test_what_a_capture_does_not_allow():
    stream = emulator.Stream()
    module = emulator.CudaModule(STEP)
    array = emulator.DeviceArray.of(np.zeros(1, F32))
    for call, message in (
        (stream.synchronize, "cudaStreamSynchronize while a stream is being captured"),
        (lambda: emulator.DeviceArray((4,), F32), "an allocation while a stream is being captured"),
        (lambda: module.launch("f", 1, 1, array, array, 1), "work for the default stream while"),
    ):
        stream.begin_capture()
        with pytest.raises(emulator.LaunchError, match=message):
            call()
        with pytest.raises(emulator.LaunchError, match="CUDA error 901"):
            stream.end_capture()
    with pytest.raises(emulator.LaunchError, match="does not begin a capture"):
        stream.end_capture()
    assert array.numpy()[0] == 0


# ---- the machine ---------------------------------------------------------------------------------


def in_another_process(code, **environment):
    env = {**os.environ, **environment}
    root = Path(__file__).resolve().parents[1]
    return subprocess.run([sys.executable, "-c", code], env=env, cwd=root, capture_output=True,
                          text=True, check=False)  # fmt: skip


def test_machines_without_a_compiler_are_told_so():
    code = (
        "from tests import emulator\n"
        "print(bool(emulator.available()), emulator.available().reason)\n"
        "try: emulator.driver.load()\n"
        "except emulator.EmulatorUnavailableError as error: print(error)\n"
    )
    result = in_another_process(code, CXX="no-such-compiler")
    assert result.stdout.splitlines() == [
        "False g++ is not installed",
        "no emulated CUDA device: g++ is not installed",
    ], result.stderr


def test_the_cache_is_the_users_own_and_filled_once(tmp_path):
    code = (
        "from tests import emulator\n"
        f"emulator.compile_cuda({NOTHING!r})\n"
        f"emulator.compile_cuda({NOTHING!r})\n"
    )
    cache = tmp_path / "cache"
    for _ in range(2):
        result = in_another_process(code, GLUONLSTM_EMULATOR_CACHE=str(cache))
        assert result.returncode == 0, result.stderr
        kinds = sorted(path.name.partition("-")[0] for path in cache.iterdir())
        assert kinds == ["header", "kernel"]
    assert cache.stat().st_mode & 0o77 == 0
