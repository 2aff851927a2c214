"""PyTorch: torch.nn.LSTM in inference mode."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from numpy.typing import NDArray

from benchmarks.cases import Case, Floats
from benchmarks.peers import Prepared, float32
from gluonlstm.spec import parameter_name

NAMES = {  # kind of parameter -> how torch calls it, before the layer
    "i2h_weight": "weight_ih",
    "h2h_weight": "weight_hh",
    "i2h_bias": "bias_ih",
    "h2h_bias": "bias_hh",
    "h2r_weight": "weight_hr",
}


def version() -> str:
    """Return torch's version."""
    import torch

    return torch.__version__


def refuses(case: Case) -> str:
    """torch.nn.LSTM has no clipping."""
    return "torch.nn.LSTM does not clip states" if case.clip else ""


def module(case: Case, weights: Mapping[str, NDArray[Any]], dtype: Any = None) -> Any:
    """Return a torch.nn.LSTM with the weights; ``dtype`` is torch's, by default float32."""
    import torch

    lstm = torch.nn.LSTM(
        case.C, case.H, case.L, bidirectional=case.D == 2, proj_size=case.P, dtype=dtype
    ).eval()
    state = {}
    for layer in range(case.L):
        for direction in range(case.D):
            for kind, name in NAMES.items():
                array = weights.get(parameter_name(layer, direction, kind))
                if array is not None:
                    suffix = "_reverse" * direction
                    state[f"{name}_l{layer}{suffix}"] = torch.from_numpy(array)
    lstm.load_state_dict(state)
    return lstm


def prepared(lstm: Callable[[Any], Any], data: Floats) -> Prepared:
    """Return what runs ``lstm`` on the data in inference mode."""
    import torch

    x = torch.from_numpy(data)

    def call() -> Any:
        with torch.inference_mode():
            return lstm(x)

    def outputs() -> dict[str, NDArray[Any]]:
        y, (h, c) = call()
        return {name: float32(value) for name, value in (("y", y), ("h", h), ("c", c))}

    return Prepared(call, outputs)


def prepare(case: Case, weights: Mapping[str, Floats], data: Floats, threads: int) -> Prepared:
    """Build the module."""
    import torch

    torch.set_num_threads(threads)
    return prepared(module(case, weights), data)
