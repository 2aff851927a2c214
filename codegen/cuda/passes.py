"""What happens to GPU code between Relax and CUDA C, apart from the Relax phases of any target."""

from __future__ import annotations

from typing import Any

import tvm
from tvm import ir, relax, s_tir, tirx
from tvm.backend.cuda import transforms as cuda_transforms
from tvm.tirx import compilation_pipeline

# Operators that only change the shape; they become views.
_VIEWS = ("relax.expand_dims", "relax.squeeze", "relax.flatten")

# TVM's passes for kernels written in its tirx dialect, in its order, less CommonSubexprElim: it
# moves a division that was simplified under a condition (by N, inside a loop over N) to where the
# condition does not hold (N = 0), even into the CPU code. The CUDA compiler does that work as well.
_KERNEL_PASSES = (
    tirx.transform.LowerTIRx,
    s_tir.transform.UnifyThreadBinding,
    tirx.transform.StmtSimplify,
    tirx.transform.LowerTIRxOpaque,
    tirx.transform.FlattenBuffer,
    tirx.transform.BF16ComputeLegalize,
    lambda: tirx.transform.NarrowDataType(32),
    tirx.transform.VectorizeLoop,
    tirx.transform.UnrollLoop,
    tirx.transform.StmtSimplify,
    tirx.transform.FP8ComputeLegalize,
    tirx.transform.VerifyMemory,
    tirx.transform.AnnotateEntryFunc,
    tirx.transform.SplitHostDevice,
    cuda_transforms.LowerIket,
    tirx.transform.MakePackedAPI,
    tirx.transform.FP8StorageLegalize,
    tirx.transform.BF16StorageLegalize,
)

# TVM's pipeline for scheduled operators, less the same pass, and less the one that lets buffers of
# different element types share memory and then rejects the result.
_OPERATOR_CONFIG = {"tirx.disable_cse_tir": True, "tirx.disable_storage_rewrite": True}


def legalize_operators() -> Any:
    """Return the pass that replaces operators by calls of generated functions.

    Reshapes stay, and are views later. TVM's pass that finds them among the generated functions
    takes no kernel that it did not generate.
    """

    def reshape(_: Any, call: Any) -> Any:
        return relax.op.reshape(call.args[0], call.ty.shape)

    return relax.transform.LegalizeOps(dict.fromkeys(_VIEWS, reshape), skip_ops=["relax.reshape"])


def lower_kernels(mark: str) -> Any:
    """Return the pass that lowers all functions to host and device code.

    Functions with the attribute ``mark`` are kernels of our own (tirx dialect), the others
    scheduled operators; the two dialects have different passes.
    """
    pipeline: Any = compilation_pipeline.get_tir_pipeline("s_tir")
    operators, _, _ = pipeline
    kernels = ir.transform.Sequential([make() for make in _KERNEL_PASSES])

    @tvm.transform.module_pass(opt_level=0, name="LowerKernels")
    def lower(mod: Any, _: tvm.transform.PassContext) -> Any:
        marked = {var for var, function in mod.functions.items() if mark in function.attrs}
        parts = [
            {var: function for var, function in mod.functions.items() if (var in marked) is own}
            for own in (False, True)
        ]
        lowered: Any = tvm.IRModule(attrs=mod.attrs)
        with tvm.transform.PassContext(config=_OPERATOR_CONFIG):
            if parts[0]:
                lowered.update(operators(tvm.IRModule(parts[0], attrs=mod.attrs)))
            if parts[1]:
                lowered.update(kernels(tvm.IRModule(parts[1])))
        return lowered

    return lower


def finish_device() -> ir.transform.Sequential:
    """Return the last passes over device code."""
    return ir.transform.Sequential(
        [
            tirx.transform.LowerWarpMemory(),
            tirx.transform.StmtSimplify(),
            tirx.transform.LowerIntrin(),
        ]
    )
