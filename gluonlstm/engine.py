"""Compiled code ready to run: the executable, its weights, and one virtual machine per caller."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gluonlstm import tvm_library, worker_threads
from gluonlstm.artifact import Artifact
from gluonlstm.errors import ArtifactError, ExecutionError
from gluonlstm.machine import cpu_flags
from gluonlstm.tensors import Staging, TensorLibrary
from gluonlstm.weight_table import StoredWeight

MAIN = "main"
_CPU_KINDS = ("llvm", "c")


class Session:
    """What one call needs to itself: a virtual machine, and memory to copy inputs to."""

    __slots__ = ("main", "staging")

    def __init__(self, main: Any, staging: Staging) -> None:
        self.main, self.staging = main, staging


class Engine:
    """Runs an artifact's function on TVM tensors, for several threads at once.

    Raises ArtifactError if the code is for another kind of machine or cannot be loaded, and
    MissingDependencyError without the TVM runtime.
    """

    def __init__(self, artifact: Artifact, num_threads: int | None) -> None:
        self.num_threads = worker_threads.check_count(num_threads)
        self._path = artifact.path
        _check_machine(artifact)
        self._ffi = tvm_library.load_runtime(near=artifact.path.absolute().parent)
        self.library = TensorLibrary(self._ffi)
        self._weights = tuple(self._weight(artifact, stored) for stored in artifact.stored)
        self._weight_addresses = frozenset(weight.data_ptr() for weight in self._weights)
        self._executable = self._load(artifact)
        # Machines not in use. A list's pop and append are atomic, so it needs no lock; it grows to
        # as many as there were calls at one time, whatever threads they came from.
        self._idle = [self._new_session()]

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
        worker_threads.enter()
        try:
            outputs = session.main(*tensors, *self._weights)
        except Exception as error:  # RuntimeError, ValueError, ...: whatever TVM makes of it
            raise ExecutionError(f"{self._path}: the compiled model failed: {error}") from error
        finally:
            worker_threads.leave()
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


def _check_machine(artifact: Artifact) -> None:
    """Refuse code for another kind of device, or for a CPU with features that this one lacks.

    Running it would end the process with an illegal instruction.
    """
    target = artifact.info.target
    if target["kind"] not in _CPU_KINDS:
        raise ArtifactError(
            artifact.path,
            f"was compiled for target {target['kind']!r}; this version runs CPU models only.",
        )
    flags = cpu_flags()
    missing = sorted(set(target.get("cpu_features", ())) - (flags or set()))
    if missing and flags is not None:
        name = f" ({target['mcpu']})" if target.get("mcpu") else ""
        raise ArtifactError(
            artifact.path,
            f"was compiled for a CPU{name} with {', '.join(missing)}, which this one lacks. "
            "Compile it here, or for an older CPU such as target='llvm -mcpu=x86-64-v3'.",
        )
