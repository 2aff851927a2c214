"""An ONNX model of a case, for the libraries that take one."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from benchmarks.cases import Case, Floats
from gluonlstm.spec import parameter_name

OPSET, IR_VERSION = 14, 8


def refuses(case: Case) -> str:
    """ONNX's operator has no projection, and its ``clip`` is of the gates, not of the cell."""
    if case.P:
        return "ONNX's LSTM has no projection"
    return "ONNX's LSTM does not clip the cell state" if case.clip else ""


def model(case: Case, weights: Mapping[str, Floats]) -> bytes:
    """Return the serialised model: input "x" (T, N, C), output "y" (T, N, D * H), T and N free."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    initializers = [numpy_helper.from_array(np.array([0, 0, -1]), "joined")]
    nodes = []
    data = "x"
    for layer in range(case.L):
        operands = [f"W{layer}", f"R{layer}", f"B{layer}"]
        arrays = _operands(case, weights, layer)
        initializers += map(numpy_helper.from_array, arrays, operands)
        direction = "bidirectional" if case.D == 2 else "forward"
        y, swapped, joined = f"Y{layer}", f"S{layer}", f"J{layer}"  # (T, D, N, H), (T, N, D, H)
        nodes += [
            helper.make_node(
                "LSTM", [data, *operands], [y], hidden_size=case.H, direction=direction
            ),
            helper.make_node("Transpose", [y], [swapped], perm=[0, 2, 1, 3]),
            helper.make_node("Reshape", [swapped, "joined"], [joined]),
        ]
        data = joined
    nodes[-1].output[0] = "y"
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "lstm",
        [value("x", TensorProto.FLOAT, ["T", "N", case.C])],
        [value("y", TensorProto.FLOAT, ["T", "N", case.D * case.H])],
        initializers,
    )
    proto = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION
    )
    onnx.checker.check_model(proto)
    return proto.SerializeToString()


def _operands(case: Case, weights: Mapping[str, Floats], layer: int) -> tuple[Floats, ...]:
    """Return W (D, 4H, C), R (D, 4H, H) and B (D, 8H) with ONNX's order of gates, i o f g."""

    def stacked(*kinds: str) -> Floats:
        return np.stack(
            [
                np.concatenate(
                    [_reordered(weights[parameter_name(layer, direction, kind)]) for kind in kinds]
                )
                for direction in range(case.D)
            ]
        )

    return stacked("i2h_weight"), stacked("h2h_weight"), stacked("i2h_bias", "h2h_bias")


def _reordered(array: Floats) -> Floats:
    i, f, g, o = np.split(array, 4)
    return np.concatenate([i, o, f, g])
