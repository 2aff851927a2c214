"""What PTX instructions on memory do, in C++: loads, stores, atomics, asynchronous copies."""

from __future__ import annotations

from tests.emulator.ptx import REGISTER_TYPES, Address, Emit, Instruction, PtxError, Value

SCOPES = {"cta": "EMU_CTA", "cluster": "EMU_CLUSTER", "gpu": "EMU_DEVICE", "sys": "EMU_SYSTEM"}
_ORDERS = {"relaxed": "EMU_RELAXED", "acquire": "EMU_ACQUIRE", "release": "EMU_RELEASE",
           "acq_rel": "EMU_ACQ_REL"}  # fmt: skip
_ATOMIC_TYPES = {
    "uint32_t": "EMU_U32", "int32_t": "EMU_S32", "uint64_t": "EMU_U64", "int64_t": "EMU_S64",
    "float": "EMU_F32", "double": "EMU_F64",
}  # fmt: skip
_OPERATIONS = {
    "add": "EMU_ADD", "exch": "EMU_EXCHANGE", "min": "EMU_MIN", "max": "EMU_MAX", "inc": "EMU_INC",
    "dec": "EMU_DEC", "cas": "EMU_CAS", "and": "EMU_AND", "or": "EMU_OR", "xor": "EMU_XOR",
}  # fmt: skip


def _space(op: Instruction) -> str:
    for qualifier in op.qualifiers:
        if qualifier.split("::")[0] in ("global", "shared", "local", "const", "param"):
            if qualifier.startswith(("const", "param", "local")):
                raise PtxError(f"the state space of `{op.text}` is not emulated")
            if qualifier == "shared::cluster":
                op.need_arch(90)
            return qualifier
    return ""


def _order(op: Instruction, default: str = "EMU_RELAXED") -> str:
    return next((order for q, order in _ORDERS.items() if op.has(q)), default)


def _scope(op: Instruction, default: str) -> str:
    return next((scope for q, scope in SCOPES.items() if op.has(q)), default)


def _is_strong(op: Instruction) -> bool:
    return op.has("volatile", "relaxed", "acquire", "release", "mmio")


def _element(op: Instruction) -> str:
    c_type = REGISTER_TYPES.get(op.qualifiers[-1])
    if c_type is None or c_type == "bool":
        raise PtxError(f"the type of `{op.text}` is not emulated")
    return c_type


def _vector_size(op: Instruction) -> int:
    return next((int(q[1:]) for q in op.qualifiers if q in ("v2", "v4", "v8")), 1)


def _atomic_type(op: Instruction, c_type: str) -> str:
    kind = _ATOMIC_TYPES.get(c_type)
    if kind is None:
        raise PtxError(f"`{op.text}` is emulated for 32 and 64 bits only")
    return kind


def _ld(op: Instruction) -> str:
    c_type, n = _element(op), _vector_size(op)
    pointer = op.address(1).pointer(_space(op))
    if _is_strong(op):
        if n > 1:
            raise PtxError(f"`{op.text}`: ordered loads of vectors are not emulated")
        scope = "EMU_SYSTEM" if op.has("volatile") else _scope(op, "EMU_SYSTEM")
        kind = _atomic_type(op, c_type)
        return op.set(0, f"emu::ptx::atomic<{c_type}>(EMU_LOAD, {kind}, {_order(op)}, {scope}, "
                         f"{pointer}, {c_type}())")  # fmt: skip
    if n == 1:
        return op.set(0, f"emu::ptx::load<{c_type}>({pointer})")
    values = op.vector(0)
    if len(values) != n:
        raise PtxError(f"`{op.text}` has the wrong number of registers")
    sets = " ".join(f"emu::set({v.text}, loaded.element[{i}]);" for i, v in enumerate(values))
    vector = f"emu::ptx::Vector<{c_type}, {n}>"
    return f"const auto loaded = emu::ptx::load<{vector}>({pointer}); {sets}"


def _st(op: Instruction) -> str:
    if op.has("async"):
        return _st_async(op)
    c_type, n = _element(op), _vector_size(op)
    pointer = op.address(0).pointer(_space(op))
    if _is_strong(op):
        if n > 1:
            raise PtxError(f"`{op.text}`: ordered stores of vectors are not emulated")
        scope = "EMU_SYSTEM" if op.has("volatile") else _scope(op, "EMU_SYSTEM")
        kind = _atomic_type(op, c_type)
        return (f"emu::ptx::atomic<{c_type}>(EMU_STORE, {kind}, {_order(op)}, {scope}, {pointer}, "
                f"{op.value(1, c_type)});")  # fmt: skip
    if n == 1:
        return f"emu::ptx::store<{c_type}>({pointer}, {op.value(1, c_type)});"
    values = op.vector(1)
    if len(values) != n:
        raise PtxError(f"`{op.text}` has the wrong number of registers")
    elements = ", ".join(v.as_type(c_type) for v in values)
    return f"emu::ptx::store({pointer}, emu::ptx::Vector<{c_type}, {n}>{{{{{elements}}}}});"


