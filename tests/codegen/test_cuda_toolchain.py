"""CUDA targets, compilers and the machine code in an artifact; nothing here needs a GPU."""

from __future__ import annotations

import os
import struct
import subprocess
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gluonlstm.errors import CompilationError, InvalidArgumentError, MissingDependencyError
from tests.codegen import cuda_cases as cases
from tests.codegen.fatbin import contents

pytestmark = pytest.mark.tvm

SOURCE = """
extern "C" __global__ void __launch_bounds__(64) first(float* __restrict__ x, int n);
extern "C" __global__ void __launch_bounds__(64) first(float* __restrict__ x, int n) {
  __shared__ float part[64];
  int i = threadIdx.x;
  if (i < n) { part[i] = tanhf(x[i]) / (1.0f + expf(x[i])); }
  __syncthreads();
  if (i < n) { x[i] = part[63 - i]; }
}
extern "C" __global__ void second(float* y) {
  asm volatile("{ .reg .b32 t; mov.b32 t, %0; }" :: "r"(1));
  y[threadIdx.x] = __expf(y[threadIdx.x]);
}
"""


def resolve(target):
    from gluonlstm.codegen.target import resolve

    return resolve(target)


def archs(*names):
    from gluonlstm.codegen.cuda.arch import cuda_arch

    return tuple(map(cuda_arch, names))


def installed(find):
    try:
        return find()
    except MissingDependencyError as error:
        pytest.skip(str(error))


@pytest.fixture
def nvcc():
    from gluonlstm.codegen.cuda.nvcc import NVCC

    return installed(NVCC.find)


@pytest.fixture
def nvrtc():
    from gluonlstm.codegen.cuda.nvrtc import NVRTC

    return installed(NVRTC.find)


@pytest.fixture(params=["nvcc", "nvrtc"])
def compiler(request):
    return request.getfixturevalue(request.param)


# --- targets -------------------------------------------------------------------------------


def test_default_target():
    target = resolve("cuda")
    assert target.names == ("sm_80", "sm_90")
    assert target.ptx.virtual == "compute_90"
    assert target.math == "strict"
    assert target.shared_memory == 163 << 10
    assert target.tensor_core_dtypes == {"float16", "bfloat16", "tf32"}
    assert [arch.name for arch in target.with_clusters()] == ["sm_90"]
    facts = target.to_dict()
    assert facts["kind"] == "cuda"
    assert facts["archs"] == ["sm_80", "sm_90"]
    assert facts["ptx"] == "compute_90"
    if facts["mtriple"].startswith("x86_64"):
        assert facts["mcpu"] == "x86-64-v2"
        assert not {"avx", "avx2", "avx512f"} & set(facts["cpu_features"])


@pytest.mark.parametrize(
    ("spelling", "names", "ptx"),
    [
        ("cuda -arch=sm_90", ["sm_90"], "compute_90"),
        ("cuda -arch=sm_90,sm_75", ["sm_75", "sm_90"], "compute_90"),
        ({"kind": "cuda", "arch": ["sm_86", "sm_80", "sm_86"]}, ["sm_80", "sm_86"], "compute_86"),
        ({"kind": "cuda", "arch": ["sm_90a", "sm_80"]}, ["sm_80", "sm_90a"], "compute_80"),
        ({"kind": "cuda", "arch": "sm_100a"}, ["sm_100a"], None),
    ],
)
def test_archs(spelling, names, ptx):
    facts = resolve(spelling).to_dict()
    assert (facts["archs"], facts["ptx"]) == (names, ptx)


@pytest.mark.parametrize("spelling", ["cuda -math=tf32", {"kind": "cuda", "math": "tf32"}])
def test_math_mode(spelling):
    assert resolve(spelling).to_dict()["math"] == "tf32"


def test_host():
    target = resolve({"kind": "cuda", "host": "llvm -mcpu=x86-64-v3 -mtriple=x86_64-linux-gnu"})
    assert target.to_dict()["mcpu"] == "x86-64-v3"
    assert "avx2" in target.to_dict()["cpu_features"]


