"""What a case's outputs must be, in float64, to check every peer against."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.cases import Case
from gluonlstm import reference

REFERENCE, TORCH = "gluonlstm.reference", "torch float64"
# The reference keeps every intermediate value: beyond this it takes gigabytes and minutes.
MOST_REFERENCE_FLOPS = 5e9
# Float32 sums of up to some thousand products, over some hundred steps, differ by 2e-6 at most.
MOST_ERROR = 2e-5


@dataclass(frozen=True)
class Expected:
    """The outputs "y" (T, N, D*R), "h" and "c", and which oracle computed them."""

    outputs: Mapping[str, NDArray[np.float64]]
    oracle: str


def expected(case: Case) -> Expected:
    """Compute a case's outputs: by the reference, or by torch in float64 if the case is large."""
    weights = {name: array.astype(np.float64) for name, array in case.weights().items()}
    data = case.data().astype(np.float64)
    if choose(case) == REFERENCE:
        y, (h, c) = reference.lstm(case.spec, weights, data)
        return Expected({"y": y, "h": h, "c": c}, REFERENCE)
    import torch

    from benchmarks.peers import torch_module

    with torch.inference_mode():
        lstm = torch_module.module(case, weights, torch.float64)
        y, (h, c) = lstm(torch.from_numpy(data))
    return Expected({"y": y.numpy(), "h": h.numpy(), "c": c.numpy()}, TORCH)


def choose(case: Case) -> str:
    """Return the oracle for a case. torch has no clipping and need not be installed."""
    large = case.flops > MOST_REFERENCE_FLOPS
    torch = large and not case.clip and importlib.util.find_spec("torch") is not None
    return TORCH if torch else REFERENCE


def largest_error(outputs: Mapping[str, NDArray[np.float32]], wanted: Expected) -> float:
    """Return the largest absolute difference; infinite for a wrong shape, a NaN or no output."""
    if "y" not in outputs:
        return np.inf
    errors = [0.0]
    for name, array in outputs.items():
        right = wanted.outputs[name]
        if array.shape != right.shape or not np.isfinite(array).all():
            return np.inf
        errors.append(float(np.abs(array - right).max(initial=0)))
    return max(errors)
