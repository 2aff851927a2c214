"""What each PTX instruction does, in C++: arithmetic, warps, matrices, barriers, order.

Each entry takes an instruction and returns C++ statements. Memory and copies: ptx_memory.py.
"""

from __future__ import annotations

from tests.emulator import ptx_memory
from tests.emulator.ptx import REGISTER_TYPES, Emit, Instruction, Pair, PtxError, Value

SCOPES = ptx_memory.SCOPES
_ROUNDING = ("rn", "ftz", "approx", "full", "lo")  # what makes no difference worth emulating


def _type(op: Instruction, position: int = -1) -> str:
    """The C++ type that the last (or another) qualifier names."""
    name = op.qualifiers[position]
    if name not in REGISTER_TYPES:
        raise PtxError(f"the type `.{name}` of `{op.text}` is not emulated")
    return REGISTER_TYPES[name]


def _packed(op: Instruction) -> str | None:
    kind = op.qualifiers[-1]
    return kind.removesuffix("x2") if kind in ("f16x2", "bf16x2") else None


# ---- moves and arithmetic ------------------------------------------------------------------------


def _mov(op: Instruction) -> str:
    c_type = _type(op)
    target, source = op.arguments
    if isinstance(source, Value) and isinstance(target, Value):
        return op.set(0, op.value(1, c_type))
    values = op.vector(0) if not isinstance(target, Value) else op.vector(1)
    bits = 8 * {"uint16_t": 2, "uint32_t": 4, "uint64_t": 8}[c_type] // len(values)
    part = f"uint{bits}_t"
    if isinstance(target, Value):
        joined = " | ".join(
            f"{c_type}({v.as_type(part)}) << {bits * i}" for i, v in enumerate(values)
        )
        return op.set(0, f"{c_type}({joined})")
    source_bits = op.value(1, c_type)
    return " ".join(
        f"emu::set({v.text}, {part}({source_bits} >> {bits * i}));" for i, v in enumerate(values)
    )


def _binary(expression: str) -> Emit:
    def emit(op: Instruction) -> str:
        op.allow(*_ROUNDING)
        if kind := _packed(op):
            a, b = op.value(1, "uint32_t"), op.value(2, "uint32_t")
            half = f"""[](uint16_t x, uint16_t y) {{ const float a = emu::ptx::from_{kind}(x),
                b = emu::ptx::from_{kind}(y); return emu::ptx::to_{kind}({expression}); }}"""
            half = " ".join(half.split())
            return f"const uint32_t a = {a}, b = {b}; const auto f = {half}; " + op.set(
                0, "emu::ptx::pack(f(a >> 16, b >> 16), f(uint16_t(a), uint16_t(b)))"
            )
        c_type = _type(op)
        values = f"const {c_type} a = {op.value(1, c_type)}, b = {op.value(2, c_type)}; "
        return values + op.set(0, f"{c_type}({expression})")

    return emit


def _unary(expression: str) -> Emit:
    def emit(op: Instruction) -> str:
        op.allow(*_ROUNDING)
        if kind := _packed(op):
            f = f"[](float a) {{ return {expression}; }}"
            return op.set(0, f"emu::ptx::each_{kind}({op.value(1, 'uint32_t')}, {f})")
        if op.qualifiers[-1] in ("f16", "bf16"):
            kind = op.qualifiers[-1]
            a = f"const float a = emu::ptx::from_{kind}({op.value(1, 'uint16_t')}); "
            return a + op.set(0, f"emu::ptx::to_{kind}({expression})")
        c_type = _type(op)
        return f"const {c_type} a = {op.value(1, c_type)}; " + op.set(0, f"{c_type}({expression})")

    return emit


def _shift(function: str) -> Emit:
    def emit(op: Instruction) -> str:
        c_type = _type(op)
        return op.set(
            0, f"emu::ptx::{function}<{c_type}>({op.value(1, c_type)}, {op.value(2, 'uint32_t')})"
        )

    return emit