def _st_async(op: Instruction) -> str:
    op.need_arch(90)
    c_type, n = _element(op), _vector_size(op)
    elements = ", ".join(v.as_type(c_type) for v in op.vector(1))
    return (
        f"const {c_type} values[] = {{{elements}}}; "
        f"emu_async_store({op.address(0).pointer('shared')}, values, {n} * sizeof(values[0]), "
        f"{op.address(2).pointer('shared')});"
    )


def _atom(op: Instruction) -> str:
    name = next((q for q in op.qualifiers if q in _OPERATIONS), None)
    if name is None or op.has("noftz", "async", "v2", "v4", "v8"):
        raise PtxError(f"`{op.text}` is not emulated")
    c_type = _element(op)
    kind = _atomic_type(op, c_type)
    first = 1 if op.name == "atom" else 0
    pointer = op.address(first).pointer(_space(op))
    values = [op.value(i, c_type) for i in range(first + 1, len(op.arguments))]
    if name == "cas":  # PTX: the value to compare with comes first
        values.reverse()
    call = (
        f"emu::ptx::atomic<{c_type}>({_OPERATIONS[name]}, {kind}, {_order(op)}, "
        f"{_scope(op, 'EMU_DEVICE')}, {pointer}, {', '.join(values)})"
    )
    return op.set(0, call) if op.name == "atom" else f"(void){call};"


# ---- addresses -----------------------------------------------------------------------------------


def _cvta(op: Instruction) -> str:
    source = op.value(1, "uint64_t")
    space = next((q for q in op.qualifiers if q.split("::")[0] in ("shared", "global")), "")
    if space == "global":
        return op.set(0, source)
    if op.has("to"):
        return op.set(0, f"uint64_t(emu_to_shared_address(emu::ptx::generic({source})))")
    return op.set(0, f"reinterpret_cast<uint64_t>(emu::ptx::shared({source}))")


def _isspacep(op: Instruction) -> str:
    kind = "shared" if op.has("shared", "shared::cta", "shared::cluster") else "global"
    return op.set(0, f"emu_is_{kind}(emu::ptx::generic({op.value(1, 'uint64_t')})) != 0")


def _mapa(op: Instruction) -> str:
    op.need_arch(90)
    rank = op.value(2, "uint32_t")
    if op.has("shared::cluster"):
        mapped = f"emu_map_shared_address({op.value(1, 'uint32_t')}, {rank})"
        return op.set(0, mapped)
    pointer = f"emu::ptx::generic({op.value(1, 'uint64_t')})"
    return op.set(0, f"reinterpret_cast<uint64_t>(emu_map_shared({pointer}, {rank}))")


# ---- matrices ------------------------------------------------------------------------------------


def _matrix_count(op: Instruction) -> int:
    count = next((int(q[1]) for q in op.qualifiers if q in ("x1", "x2", "x4")), None)
    if count is None or not op.has("m8n8") or not op.has("b16"):
        raise PtxError(f"`{op.text}` is not emulated")
    return count


def _ldmatrix(op: Instruction) -> str:
    count, transposed = _matrix_count(op), int(op.has("trans"))
    sets = " ".join(f"emu::set({v.text}, rows[{i}]);" for i, v in enumerate(op.vector(0)))
    return (
        f"uint32_t rows[4]; "
        f"emu_load_matrix({count}, {transposed}, rows, {op.address(1).shared()}); {sets}"
    )


def _stmatrix(op: Instruction) -> str:
    op.need_arch(90)
    count, transposed = _matrix_count(op), int(op.has("trans"))
    values = ", ".join(v.as_type("uint32_t") for v in op.vector(1))
    return (
        f"const uint32_t rows[] = {{{values}}}; "
        f"emu_store_matrix({count}, {transposed}, rows, {op.address(0).shared()});"
    )


# ---- asynchronous copies -------------------------------------------------------------------------


