"""Check what the block is called with, before any of it reaches MXNet's engine.

MXNet finds most of these mistakes too, but at a later synchronisation point and in its own words,
or not at all.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from gluonlstm.errors import ArgumentTypeError, InvalidArgumentError, ShapeMismatchError
from gluonlstm.mxnet_compat import mx
from gluonlstm.spec import LSTMSpec

STATE_NAMES = ("h0", "c0")


@functools.cache
def dtype_name(dtype: Any) -> str:
    """Return the name of a dtype in any spelling; what is none is returned as text."""
    try:
        name = np.dtype(dtype).name
    except TypeError:
        name = str(dtype)
    if name == "bfloat16":
        raise ArgumentTypeError(
            "MXNet cannot make bfloat16 arrays. Train in float32; gluonlstm.compile can store "
            "weights in bfloat16."
        )
    return name


def check_data(spec: LSTMSpec, inputs: Any) -> tuple[int, ...]:
    """Check the input array: kind of array, rank, width and dtype. Returns its shape."""
    _check_semantics("inputs", inputs)
    shape = inputs.shape
    if len(shape) != 3 or shape[2] != (spec.input_size or shape[2]) or not shape[2]:
        expected = (*spec.layout[:2], spec.input_size or "C")
        raise ShapeMismatchError(
            "inputs", expected, shape, f"The layer's layout is {spec.layout}; C must not be 0."
        )
    _check_dtype("inputs", spec, inputs)
    return shape


def check_states(spec: LSTMSpec, inputs: Any, context: Any, states: Any, batch: int) -> list[Any]:
    """Return the states as a list of two arrays that fit."""
    states = listed_states(states)
    kind, dtype = type(inputs), inputs.dtype
    for name, state, shape in zip(STATE_NAMES, states, spec.state_shapes(batch), strict=True):
        fits = type(state) is kind and state.shape == shape
        if not (fits and state.dtype is dtype and state.ctx == context):
            _check_state(spec, inputs, name, state, shape)
    return states


def _check_state(
    spec: LSTMSpec, inputs: Any, name: str, state: Any, shape: tuple[int, ...]
) -> None:
    """Check one state, and say what does not fit."""
    if not isinstance(state, mx.nd.NDArray):
        raise ArgumentTypeError(f"{name} must be an array like inputs, not {_kind(state)}.")
    _check_semantics(name, state)
    if state.shape != shape:
        width = "P" if name == "h0" and spec.projection_size else "H"
        raise ShapeMismatchError(
            name, shape, state.shape,
            f"That is (L*D, N, {width}), N being that of inputs {inputs.shape} in layout "
            f"{spec.layout}.",
        )  # fmt: skip
    _check_dtype(name, spec, state)
    _check_context(name, state, inputs.ctx)


def listed_states(states: Any) -> list[Any]:
    """Return states as a list of two; they may be arrays or symbols."""
    if not isinstance(states, Sequence):
        raise ArgumentTypeError(f"states must be a list [h0, c0], not {_kind(states)}.")
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
            f"sequence_length must be an array like inputs, not {_kind(lengths)}."
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
    dtype = dtype_name(array.dtype)
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


def _kind(thing: Any) -> str:
    return f"{type(thing).__module__}.{type(thing).__qualname__}"
