"""Compiled code ready to run: the executable, its weights, and one virtual machine per caller."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from gluonlstm import tvm_library, worker_threads
from gluonlstm.artifact import Artifact, OutputInfo
from gluonlstm.errors import ArtifactError, ExecutionError
from gluonlstm.input_arrays import InputArray
from gluonlstm.machine import cpu_flags
from gluonlstm.tensors import Staging, TensorLibrary
from gluonlstm.weight_table import StoredWeight

MAIN = "main"


class Session:
    """What one call needs to itself: a virtual machine, and memory to copy inputs to."""

    __slots__ = ("main", "staging")

    def __init__(self, main: Any, staging: Staging) -> None:
        self.main, self.staging = main, staging


class Engine:
    """Runs an artifact's function on TVM tensors, for several threads at once.

    Raises ArtifactError if the code is for another CPU or cannot be loaded, and
    MissingDependencyError without the TVM runtime.
    """

    kinds = ("llvm", "c")  # of the targets of such artifacts
    results = ("numpy", "torch", "dlpack")  # libraries of which it can return arrays

    def __init__(self, artifact: Artifact, num_threads: int | None) -> None:
        self.num_threads = worker_threads.check_count(num_threads)
        self._path = artifact.path
        check_cpu(artifact)
        self._ffi = tvm_library.load_runtime(near=artifact.path.absolute().parent)
        self.library = TensorLibrary(self._ffi)
        self.inputs = tuple(InputArray(info, self.library) for info in artifact.info.inputs)
        self._dtypes = [_numpy_dtype(info) for info in artifact.info.outputs]
        self._weights = tuple(self._weight(artifact, stored) for stored in artifact.stored)
        self._weight_addresses = frozenset(weight.data_ptr() for weight in self._weights)
        self._executable = self._load(artifact)
        # Machines not in use. A list's pop and append are atomic, so it needs no lock; it grows to
        # as many as there were calls at one time, whatever threads they came from.
        self._idle = [self._new_session()]

    def in_host_memory(self, value: Any) -> Any:
        """Return an array as one that NumPy takes."""
        return value

    def call(
        self,
        sources: Sequence[Any],
        shapes: Sequence[tuple[int, ...]],
        steps: int,
        results: str | None,
        count: int,
    ) -> list[Any]:
        """Return the first ``count`` outputs as arrays of the library ``results``, None for NumPy.

        ``sources`` are what :class:`InputArray` made of the arguments, None for those left out,
        which are zeros of these ``shapes`` (lengths: ``steps``). Raises ExecutionError if the code
        fails.
        """
        session = self.borrow()
        staging = session.staging
        tensors = [
            array.lend(source, staging)
            if source is not None
            else array.constant(steps if array.info.role == "lengths" else 0, shape, staging)
            for array, source, shape in zip(self.inputs, sources, shapes, strict=True)
        ]
        outputs = self.run(session, tensors)[:count]
        if results in (None, "numpy"):
            outputs = list(map(self.library.numpy, outputs, self._dtypes))
        elif results == "torch":
            outputs = list(map(self.library.torch, outputs))
        self.give_back(session)
        return outputs

    def borrow(self) -> Session:
        """Return a session for one call; give it back unless the call fails."""
        try:
            return self._idle.pop()
        except IndexError:
            return self._new_session()

    def give_back(self, session: Session) -> None:
        """Keep a session for later calls."""
        self._idle.append(session)

    def run(self, session: Session, tensors: Sequence[Any]) -> list[Any]:
        """Return the outputs as tensors that share memory with nothing else.

        Raises ExecutionError if the code fails.
        """
        worker_threads.use(self.num_threads, self._ffi)
        try:
            outputs = session.main(*tensors, *self._weights)
        except Exception as error:  # RuntimeError, ValueError, ...: whatever TVM makes of it
            raise ExecutionError(f"{self._path}: the compiled model failed: {error}") from error
        taken = {tensor.data_ptr() for tensor in tensors}
        return [self._own(outputs[index], taken) for index in range(len(outputs))]

    def _own(self, tensor: Any, taken: set[int]) -> Any:
        """Copy an output that is an input, a weight or another output (a graph may return those).

        An input may be the caller's own array, or memory that the next call uses again.
        """
        address = tensor.data_ptr()
        if address in taken or address in self._weight_addresses:
            return self.library.copy(tensor)
        taken.add(address)
        return tensor

    def _weight(self, artifact: Artifact, stored: StoredWeight) -> Any:
        array = artifact.mapped(stored)
        storage = array.view("u2") if stored.dtype == "bfloat16" else array
        return self.library.wrap(storage, stored.dtype)

    def _load(self, artifact: Artifact) -> tvm_library.Executable:
        try:
            executable = tvm_library.Executable(artifact.code, self._ffi)
            arity = executable.machine()["get_function_arity"](MAIN)
        except Exception as error:  # no function, no Relax executable, wrong ELF class, ...
            raise ArtifactError(
                artifact.path,
                f"its code cannot be loaded ({error}). Compile the model again, for this system "
                "and with the TVM version whose runtime is installed here.",
            ) from error
        wanted = len(artifact.info.inputs) + len(self._weights)
        if arity != wanted:
            raise ArtifactError(
                artifact.path, f"its code takes {arity} arrays, its metadata lists {wanted}."
            )
        return executable

    def _new_session(self) -> Session:
        main = self._executable.machine()[MAIN]
        main.release_gil = True  # the default, unless the environment says otherwise
        return Session(main, Staging(self.library))


def _numpy_dtype(info: OutputInfo) -> np.dtype[Any] | None:
    return None if info.dtype == "bfloat16" else np.dtype(info.dtype)


def check_cpu(artifact: Artifact) -> None:
    """Refuse code for a CPU with features that this one lacks; ArtifactError.

    Running it would end the process with an illegal instruction.
    """
    target = artifact.info.target
    flags = cpu_flags()
    missing = sorted(set(target.get("cpu_features", ())) - (flags or set()))
    if missing and flags is not None:
        name = f" ({target['mcpu']})" if target.get("mcpu") else ""
        raise ArtifactError(
            artifact.path,
            f"was compiled for a CPU{name} with {', '.join(missing)}, which this one lacks. "
            "Compile it here, or for an older CPU such as target='llvm -mcpu=x86-64-v3'.",
        )
