"""An emulated CUDA device: generated CUDA sources run on the CPU, and their mistakes are reported.

    from tests import emulator

    if not emulator.available():
        pytest.skip(emulator.available().reason)
    emulator.install()          # tvm.cuda(0) exists, and tvm.compile makes code for it

A fake libcuda.so.1 and libcudart.so.13 take the driver's place in this process (engine/). Kernel
sources are translated to C++ (translate.py, ptx.py), compiled by g++ (toolchain.py) against
device/, and run with one fiber for each CUDA thread. Out-of-bounds accesses, data races, missing or
divergent barriers, deadlocks and refused launches are errors whose text says what, where and who.
"""

from tests.emulator.asm_statements import AsmSyntaxError
from tests.emulator.driver import (
    Availability,
    CudaModule,
    DeviceArray,
    EmulatorUnavailableError,
    Event,
    Graph,
    LaunchError,
    Settings,
    Stream,
    available,
    clear_report,
    compile_cuda,
    configure,
    current_settings,
    last_report,
    live_allocations,
    run,
    settings,
    synchronize,
)
from tests.emulator.mutate import Mutation, mutations
from tests.emulator.toolchain import ToolchainError
from tests.emulator.translate import TranslationError
from tests.emulator.tvm_device import compiler, install, uninstall_compiler

__all__ = [
    "AsmSyntaxError",
    "Availability",
    "CudaModule",
    "DeviceArray",
    "EmulatorUnavailableError",
    "Event",
    "Graph",
    "LaunchError",
    "Mutation",
    "Settings",
    "Stream",
    "ToolchainError",
    "TranslationError",
    "available",
    "clear_report",
    "compile_cuda",
    "compiler",
    "configure",
    "current_settings",
    "install",
    "last_report",
    "live_allocations",
    "mutations",
    "run",
    "settings",
    "synchronize",
    "uninstall_compiler",
]
