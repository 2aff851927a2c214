"""The passes from a Relax module to one that TVM can build, in numbered phases.

``dump`` names a folder that receives the module after each phase (``1-legalize.py``, ...).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import tvm
from tvm import relax, s_tir, tirx
from tvm.ir.transform import Sequential
from tvm.tirx import compilation_pipeline

from .cuda.outputs import CopySharedOutputs, PassOutputs
from .cuda.passes import finish_device, legalize_operators, lower_kernels
from .cuda.schedule import default_schedules
from .cuda.target import CUDATarget
from .kernels.simt import CUDA_KERNEL
from .target import CPUTarget

_TIR_PIPELINE = {"llvm": "gluonlstm", "cuda": "gluonlstm.cuda"}

# What TVM's default pipeline for s_tir holds, less the passes that only GPU code, thread bindings
# or block buffers need: our CPU kernels are loops already, and legalised operators are one loop
# nest each. The order is TVM's. Two more are left out, whose work LLVM does as well: StorageRewrite
# lets buffers of different element types share memory and then rejects the result, and
# CommonSubexprElim moves a division that was simplified under a condition (a divisor max(N, 1)
# inside a loop over N) to where the condition does not hold (N = 0).
_TIR_PASSES = (
    s_tir.transform.CanonicalizeLoop,
    s_tir.transform.LowerInitBlock,
    s_tir.transform.PlanAndUpdateBufferAllocationLocation,
    s_tir.transform.ConvertBlocksToOpaque,
    s_tir.transform.LowerMatchBuffer,
    s_tir.transform.StmtSimplify,
    s_tir.transform.LowerOpaqueBlock,
    tirx.transform.FlattenBuffer,
    tirx.transform.BF16ComputeLegalize,
    tirx.transform.VectorizeLoop,
    tirx.transform.UnrollLoop,
    tirx.transform.StmtSimplify,
    tirx.transform.RemoveNoOp,
    s_tir.transform.RewriteUnsafeSelect,
    tirx.transform.VerifyMemory,
    tirx.transform.AnnotateEntryFunc,
    tirx.transform.SplitHostDevice,
    tirx.transform.MakePackedAPI,
    tirx.transform.BF16StorageLegalize,
)


def relax_phases(target: CPUTarget | CUDATarget) -> tuple[tuple[str, Sequential], ...]:
    """Return (name, passes) of each Relax phase, in order."""
    r = relax.transform
    lower_calls = [r.ToNonDataflow(), r.RemovePurityChecking(), r.CallTIRRewrite()]
    if isinstance(target, CUDATarget):
        fuse = [r.AnnotateTIROpPattern(), r.FuseOps(), r.FuseTIR()]
        first = (
            (
                "legalize",
                Sequential([legalize_operators(), *fuse, CopySharedOutputs()]),
            ),
            ("schedule", Sequential([default_schedules()])),
            ("lower-calls", Sequential([*lower_calls, PassOutputs()])),
        )
    else:
        first = (
            ("legalize", Sequential([r.LegalizeOps(), r.RewriteDataflowReshape()])),
            ("lower-calls", Sequential(lower_calls)),
        )
    return (
        *first,
        (
            "plan-memory",
            Sequential([r.StaticPlanBlockMemory(), r.LowerAllocTensor(), r.KillAfterLastUse()]),
        ),
        (
            "lower-runtime",
            Sequential(
                [
                    r.LowerRuntimeBuiltin(),
                    r.ComputePrimValue(),
                    r.VMShapeLower(),
                    r.AttachGlobalSymbol(),
                ]
            ),
        ),
    )


def run_relax(
    mod: tvm.IRModule, target: CPUTarget | CUDATarget, dump: Path | None = None
) -> tvm.IRModule:
    """Run every Relax phase."""
    with target.tvm():
        for number, (name, passes) in enumerate(relax_phases(target), start=1):
            mod = passes(mod)
            if dump is not None:
                dump.mkdir(parents=True, exist_ok=True)
                (dump / f"{number}-{name}.py").write_text(mod.script())
    return mod


def tir_pipeline(kind: str = "llvm") -> str:
    """Return the name of the passes that lower PrimFuncs for a kind of target.

    ``relax.build`` takes names only.
    """
    name = _TIR_PIPELINE[kind]
    if name not in compilation_pipeline.PIPELINE_MAP:
        make = _make_cuda_pipeline if kind == "cuda" else _make_cpu_pipeline
        compilation_pipeline.register_tir_pipeline(name, make)
    return name


_Pipeline = tuple[tvm.transform.Pass, Callable[[], Sequential], Callable[[], Sequential]]


def _make_cpu_pipeline() -> _Pipeline:
    passes = Sequential([make() for make in _TIR_PASSES], name=_TIR_PIPELINE["llvm"])
    return passes, _host, _device


def _make_cuda_pipeline() -> _Pipeline:
    return lower_kernels(CUDA_KERNEL), _host, finish_device


def _host() -> Sequential:
    return Sequential([tirx.transform.LowerTVMBuiltin(), tirx.transform.LowerIntrin()])


def _device() -> Sequential:
    return Sequential([])  # CPU targets have no device code
