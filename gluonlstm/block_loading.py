"""Take a checkpoint of any form into a block's parameters."""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from typing import Any

import numpy as np

from gluonlstm import checkpoint
from gluonlstm.errors import ArgumentTypeError, MissingParameterError, ShapeMismatchError
from gluonlstm.mxnet_compat import mx
from gluonlstm.spec import LSTMSpec


def read(
    path: str | PathLike[str],
    spec: LSTMSpec,
    prefix: str,
    *,
    allow_missing: bool,
    ignore_extra: bool,
) -> dict[str, np.ndarray]:
    """Return the LSTM's arrays in a file under canonical names.

    ``spec.input_size`` may be 0, not known. With ``allow_missing`` some may be absent.
    """
    arrays = checkpoint.read(path)
    try:
        return checkpoint.canonical(arrays, spec, ignore_extra=ignore_extra)[1]
    except MissingParameterError:
        if not allow_missing:
            raise
    return _present(arrays, spec, prefix)


def _present(
    arrays: Mapping[str, np.ndarray], spec: LSTMSpec, prefix: str
) -> dict[str, np.ndarray]:
    """Return those parameters that are there under the names that the block itself may write."""
    bare = {name.removeprefix("arg:"): array for name, array in arrays.items()}
    spellings = [checkpoint.spellings(spec, form) for form in ("structural", "prefix", "torch")]
    spellings.append(checkpoint.spellings(spec, "prefix", prefix))
    return {
        parameter.name: bare[names[parameter.name]]
        for names in spellings
        for parameter in spec.parameters()
        if names[parameter.name] in bare
    }


def assign(
    parameters: Mapping[str, Any],
    arrays: Mapping[str, np.ndarray],
    ctx: Any,
    cast_dtype: bool,
    dtype_source: str,
) -> None:
    """Set Gluon parameters, initialised or not, to the arrays of the same (canonical) names.

    Everything is checked before anything is set.
    """
    if dtype_source not in ("current", "saved"):
        raise ValueError(f"dtype_source={dtype_source!r} must be 'current' or 'saved'.")
    for name, array in arrays.items():
        _check(name, parameters[name], array, cast_dtype)
    for name, array in arrays.items():
        data = _mxnet_array(array)
        parameters[name]._load_init(data, ctx, cast_dtype=cast_dtype, dtype_source=dtype_source)


def _check(name: str, parameter: Any, array: np.ndarray, cast_dtype: bool) -> None:
    shape = tuple(parameter.shape)
    if len(shape) != array.ndim or any(
        known > 0 and known != size for known, size in zip(shape, array.shape, strict=True)
    ):
        raise ShapeMismatchError(name, shape, array.shape)
    if not cast_dtype and np.dtype(parameter.dtype) != array.dtype:
        raise ArgumentTypeError(
            f"{name} is {array.dtype.name} in the file and {np.dtype(parameter.dtype).name} in the "
            "layer. Set cast_dtype=True to convert it."
        )


def _mxnet_array(array: np.ndarray) -> Any:
    if array.dtype.name == "bfloat16":
        array = array.astype(np.float32)  # exact; MXNet cannot make bfloat16 arrays
    make = mx.np.array if mx.util.is_np_array() else mx.nd.array
    return make(array, dtype=array.dtype)
