"""Let the caller of ``main`` bring the memory for its outputs.

A compiled GPU model does not allocate what it returns: ``main(inputs..., outputs..., weights...)``
writes to the outputs that it is given, and returns them. So results come from the caller's own
allocator (torch's, say), which knows on which streams memory is in use. A second function,
``output_shapes(inputs...)``, returns their shapes. Variants of ``main`` are treated like it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import tvm
from tvm import relax, te, tirx

MAIN = "main"
OUTPUT_SHAPES = "output_shapes"
_NUM_INPUT = "num_input"

_Bindings = dict[relax.Var, relax.Expr]


@tvm.transform.module_pass(opt_level=0, name="CopySharedOutputs")
class CopySharedOutputs:
    """Let a kernel of its own compute each output of ``main``.

    An input that is returned, an output returned twice and a reshaped output are copied. For after
    the operators are legalised.
    """

    def transform_module(self, mod: Any, ctx: object) -> Any:
        """Rewrite ``main`` and its variants."""
        builder = relax.BlockBuilder(mod)
        changed = {
            var: _with_own_outputs(function, builder) for var, function in _relax_functions(mod)
        }
        mod = builder.get()
        for var, function in changed.items():
            mod[var] = function
        return mod


@tvm.transform.module_pass(opt_level=0, name="PassOutputs")
class PassOutputs:
    """Make the outputs of ``main`` parameters, and add the function that tells their shapes.

    For after call_tir has been lowered to allocations and calls.
    """

    def transform_module(self, mod: Any, ctx: object) -> Any:
        """Rewrite ``main`` and its variants."""
        mod = mod.clone()
        for var, function in _relax_functions(mod):
            changed, inputs, outputs = _with_outputs_given(function)
            mod[var] = changed
            if var.name_hint == MAIN:
                mod[OUTPUT_SHAPES] = _output_shapes(inputs, outputs)
        return mod


def _relax_functions(mod: Any) -> list[tuple[Any, Any]]:
    return [
        (var, function)
        for var, function in mod.functions.items()
        if isinstance(function, relax.Function)
    ]


def _with_own_outputs(function: Any, builder: relax.BlockBuilder) -> Any:
    bindings = _bindings(function)
    taken: set[object] = set()
    fields, copies = [], []
    for number, field in enumerate(_fields(function)):
        source = _kernel_result(field, bindings)
        if source is not None and source not in taken:
            taken.add(source)
            fields.append(field)
            continue
        copy = relax.Var(f"output{number}", field.ty)
        copies.append(relax.VarBinding(copy, _copy(builder, field)))
        fields.append(copy)
    if not copies:
        return function
    blocks = [*function.body.blocks, relax.BindingBlock(copies)]
    return _with_body(function, function.params, blocks, fields)


def _with_outputs_given(function: Any) -> tuple[Any, list[Any], list[Any]]:
    """Return the function with outputs as parameters, its inputs, and its outputs."""
    bindings = _bindings(function)
    count = int(function.attrs.get(_NUM_INPUT, len(function.params)))
    outputs: dict[relax.Var, relax.Var] = {}  # what was allocated -> the parameter for it
    for number, field in enumerate(_fields(function)):
        allocated = _resolved(field, bindings)
        outputs[cast(relax.Var, allocated)] = relax.Var(f"output{number}", field.ty)
    blocks = [_substituted(block, outputs) for block in function.body.blocks]
    given, results = list(function.params), list(outputs.values())
    params = [*given[:count], *results, *given[count:]]
    changed = _with_body(function, params, blocks, results)
    return changed.with_attr(_NUM_INPUT, count + len(results)), given[:count], results


# --- reading ``main`` ----------------------------------------------------------------------


def _fields(function: Any) -> list[Any]:
    """Return the outputs: variables, or whatever stands in the tuple that ``main`` returns."""
    body = function.body.body
    if not isinstance(body, relax.Tuple):
        body = _bindings(function)[body]
    return list(cast(Any, body).fields)


def _bindings(function: Any) -> _Bindings:
    return {
        binding.var: binding.value
        for block in function.body.blocks
        for binding in block.bindings
        if isinstance(binding, relax.VarBinding)
    }


def _resolved(value: Any, bindings: _Bindings) -> Any:
    """Follow names and tuple fields to the variable that a value was first bound to."""
    while value in bindings:
        bound = bindings[value]
        if isinstance(bound, relax.TupleGetItem):
            whole = bindings.get(_resolved(bound.tuple_value, bindings))
            if not isinstance(whole, relax.Tuple):
                return value
            bound = whole.fields[bound.index]
        if not isinstance(bound, relax.Var):
            return value
        value = bound
    return value


def _kernel_result(field: Any, bindings: _Bindings) -> object | None:
    """Return (call of a kernel, number of its result) that computes a field, None if none does."""
    number = 0
    field = _resolved(field, bindings)
    value = bindings.get(field)
    if isinstance(value, relax.TupleGetItem):
        number = value.index
        field = _resolved(value.tuple_value, bindings)
        value = bindings.get(field)
    if isinstance(value, relax.Call) and value.op == tvm.ir.Op.get("relax.call_tir"):
        return field, number
    return None


# --- writing it ----------------------------------------------------------------------------


def _with_body(function: Any, params: Any, blocks: Any, fields: list[Any]) -> Any:
    body = relax.SeqExpr(blocks, relax.Tuple(fields))
    return relax.Function(
        params,
        body,
        relax.TupleType([field.ty for field in fields]),
        function.is_pure,
        function.attrs,
    )


def _substituted(block: Any, outputs: dict[relax.Var, relax.Var]) -> relax.BindingBlock:
    """Bind what was allocated for an output to the parameter."""

    def bindings() -> Iterator[Any]:
        for binding in block.bindings:
            given = outputs.get(binding.var)
            yield binding if given is None else relax.VarBinding(binding.var, given)

    return relax.BindingBlock(list(bindings()))


def _copy(builder: relax.BlockBuilder, field: Any) -> relax.Expr:
    """Return a call that copies a tensor, and add its kernel to the module."""
    axes = [tirx.Var(f"n{axis}", "int64") for axis in range(len(field.ty.shape.values))]
    source: Any = te.placeholder(axes, field.ty.dtype, "source")
    target: Any = te.compute(axes, lambda *index: source[index], "target")
    kernel = te.create_prim_func([source, target])
    arguments: Any = [field]
    return relax.call_tir(builder.add_func(kernel, "copy"), arguments, out_ty=field.ty)


def _output_shapes(inputs: list[Any], outputs: list[relax.Var]) -> Any:
    params = [relax.Var(param.name, param.ty) for param in inputs]
    shapes = [cast(Any, output.ty).shape for output in outputs]
    body = relax.SeqExpr([], relax.Tuple(shapes))
    kinds = relax.TupleType([shape.ty for shape in shapes])
    function = relax.Function(params, body, kinds, True)
    return function.with_attr("global_symbol", OUTPUT_SHAPES)
