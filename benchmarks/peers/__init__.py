"""What is measured: one file for each library, all behind one small protocol.

A peer runs in a process of its own (benchmarks.worker), whose environment fixes the number of
threads before anything is imported. So a peer's module imports its library inside its functions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from benchmarks.cases import Case, Floats

OURS = "gluonlstm"
# name -> module; the order is that of the report
MODULES = {
    OURS: "benchmarks.peers.ours",
    "mxnet": "benchmarks.peers.mxnet_layer",
    "torch": "benchmarks.peers.torch_module",
    "torch-compile": "benchmarks.peers.torch_compiled",
    "onnxruntime": "benchmarks.peers.onnxruntime_session",
    "openvino": "benchmarks.peers.openvino_request",
}


@dataclass(frozen=True)
class Prepared:
    """A case ready to run in one library.

    ``call`` computes the case once and waits for the result: what is timed. Its inputs are already
    the library's own arrays, its outputs stay so. ``outputs`` computes it once more and returns
    what ``call`` computes as NumPy arrays: "y", and "h" and "c" where the library returns them.
    """

    call: Callable[[], Any]
    outputs: Callable[[], Mapping[str, NDArray[Any]]]


class Peer(Protocol):
    """What a peer's module offers."""

    def version(self) -> str:
        """Return the library's version; ImportError if it is not installed."""
        ...

    def refuses(self, case: Case) -> str:
        """Say why the library cannot compute a case, with "" for one that it can."""
        ...

    def prepare(
        self, case: Case, weights: Mapping[str, Floats], data: Floats, threads: int
    ) -> Prepared:
        """Build the case's LSTM. ``weights`` have canonical names, ``data`` is (T, N, C)."""
        ...


def load(name: str) -> Peer:
    """Import a peer's module, which does not import the library yet."""
    module: Any = import_module(MODULES[name])
    return module


def float32(array: Any) -> NDArray[np.float32]:
    """Return an own copy of a library's output."""
    return np.array(array, np.float32)
