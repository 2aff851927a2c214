"""The emulator's reading of CUDA sources: C++ text, inline assembly, mutations. Nothing is run."""

from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.emulator import asm_statements, ptx, source_text, translate
from tests.emulator.mutate import mutations
from tests.emulator.ptx_table import TABLE

KERNEL = 'extern "C" __global__ void __launch_bounds__(64, 2) f(float* x, int n) {\n%s\n}\n'


def statement(template, *operands):
    """One asm statement, from its template and (constraint, expression) pairs."""
    outputs = ", ".join(f'"{c}"({e})' for c, e in operands if c[0] in "=+")
    inputs = ", ".join(f'"{c}"({e})' for c, e in operands if c[0] not in "=+")
    text = f'asm volatile("{template}" : {outputs} : {inputs} : "memory");'
    (found,) = asm_statements.statements(text)
    return found


def cpp(template, *operands, arch=90):
    return ptx.translate(statement(template, *operands), 0, arch, TABLE)


# ---- text ----------------------------------------------------------------------------------------


def test_masking_keeps_offsets_and_lines():
    text = 'a("x){", /* { */ \'"\', R"(}\n)") // (\n{}'
    mask = source_text.masked(text)
    assert len(mask) == len(text)
    assert mask.count("\n") == text.count("\n")
    assert [c for c in mask if c in "(){}"] == ["(", ")", "{", "}"]


@given(st.text(alphabet=string.ascii_letters + " \n\"'/*(){};", max_size=80))
def test_masking_any_text_keeps_offsets_and_lines(text):
    mask = source_text.masked(text)
    assert len(mask) == len(text)
    assert [i for i, c in enumerate(mask) if c == "\n"] == [
        i for i, c in enumerate(text) if c == "\n"
    ]


def test_functions_are_found_with_their_attributes():
    text = (
        "#define BODY() {\n"
        "struct __align__(8) pair { float x; void method() { } };\n"
        "template <typename T> __device__ T twice(T x) { return x + x; }\n"
        'extern "C" __global__ void __launch_bounds__(256, 1) f(float* y);\n'
        'extern "C" __global__ void __launch_bounds__(256, 1) f(float* y) { twice(y[0]); }\n'
        'extern "C" {\n__global__ __maxnreg__(64) void g(int n) {}\n}\n'
        "namespace a { inline void h() {} }\n"
    )
    found = source_text.functions(text)
    assert [(f.name, f.is_kernel) for f in found] == [
        ("twice", False),
        ("f", True),
        ("g", True),
        ("h", False),
    ]
    assert found[1].parameters == "float* y"
    assert text[found[1].body : found[1].end] == "{ twice(y[0]); }"


def test_edits_keep_line_numbers():
    edits = source_text.Edits("one\ntwo\nthree\nfour")
    edits.replace(0, 7, "X")
    edits.replace(14, 18, "Y")
    assert edits.apply() == "X\n\nthree\nY"
    edits.replace(3, 5, "Z")
    with pytest.raises(ValueError, match="overlapping edits at line 1"):
        edits.apply()


# ---- asm statements ------------------------------------------------------------------------------


def test_asm_statements_are_taken_apart():
    text = (
        'asm("membar.gl;");\n'
        'int colon = a ? b : c;  // asm("no")\n'
        "__asm__ __volatile__(\n"
        '  "{\\n"\n'
        '  " add.u32 %0, %[left], %2;\\n" // a comment\n'
        '  "}"\n'
        '  : "=r"(out[i ? 1 : 0]) : [left] "r"(f(a, b)), "n"(ns::size) : "memory", "cc");\n'
    )
    first, second = asm_statements.statements(text)
    assert (first.template, first.operands, first.extended) == ("membar.gl;", (), False)
    assert second.numbered_template() == "{\n add.u32 %0, %1, %2;\n}"
    assert [(o.constraint, o.expression) for o in second.operands] == [
        ("=r", "out[i ? 1 : 0]"),
        ("r", "f(a, b)"),
        ("n", "ns::size"),
    ]
    assert text[second.start : second.end].startswith("__asm__")
    assert text[second.end] == ";"
    assert second.line == 3


def test_percent_signs_are_escaped_in_extended_asm_only():
    assert statement("mov.u32 %0, %%tid.x;", ("=r", "x")).numbered_template() == (
        "mov.u32 %0, %tid.x;"
    )
    (basic,) = asm_statements.statements('asm("mov.u32 r, %tid.x;");')
    assert basic.numbered_template() == "mov.u32 r, %tid.x;"