def test_what_holds_for_all_archs():
    target = resolve("cuda -arch=sm_75,sm_86,sm_100")
    assert target.tensor_core_dtypes == {"float16"}
    assert target.shared_memory == 64 << 10
    assert target.multiprocessors == 72


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("cuda -arch=sm_70", "'sm_70' is not supported; it must be one of sm_75, sm_80"),
        ("cuda -arch=90", "'90' is not supported"),
        ("cuda -arch=sm_80a", "'sm_80a' is not supported"),
        ("cuda -arch=sm_9a0", "is not supported"),
        ({"kind": "cuda", "arch": 90}, "arch=90 must be a name or a list"),
        ({"kind": "cuda", "arch": [90]}, r"arch=\[90\] must be a name or a list"),
        ("cuda -mcpu=skylake", "unknown option mcpu"),
        ("cuda -math=fast", "math='fast' must be one of"),
        ("cuda -math=tf32 -arch=sm_75", "needs sm_80 or later, not sm_75"),
        ({"kind": "cuda", "host": "cuda"}, "host='cuda' must be a CPU target"),
        ({"kind": "cuda", "host": "llvm -mcpu=nothing"}, "nothing"),
    ],
)
def test_impossible_targets(target, message):
    with pytest.raises(InvalidArgumentError, match=message):
        resolve(target)


# --- what the compiler reports -------------------------------------------------------------

REPORT = """
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function 'b_kernel' for 'sm_80'
ptxas info    : Function properties for b_kernel
    16 bytes stack frame, 8 bytes spill stores, 12 bytes spill loads
ptxas info    : Function properties for helper
    32 bytes stack frame, 0 bytes spill stores, 4 bytes spill loads
ptxas info    : Used 183 registers, used 1 barriers, 4096 bytes smem, 412 bytes cmem[0]
ptxas info    : Compile time = 32.520 ms
ptxas info    : Compiling entry function 'a_kernel' for 'sm_90'
ptxas         .     0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 16 registers
"""


def test_report_of_the_assembler():
    from gluonlstm.codegen.cuda.resources import KernelResources, parse_report

    rows = parse_report(REPORT)
    assert rows == (
        KernelResources("a_kernel", "sm_90", 16, 0, 0, 0, 0),
        KernelResources("b_kernel", "sm_80", 183, 4096, 32, 8, 16),
    )
    assert [row.spill_bytes for row in rows] == [0, 24]
    assert rows[1].to_dict() == {
        "kernel": "b_kernel",
        "arch": "sm_80",
        "registers": 183,
        "shared_bytes": 4096,
        "stack_bytes": 32,
        "spill_bytes": 24,
    }


@pytest.mark.parametrize(
    ("arch", "registers", "threads", "static", "dynamic", "ctas"),
    [
        ("sm_90", 32, 256, 0, 0, 8),  # all of 2048 threads
        ("sm_90", 183, 256, 0, 0, 1),  # registers: 8 warps of 5888
        ("sm_90", 64, 256, 0, 0, 4),
        ("sm_90", 16, 32, 0, 0, 32),  # the number of CTAs
        ("sm_90", 16, 128, 48 << 10, 60 << 10, 2),  # 2 * (108 + 1) KiB of 228
        ("sm_90", 16, 128, 0, 227 << 10, 1),
        ("sm_90", 16, 128, 0, 228 << 10, 0),
        ("sm_90", 255, 512, 0, 0, 0),  # more than all registers
        ("sm_86", 32, 512, 0, 0, 3),  # 1536 threads
        ("sm_75", 32, 256, 32 << 10, 0, 2),  # nothing is taken by the system
    ],
)
def test_resident_ctas(arch, registers, threads, static, dynamic, ctas):
    from gluonlstm.codegen.cuda.resources import KernelResources

    row = KernelResources("kernel", arch, registers, static, 0, 0, 0)
    assert row.resident_ctas(archs(arch)[0], threads, dynamic) == ctas


# --- the source ----------------------------------------------------------------------------


def test_kernels_are_found():
    from gluonlstm.codegen.cuda.source import find_kernels

    first, second = find_kernels(SOURCE)
    assert (first.name, second.name) == ("first", "second")
    lines = SOURCE.splitlines()
    assert lines[first.line - 1].endswith("first(float* __restrict__ x, int n) {")
    assert lines[second.line - 1].startswith('extern "C" __global__ void second')
    for kernel in (first, second):
        assert SOURCE[kernel.begin] == "{"
        assert SOURCE[kernel.end : kernel.end + 2] == "}\n"
    assert "part[63 - i]" in SOURCE[first.begin : first.end]


