"""Check what the block is called with, before any of it reaches MXNet's engine.

MXNet finds most of these mistakes too, but at a later synchronisation point and in its own words,
or not at all.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from gluonlstm.errors import ArgumentTypeError, InvalidArgumentError, ShapeMismatchError
from gluonlstm.mxnet_compat import mx
from gluonlstm.spec import LSTMSpec

STATE_NAMES = ("h0", "c0")


def check_data(spec: LSTMSpec, x: Any) -> None:
    """Check the input array: kind of array, rank, width and dtype."""
    _check_semantics("inputs", x)
    shape = x.shape
    width = spec.input_size or "C"
    if len(shape) != 3 or (spec.input_size and shape[2] != width):
        raise ShapeMismatchError(
            "inputs", (*spec.layout[:2], width), shape, f"The layer's layout is {spec.layout}."
        )
    if shape[2] == 0:
        raise ShapeMismatchError("inputs", (*spec.layout[:2], width), shape, "C must not be 0.")
    _check_dtype("inputs", spec, x)
    if spec.dtype == "float16" and x.ctx.device_type != "gpu":
        raise ArgumentTypeError(
            "MXNet has no float16 LSTM for CPUs. Use layer.cast('float32'), a GPU context, or "
            "gluonlstm.compile."
        )


def check_states(spec: LSTMSpec, states: Any, batch: int, context: Any) -> list[Any]:
    """Return the states as a list of two arrays that fit."""
    states = listed_states(states)
    for name, state, shape in zip(STATE_NAMES, states, spec.state_shapes(batch), strict=True):
        if not isinstance(state, mx.nd.NDArray):
            raise ArgumentTypeError(
                f"{name} must be an array like inputs, got {type(state).__name__}."
            )
        _check_semantics(name, state)
        if state.shape != shape:
            raise ShapeMismatchError(
                name,
                shape,
                state.shape,
                f"That is (L*D, N, {'P' if name == 'h0' and spec.projection_size else 'H'}); N is "
                f"taken from inputs in layout {spec.layout}.",
            )
        _check_dtype(name, spec, state)
        _check_context(name, state, context)
    return states


def listed_states(states: Any) -> list[Any]:
    """Return states as a list of two; they may be arrays or symbols."""
    if not isinstance(states, Sequence):
        raise ArgumentTypeError(f"states must be a list [h0, c0], got {type(states).__name__}.")
    if len(states) != 2:
        raise InvalidArgumentError(f"states must be a list [h0, c0], got {len(states)} elements.")
    return list(states)


def check_lengths(lengths: Any, steps: int, batch: int, context: Any) -> bool:
    """Check the sequence lengths, and return whether one of them is 0.

    Waits until ``lengths`` has been computed.
    """
    if lengths is None:
        raise missing_lengths()
    if not isinstance(lengths, mx.nd.NDArray):
        raise ArgumentTypeError(
            f"sequence_length must be an array like inputs, got {type(lengths).__name__}."
        )
    _check_semantics("sequence_length", lengths)
    if lengths.shape != (batch,):
        raise ShapeMismatchError("sequence_length", (batch,), lengths.shape, "That is (N,).")
    _check_context("sequence_length", lengths, context)
    if not batch:
        return False
    values = lengths.asnumpy()
    if not (values.min() >= 0 and values.max() <= steps):
        raise InvalidArgumentError(
            f"sequence_length must lie in [0, T={steps}], got values from {values.min()} to "
            f"{values.max()}."
        )
    if (values != np.floor(values)).any():
        raise InvalidArgumentError(f"sequence_length must be whole numbers, got {values}.")
    return bool(values.min() == 0)


def missing_lengths() -> InvalidArgumentError:
    """Return the error for a call without the lengths that the layer was made for."""
    return InvalidArgumentError(
        "The layer has use_sequence_length=True, so call it with sequence_length, shape (N,)."
    )


def _check_semantics(name: str, array: Any) -> None:
    """Check that the array is of the kind, mx.nd or mx.np, that is switched on."""
    numpy_array = isinstance(array, mx.np.ndarray)
    if numpy_array == mx.util.is_np_array():
        return
    have, convert = ("mx.np", "as_nd_ndarray") if numpy_array else ("mx.nd", "as_np_ndarray")
    state = "off" if numpy_array else "on"
    raise ArgumentTypeError(
        f"{name} is an {have} array while NumPy semantics are {state} (npx.set_np). Convert it "
        f"with {convert}(), or switch them."
    )


def _check_dtype(name: str, spec: LSTMSpec, array: Any) -> None:
    dtype = np.dtype(array.dtype).name
    if dtype != spec.dtype and not _casts_automatically():
        raise ArgumentTypeError(
            f"{name} has dtype {dtype}, the layer {spec.dtype}. Convert one: "
            f"{name}.astype('{spec.dtype}') or layer.cast('{dtype}')."
        )


def _casts_automatically() -> bool:
    """Whether mixed precision is on, with which MXNet itself casts the operators' inputs."""
    amp = sys.modules.get("mxnet.contrib.amp.amp")  # MXNet imports it only when asked to
    return amp is not None and amp._amp_initialized


def _check_context(name: str, array: Any, context: Any) -> None:
    if array.ctx != context:
        raise InvalidArgumentError(
            f"{name} is on {array.ctx}, inputs on {context}. Use {name}.as_in_context(...)."
        )