def _mul(op: Instruction) -> str:
    c_type = _type(op)
    a, b = op.value(1, c_type), op.value(2, c_type)
    if op.has("wide"):
        wide = {"uint16_t": "uint32_t", "int16_t": "int32_t"}.get(
            c_type, "uint64_t" if c_type[0] == "u" else "int64_t"
        )
        return op.set(0, f"{wide}({a}) * {wide}({b})")
    if op.has("hi"):
        wide = "uint64_t" if c_type == "uint32_t" else "int64_t"
        if c_type not in ("uint32_t", "int32_t"):
            raise PtxError(f"`{op.text}` is emulated for 32 bits only")
        return op.set(0, f"{c_type}({wide}({a}) * {wide}({b}) >> 32)")
    return _binary("a * b")(op)


def _mad(op: Instruction) -> str:
    op.allow("lo", "wide")
    c_type = _type(op)
    a, b = op.value(1, c_type), op.value(2, c_type)
    if op.has("wide"):
        wide = "uint64_t" if c_type[0] == "u" else "int64_t"
        return op.set(0, f"{wide}({a}) * {wide}({b}) + {op.value(3, wide)}")
    return op.set(0, f"{c_type}({a} * {b} + {op.value(3, c_type)})")


def _fma(op: Instruction) -> str:
    op.allow(*_ROUNDING)
    if kind := _packed(op):
        values = "".join(f"const uint32_t {n} = {op.value(i + 1, 'uint32_t')}; "
                         for i, n in enumerate("abc"))  # fmt: skip
        part = f"emu::ptx::from_{kind}(uint16_t({{}} >> s))"
        f = (
            f"const auto f = [&](int s) {{ return emu::ptx::to_{kind}(std::fma("
            f"{part.format('a')}, {part.format('b')}, {part.format('c')})); }}; "
        )
        return values + f + op.set(0, "emu::ptx::pack(f(16), f(0))")
    c_type = _type(op)
    values = ", ".join(op.value(i, c_type) for i in (1, 2, 3))
    return op.set(0, f"std::fma({values})")


_COMPARISONS = {
    "eq": "a == b", "ne": "a != b", "lt": "a < b", "le": "a <= b", "gt": "a > b", "ge": "a >= b",
    "lo": "a < b", "ls": "a <= b", "hi": "a > b", "hs": "a >= b",
}  # fmt: skip


def _setp(op: Instruction) -> str:
    comparison = _COMPARISONS.get(op.qualifiers[0])
    op.allow(op.qualifiers[0], "ftz")
    if comparison is None:
        raise PtxError(f"the comparison of `{op.text}` is not emulated")
    c_type = _type(op)
    values = f"const {c_type} a = {op.value(1, c_type)}, b = {op.value(2, c_type)}; "
    target = op.arguments[0]
    if isinstance(target, Pair):
        first = f"emu::set({target.first.text}, {comparison});" if target.first else ""
        second = f"emu::set({target.second.text}, !({comparison}));" if target.second else ""
        return values + first + second
    return values + op.set(0, comparison)


def _selp(op: Instruction) -> str:
    c_type = _type(op)
    return op.set(0, f"{op.value(3, 'bool')} ? {op.value(1, c_type)} : {op.value(2, c_type)}")


def _cvt(op: Instruction) -> str:
    op.allow("rn", "rna", "ftz", "relu", "rni", "rzi", "rmi", "rpi")
    to, *rest = [q for q in op.qualifiers if q in REGISTER_TYPES]
    source = rest[0] if rest else to
    if to in ("f16x2", "bf16x2") and source == "f32":
        half = f"emu::ptx::to_{to[:-2]}"
        high, low = op.value(1, "float"), op.value(2, "float")
        if op.has("relu"):
            high, low = f"std::fmax({high}, 0.0f)", f"std::fmax({low}, 0.0f)"
        return op.set(0, f"emu::ptx::pack({half}({high}), {half}({low}))")
    if to == "tf32":
        return op.set(0, f"emu::ptx::to_tf32({op.value(1, 'float')})")
    if to in ("f16", "bf16"):
        value = op.value(1, REGISTER_TYPES[source])
        return op.set(0, f"emu::ptx::to_{to}(float({value}))")
    if source in ("f16", "bf16"):
        value = f"emu::ptx::from_{source}({op.value(1, 'uint16_t')})"
    else:
        value = op.value(1, REGISTER_TYPES[source])
    c_type = REGISTER_TYPES[to]
    if source[0] == "f" and to[0] in "us":
        rounding = {"rni": "std::nearbyint", "rmi": "std::floor", "rpi": "std::ceil"}
        function = next((f for q, f in rounding.items() if op.has(q)), "std::trunc")
        value = f"{function}({value})"
    return op.set(0, f"{c_type}({value})")