def test_fast_functions_become_exact_ones():
    from gluonlstm.codegen.cuda.source import prepare

    prepared = prepare(SOURCE + "a__expf(x); __powf(x, y); my__logf(z); __shfl_sync(m);", {})
    assert "= expf(y" in prepared
    assert "a__expf(x); powf(x, y); my__logf(z); __shfl_sync(m);" in prepared


def test_costly_headers_go_unless_they_are_used():
    from gluonlstm.codegen.cuda.source import prepare

    header = "#include <cuda/barrier>\n"
    assert header not in prepare(header + SOURCE, {})
    used = header + SOURCE + "__device__ void f(cuda::barrier<cuda::thread_scope_block>& b);"
    assert header in prepare(used, {})


def test_guarded_kernels_keep_their_body_for_newer_archs(nvcc):
    from gluonlstm.codegen.cuda.source import prepare

    cluster = 'asm volatile("barrier.cluster.arrive.aligned; barrier.cluster.wait.aligned;");'
    source = SOURCE.replace("asm volatile", f"{cluster}\n  asm volatile")
    both = archs("sm_80", "sm_90")
    with pytest.raises(CompilationError, match=r"second.*sm_90"):
        nvcc.compile(source, both, None)
    compiled = nvcc.compile(prepare(source, {"second": 90}), both, both[1])
    assert [(row.kernel, row.arch) for row in compiled.resources] == [
        ("first", "sm_80"),
        ("first", "sm_90"),
        ("second", "sm_80"),
        ("second", "sm_90"),
    ]


# --- compilers -----------------------------------------------------------------------------


def test_machine_code_for_every_arch_and_ptx_for_the_newest(compiler):
    both = archs("sm_80", "sm_90")
    compiled = compiler.compile(SOURCE, both, both[1])
    assert contents(compiled.image) == [("machine code", 80), ("machine code", 90), ("ptx", 90)]
    assert compiled.compiler == compiler.name
    rows = {(row.kernel, row.arch): row for row in compiled.resources}
    assert len(rows) == 4
    for arch in ("sm_80", "sm_90"):
        assert rows["first", arch].shared_bytes == 256
        assert rows["second", arch].shared_bytes == 0
        assert rows["first", arch].spill_bytes == 0
        assert 4 <= rows["first", arch].registers <= 40


def test_other_archs_on_request(compiler):
    wanted = archs("sm_75", "sm_100")
    assert contents(compiler.compile(SOURCE, wanted, None).image) == [
        ("machine code", 75),
        ("machine code", 100),
    ]


def test_an_arch_that_the_compiler_does_not_know(compiler):
    later = replace(archs("sm_90")[0], number=390)
    with pytest.raises(InvalidArgumentError, match="cannot compile for sm_390; it knows sm_75, "):
        compiler.compile(SOURCE, (later,), None)


def test_spills_are_reported(nvcc):
    loads = "".join(f"float a{i} = x[i * 300 + {i}];" for i in range(300))
    total = " + ".join(f"a{i} * a{i * 7 % 300}" for i in range(300))
    source = (
        'extern "C" __global__ void __launch_bounds__(1024) full(float* x) {'
        f"int i = threadIdx.x; {loads} __syncthreads(); x[i] = {total}; }}"
    )
    (row,) = nvcc.compile(source, archs("sm_90"), None).resources
    assert row.registers <= 64  # 1024 threads can have no more
    assert row.spill_store_bytes > 0
    assert row.spill_load_bytes > 0
    assert row.stack_bytes > 0


def test_errors_name_the_kernel(compiler):
    for name, text in {"first": "tanhf", "second": "__expf"}.items():
        with pytest.raises(CompilationError) as raised:
            compiler.compile(SOURCE.replace(text, "nowhere"), archs("sm_90"), None)
        message = str(raised.value)
        assert message.startswith(f"{compiler.name} could not compile the CUDA kernel {name}: ")
        assert 'identifier "nowhere" is undefined' in message


def ptx(options, tmp_path):
    from gluonlstm.codegen.cuda.nvcc import find_nvcc

    source, text = tmp_path / "k.cu", tmp_path / "k.ptx"
    source.write_text(SOURCE)
    command = [find_nvcc(), *options, "-ptx", "-arch=compute_90", "-o", text, source]
    subprocess.run(command, check=True, capture_output=True)
    return text.read_text()


