"""ONNX Runtime on the CPU (its LSTM is DeepCPU's)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.cases import Case, Floats
from benchmarks.peers import Prepared, float32, onnx_model

refuses = onnx_model.refuses


def version() -> str:
    """Return ONNX Runtime's version; the model is made with onnx, which must be there, too."""
    import onnx  # noqa: F401
    import onnxruntime

    return onnxruntime.__version__


def prepare(case: Case, weights: Mapping[str, Floats], data: Floats, threads: int) -> Prepared:
    """Open a session; its threads are an option of its own."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    model = onnx_model.model(case, weights)
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])

    def call() -> Any:
        return session.run(None, {"x": data})[0]

    return Prepared(call, lambda: {"y": float32(call())})
