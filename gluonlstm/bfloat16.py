"""bfloat16 in NumPy, which has no such dtype of its own.

The first 16 bits of a float32. With the package ``ml_dtypes`` installed, arrays of it have dtype
``ml_dtypes.bfloat16``. Without it, what is read is widened to float32 (every value stays exact),
and what is to be written as bfloat16 has the structured dtype ``[('bfloat16', '<u2')]``, the one
that MXNet uses.
"""

from __future__ import annotations

from typing import Any

import numpy as np

STRUCTURED = np.dtype([("bfloat16", "<u2")])


def native_dtype() -> np.dtype[Any] | None:
    """Return ``ml_dtypes.bfloat16`` as a dtype, or None where ml_dtypes is not installed."""
    try:
        import ml_dtypes
    except ImportError:
        return None
    return np.dtype(ml_dtypes.bfloat16)


def is_bfloat16(dtype: np.dtype[Any]) -> bool:
    """Tell whether arrays of ``dtype`` hold bfloat16, in either form."""
    return dtype.name == "bfloat16" or dtype == STRUCTURED


def from_bits(bits: np.ndarray) -> np.ndarray:
    """Return the bfloat16 values whose bits (uint16) are given: a view, or widened to float32."""
    native = native_dtype()
    if native is not None:
        return bits.astype("=u2", copy=False).view(native)
    return (bits.astype(np.uint32) << 16).view(np.float32)


def to_bits(array: np.ndarray) -> np.ndarray:
    """Return the bits (little-endian uint16) of an array for which :func:`is_bfloat16` holds."""
    array = np.asarray(array, order="C")
    if array.dtype == STRUCTURED:
        return array.view("<u2")
    return array.view("=u2").astype("<u2", copy=False)


def to_bfloat16(array: np.ndarray) -> np.ndarray:
    """Round numbers to bfloat16, to nearest with ties to even, as hardware does; NaN stays NaN.

    Returns an array of the same shape, which :mod:`gluonlstm.params_file` writes as bfloat16.
    """
    single = np.asarray(array, dtype=np.float32, order="C")
    words = single.view(np.uint32)
    # Adding just under half of the last kept bit (half, if that bit is 1) carries into it exactly
    # when the value must go up. A NaN would carry into the exponent or lose all its payload.
    rounded = (words + (0x7FFF + ((words >> 16) & 1))) >> 16
    bits = np.where(np.isnan(single), (words >> 16) | 0x40, rounded).astype("<u2")
    native = native_dtype()
    return bits.view(STRUCTURED if native is None else native)
