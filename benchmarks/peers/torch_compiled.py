"""PyTorch with torch.compile around torch.nn.LSTM.

By default torch.compile leaves recurrent modules alone: nothing is compiled, and a call takes
longer by the check that says so. With ``allow_rnn`` the module becomes a graph.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

from benchmarks.cases import Case, Floats
from benchmarks.peers import Prepared, torch_module

version = torch_module.version
refuses = torch_module.refuses


def prepare(case: Case, weights: Mapping[str, Floats], data: Floats, threads: int) -> Prepared:
    """Compile the module for the shape, on its first call here."""
    import torch

    torch.set_num_threads(threads)
    dynamo: Any = import_module("torch._dynamo")
    dynamo.reset()  # or all cases share one limit of recompilations
    dynamo.config.allow_rnn = True
    lstm = torch.compile(torch_module.module(case, weights))
    ready = torch_module.prepared(lstm, data)
    ready.call()
    return ready
