"""Run a GPU model on arrays in GPU memory, or in the CPU's.

A call runs where its first array in GPU memory is, on the current stream of that array's library,
and does not wait for the GPU: results of the same library are ready in the order of the stream.
Arrays in the CPU's memory are copied to the GPU; if all of them are there, the call runs on the
first GPU, and its results are copied back. Results for another library, or for no known one, are
complete when the call returns.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from gluonlstm import bfloat16, cuda_library, tvm_library
from gluonlstm.artifact import Artifact
from gluonlstm.cuda_arrays import (
    CUDAInput,
    DeviceArray,
    Stream,
    current_stream,
    exported,
    in_host_memory,
)
from gluonlstm.cuda_device import Device, Session, Shape, Transfer
from gluonlstm.engine import check_cpu
from gluonlstm.errors import ArgumentTypeError, ArtifactError, ExecutionError, GluonLSTMError
from gluonlstm.tensors import TensorLibrary


@dataclass(frozen=True)
class _Call:
    """The arguments of one call, checked: None in ``sources`` for inputs that were left out."""

    sources: Sequence[Any]
    shapes: Sequence[Shape]
    steps: int
    stream: Stream
    results: str


class CUDAEngine:
    """Runs a GPU model, for several threads at once; its weights are uploaded once for each GPU.

    Raises MissingDependencyError if there is no driver or a library is missing, ArtifactError if
    there is no GPU or the code cannot be loaded. ``deferred``: the first call does, if it does.
    """

    kinds = ("cuda",)  # of the targets of such artifacts
    results = ("numpy", "torch", "cupy", "jax", "dlpack")  # libraries of which it returns arrays
    num_threads = 1

    def __init__(self, artifact: Artifact, *, deferred: bool = False) -> None:
        self._artifact, self._path = artifact, artifact.path
        self._near = artifact.path.absolute().parent
        self._ffi = tvm_library.load_runtime(self._near)
        self.library = TensorLibrary(self._ffi)
        self.inputs = tuple(CUDAInput(info, self.library) for info in artifact.info.inputs)
        self._transfer = Transfer(self._ffi, self.library)
        self._devices: dict[int, Device] = {}
        self._executable: tvm_library.Executable | None = None
        self._lock = threading.Lock()
        if not deferred:
            self._loaded()

    def in_host_memory(self, value: Any) -> Any:
        """Return an array as one that NumPy takes; waits for the GPU if it is there."""
        return in_host_memory(value, self.library, self._transfer.download)

    def call(
        self,
        sources: Sequence[Any],
        shapes: Sequence[Shape],
        steps: int,
        results: str | None,
        count: int,
    ) -> list[Any]:
        """Return the first ``count`` outputs as arrays of the library ``results``.

        ``sources`` are what :class:`CUDAInput` made of the arguments, None for those left out,
        which are zeros of these ``shapes`` (lengths: ``steps``). ``results`` None is the library of
        the first array in GPU memory, NumPy without one. Raises ExecutionError if the code fails,
        ArgumentTypeError for arrays on several GPUs, ArtifactError for a GPU that the artifact
        holds no code for.
        """
        self._loaded()
        first = self._first(sources)
        stream = Stream(0, "") if first is None else current_stream(first, self._ffi)
        if results is None:
            results = "numpy" if first is None else first.library
            results = results if results in self.results else "dlpack"
        call = _Call(sources, shapes, steps, stream, results)
        device = self._device(0 if first is None else first.device)
        session = device.borrow()
        try:
            arrays = self._run(device, session, call, on_host=first is None)[:count]
        except GluonLSTMError:
            raise
        except Exception as error:  # RuntimeError, ValueError, ...: whatever TVM makes of it
            raise ExecutionError(f"{self._path}: the compiled model failed: {error}") from error
        device.give_back(session)
        return arrays

    # --- one call ----------------------------------------------------------------------------

    def _first(self, sources: Sequence[Any]) -> DeviceArray | None:
        """Return the first array in GPU memory; all of them must be on the same GPU."""
        first: DeviceArray | None = None
        for taker, source in zip(self.inputs, sources, strict=True):
            if isinstance(source, DeviceArray):
                first = first or source
                if source.device != first.device:
                    raise ArgumentTypeError(
                        f"{taker.info.name} is on cuda:{source.device}, and another array on "
                        f"cuda:{first.device}; all arrays of a call must be on one GPU."
                    )
        return first

    def _run(self, device: Device, session: Session, call: _Call, on_host: bool) -> list[Any]:
        own = call.results == call.stream.library and call.results in ("torch", "cupy")
        copied = call.results == "numpy" or (call.results == "torch" and on_host)
        memory = call.results if own else "session" if copied else ""
        with device.entered(call.stream, call.shapes):
            tensors = self._tensors(device, session, call)
            outputs = device.outputs(session, tensors, call.shapes, memory)
            session.main(*tensors, *(tensor for _, tensor in outputs), *device.weights)
        if not own:
            self._transfer.wait(device.handle, call.stream.handle)
        if own:
            return [array for array, _ in outputs]
        if copied:
            return [self._downloaded(tensor, call.results) for _, tensor in outputs]
        return [exported(tensor, call.results) for _, tensor in outputs]

    def _tensors(self, device: Device, session: Session, call: _Call) -> list[Any]:
        """Return the inputs as tensors in the GPU's memory."""
        tensors = []
        for taker, source, shape in zip(self.inputs, call.sources, call.shapes, strict=True):
            name, dtype = taker.info.name, taker.info.dtype
            if 0 in shape:  # compiled code checks strides, and other libraries' are odd then
                tensor = device.place(session, name, shape, dtype)
            elif source is None:
                value = call.steps if taker.info.role == "lengths" else 0
                tensor = device.constant(session, call.stream, name, shape, dtype, value)
            elif isinstance(source, DeviceArray):
                if source.library == "tvm_ffi":  # which has no way to be asked for a stream
                    own = self._ffi.get_raw_stream(device.handle)
                    self._transfer.follow(device.handle, own, call.stream.handle)
                tensor = taker.lend_device(source, call.stream)
            else:
                tensor = device.place(session, name, shape, dtype)
                self._transfer.upload(taker.lend(source, session.staging), tensor, call.stream)
            tensors.append(tensor)
        return tensors

    def _downloaded(self, tensor: Any, results: str) -> Any:
        array, copy = self._transfer.download(tensor)
        if results == "torch":
            return self.library.torch(copy)
        return bfloat16.from_bits(array) if str(tensor.dtype) == "bfloat16" else array

    # --- GPUs --------------------------------------------------------------------------------

    def _device(self, number: int) -> Device:
        device = self._devices.get(number)
        if device is not None:
            return device
        executable = self._loaded()
        with self._lock:
            if number not in self._devices:
                facts = cuda_library.facts(self._ffi, number)
                if facts is None:
                    raise ArtifactError(self._path, f"there is no GPU cuda:{number}.")
                self._devices[number] = Device(
                    self._artifact, executable, number, facts, self._ffi, self._transfer
                )
            return self._devices[number]

    def _loaded(self) -> tvm_library.Executable:
        """Return the code, loaded once there is a GPU to run it on."""
        with self._lock:
            if self._executable is None:
                check_cpu(self._artifact)
                cuda_library.load_cuda(self._ffi, self._near)
                if cuda_library.facts(self._ffi, 0) is None:
                    reason = cuda_library.problem() or "no device"
                    raise ArtifactError(
                        self._path,
                        f"was compiled for CUDA, and there is no NVIDIA GPU to be used here "
                        f"({reason}). Compile it for target='llvm' to run it on the CPU.",
                    )
                self._executable = self._load()
            return self._executable

    def _load(self) -> tvm_library.Executable:
        try:
            return tvm_library.Executable(self._artifact.code, self._ffi)
        except Exception as error:  # no Relax executable, wrong ELF class, ...
            raise ArtifactError(
                self._path,
                f"its code cannot be loaded ({error}). Compile the model again, with the TVM "
                "version whose runtime is installed here.",
            ) from error