def test_nvcc_compiles_without_fast_math(nvcc, tmp_path):
    from gluonlstm.codegen.cuda.nvcc import OPTIONS

    exact = ptx(OPTIONS, tmp_path)
    fast = ptx([*OPTIONS, "--use_fast_math"], tmp_path)
    for instruction in ("tanh.approx", "div.approx"):
        assert instruction in fast
        assert instruction not in exact
    assert "div.rn.f32" in exact


def test_nvrtc_compiles_without_fast_math(nvrtc):
    text = nvrtc.translate(SOURCE, "compute_90", "PTX")[0].decode()
    assert "div.rn.f32" in text
    assert "tanh.approx" not in text
    assert "div.approx" not in text


# --- which compiler is used ----------------------------------------------------------------


@pytest.fixture
def no_compilers(monkeypatch, tmp_path):
    from gluonlstm.codegen.cuda import nvcc, nvrtc, toolchain

    for variable in ("CUDA_HOME", "CUDA_PATH", toolchain.VARIABLE):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(nvcc, "DEFAULT_TOOLKIT", tmp_path / "cuda")
    for module in (nvcc, nvrtc):
        monkeypatch.setattr(module, "cuda_folders", lambda: iter(()))


def find_compiler():
    from gluonlstm.codegen.cuda.toolchain import find_compiler

    return find_compiler()


def test_what_to_install_is_said(no_compilers):
    with pytest.raises(MissingDependencyError, match=r"pip install 'gluonlstm\[cuda\]'"):
        find_compiler()


def test_a_compiler_can_be_named(nvcc_path, no_compilers, monkeypatch):
    from gluonlstm.codegen.cuda.toolchain import VARIABLE

    monkeypatch.setenv(VARIABLE, nvcc_path)
    assert find_compiler().name.startswith("nvcc 1")
    monkeypatch.setenv(VARIABLE, "nvrtc")
    with pytest.raises(MissingDependencyError, match="NVRTC is not installed"):
        find_compiler()
    monkeypatch.setenv(VARIABLE, "gcc")
    with pytest.raises(InvalidArgumentError, match=r"GLUONLSTM_CUDA_COMPILER='gcc' must be one of"):
        find_compiler()
    monkeypatch.setenv(VARIABLE, "/nowhere/nvcc")
    with pytest.raises(MissingDependencyError, match="/nowhere/nvcc does not run"):
        find_compiler()


@pytest.fixture
def nvcc_path():
    """Where nvcc is, found before a test hides it."""
    from gluonlstm.codegen.cuda.nvcc import find_nvcc

    return str(installed(find_nvcc))


def test_places_of_nvcc(nvcc_path, no_compilers, monkeypatch, tmp_path):
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    (tmp_path / "bin").mkdir()
    script = tmp_path / "bin" / "nvcc"
    script.write_text(f'#!/bin/sh\nexec {nvcc_path} "$@"\n')
    with pytest.raises(MissingDependencyError, match="no nvcc"):  # not executable
        find_compiler()
    script.chmod(0o755)
    assert find_compiler().name.startswith("nvcc 1")


def test_what_is_no_nvcc(no_compilers, monkeypatch, tmp_path):
    (tmp_path / "nvcc").write_text("#!/bin/sh\necho something else\n")
    (tmp_path / "nvcc").chmod(0o755)
    with pytest.raises(MissingDependencyError, match="is not an nvcc"):
        find_compiler()


def test_wheels_that_lack_a_part(no_compilers, monkeypatch, tmp_path):
    from gluonlstm.codegen.cuda import nvrtc

    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "libnvrtc.so.13").touch()
    monkeypatch.setattr(nvrtc, "cuda_folders", lambda: iter([tmp_path]))
    with pytest.raises(MissingDependencyError) as raised:
        find_compiler()
    for part in ("libnvfatbin.so", "libnvrtc-builtins.so", "cuda_fp16.h", "cooperative_groups.h"):
        assert part in str(raised.value)


# --- TVM's modules -------------------------------------------------------------------------


def text(data):
    return struct.pack("<Q", len(data)) + data


def blob(modules, edges=()):
    tree = struct.pack("<Q", len(modules) + 1) + b"".join(
        struct.pack("<Q", min(i, len(edges))) for i in range(len(modules) + 1)
    )
    tree += struct.pack(f"<{len(edges) + 1}Q", len(edges), *edges)
    body = b"".join(
        text(kind) + (b"" if content is None else text(content)) for kind, content in modules
    )
    return text(tree + body)