def _cp(op: Instruction) -> str:
    op.need_arch(80)
    if op.has("bulk"):
        return _cp_bulk(op)
    if op.has("commit_group"):
        return "emu_async_commit();"
    if op.has("wait_group"):
        return f"emu_async_wait({op.value(0, 'uint32_t')});"
    if op.has("wait_all"):
        return "emu_async_wait_all();"
    if op.has("mbarrier"):
        barrier = op.address(0).pointer(_space(op))
        return f"emu_mbarrier_after_copies({barrier}, {int(not op.has('noinc'))});"
    bytes_ = op.value(2, "uint32_t")
    sizes = op.arguments[3:-1] if op.has("L2::cache_hint") else op.arguments[3:]
    if any(isinstance(size, Value) and size.is_predicate for size in sizes):
        raise PtxError(f"`{op.text}` with a predicate as its last operand is not emulated")
    source = op.value(3, "uint32_t") if sizes else bytes_
    return (
        f"emu_async_copy({op.address(0).shared()}, {op.address(1).pointer('global')}, "
        f"{bytes_}, {source});"
    )


def _cp_bulk(op: Instruction) -> str:
    op.need_arch(90)
    if op.has("commit_group"):
        return "emu_bulk_commit();"
    if op.has("wait_group"):
        return f"emu_bulk_wait({op.value(0, 'uint32_t')}, {int(op.has('read'))});"
    if op.has("prefetch"):
        return ""
    spaces = [q for q in op.qualifiers if q.split("::")[0] in ("global", "shared")]
    if op.has("tensor", "reduce", "multicast::cluster") or len(spaces) != 2:
        raise PtxError(f"`{op.text}` is not emulated")
    counted = len(op.arguments) > 3 and isinstance(op.arguments[3], Address)
    barrier = op.address(3).pointer("shared") if counted else "nullptr"
    return (
        f"emu_bulk_copy({op.address(0).pointer(spaces[0])}, {op.address(1).pointer(spaces[1])}, "
        f"{op.value(2, 'uint32_t')}, {barrier});"
    )


def _mbarrier(op: Instruction) -> str:
    op.need_arch(80)
    order = _order(op, "EMU_ACQUIRE" if op.has("try_wait", "test_wait") else "EMU_RELEASE")
    order_and_scope = f"{order}, {_scope(op, 'EMU_CTA')}"
    if op.has("init"):
        return f"emu_mbarrier_init({_barrier(op, 0)}, {op.value(1, 'uint32_t')});"
    if op.has("inval"):
        return f"emu_mbarrier_invalidate({_barrier(op, 0)});"
    if op.has("try_wait", "test_wait"):
        function = "emu_mbarrier_test" + ("" if op.has("parity") else "_state")
        state = op.value(2, "uint32_t" if op.has("parity") else "uint64_t")
        return op.set(0, f"{function}({_barrier(op, 1)}, {state}, {order_and_scope}) != 0")
    if op.qualifiers[0] == "expect_tx":
        return f"emu_mbarrier_expect({_barrier(op, 0)}, {op.value(1, 'uint32_t')});"
    if op.has("arrive"):
        has_result = not isinstance(op.arguments[0], Address)
        first = 1 if has_result else 0
        rest = [op.value(i, "uint32_t") for i in range(first + 1, len(op.arguments))]
        expected = rest.pop(0) if op.has("expect_tx") else "0"
        count = rest[0] if rest else "1"
        call = f"emu_mbarrier_arrive({_barrier(op, first)}, {count}, {expected}, {order_and_scope})"
        return op.set(0, call) if has_result else f"(void){call};"
    raise PtxError(f"`{op.text}` is not emulated")


def _barrier(op: Instruction, i: int) -> str:
    return op.address(i).pointer(_space(op))


def _createpolicy(op: Instruction) -> str:
    return op.set(0, "uint64_t(0)")


def _hint(op: Instruction) -> str:
    """Hints about addresses: nothing happens, but the address must make sense to C++."""
    values = [a for a in op.arguments if isinstance(a, Address)]
    return " ".join(f"(void)({a.base.text});" for a in values if isinstance(a.base, Value))


TABLE: dict[str, Emit] = {
    "ld": _ld,
    "ldu": _ld,
    "st": _st,
    "atom": _atom,
    "red": _atom,
    "cvta": _cvta,
    "isspacep": _isspacep,
    "mapa": _mapa,
    "ldmatrix": _ldmatrix,
    "stmatrix": _stmatrix,
    "cp": _cp,
    "mbarrier": _mbarrier,
    "createpolicy": _createpolicy,
    "prefetch": _hint,
    "prefetchu": _hint,
    "applypriority": _hint,
    "discard": _hint,
}
