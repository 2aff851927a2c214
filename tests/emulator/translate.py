"""Turn CUDA C++ source into C++ that g++ compiles against device/cuda_device.h.

Lines keep their numbers, so that reports can quote the original. What is rewritten: inline PTX,
declarations of shared memory, built-in index variables, vector casts; a table of the kernels is
added at the end.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from tests.emulator import asm_statements, ptx
from tests.emulator.ptx_table import TABLE
from tests.emulator.source_text import Edits, Function, closing, functions, masked, split

MOST_SHARED_VARIABLES = 256  # as in device/module_table.h

_INDEX = re.compile(r"\b(threadIdx|blockIdx|blockDim|gridDim)\s*\.\s*([xyz])\b")
_INDEX_CALLS = {
    "threadIdx": "emu_thread_index",
    "blockIdx": "emu_block_index",
    "blockDim": "emu_block_dim",
    "gridDim": "emu_grid_dim",
}
_ALIGNMENT = r"(?:alignas|__align__)\s*\(\s*\w+\s*\)"
_SHARED = re.compile(
    rf"(?P<before>(?:\b(?:extern|static|volatile)\b\s*|{_ALIGNMENT}\s*)*)\b__shared__\b"
    rf"(?P<after>(?:\s*{_ALIGNMENT}|\s*\bvolatile\b)*)\s*(?P<declaration>[^;]*);"
)
_DECLARATOR = re.compile(r"^\s*(?P<type>.*?[\s*&>])\s*(?P<name>\w+)\s*(?P<dims>(?:\[.*\])*)\s*$",
                         re.DOTALL)  # fmt: skip
_VECTOR_CAST = re.compile(
    r"\(\s*(?:const\s+)?((?:float|double|u?(?:char|short|int|long|longlong)|(?:__)?half"
    r"|(?:__)?nv_bfloat16)[2348])\s*\*\s*\)\s*(?=\()"
)


class TranslationError(ValueError):
    """CUDA source that the emulator cannot run, with the reason and the line."""


@dataclass(frozen=True)
class SharedVariable:
    name: str
    index: int
    function: str | None  # that declares it


def translate(source: str, arch: int) -> str:
    """The C++ source for a device of the given architecture (90 for sm_90).

    Raises:
        TranslationError: something in the source is not emulated; it says what and where.
    """
    mask = masked(source)
    bodies = functions(source, mask)
    edits = Edits(source)
    shared = _translate_shared(source, mask, bodies, edits)
    for match in _INDEX.finditer(mask):
        call = f"{_INDEX_CALLS[match.group(1)]}({'xyz'.index(match.group(2))})"
        edits.replace(match.start(), match.end(), call)
    for match in _VECTOR_CAST.finditer(mask):
        # `(float4*)(p)`: checked for alignment where it is made.
        edits.replace(match.start(), match.end(), f"emu::aligned<{match.group(1)}>")
    text = _translate_asm(edits.apply(), arch)
    head = f'#include "cuda_device.h"\n#define EMU_ARCH {arch * 10}\n#line 1 "kernel.cu"\n'
    return head + text + "\n" + _tables(bodies, shared, arch)


def _translate_asm(source: str, arch: int) -> str:
    edits = Edits(source)
    for number, statement in enumerate(asm_statements.statements(source)):
        try:
            text = ptx.translate(statement, number, arch, TABLE)
        except ptx.PtxError as error:
            where = _function_at(functions(source), statement.start)
            raise TranslationError(
                f"line {statement.line}, in {where.name if where else 'the file'}: {error}"
            ) from error
        edits.replace(statement.start, statement.end, text)
    return edits.apply()


def _function_at(bodies: list[Function], offset: int) -> Function | None:
    return next((f for f in bodies if f.start <= offset < f.end), None)


# ---- shared memory -------------------------------------------------------------------------------


def _translate_shared(
    source: str, mask: str, bodies: list[Function], edits: Edits
) -> list[SharedVariable]:
    variables: list[SharedVariable] = []
    for match in _SHARED.finditer(mask):
        function = _function_at(bodies, match.start())
        if function and match.start() < function.body:
            continue  # in a parameter list: `__shared__` has no meaning there
        modifiers = source[match.start("before") : match.end("before")] + match.group("after")
        volatile = "volatile " if "volatile" in modifiers else ""
        declared = source[match.start("declaration") : match.end("declaration")]
        if "extern" in modifiers:
            text = _dynamic(declared, volatile, inside=function is not None)
        else:
            alignments = re.findall(r"\(\s*(\w+)\s*\)", modifiers)
            text = ""
            for variable, declaration in _static(declared, volatile, alignments, len(variables)):
                text += declaration
                name = function.name if function else None
                variables.append(SharedVariable(variable, len(variables), name))
        edits.replace(match.start(), match.end(), text)
    if len(variables) > MOST_SHARED_VARIABLES:
        raise TranslationError(f"{len(variables)} shared variables: more than are provided for")
    return variables


def _dynamic(declared: str, volatile: str, *, inside: bool) -> str:
    match = re.fullmatch(rf"(?:{_ALIGNMENT}\s*)?(.*?)(\w+)\s*\[\s*\]\s*", declared, re.DOTALL)
    if not match:
        raise TranslationError(f"`extern __shared__ {declared}` is not understood")
    c_type, name = volatile + " ".join(match.group(1).split()), match.group(2)
    if inside:
        return f"{c_type}* const {name} = static_cast<{c_type}*>(emu_dynamic_shared());"
    return f"static const emu::DynamicShared<{c_type}> {name};"


def _static(
    declared: str, volatile: str, alignments: list[str], first: int
) -> list[tuple[str, str]]:
    """(name, C++ declaration) for each declarator."""
    alignments = [*alignments, *re.findall(rf"^\s*{_ALIGNMENT}", declared)]
    declared = re.sub(rf"^\s*{_ALIGNMENT}", "", declared)
    alignment = re.sub(r"\D", "", alignments[0]) if alignments else "1"
    parts = [part for part, _ in split(declared, declared, ",")]
    c_type = ""
    result = []
    for i, part in enumerate(parts):
        match = _DECLARATOR.match(part if i == 0 else f"{c_type} {part}")
        if not match or "=" in part:
            raise TranslationError(f"`__shared__ {declared}` is not understood")
        c_type = " ".join(match.group("type").split())
        name, dims = match.group("name"), match.group("dims")
        full = f"{volatile}{c_type}{dims}"
        result.append(
            (
                name,
                f"auto& {name} = emu::shared_variable<{full}, {alignment}, {first + i}>(); ",
            )
        )
    return result


# ---- tables --------------------------------------------------------------------------------------


def _tables(bodies: list[Function], shared: list[SharedVariable], arch: int) -> str:
    kernels = [f for f in bodies if f.is_kernel]
    if not kernels:
        raise TranslationError("the source has no __global__ function")
    names = {f.name for f in kernels}
    entries, lists = [], []
    for kernel in kernels:
        # A variable of a device function may be used by every kernel.
        indices = [v.index for v in shared if v.function == kernel.name or v.function not in names]
        numbers = ", ".join(map(str, [*indices, 0]))
        lists.append(f"static const uint32_t emu_shared_of_{kernel.name}[] = {{{numbers}}};")
        entries.append(_entry(kernel, len(indices)))
    quoted = ", ".join(f'"{v.name}"' for v in shared)
    return "\n".join(
        [
            *lists,
            f"static const char* const emu_shared_names[] = {{{quoted or 'nullptr'}}};",
            'extern "C" __attribute__((visibility("default"), no_sanitize("thread")))',
            "const EmuModule* emu_module() {",
            f"  static const EmuKernel kernels[] = {{{', '.join(entries)}}};",
            f"  static const EmuModule module = {{kernels, {len(kernels)}, emu_shared_variables,",
            f"                                   emu_shared_names, {arch * 10}}};",
            "  return &module;",
            "}",
            "",
        ]
    )


def _entry(kernel: Function, shared_count: int) -> str:
    bounds = [*_attribute(kernel.head, "__launch_bounds__"), "0", "0"]
    registers = [*_attribute(kernel.head, "__maxnreg__"), "0"]
    cluster = _attribute(kernel.head, "__cluster_dims__")
    cluster = [*cluster, *["1"] * (3 - len(cluster))] if cluster else ["0", "0", "0"]
    name = kernel.name
    return (
        f'emu::describe<&{name}>(&{name}, "{name}", "{_parameter_names(kernel)}", {bounds[0]}, '
        f"{bounds[1]}, {registers[0]}, EmuDim{{{', '.join(cluster)}}}, emu_shared_of_{name}, "
        f"{shared_count})"
    )


def _attribute(head: str, name: str) -> list[str]:
    """The arguments of `name(...)` in a kernel's head; empty if it is not there."""
    mask = masked(head)
    found = mask.find(name)
    if found < 0:
        return []
    opening = mask.index("(", found)
    inner = slice(opening + 1, closing(mask, opening))
    return [part.strip() for part, _ in split(head[inner], mask[inner], ",")]


def _parameter_names(kernel: Function) -> str:
    names = []
    for part, _ in split(kernel.parameters, masked(kernel.parameters), ","):
        match = re.search(r"(\w+)\s*(?:\[\s*\w*\s*\])?\s*$", part)
        names.append(match.group(1) if match else "")
    return ",".join(names)