modules = st.lists(
    st.tuples(st.sampled_from([b"relax.VMExecutable", b"other"]), st.binary(max_size=40))
    | st.just((b"_lib", None)),
    max_size=4,
)


@given(before=modules, after=modules, table=st.binary(max_size=40), image=st.binary(max_size=60))
def test_only_cuda_modules_are_rewritten(before, after, table, image):
    from gluonlstm.codegen.cuda.embed import translated

    cuda = b"".join([text(b"cuda"), table, text(SOURCE.encode())])
    code = b"".join([text(b"fatbin"), table, text(image)])
    given = []

    def translate(source):
        given.append(source)
        return image

    old = blob([*before, (b"cuda", cuda), *after], edges=(1,))
    new = blob([*before, (b"cuda", code), *after], edges=(1,))
    assert translated(old, [SOURCE], translate) == new
    assert given == [SOURCE]


@given(modules, st.data())
def test_other_lists_of_modules_are_refused(others, data):
    from gluonlstm.codegen.cuda.embed import translated

    whole = blob([*others, (b"cuda", text(b"cuda") + text(SOURCE.encode()))])
    cut = data.draw(st.integers(0, len(whole) - 1))
    with pytest.raises(CompilationError, match="TVM's"):
        translated(whole[:cut], [SOURCE], lambda source: b"")
    with pytest.raises(CompilationError, match="does not end with its source"):
        translated(whole, ["another source"], lambda source: b"")


# --- artifacts -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A model with an elementwise and a cooperative kernel, compiled by what is installed."""
    from tvm import get_global_func

    from gluonlstm.codegen.cuda.toolchain import find_compiler

    installed(find_compiler)
    environment = dict(os.environ)
    before = get_global_func("tvm_callback_cuda_compile", allow_missing=True)
    path = tmp_path_factory.mktemp("cuda") / "small.so"
    cases.write_small_model(path, np.arange(8, dtype="float32"), answer=42)
    after = get_global_func("tvm_callback_cuda_compile", allow_missing=True)
    assert (before is None) == (after is None)
    assert before is None or before.same_as(after)
    assert dict(os.environ) == environment
    return path


def test_the_artifact_holds_machine_code_and_no_source(small):
    from gluonlstm import artifact

    opened = artifact.read(small)
    code = bytes(opened.code)
    for part in (b"__global__", b"#include", b"__restrict__", b"threadIdx.x)"):
        assert part not in code
    (image,) = [
        code[start:]
        for start in range(len(code))
        if code.startswith(struct.pack("<I", 0xBA55ED50), start)
    ]
    assert contents(image) == [("machine code", 80), ("machine code", 90), ("ptx", 90)]


def test_the_artifact_records_its_target_and_resources(small):
    from gluonlstm import artifact

    info = artifact.read(small).info
    assert info.target["archs"] == ["sm_80", "sm_90"]
    assert info.target["answer"] == 42
    assert info.target["compiler"].split()[0] in ("nvcc", "NVRTC")
    rows = {(row["kernel"], row["arch"]): row for row in info.plan}
    for kernel, registers in {"gate_kernel": 24, "total_kernel": 48}.items():
        for arch in ("sm_80", "sm_90"):
            assert rows[kernel, arch]["registers"] <= registers
            assert rows[kernel, arch]["spill_bytes"] == 0


def test_a_kernel_that_does_not_compile(tmp_path, nvcc):
    from gluonlstm.codegen.cuda.toolchain import using

    class Refusing:
        name = nvcc.name

        def compile(self, source, archs, ptx):
            return nvcc.compile(source.replace("tanhf", "nowhere"), archs, ptx)

    with (
        using(Refusing()),
        pytest.raises(CompilationError, match=r"kernel gate_kernel: (?s:.*)nowhere"),
    ):
        cases.write_small_model(tmp_path / "m.so", np.ones(8, "float32"), "cuda -arch=sm_90")
    assert list(tmp_path.iterdir()) == []


def test_an_arch_that_is_unknown_is_the_users_error(tmp_path):
    from gluonlstm.codegen.cuda.toolchain import using

    class Old:
        name = "nvcc 11.5"

        def compile(self, source, archs, ptx):
            raise InvalidArgumentError("nvcc 11.5 cannot compile for sm_90; it knows sm_80.")

    with using(Old()), pytest.raises(InvalidArgumentError, match=r"11\.5 cannot compile"):
        cases.write_small_model(tmp_path / "m.so", np.ones(8, "float32"))
