"""gluonlstm: compiled for this CPU with T and N free, called with NumPy arrays."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

import gluonlstm
from benchmarks.cases import Case, Floats
from benchmarks.peers import Prepared, float32


def version() -> str:
    """Return the versions of gluonlstm and TVM."""
    import tvm

    return f"{gluonlstm.__version__} (TVM {tvm.__version__})"


def refuses(case: Case) -> str:
    """Nothing is refused."""
    return ""


def prepare(case: Case, weights: Mapping[str, Floats], data: Floats, threads: int) -> Prepared:
    """Compile the layer; the number of threads comes from the environment, as for users."""
    model = gluonlstm.compile(case.spec, weights)
    if model.num_threads != threads:
        raise RuntimeError(f"the model uses {model.num_threads} threads instead of {threads}.")
    states = [np.zeros(shape, np.float32) for shape in case.spec.state_shapes(case.N)]

    def outputs() -> dict[str, NDArray[np.float32]]:
        _, (h, c) = model(data, states)
        return {"y": float32(model(data)), "h": float32(h), "c": float32(c)}

    return Prepared(lambda: model(data), outputs)
