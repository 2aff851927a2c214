"""What a model has on one GPU: its weights, its virtual machines, and memory for its calls."""

from __future__ import annotations

import re
import threading
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from types import ModuleType
from typing import Any

import numpy as np

from gluonlstm import cuda_library, tvm_library
from gluonlstm.artifact import Artifact
from gluonlstm.cuda_arrays import Stream, empty, lend
from gluonlstm.cuda_library import CUDA, DeviceFacts
from gluonlstm.errors import ArtifactError
from gluonlstm.tensors import Staging, TensorLibrary

MAIN = "main"
MAIN_ANY_DEVICE = "main_any_device"  # for GPUs with fewer multiprocessors than ``main`` needs
OUTPUT_SHAPES = "output_shapes"

_POOLED_ALLOCATOR = 2
_MOST_SHAPES = 64
_MACHINE_CODE = re.compile(r"sm_(\d+)(a?)")

Shape = tuple[int, ...]


class Transfer:
    """Memory on GPUs, and copies between it and the CPU's."""

    def __init__(self, ffi: ModuleType, library: TensorLibrary) -> None:
        def function(name: str) -> Any:
            return ffi.get_global_func(f"runtime.{name}")

        self._shape, self._dtype, self._library = ffi.Shape, ffi.dtype, library
        self._allocate = function("TVMTensorAllocWithScope")
        self._view = function("TVMTensorCreateView")
        self._copy = function("TVMTensorCopyFromTo")
        self._wait = function("Device_StreamSync")
        self._follow = function("Device_StreamSyncFromTo")

    def allocate(self, shape: Shape, dtype: str, device: Any) -> Any:
        """Return a new tensor. Freeing it waits for the GPU, so it may be freed at any time."""
        return self._allocate(self._shape(shape), self._dtype(dtype), device, None)

    def view(self, tensor: Any, shape: Shape, dtype: str) -> Any:
        """Return a tensor over the first bytes of another one."""
        return self._view(tensor, self._shape(shape), self._dtype(dtype), 0)

    def upload(self, source: Any, target: Any, stream: Stream) -> None:
        """Copy a tensor to the GPU, in the order of ``stream``; the source may change afterwards.

        TVM copies on CUDA's default stream, for which streams of other libraries do not wait.
        """
        self.follow(target.device, stream.handle, 0)
        self._copy(source, target)
        self.follow(target.device, 0, stream.handle)

    def download(self, tensor: Any) -> tuple[np.ndarray, Any]:
        """Return a copy in the CPU's memory, as an array and as a tensor, when it is complete.

        What is to be copied must be complete. The array holds bits (uint16) if it is bfloat16.
        """
        name = str(tensor.dtype)
        array = np.empty(tensor.shape, "uint16" if name == "bfloat16" else name)
        target = self._library.wrap(array, name)
        if array.size:
            self._copy(tensor, target)
            self._wait(tensor.device, 0)
        return array, target

    def wait(self, device: Any, stream: int) -> None:
        """Wait until all work on a stream is done."""
        self._wait(device, stream)

    def follow(self, device: Any, first: int, second: int) -> None:
        """Let later work on the second stream wait for earlier work on the first, on the GPU."""
        if first != second:
            self._follow(device, first, second)