# ---- warps and matrices --------------------------------------------------------------------------


def _shfl(op: Instruction) -> str:
    mode = {"up": "u", "down": "d", "bfly": "b", "idx": "i"}[op.qualifiers[1]]
    target = op.arguments[0]
    result, inside = (target.first, target.second) if isinstance(target, Pair) else (target, None)
    if not isinstance(result, Value):
        raise PtxError(f"`{op.text}` has no result")
    call = (
        f"emu::ptx::shuffle('{mode}', {op.value(1, 'uint32_t')}, {op.value(2, 'uint32_t')}, "
        f"{op.value(3, 'uint32_t')}, {op.value(4, 'uint32_t')}, &inside)"
    )
    text = f"bool inside; const uint32_t result = {call}; emu::set({result.text}, result);"
    return text + (f" emu::set({inside.text}, inside);" if inside else "")


def _vote(op: Instruction) -> str:
    kinds = {"all": "EMU_VOTE_ALL", "any": "EMU_VOTE_ANY", "uni": "EMU_VOTE_UNIFORM",
             "ballot": "EMU_BALLOT"}  # fmt: skip
    call = f"emu_vote({op.value(2, 'uint32_t')}, {kinds[op.qualifiers[1]]}, {op.value(1, 'bool')})"
    return op.set(0, call if op.has("ballot") else f"{call} != 0")


def _match(op: Instruction) -> str:
    if op.qualifiers[0] != "any":
        raise PtxError(f"`{op.text}` is not emulated")
    value = op.value(1, _type(op))
    return op.set(0, f"emu_match_any({op.value(2, 'uint32_t')}, {value})")


def _redux(op: Instruction) -> str:
    kinds = {"add": "ADD", "min": "MIN", "max": "MAX", "and": "AND", "or": "OR", "xor": "XOR"}
    signed = "EMU_S32" if op.has("s32") else "EMU_U32"
    return op.set(0, f"emu_reduce({op.value(2, 'uint32_t')}, EMU_{kinds[op.qualifiers[1]]}, "
                     f"{signed}, {op.value(1, 'uint32_t')})")  # fmt: skip


def _elect(op: Instruction) -> str:
    target = op.arguments[0]
    if not isinstance(target, Pair) or target.second is None or target.first is not None:
        raise PtxError(f"`{op.text}` is emulated with `_|p` as its result only")
    op.need_arch(90)
    return f"emu::set({target.second.text}, emu_elect({op.value(1, 'uint32_t')}) != 0);"


_MMA = {  # shape, type of A and B -> kind, registers of A and of B
    ("m16n8k16", "f16"): ("EMU_MMA_F16_K16", 4, 2),
    ("m16n8k16", "bf16"): ("EMU_MMA_BF16_K16", 4, 2),
    ("m16n8k8", "tf32"): ("EMU_MMA_TF32_K8", 4, 2),
    ("m16n8k8", "f16"): ("EMU_MMA_F16_K8", 2, 1),
    ("m16n8k8", "bf16"): ("EMU_MMA_BF16_K8", 2, 1),
    ("m16n8k4", "tf32"): ("EMU_MMA_TF32_K4", 2, 1),
}


