"""Compile and run single kernels, without Relax, artifact or runtime around them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np


def run_layers(spec, params, args, target, **tiles):
    """Run ``spec`` (TNC) layer by layer on freshly compiled kernels; return [y, h, c].

    ``tiles`` replaces tuning constants of the plan.
    """
    import tvm

    from gluonlstm.codegen.kernels.lstm_cpu import lstm_layer
    from gluonlstm.codegen.packing import pack_layer
    from gluonlstm.codegen.plan import compute_dtype, plan_lstm

    dtype = compute_dtype(spec.dtype)
    y, finals = args.x.astype(dtype), []
    for plan in plan_lstm(spec, target, lengths=args.lengths is not None):
        constants = replace(plan.tiles, **tiles)
        packed = pack_layer(spec, plan.layer, params, constants.lanes, dtype)
        module = tvm.IRModule({"main": lstm_layer(plan.shape, constants)})
        kernel = tvm.compile(module, target=target.tvm(), tir_pipeline=_pipeline())["main"]
        steps, batch, _ = y.shape
        outputs = [
            np.full((steps, batch, spec.output_size), np.nan, dtype),
            np.full((spec.directions, batch, spec.direction_size), np.nan, dtype),
            np.full((spec.directions, batch, spec.hidden_size), np.nan, dtype),
        ]
        states = [state.astype(dtype) for state in args.states]
        lengths = [] if args.lengths is None else [args.lengths]
        arrays = [y, *packed.values(), *states, *lengths, *outputs]
        tensors = [tvm.runtime.tensor(np.ascontiguousarray(array)) for array in arrays]
        kernel(*tensors[:-3], plan.layer * spec.directions, *tensors[-3:])
        y, h, c = (tensor.numpy() for tensor in tensors[-3:])
        finals.append((h, c))
    h, c = (np.concatenate(states) for states in zip(*finals, strict=True))
    return [y, h, c]


def _pipeline():
    from gluonlstm.codegen.pipeline import tir_pipeline

    return tir_pipeline()