class _Order:
    """The order of calls on one GPU, of all models.

    TVM gives the memory of a call's intermediate values to the next call, of any model, while the
    first still runs on the GPU. So calls are sent off one at a time, and one on another stream than
    the last waits there for its end. The stream's owner is kept, so that the stream still exists.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._last: Stream | None = None
        self._shapes: set[object] = set()

    @contextmanager
    def entered(self, device: Any, stream: Stream, transfer: Transfer) -> Iterator[None]:
        with self._lock:
            if self._last is not None:
                transfer.follow(device, self._last.handle, stream.handle)
            self._last = stream
            yield

    def note(self, key: object, ffi: ModuleType) -> None:
        """Give back TVM's memory if it is kept for too many different shapes.

        It keeps what it has allocated, for calls of the same sizes.
        """
        if key not in self._shapes:
            if len(self._shapes) >= _MOST_SHAPES:
                ffi.get_global_func("vm.builtin.memory_manager.clear")()
                self._shapes.clear()
            self._shapes.add(key)


_orders: defaultdict[int, _Order] = defaultdict(_Order)


class Session:
    """What one call needs to itself: a virtual machine, and memory in which it may leave things."""

    def __init__(self, main: Any, shapes: Any, staging: Staging) -> None:
        self.main, self.shapes, self.staging = main, shapes, staging
        self.places: dict[str, Any] = {}  # name -> bytes on the GPU
        self.constants: dict[str, tuple[int, Any]] = {}  # name -> (value, numbers on the GPU)
        self.sized: tuple[Sequence[Shape], list[Shape]] | None = None


class Device:
    """One model on one GPU.

    Raises ArtifactError if the artifact holds no code for it.
    """

    def __init__(
        self,
        artifact: Artifact,
        executable: tvm_library.Executable,
        number: int,
        facts: DeviceFacts,
        ffi: ModuleType,
        transfer: Transfer,
    ) -> None:
        _check_arch(artifact, number, facts)
        self.number, self.handle = number, ffi.device(f"cuda:{number}")
        self._ffi, self._transfer, self._executable = ffi, transfer, executable
        self._library = TensorLibrary(ffi)
        self._outputs = artifact.info.outputs
        self._order = _orders[number]
        self._noted: Sequence[Shape] | None = None
        self._one_of_several = cuda_library.facts(ffi, 1) is not None
        needed = artifact.info.target.get("resident_ctas", 0)
        self._entry = MAIN if facts.multiprocessors >= needed else MAIN_ANY_DEVICE
        self._check_arity(artifact)
        self._idle = [self._new_session()]
        with cuda_library.device_kept():
            self.weights = tuple(self._weights(artifact))

    def borrow(self) -> Session:
        """Return a session for one call; give it back unless the call fails."""
        try:
            return self._idle.pop()
        except IndexError:
            return self._new_session()

    def give_back(self, session: Session) -> None:
        """Keep a session for later calls."""
        self._idle.append(session)

    @contextmanager
    def entered(self, stream: Stream, shapes: Sequence[Shape]) -> Iterator[None]:
        """Let one call be sent off in the body, on ``stream``."""
        with self._order.entered(self.handle, stream, self._transfer):
            if shapes is not self._noted:  # the same list as long as shapes are the same
                self._order.note((id(self), tuple(shapes)), self._ffi)
                self._noted = shapes
            kept = cuda_library.device_kept() if self._one_of_several else nullcontext()
            with self._ffi.use_raw_stream(self.handle, stream.handle), kept:
                yield

    def place(self, session: Session, name: str, shape: Shape, dtype: str) -> Any:
        """Return memory of the session, which the next call uses again."""
        size = int(np.prod(shape, dtype=np.int64)) * _item_size(dtype)
        kept = session.places.get(name)
        if kept is None or kept.shape[0] < size:
            kept = self._transfer.allocate((max(size, 1),), "uint8", self.handle)
            session.places[name] = kept
        return self._transfer.view(kept, shape, dtype)

    def constant(
        self, session: Session, stream: Stream, name: str, shape: Shape, dtype: str, value: int
    ) -> Any:
        """Return a tensor full of ``value`` (0 if it is no whole number)."""
        count = int(np.prod(shape, dtype=np.int64))
        kept = session.constants.get(name)
        if kept is None or kept[0] != value or kept[1].shape[0] < count:
            storage = "uint16" if dtype == "bfloat16" else dtype
            source = self._library.wrap(np.full(count, value, storage), dtype)
            target = self._transfer.allocate((count,), dtype, self.handle)
            self._transfer.upload(source, target, stream)
            kept = session.constants[name] = (value, target)
        return self._transfer.view(kept[1], shape, dtype)

    def outputs(
        self, session: Session, tensors: Sequence[Any], shapes: Sequence[Shape], library: str
    ) -> list[tuple[Any, Any]]:
        """Return (array, tensor over it) for each output.

        ``library`` says whose memory it is: "torch" or "cupy"; "session" for the session's, and ""
        for memory of its own, in which case there is no array.
        """
        known = session.sized
        if known is None or known[0] is not shapes:
            sizes = [tuple(shape) for shape in session.shapes(*tensors)]
            known = session.sized = (shapes, sizes)
        return [
            self._output(session, info.name, shape, info.dtype, library)
            for info, shape in zip(self._outputs, known[1], strict=True)
        ]

    def _output(
        self, session: Session, name: str, shape: Shape, dtype: str, library: str
    ) -> tuple[Any, Any]:
        if library == "session":
            return None, self.place(session, f"output {name}", shape, dtype)
        if library == "":
            return None, self._transfer.allocate(shape, dtype, self.handle)
        array = empty(library, shape, dtype, self.number)
        if 0 in shape:  # compiled code checks strides, and other libraries' are odd then
            return array, self.place(session, f"output {name}", shape, dtype)
        return array, lend(array, self._library)

    # --- setting up --------------------------------------------------------------------------

    def _new_session(self) -> Session:
        machine = self._executable.machine(CUDA, self.number, _POOLED_ALLOCATOR)
        main, shapes = machine[self._entry], machine[OUTPUT_SHAPES]
        main.release_gil = True  # the default, unless the environment says otherwise
        return Session(main, shapes, Staging(self._library))

    def _check_arity(self, artifact: Artifact) -> None:
        machine = self._executable.machine(CUDA, self.number, _POOLED_ALLOCATOR)
        try:
            count = machine["get_function_arity"](self._entry)
        except Exception as error:
            raise ArtifactError(
                artifact.path, f"its code has no function {self._entry} ({error})."
            ) from error
        info = artifact.info
        wanted = len(info.inputs) + len(info.outputs) + len(artifact.stored)
        if count != wanted:
            raise ArtifactError(
                artifact.path, f"its code takes {count} arrays, its metadata lists {wanted}."
            )

    def _weights(self, artifact: Artifact) -> Iterator[Any]:
        """Upload the weights, all complete in the end."""
        for stored in artifact.stored:
            array = artifact.mapped(stored)
            storage = array.view("u2") if stored.dtype == "bfloat16" else array
            target = self._transfer.allocate(stored.shape, stored.dtype, self.handle)
            if array.size:
                source = self._library.wrap(storage, stored.dtype)
                self._transfer.upload(source, target, Stream(0, ""))
            yield target
        self._transfer.wait(self.handle, 0)


def _check_arch(artifact: Artifact, number: int, facts: DeviceFacts) -> None:
    """Refuse a GPU for which the artifact holds neither machine code nor PTX."""
    target = artifact.info.target
    if not _runs_on(target, facts.compute_capability):
        name = f"sm_{facts.compute_capability}"
        held = [*target.get("archs", ()), *([target["ptx"]] if target.get("ptx") else [])]
        raise ArtifactError(
            artifact.path,
            f"holds code for {', '.join(held)}, none of which runs on cuda:{number} "
            f"({facts.name}, {name}). Compile the model with target='cuda -arch={name}'.",
        )


def _runs_on(target: Mapping[str, Any], capability: int) -> bool:
    """Machine code runs on its own generation, from its own GPU on; PTX on all later ones."""
    for text in target.get("archs", ()):
        match = _MACHINE_CODE.fullmatch(str(text))
        if match:
            number = int(match[1])
            same = number // 10 == capability // 10 and number <= capability
            if number == capability or (same and not match[2]):
                return True
    ptx = str(target.get("ptx") or "").removeprefix("compute_")
    return ptx.isdigit() and int(ptx) <= capability


def _item_size(dtype: str) -> int:
    return 2 if dtype == "bfloat16" else np.dtype(dtype).itemsize
