"""Run one of the block's paths: everything around the kernels that all of them need.

The kernels take legacy (``mx.nd``, ``mx.sym``) tensors in layout TNC, of a dtype that MXNet
computes in, without empty axes. This brings a call there and its results back.
"""

from __future__ import annotations

import functools
from typing import Any

from gluonlstm.block_empty import fill
from gluonlstm.block_paths import KERNELS, Path, Result, Tensor
from gluonlstm.mxnet_compat import mx
from gluonlstm.spec import LSTMSpec


def compute(
    F: Any,
    path: Path,
    spec: LSTMSpec,
    x: Tensor,  # (T, N, C) or (N, T, C)
    states: list[Tensor],  # h0 (L*D, N, R), c0 (L*D, N, H)
    lengths: Tensor | None,  # (N,)
    params: dict[str, Tensor],
    *,
    may_be_empty: bool,
) -> Result:
    """Return y, h and c, computed on arrays or symbols (F is mx.nd or mx.sym) of either kind."""
    model = x
    x, h0, c0 = (legacy(tensor) for tensor in (x, *states))
    params = {name: legacy(value) for name, value in params.items()}
    lengths = None if lengths is None else legacy(lengths)
    half = spec.dtype == "float16"  # MXNet has no float16 GEMM for CPUs
    if half:
        spec = spec.replace(dtype="float32")
        x, h0, c0 = (F.cast(tensor, dtype="float32") for tensor in (x, h0, c0))
        params = {name: F.cast(value, dtype="float32") for name, value in params.items()}
    swap = spec.layout == "NTC"
    x = F.swapaxes(x, 0, 1) if swap else x
    kernel = functools.partial(KERNELS[path], F, spec, params=params)
    if may_be_empty:
        filled = fill(F, spec, x, h0, c0, lengths)
        y, h, c = kernel(filled.x, filled.h0, filled.c0, filled.lengths)
        y, h, c = filled.restore(y, h, c)
    else:
        y, h, c = kernel(x, h0, c0, lengths)
    y = F.swapaxes(y, 0, 1) if swap else y
    if half:
        y, h, c = (F.cast(tensor, dtype="float16") for tensor in (y, h, c))
    return like(model, y), like(model, h), like(model, c)


def legacy(tensor: Tensor) -> Tensor:
    """Return an mx.np array or symbol as the mx.nd or mx.sym one of the same data."""
    return tensor.as_nd_ndarray() if hasattr(tensor, "as_nd_ndarray") else tensor


def like(model: Tensor, tensor: Tensor) -> Tensor:
    """Return a legacy tensor as the kind that ``model`` is."""
    numpy_kind = isinstance(model, (mx.np.ndarray, mx.sym.np._Symbol))
    return tensor.as_np_ndarray() if numpy_kind else tensor