def _mma(op: Instruction) -> str:
    shape = next((q for q in op.qualifiers if q.startswith("m16n8")), "")
    types = op.qualifiers[-4:]
    entry = _MMA.get((shape, types[1]))
    if entry is None or types != ["f32", types[1], types[1], "f32"] or not op.has("row"):
        raise PtxError(f"`{op.text}` is not emulated: see ptx_table.py")
    op.need_arch(75 if (shape, types[1]) == ("m16n8k8", "f16") else 80)
    kind, a_words, b_words = entry
    d, a, b, c = (op.vector(i) for i in range(4))
    if (len(d), len(a), len(b), len(c)) != (4, a_words, b_words, 4):
        raise PtxError(f"`{op.text}` has the wrong number of registers")

    def words(values: tuple[Value, ...], c_type: str) -> str:
        return "{" + ", ".join(v.as_type(c_type) for v in values) + "}"

    results = " ".join(f"emu::set({v.text}, d[{i}]);" for i, v in enumerate(d))
    return (
        f"float d[4]; const uint32_t a[] = {words(a, 'uint32_t')}, "
        f"b[] = {words(b, 'uint32_t')}; const float c[] = {words(c, 'float')}; "
        f"emu_mma({kind}, d, a, b, c); {results}"
    )


# ---- barriers and order --------------------------------------------------------------------------


def _bar(op: Instruction) -> str:
    if op.has("warp"):
        return f"emu_warp_barrier({op.value(0, 'uint32_t')});"
    if op.has("cluster"):
        op.need_arch(90)
        order = "EMU_RELAXED" if op.has("relaxed") else ""
        if op.has("arrive"):
            return f"emu_cluster_arrive({order or 'EMU_RELEASE'});"
        return f"emu_cluster_wait({order or 'EMU_ACQUIRE'});"
    index = op.value(0, "uint32_t")
    threads = op.value(1, "int32_t") if len(op.arguments) > 1 else "-1"
    if op.has("arrive"):
        return f"emu_cta_arrive({index}, {threads});"
    if op.has("sync"):
        return f"emu_cta_barrier({index}, {threads}, EMU_NONE, 0);"
    raise PtxError(f"`{op.text}` is not emulated")


def _fence(op: Instruction) -> str:
    if op.has("proxy", "mbarrier_init"):  # the emulator's copies see memory as threads do
        return ""
    scope = next((s for q, s in SCOPES.items() if op.has(q)), None)
    if scope is None:
        raise PtxError(f"`{op.text}` names no scope")
    return f"emu_fence({scope});"


def _membar(op: Instruction) -> str:
    scopes = {"cta": "EMU_CTA", "gl": "EMU_DEVICE", "sys": "EMU_SYSTEM"}
    return f"emu_fence({scopes[op.qualifiers[0]]});"


def _nothing(op: Instruction) -> str:
    return ""


def _trap(op: Instruction) -> str:
    return f'emu_trap("{op.name}");'


TABLE: dict[str, Emit] = {
    "mov": _mov,
    "add": _binary("a + b"),
    "sub": _binary("a - b"),
    "mul": _mul,
    "mad": _mad,
    "fma": _fma,
    "div": _binary("a / b"),
    "rem": _binary("a % b"),
    "min": _binary("min(a, b)"),
    "max": _binary("max(a, b)"),
    "and": _binary("a & b"),
    "or": _binary("a | b"),
    "xor": _binary("a ^ b"),
    "not": _unary("sizeof(a) == 1 ? !a : ~a"),
    "neg": _unary("-a"),
    "abs": _unary("a < 0 ? -a : a"),
    "shl": _shift("shift_left"),
    "shr": _shift("shift_right"),
    "setp": _setp,
    "selp": _selp,
    "cvt": _cvt,
    "tanh": _unary("tanhf(a)"),
    "ex2": _unary("exp2f(a)"),
    "lg2": _unary("log2f(a)"),
    "rcp": _unary("1 / a"),
    "sqrt": _unary("std::sqrt(a)"),
    "rsqrt": _unary("1 / std::sqrt(a)"),
    "sin": _unary("sinf(a)"),
    "cos": _unary("cosf(a)"),
    "popc": _unary("__builtin_popcountll(a)"),
    "shfl": _shfl,
    "vote": _vote,
    "match": _match,
    "redux": _redux,
    "elect": _elect,
    "activemask": lambda op: op.set(0, "emu_active_mask()"),
    "mma": _mma,
    "bar": _bar,
    "barrier": _bar,
    "fence": _fence,
    "membar": _membar,
    "griddepcontrol": _nothing,
    "setmaxnreg": _nothing,
    "nanosleep": lambda op: "emu_sleep();",
    "trap": _trap,
    "brkpt": _trap,
    **ptx_memory.TABLE,
}
