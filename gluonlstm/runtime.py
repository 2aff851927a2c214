"""Run compiled models: ``load`` one and call it with arrays.

Needs numpy, apache-tvm-ffi and the TVM runtime library; neither MXNet nor the TVM compiler nor
torch is ever imported. See :mod:`gluonlstm.tvm_library` for where the library is looked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any

from gluonlstm import artifact as artifact_file
from gluonlstm import worker_threads
from gluonlstm.artifact import Artifact, InputInfo, ModelInfo, OutputInfo
from gluonlstm.call_arguments import Signature, is_packed
from gluonlstm.cuda_engine import CUDAEngine
from gluonlstm.engine import Engine
from gluonlstm.errors import ArgumentTypeError, ArtifactError, InvalidArgumentError
from gluonlstm.input_arrays import is_torch, lengths_array
from gluonlstm.packed_sequence import PackedBatch, SingleSequence
from gluonlstm.spec import LSTMSpec

_Shapes = list[tuple[Any, ...]]


def load(
    path: str | PathLike[str],
    *,
    num_threads: int | None = None,
    verify: bool | None = None,
    temporary: bool = False,
    deferred: bool = False,
) -> CompiledModel:
    """Load a compiled model.

    ``num_threads`` is how many threads one call of a model for the CPU uses; by default as many as
    the environment variable GLUONLSTM_NUM_THREADS (or TVM_NUM_THREADS, OMP_NUM_THREADS) says, else
    as there are cores. ``verify`` is as for :func:`gluonlstm.artifact.read`. A ``temporary`` file
    is deleted as soon as it has been read; the model can still be saved. A ``deferred`` model for
    GPUs is loaded also where there is none, to be looked at and saved; calling it raises what
    loading it would have.

    Raises ArtifactError for a file that is no compiled model, is damaged, of another version, or
    for another CPU, and for a GPU model where there is no GPU; MissingDependencyError if the TVM
    runtime, or for a GPU model the driver or the CUDA runtime, is not installed; OSError if the
    file cannot be opened.
    """
    artifact = artifact_file.read(path, verify=verify)
    model = CompiledModel(artifact, num_threads=num_threads, deferred=deferred)
    if temporary:
        artifact.path.unlink()
        model.path = None
    return model


class CompiledModel:
    """A compiled model; call it like a function.

    Several threads may call one model at once. They share the weights.

    - ``input_names``, ``output_names``: in order.
    - ``inputs``, ``outputs``: the same with shapes and dtypes. Sizes that are letters are free.
    - ``info``: all that the compiler recorded; ``spec``: the LSTM, if the model is just one.
    - ``path``: where it was loaded from, None if that file was temporary.
    - ``num_threads``: how many threads of the CPU one call uses.
    """

    def __init__(
        self, artifact: Artifact, *, num_threads: int | None = None, deferred: bool = False
    ) -> None:
        """Prepare an opened artifact; see :func:`load`."""
        self.info: ModelInfo = artifact.info
        self.path: Path | None = artifact.path
        self._artifact = artifact
        self._engine = _open_engine(artifact, num_threads, deferred)
        self._signature = Signature(self.inputs)
        self._arrays = self._engine.inputs
        self._data = next((i for i, info in enumerate(self.inputs) if info.role == "data"), 0)
        self._states = [i for pair in self._signature.state_pairs for i in pair]
        self._lengths = [i for i, info in enumerate(self.inputs) if info.role == "lengths"]
        self._time = self.info.time_axis()
        self._checked: tuple[list[tuple[int, ...] | None], _Shapes] | None = None

    @property
    def inputs(self) -> tuple[InputInfo, ...]:
        """What the model takes, in order."""
        return self.info.inputs

    @property
    def outputs(self) -> tuple[OutputInfo, ...]:
        """What the model computes, in order; ``info.returns`` says how a call arranges it."""
        return self.info.outputs

    @property
    def input_names(self) -> tuple[str, ...]:
        """Names of the inputs, in order."""
        return tuple(info.name for info in self.inputs)

    @property
    def output_names(self) -> tuple[str, ...]:
        """Names of the outputs, in order."""
        return tuple(info.name for info in self.outputs)

    @property
    def spec(self) -> LSTMSpec | None:
        """The LSTM, if the model is one LSTM and nothing else."""
        return self.info.spec

    @property
    def num_threads(self) -> int:
        """How many threads of the CPU one call uses."""
        return self._engine.num_threads

    def save(self, path: str | PathLike[str]) -> None:
        """Write the model to a file, atomically.

        Raises ArtifactError if the file that it came from has been damaged meanwhile.
        """
        self._artifact.save(path)

    def __call__(self, *args: Any, results: str | None = None, **kwargs: Any) -> Any:
        """Compute the outputs.

        Arguments are arrays: NumPy, torch (treated as detached), MXNet, anything with DLPack, or
        nested lists of numbers; in the CPU's memory, and for a GPU model also in a GPU's: see
        :mod:`gluonlstm.cuda_engine` for where that runs, and on which stream. They stand for the
        inputs in order, nested tuples and lists flattened, or are named: ``model(x)``, ``model(x,
        (h0, c0))``, ``model(data0=x, states=(h0, c0), sequence_length=lengths)``. Optional inputs
        may be left out or None: states are zeros then, lengths T. dtypes must be the model's
        (lengths: any whole numbers). A model of one LSTM also takes a torch PackedSequence, sorted
        or not, and returns one.

        ``results`` says what the outputs are: "numpy", "torch", or "dlpack" (tensors of
        ``tvm_ffi``, which export DLPack); of a GPU model also "cupy" or "jax". By default they are
        what the data is if that is torch's, or CuPy's or JAX's in a GPU's memory, else NumPy
        arrays. They own their memory, and stay valid when the model is gone.

        Returned are, by ``info.returns``: "heads": the outputs in a list, or the output if there is
        one; "layer": y if no states were given, else (y, [h, c]); "torch": (y, (h, c)).

        Raises ArgumentTypeError (a TypeError) for arguments missing, unknown, given twice, or of
        the wrong type or dtype; ShapeMismatchError (a ValueError) for shapes that do not fit the
        model or each other; InvalidArgumentError (a ValueError) for lengths outside [0, T] and one
        state without the other; ArtifactError for a GPU that the model was not compiled for;
        ExecutionError if the compiled code itself fails.
        """
        if results is not None and results not in self._engine.results:
            raise InvalidArgumentError(
                f"results={results!r} must be one of {self._engine.results}."
            )
        worker_threads.enter()
        try:
            return self._call(self._signature.bind(args, kwargs), results)
        finally:
            worker_threads.leave()

    def _call(self, values: list[Any], results: str | None) -> Any:
        """Compute the outputs for bound arguments and arrange them."""
        data = values[self._data]
        with_states = any(values[i] is not None for i in self._states)
        batch = self._torch_batch(data)
        if batch is not None:
            return self._call_torch_batch(batch, values, with_states, results)
        if results is None and is_torch(data):
            results = "torch"
        return self._arrange(self._run(values, results, with_states), with_states)

    def _run(self, values: Sequence[Any], results: str | None, with_states: bool) -> list[Any]:
        """Check the values, run the code, and return its outputs in order."""
        sources, shapes, steps = self._check(values)
        count = len(self.outputs)
        if self.info.returns == "layer" and not with_states:
            count = 1  # the rest is not returned, so not worth converting
        return self._engine.call(sources, shapes, steps, results, count)

    def _check(self, values: Sequence[Any]) -> tuple[list[Any], _Shapes, int]:
        """Return arrays of the right dtype and shape (None: left out), all shapes, and T."""
        sources = [
            None if value is None or array.info.role == "lengths" else array.source(value)
            for array, value in zip(self._arrays, values, strict=True)
        ]
        given = [None if source is None else source.shape for source in sources]
        known = self._checked  # one attribute, so that threads see shapes that belong together
        if known is not None and known[0] == given:
            shapes = known[1]
        else:
            shapes = self._check_shapes(given)
            self._checked = (given, shapes)
        steps = 0
        if self._time is not None:
            place, axis = self._time
            steps = shapes[place][axis]
        for index in self._lengths:
            if values[index] is not None:
                name, rows = self.inputs[index].name, shapes[index][0]
                lengths = self._engine.in_host_memory(values[index])
                sources[index] = lengths_array(name, lengths, rows, steps)
        return sources, shapes, steps

    def _check_shapes(self, given: Sequence[tuple[int, ...] | None]) -> _Shapes:
        """Compare the shapes with the inputs' and each other; return those of all inputs."""
        sizes: dict[Any, int] = {}
        for array, shape in zip(self._arrays, given, strict=True):
            if shape is not None:
                array.check_shape(shape, sizes)
        return [tuple(sizes.get(size, size) for size in info.shape) for info in self.inputs]

    def _arrange(self, outputs: list[Any], with_states: bool) -> Any:
        if self.info.returns == "heads":
            return outputs if len(outputs) > 1 else outputs[0]
        if self.info.returns == "layer":
            return (outputs[0], outputs[1:]) if with_states else outputs[0]
        return outputs[0], tuple(outputs[1:])

    # --- torch's other batches ---------------------------------------------------------------

    def _torch_batch(self, data: Any) -> PackedBatch | SingleSequence | None:
        if is_packed(data):
            if self.spec is None or self.info.returns == "heads":
                raise ArgumentTypeError(
                    f"{self.inputs[self._data].name} is a PackedSequence, which only a model of "
                    "one LSTM layer takes."
                )
            return PackedBatch(data, self.spec.layout == "NTC")
        if self.info.returns == "torch" and self.spec and is_torch(data) and data.dim() == 2:
            return SingleSequence(data, self.spec.layout == "NTC")
        return None

    def _call_torch_batch(
        self,
        batch: PackedBatch | SingleSequence,
        values: list[Any],
        with_states: bool,
        results: str | None,
    ) -> Any:
        name = self.inputs[self._data].name
        if results not in (None, "torch"):
            raise InvalidArgumentError(
                f"{name} is a torch PackedSequence or single sequence, so that the results are "
                f"torch's, too; got results={results!r}."
            )
        values[self._data] = batch.data
        for index in self._states:
            if values[index] is not None and not is_torch(values[index]):
                raise ArgumentTypeError(f"{self.inputs[index].name} must be a torch tensor here.")
            values[index] = batch.state_in(values[index])
        if batch.lengths is not None and self._lengths:
            if values[self._lengths[0]] is not None:
                raise ArgumentTypeError(f"{name} is a PackedSequence, which has its own lengths.")
            values[self._lengths[0]] = batch.lengths
        elif not batch.even:
            raise ArgumentTypeError(
                f"{name} packs sequences of different lengths, and this model was compiled without "
                "sequence lengths."
            )
        y, *states = self._run(values, "torch", with_states)
        return self._arrange([batch.output(y), *map(batch.state_out, states)], with_states)

    def __repr__(self) -> str:
        lines = [f"CompiledModel {str(self.path) if self.path else '(not saved)'}"]
        lines += [f"  in   {_line(info)}{', optional' * info.optional}" for info in self.inputs]
        lines += [f"  out  {_line(info)}" for info in self.outputs]
        return "\n".join(lines)


def _open_engine(
    artifact: Artifact, num_threads: int | None, deferred: bool
) -> Engine | CUDAEngine:
    kind = artifact.info.target["kind"]
    if kind in Engine.kinds:
        return Engine(artifact, num_threads)
    if kind not in CUDAEngine.kinds:
        raise ArtifactError(
            artifact.path, f"was compiled for target {kind!r}, which this version cannot run."
        )
    if num_threads is not None:
        raise InvalidArgumentError(
            f"num_threads={num_threads!r}: {artifact.path} was compiled for CUDA; only models for "
            "the CPU use threads."
        )
    return CUDAEngine(artifact, deferred=deferred)


def _line(info: InputInfo | OutputInfo) -> str:
    sizes = ", ".join(map(str, info.shape)) + "," * (len(info.shape) == 1)
    return f"{info.name}: {info.dtype} ({sizes})"