def test_asm_that_is_no_statement_is_refused():
    with pytest.raises(asm_statements.AsmSyntaxError, match="line 2: the template is not a string"):
        asm_statements.statements("\nasm(MACRO);")
    with pytest.raises(asm_statements.AsmSyntaxError, match="not an operand: 'x'"):
        asm_statements.statements('asm("nop;" : : x);')


# ---- PTX -----------------------------------------------------------------------------------------


def test_an_instruction_reads_and_writes_its_operands():
    text = cpp("add.u32 %0, %1, 7;", ("=r", "sum"), ("r", "a"))
    assert "uint32_t emu_0{};" in text
    assert "uint32_t emu_1 = emu::operand<uint32_t>(a);" in text
    assert "emu::reg<uint32_t>(int64_t(7ll))" in text
    assert text.index("emu::set(emu_0,") < text.index("sum = emu::operand<")


def test_labels_predicates_and_registers_become_cpp():
    text = cpp(
        "{\\n.reg .pred p;\\nAGAIN:\\nsetp.eq.u32 p, %0, 1;\\n@!p bra.uni AGAIN;\\n}", ("r", "x")
    )
    assert "bool emu_r_p{};" in text
    assert "emu_label_0_AGAIN:;" in text
    assert "if (!emu::reg<bool>(emu_r_p)) goto emu_label_0_AGAIN;" in text


def test_empty_assembly_is_nothing():
    assert cpp("", ("+r", "x")).count("emu_") == cpp("/* a */ // b", ("+r", "x")).count("emu_")


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("wgmma.fence.sync.aligned;", "the instruction `wgmma.fence.sync.aligned` is not emulated"),
        ("add.sat.s32 %0, %0, 1;", r"`\.sat` of `add.sat.s32 %0, %0, 1` is not emulated"),
        ("cvt.rn.satfinite.e4m3x2.f32 %0, 0f00000000, 0f00000000;", r"\.satfinite"),
        ("mma.sync.aligned.m8n8k4.row.col.f64.f64.f64.f64 {%0}, {%0}, {%0}, {%0};", "mma"),
        ("cp.async.bulk.tensor.2d.shared::cluster.global.tile [%0], [%0], [%0];", "tensor"),
        ("ld.global.acquire.gpu.v2.u32 {%0, %0}, [%0];", "ordered loads of vectors"),
        ("mov.u32 %0, %nosuch;", "`%nosuch` is no register"),
        ("mov.u32 7, %0;", "operand 0 of `mov.u32 7, %0` cannot be written"),
        ("ld.param.u32 %0, [%0];", "state space"),
        (".reg .b32 r<4>;", "is not understood"),
    ],
)
def test_what_is_not_emulated_is_named(template, message):
    with pytest.raises(ptx.PtxError, match=message):
        cpp(template, ("+r", "x"))


@pytest.mark.parametrize(
    ("template", "arch"),
    [
        ("cp.async.commit_group;", 80),
        ("barrier.cluster.arrive.aligned;", 90),
        ("mapa.shared::cluster.u32 %0, %0, 1;", 90),
        ("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 "
         "{%1,%1,%1,%1}, {%0,%0,%0,%0}, {%0,%0}, {%1,%1,%1,%1};", 80),
    ],
)  # fmt: skip
def test_instructions_need_their_architecture(template, arch):
    operands = ("+r", "x"), ("+f", "y")
    assert cpp(template, *operands, arch=arch)
    with pytest.raises(ptx.PtxError, match=f"needs sm_{arch}; this is for sm_75"):
        cpp(template, *operands, arch=75)


# ---- translation ---------------------------------------------------------------------------------


def test_errors_name_the_line_and_the_function():
    source = KERNEL % '  int y = n;\n  asm volatile("tcgen05.alloc;");'
    with pytest.raises(translate.TranslationError, match=r"line 3, in f: .*`tcgen05\.alloc`"):
        translate.translate(source, 90)
    with pytest.raises(translate.TranslationError, match="no __global__ function"):
        translate.translate("__device__ void f() {}", 90)


