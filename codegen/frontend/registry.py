"""Operator name -> how it is lowered. Names are those in symbol files, with MXNet's aliases."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from . import constant_ops, dense_ops, identity_ops, join_ops, layout_ops, rnn_ops
from .operator import Operator

OPERATORS: Mapping[str, Operator] = MappingProxyType(
    {
        # recurrent
        "RNN": rnn_ops.RNN,
        "_npx_rnn": rnn_ops.RNN,
        # layout
        "Reshape": layout_ops.RESHAPE,
        "reshape": layout_ops.RESHAPE,
        "_np_reshape": layout_ops.NP_RESHAPE,
        "_npx_reshape": layout_ops.NP_RESHAPE,
        "_npi_reshape": layout_ops.NP_RESHAPE,
        "SwapAxis": layout_ops.SWAP_AXES,
        "swapaxes": layout_ops.SWAP_AXES,
        "_npi_swapaxes": layout_ops.SWAP_AXES,
        "transpose": layout_ops.TRANSPOSE,
        "_np_transpose": layout_ops.TRANSPOSE,
        # joining and splitting
        "SliceChannel": join_ops.SPLIT,
        "split": join_ops.SPLIT,
        "Concat": join_ops.CONCAT,
        "concat": join_ops.CONCAT,
        "_rnn_param_concat": join_ops.CONCAT,
        "_npi_rnn_param_concat": join_ops.CONCAT,
        "_npi_concatenate": join_ops.CONCAT,
        # constants
        "_zeros": constant_ops.ZEROS,
        "_npi_zeros": constant_ops.ZEROS,
        "broadcast_like": constant_ops.BROADCAST_LIKE,
        # dense layers, activations, sums and products
        "FullyConnected": dense_ops.FULLY_CONNECTED,
        "_npx_fully_connected": dense_ops.FULLY_CONNECTED,
        "Embedding": dense_ops.EMBEDDING,
        "_npx_embedding": dense_ops.EMBEDDING,
        "Activation": dense_ops.ACTIVATION,
        "_npx_activation": dense_ops.ACTIVATION,
        "sigmoid": dense_ops.SIGMOID,
        "tanh": dense_ops.TANH,
        "elemwise_add": dense_ops.ELEMWISE_ADD,
        "elemwise_sub": dense_ops.ELEMWISE_SUB,
        "elemwise_mul": dense_ops.ELEMWISE_MUL,
        "broadcast_add": dense_ops.BROADCAST_ADD,
        "broadcast_sub": dense_ops.BROADCAST_SUB,
        "broadcast_mul": dense_ops.BROADCAST_MUL,
        # nothing at inference
        "Dropout": identity_ops.DROPOUT,
        "_npx_dropout": identity_ops.DROPOUT,
        "BlockGrad": identity_ops.IDENTITY,
        "stop_gradient": identity_ops.IDENTITY,
        "_copy": identity_ops.IDENTITY,
        "identity": identity_ops.IDENTITY,
        "_np_copy": identity_ops.IDENTITY,
        "MakeLoss": identity_ops.MAKE_LOSS,
        "make_loss": identity_ops.MAKE_LOSS,
    }
)
