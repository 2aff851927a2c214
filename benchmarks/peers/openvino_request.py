"""OpenVINO on the CPU, for latency, in float32."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray

from benchmarks.cases import Case, Floats
from benchmarks.peers import Prepared, float32, onnx_model

refuses = onnx_model.refuses


def version() -> str:
    """Return OpenVINO's version; the model is made with onnx, which must be there, too."""
    import onnx  # noqa: F401
    import openvino

    return openvino.__version__


def prepare(case: Case, weights: Mapping[str, Floats], data: Floats, threads: int) -> Prepared:
    """Compile the model for the case's shape, which OpenVINO prefers to free sizes."""
    import openvino

    model = openvino.Core().read_model(onnx_model.model(case, weights))
    model.reshape({"x": list(data.shape)})
    settings = {
        "INFERENCE_NUM_THREADS": threads,
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32",
    }
    request = openvino.compile_model(model, "CPU", settings).create_infer_request()
    # Without a copy: the tensor and the array must live as long as the request does.
    tensor = openvino.Tensor(data, shared_memory=True)
    request.set_input_tensor(tensor)

    def call(_keep: object = (data, tensor)) -> None:
        request.infer()

    def outputs() -> dict[str, NDArray[Any]]:
        call()
        return {"y": float32(request.get_output_tensor().data)}

    return Prepared(call, outputs)