@pytest.mark.parametrize(
    ("declaration", "expected"),
    [
        ("__shared__ float a[4][8];", "auto& a = emu::shared_variable<float[4][8], 1, 0>();"),
        ("__shared__ alignas(64) float a[n];", "emu::shared_variable<float[n], 64, 0>()"),
        ("alignas(16) __shared__ float a[4];", "emu::shared_variable<float[4], 16, 0>()"),
        (
            "__shared__ unsigned int count;",
            "auto& count = emu::shared_variable<unsigned int, 1, 0>",
        ),
        ("volatile __shared__ int a[2];", "emu::shared_variable<volatile int[2], 1, 0>"),
        ("__shared__ int a[2], b;", "auto& b = emu::shared_variable<int, 1, 1>"),
        ("extern __shared__ uchar a[];", "uchar* const a = static_cast<uchar*>(emu_dynamic_shared"),
        ("extern __shared__ __align__(1024) float a[];", "float* const a = static_cast<float*>"),
    ],
)
def test_shared_memory_is_declared(declaration, expected):
    assert expected in translate.translate(KERNEL % declaration, 90)


def test_dynamic_shared_memory_outside_of_functions():
    source = "extern __shared__ float pool[];\n" + KERNEL % "pool[0] = 1;"
    assert "static const emu::DynamicShared<float> pool;" in translate.translate(source, 90)


def test_kernels_are_listed_with_their_bounds():
    source = (
        KERNEL % "__shared__ int a[3];"
        + "__global__ void __cluster_dims__(8) __maxnreg__(96) g(const int* __restrict__ p) {}"
    )
    text = translate.translate(source, 90)
    assert '"f", "x,n", 64, 2, 0, EmuDim{0, 0, 0}, emu_shared_of_f, 1)' in text
    assert '"g", "p", 0, 0, 96, EmuDim{8, 1, 1}, emu_shared_of_g, 0)' in text


def test_lines_keep_their_numbers():
    body = (
        '__shared__ float\n  a[4],\n  b;\nasm("mov.u32 %0,\\n"\n "%tid.x;" : "=r"(n));\nx[0] = 1;'
    )
    source = KERNEL % body
    text = translate.translate(source, 90)
    start = text.index("#line 1")
    lines = text[start:].split("\n")[1:]
    wanted = source.split("\n").index("x[0] = 1;")
    assert lines[wanted] == "x[0] = 1;"


# ---- mutations -----------------------------------------------------------------------------------


def described(source):
    return [m.description for m in mutations(source)]


def test_every_barrier_is_removed_in_turn():
    source = (
        "__device__ void tvm_builtin_cuda_cta_sync() {\n  __syncthreads();\n}\n"
        + KERNEL
        % "  tvm_builtin_cuda_cta_sync();\n  if (n) { __syncwarp(); }\n"
        '  asm volatile("cp.async.wait_group 0;");\n  cg::this_grid().sync();'
    )
    assert described(source) == [
        "f, line 6: without `__syncwarp();`",
        "f, line 8: without `cg::this_grid().sync();`",
        "f, line 5: without `tvm_builtin_cuda_cta_sync();`",
        "f, line 7: without `cp.async.wait_group 0;`",
    ]
    for mutation in mutations(source):
        assert mutation.kind == "removed"
        assert mutation.source.count("\n") == source.count("\n")
        assert translate.translate(mutation.source, 90)


def test_helpers_are_removed_as_a_whole_and_weakened_inside():
    source = (
        "__device__ void barrier(unsigned* b, unsigned n) {\n"
        "  __syncthreads();\n"
        '  asm volatile("red.release.gpu.global.add.u32 [%0], 1;" :: "l"(b) : "memory");\n'
        "  unsigned v;\n"
        '  do { asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(v) : "l"(b)); }'
        " while (v < n);\n"
        "}\n" + KERNEL % "  barrier((unsigned*)x, 4);\n  x[0] = 1;"
    )
    assert described(source) == [
        "barrier, line 2: without `__syncthreads();`",
        "f, line 8: without `barrier((unsigned*)x, 4);`",
        "barrier, line 3: `red.release`: release becomes relaxed",
        "barrier, line 3: `red.release.gpu`: scope becomes cta",
        "barrier, line 5: `ld.acquire`: acquire becomes relaxed",
        "barrier, line 5: `ld.acquire.gpu`: scope becomes cta",
    ]
    weakened = [m.source for m in mutations(source) if m.kind == "weakened"]
    assert "red.relaxed.gpu.global" in weakened[0]
    assert "ld.acquire.cta.global" in weakened[3]


def test_functions_that_also_compute_are_not_removed():
    source = (
        "__device__ void load(float* s, const float* x) {\n  s[0] = x[0];\n  __syncthreads();\n}\n"
        + KERNEL % "  load(x, x);"
    )
    assert described(source) == ["load, line 3: without `__syncthreads();`"]
