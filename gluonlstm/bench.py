"""Time a compiled model on random inputs, alone or beside MXNet running the same symbol file."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from os import PathLike, fspath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gluonlstm.bfloat16 import to_bfloat16
from gluonlstm.errors import InvalidArgumentError
from gluonlstm.machine import available_cores
from gluonlstm.model_info import InputInfo
from gluonlstm.runtime import CompiledModel
from gluonlstm.timer import Summary, estimate, measure, summarise

BLOCKS = 5  # turns of each program
BUSY_LOAD = 0.3  # load average of the last minute, for each core

Arrays = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Comparison:
    """Times of a model, and of MXNet if it ran beside it.

    ``difference`` is the largest absolute difference of the first outputs.
    """

    ours: Summary
    mxnet: Summary | None = None
    difference: float | None = None


def is_busy(load: float) -> bool:
    """Whether this load average, before anything is timed, means that others are at work."""
    return load > BUSY_LOAD * available_cores()


def random_inputs(model: CompiledModel, sizes: Mapping[str, int], seed: int = 0) -> Arrays:
    """Return arrays for all inputs of a model.

    Data is uniform in [-1, 1), whole numbers (a vocabulary's, say) are 0 and 1, states are zeros,
    all sequences have length T. ``sizes`` gives the free sizes, such as T and N. Raises
    InvalidArgumentError if some are missing, unknown or less than 1.
    """
    free = sorted({size for info in model.inputs for size in info.shape if isinstance(size, str)})
    if free != sorted(sizes) or min(sizes.values(), default=1) < 1:
        given = ", ".join(f"{name}={size}" for name, size in sizes.items()) or "none"
        raise InvalidArgumentError(
            f"the model's free sizes are {', '.join(free) or 'none'}, each at least 1; got {given}."
        )
    random = np.random.default_rng(seed)
    time = model.info.time_axis()
    steps = 1
    if time is not None:
        size = model.inputs[time[0]].shape[time[1]]
        steps = size if isinstance(size, int) else sizes[size]
    return {info.name: _values(info, sizes, steps, random) for info in model.inputs}


def _values(
    info: InputInfo, sizes: Mapping[str, int], steps: int, random: np.random.Generator
) -> NDArray[Any]:
    shape = tuple(sizes[size] if isinstance(size, str) else size for size in info.shape)
    if info.role == "lengths":
        return np.full(shape, steps, np.int32)
    if info.dtype != "bfloat16" and np.issubdtype(np.dtype(info.dtype), np.integer):
        return random.integers(0, 2, shape).astype(info.dtype)
    data = np.zeros(shape) if info.role in ("hidden", "cell") else random.uniform(-1, 1, shape)
    single = data.astype(np.float32)
    return to_bfloat16(single) if info.dtype == "bfloat16" else single.astype(info.dtype)


def bench(
    model: CompiledModel,
    inputs: Arrays,
    seconds: float,
    beside: Callable[[Arrays], Any] | None = None,
) -> Comparison:
    """Time a model for about this long, taking turns with ``beside`` if it is given.

    ``inputs`` are arrays for all inputs; the optional ones are left out of the model's calls.
    ``beside`` takes all of them, and returns its outputs, the first one first.
    """
    required = [info.name for info in model.inputs if not info.optional]
    given: dict[str, Any] = {name: inputs[name] for name in required}
    programs: list[Callable[[], Any]] = [lambda: model(**given)]
    if beside is not None:
        programs.append(lambda: beside(inputs))
    difference = _difference(*(program() for program in programs)) if beside else None
    estimates = [estimate(program) for program in programs]
    blocks: list[list[list[float]]] = [[] for _ in programs]
    for _ in range(BLOCKS):
        for program, about_s, taken in zip(programs, estimates, blocks, strict=True):
            taken.append(measure(program, seconds / BLOCKS / len(programs), about_s))
    return Comparison(*map(summarise, blocks), difference=difference)


def _difference(ours: Any, theirs: Any) -> float:
    """Compare the first outputs."""
    left, right = (np.asarray(_first(outputs), np.float64) for outputs in (ours, theirs))
    if left.shape != right.shape:
        raise InvalidArgumentError(
            f"the compiled model returns {left.shape}, the symbol file {right.shape}: they are "
            "different models."
        )
    return float(np.abs(left - right).max(initial=0))


def _first(outputs: Any) -> Any:
    while isinstance(outputs, (list, tuple)):
        outputs = outputs[0]
    return outputs.asnumpy() if hasattr(outputs, "asnumpy") else outputs


def mxnet_program(
    symbol: str | PathLike[str], params: str | PathLike[str], inputs: Arrays, threads: int
) -> Callable[[Arrays], Any]:
    """Load a symbol file in stock MXNet, hybridized with static memory, for :func:`bench`.

    The program copies no inputs: it runs on those given here. Raises MissingDependencyError
    without MXNet, InvalidArgumentError if the symbol's inputs are not the model's.
    """
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))  # read when MXNet is loaded
    from gluonlstm.mxnet_compat import mx

    arguments = mx.sym.load(fspath(symbol)).list_inputs()
    names = [name for name in inputs if name in arguments]
    try:
        with warnings.catch_warnings():  # about dtypes that the first call settles
            warnings.filterwarnings("ignore", "Cannot decide type", UserWarning)
            net = mx.gluon.SymbolBlock.imports(fspath(symbol), names, fspath(params))
    except Exception as error:  # MXNetError, AssertionError, ValueError: whatever does not fit
        raise InvalidArgumentError(
            f"MXNet cannot load {symbol} with {params} and the model's inputs {names}: {error}"
        ) from error
    net.hybridize(static_alloc=True, static_shape=True)
    arrays = [mx.nd.array(inputs[name], dtype=inputs[name].dtype) for name in names]

    def run(_: Arrays) -> list[Any]:
        outputs = net(*arrays)
        outputs = list(outputs) if isinstance(outputs, (list, tuple)) else [outputs]
        for output in outputs:
            output.wait_to_read()
        return outputs

    return run
