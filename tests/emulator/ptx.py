"""Translate the PTX text of inline assembly into C++ statements.

A small assembler front end: comments, labels, `.reg` declarations, predicates and operands are read
here; what each instruction does is in ptx_table.py and ptx_memory.py.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field

from tests.emulator.asm_statements import AsmStatement, Operand

# C++ types of the constraint letters and of `.reg` declarations.
CONSTRAINT_TYPES = {"h": "uint16_t", "r": "uint32_t", "l": "uint64_t", "f": "float", "d": "double"}
REGISTER_TYPES = {
    **dict.fromkeys(("b8", "u8"), "uint8_t"),
    "s8": "int8_t",
    **dict.fromkeys(("b16", "u16", "f16", "bf16"), "uint16_t"),
    "s16": "int16_t",
    **dict.fromkeys(("b32", "u32", "f16x2", "bf16x2", "tf32"), "uint32_t"),
    "s32": "int32_t",
    **dict.fromkeys(("b64", "u64", "f32x2"), "uint64_t"),
    "s64": "int64_t",
    "f32": "float",
    "f64": "double",
    "pred": "bool",
}
SPECIAL_REGISTERS = {
    **{f"%tid.{a}": f"emu_thread_index({i})" for i, a in enumerate("xyz")},
    **{f"%ntid.{a}": f"emu_block_dim({i})" for i, a in enumerate("xyz")},
    **{f"%ctaid.{a}": f"emu_block_index({i})" for i, a in enumerate("xyz")},
    **{f"%nctaid.{a}": f"emu_grid_dim({i})" for i, a in enumerate("xyz")},
    **{f"%clusterid.{a}": f"emu_cluster_index({i})" for i, a in enumerate("xyz")},
    **{f"%nclusterid.{a}": f"emu_cluster_count({i})" for i, a in enumerate("xyz")},
    **{f"%cluster_ctaid.{a}": f"emu_cluster_block_index({i})" for i, a in enumerate("xyz")},
    **{f"%cluster_nctaid.{a}": f"emu_cluster_dim({i})" for i, a in enumerate("xyz")},
    "%cluster_ctarank": "emu_cluster_rank()",
    "%cluster_nctarank": "(emu_cluster_dim(0) * emu_cluster_dim(1) * emu_cluster_dim(2))",
    "%is_explicit_cluster": "uint32_t(__clusterSizeInBlocks() > 1)",
    "%laneid": "emu_lane()",
    "%warpid": "emu_warp()",
    "%nwarpid": "((emu_block_dim(0) * emu_block_dim(1) * emu_block_dim(2) + 31) / 32)",
    "%smid": "emu_block_index(0)",
    "%lanemask_eq": "(1u << emu_lane())",
    "%lanemask_lt": "((1u << emu_lane()) - 1)",
    "%lanemask_le": "(2u * (1u << emu_lane()) - 1)",
    "%lanemask_gt": "~(2u * (1u << emu_lane()) - 1)",
    "%lanemask_ge": "~((1u << emu_lane()) - 1)",
    "%dynamic_smem_size": "emu_dynamic_shared_bytes()",
    "%clock": "uint32_t(emu_clock())",
    "%clock64": "emu_clock()",
    "%globaltimer": "emu_clock()",
    "%globaltimer_lo": "uint32_t(emu_clock())",
    "WARP_SZ": "32u",
}


class PtxError(ValueError):
    """PTX that the emulator does not know, or that the architecture lacks."""


@dataclass(frozen=True)
class Value:
    """A register, an immediate or a special register: a C++ expression."""

    text: str
    writable: bool = False
    is_predicate: bool = False

    def as_type(self, c_type: str) -> str:
        return f"emu::reg<{c_type}>({self.text})"


@dataclass(frozen=True)
class Address:
    """`[base + offset]`."""

    base: Value
    offset: int = 0

    def pointer(self, space: str) -> str:
        """A generic C++ pointer, `void*`."""
        kind = "shared" if space.startswith("shared") else "generic"
        return f"emu::ptx::{kind}(emu::reg<uint64_t>({self.base.text}) + {self.offset})"

    def shared(self) -> str:
        """The 32-bit address."""
        return f"(emu::reg<uint32_t>({self.base.text}) + {self.offset}u)"


@dataclass(frozen=True)
class Vector:
    """`{a, b, c}`."""

    elements: tuple[Value, ...]


@dataclass(frozen=True)
class Pair:
    """`d|p`, where either may be the sink `_`."""

    first: Value | None
    second: Value | None


Argument = Value | Address | Vector | Pair | None  # None: the sink `_`


@dataclass
class Instruction:
    """One instruction: its name, its dot-separated qualifiers, its operands."""

    text: str
    name: str
    qualifiers: list[str]
    arguments: list[Argument]
    arch: int = 90

    def has(self, *qualifiers: str) -> bool:
        return any(q in self.qualifiers for q in qualifiers)

    def allow(self, *qualifiers: str) -> None:
        """Refuse qualifiers that are neither types nor named here: they may change the result."""
        for qualifier in self.qualifiers:
            if qualifier not in REGISTER_TYPES and qualifier not in qualifiers:
                raise PtxError(f"`.{qualifier}` of `{self.text}` is not emulated")

    def need_arch(self, arch: int) -> None:
        if self.arch < arch:
            raise PtxError(f"`{self.text}` needs sm_{arch}; this is for sm_{self.arch}")

    def value(self, i: int, c_type: str) -> str:
        argument = self.arguments[i]
        if not isinstance(argument, Value):
            raise PtxError(f"operand {i} of `{self.text}` should be a register or a number")
        return argument.as_type(c_type)

    def set(self, i: int, expression: str) -> str:
        """The statement that writes operand i."""
        argument = self.arguments[i]
        if argument is None:
            return f"(void)({expression});"
        if not isinstance(argument, Value) or not argument.writable:
            raise PtxError(f"operand {i} of `{self.text}` cannot be written")
        return f"emu::set({argument.text}, {expression});"

    def address(self, i: int) -> Address:
        argument = self.arguments[i]
        if not isinstance(argument, Address):
            raise PtxError(f"operand {i} of `{self.text}` should be an address")
        return argument

    def vector(self, i: int) -> tuple[Value, ...]:
        argument = self.arguments[i]
        if isinstance(argument, Vector):
            return argument.elements
        if isinstance(argument, Value):
            return (argument,)
        raise PtxError(f"operand {i} of `{self.text}` should be a vector of registers")


Emit = Callable[[Instruction], str]


@dataclass
class _Scope:
    """The registers and labels that one asm statement knows."""

    statement: int
    operands: dict[str, Value]
    registers: dict[str, str] = field(default_factory=dict)  # PTX name -> C++ variable
    types: dict[str, str] = field(default_factory=dict)  # C++ variable -> C++ type

    def value(self, text: str) -> Value:
        text = text.strip()
        if text in self.operands:
            return self.operands[text]
        if text in self.registers:
            variable = self.registers[text]
            return Value(variable, True, self.types[variable] == "bool")
        if text in SPECIAL_REGISTERS:
            return Value(SPECIAL_REGISTERS[text])
        number = _number(text)
        if number is not None:
            return Value(number)
        raise PtxError(f"`{text}` is no register, number or special register known here")

    def label(self, name: str) -> str:
        return f"emu_label_{self.statement}_{name}"


def _number(text: str) -> str | None:
    if match := re.fullmatch(r"0[fF]([0-9a-fA-F]{8})", text):
        return f"emu::bit_cast<float>(0x{match.group(1)}u)"
    if match := re.fullmatch(r"0[dD]([0-9a-fA-F]{16})", text):
        return f"emu::bit_cast<double>(uint64_t(0x{match.group(1)}ull))"
    if re.fullmatch(r"-?(0[xX][0-9a-fA-F]+|\d+)[uU]?", text):
        return f"int64_t({text.rstrip('uU')}ll)"
    if re.fullmatch(r"-?\d+\.\d*([eE][-+]?\d+)?", text):
        return f"float({text})"
    return None


def translate(statement: AsmStatement, number: int, arch: int, table: dict[str, Emit]) -> str:
    """A C++ block that does what the asm statement does."""
    operands = {f"%{i}": Value(f"emu_{i}", o.written) for i, o in enumerate(statement.operands)}
    scope = _Scope(number, operands)
    body: list[str] = []
    for item in _items(statement.numbered_template()):
        body += _translate_item(item, scope, arch, table)
    declarations = [_declare(i, o) for i, o in enumerate(statement.operands)]
    declarations += [f"{c_type} {name}{{}};" for name, c_type in scope.types.items()]
    results = [
        f"{o.expression} = emu::operand<std::remove_reference_t<decltype({o.expression})>>"
        f"(emu_{i});"
        for i, o in enumerate(statement.operands)
        if o.written
    ]
    return "do { " + " ".join([*declarations, *body, *results]) + " } while (0)"


def _declare(i: int, operand: Operand) -> str:
    if operand.letter in ("n", "i"):
        return f"const int64_t emu_{i} = ({operand.expression});"
    c_type = CONSTRAINT_TYPES.get(operand.letter)
    if c_type is None:
        raise PtxError(f'the constraint "{operand.constraint}" is not emulated')
    if operand.read:
        return f"{c_type} emu_{i} = emu::operand<{c_type}>({operand.expression});"
    return f"{c_type} emu_{i}{{}};"


def _items(template: str) -> list[str]:
    """Instructions, declarations, labels (with their colon) and braces."""
    text = re.sub(r"//[^\n]*|/\*.*?\*/", " ", template, flags=re.DOTALL)
    items: list[str] = []
    rest = text
    while rest := rest.strip():
        if label := re.match(r"[$%]?[A-Za-z_][\w$]*\s*:(?!:)", rest):
            items.append(label.group())
            rest = rest[label.end() :]
        elif rest[0] in "{}":
            items.append(rest[0])
            rest = rest[1:]
        else:
            instruction, _, rest = rest.partition(";")
            items.append(" ".join(instruction.split()))
    return items


def _translate_item(item: str, scope: _Scope, arch: int, table: dict[str, Emit]) -> list[str]:
    if item in "{}":  # registers of inner blocks must differ in name: none of ours clash
        return []
    if item.endswith(":"):
        return [f"{scope.label(item[:-1].strip().lstrip('$%'))}:;"]
    if item.startswith(".reg"):
        _declare_registers(item, scope)
        return []
    if item.startswith((".pragma", ".loc")):
        return []
    guard = ""
    if match := re.match(r"@(!?)\s*([%\w$]+)\s+(.*)", item):
        guard = f"if ({match.group(1)}emu::reg<bool>({scope.value(match.group(2)).text})) "
        item = match.group(3)
    if match := re.fullmatch(r"bra(?:\.uni)?\s+([$%\w]+)", item):
        return [f"{guard}goto {scope.label(match.group(1).lstrip('$%'))};"]
    return [f"{guard}{{ {_translate_instruction(item, scope, arch, table)} }}"]


def _declare_registers(item: str, scope: _Scope) -> None:
    match = re.fullmatch(r"\.reg\s*\.(\w+)\s+(.*)", item)
    c_type = REGISTER_TYPES.get(match.group(1)) if match else None
    if match is None or c_type is None:
        raise PtxError(f"`{item}` is not understood")
    for name in match.group(2).split(","):
        if not re.fullmatch(r"[%$]?[A-Za-z_][\w$]*", name.strip()):
            raise PtxError(f"`{item}` is not understood")
        variable = "emu_r_" + re.sub(r"\W", "_", name.strip())
        scope.registers[name.strip()] = variable
        scope.types[variable] = c_type


def _translate_instruction(item: str, scope: _Scope, arch: int, table: dict[str, Emit]) -> str:
    opcode, _, rest = item.partition(" ")
    name, *qualifiers = opcode.split(".")
    emit = table.get(name)
    if emit is None:
        raise PtxError(f"the instruction `{item}` is not emulated: see ptx_table.py")
    arguments = [_argument(text, scope) for text in _split_arguments(rest)]
    return emit(Instruction(item, name, qualifiers, arguments, arch))


def _split_arguments(text: str) -> list[str]:
    parts, depth, start = [], 0, 0
    for i, c in enumerate(text):
        depth += (c in "{[") - (c in "}]")
        if c == "," and depth == 0:
            parts.append(text[start:i])
            start = i + 1
    parts.append(text[start:])
    return [part.strip() for part in parts if part.strip()]


def _argument(text: str, scope: _Scope) -> Argument:
    if text == "_":
        return None
    if text.startswith("{"):
        return Vector(tuple(scope.value(e) for e in text[1:-1].split(",")))
    if text.startswith("["):
        base, sign, offset = re.fullmatch(
            r"\[\s*([^\s+\]-]+)\s*(?:([+-])\s*(\w+))?\s*\]", text
        ).groups()
        step = int(offset, 0) if offset else 0
        return Address(scope.value(base), -step if sign == "-" else step)
    if "|" in text:
        first, second = (part.strip() for part in text.split("|"))
        return Pair(
            None if first == "_" else scope.value(first),
            None if second == "_" else scope.value(second),
        )
    if text.startswith("!"):
        return Value(f"!emu::reg<bool>({scope.value(text[1:]).text})")
    return scope.value(text)
