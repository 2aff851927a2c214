"""What a hybridized block of MXNet 1.9.1 needs changed for an LSTM inside it to work.

A hybridized block runs the graphs of all its children as one; the children are not asked again. So
what goes wrong when that graph runs must be mended in ``HybridBlock`` itself, which
:func:`install` does, once, for every block of the process:

* With ``static_shape=True`` MXNet runs loop operators with an uninitialised flag for whether
  gradients are wanted (``StaticRunOps`` in its cached_op.cc sets ``is_train`` but not
  ``need_grad``), and the backward pass fails by chance: "We didn't record the computation for
  iteration". Several RNN operators with Dropout between them fail likewise when gradients are
  recorded outside training mode. Such graphs are therefore built with ``static_alloc`` alone.
* The RNN operator divides by the batch size, so an empty batch takes the process down. Empty
  inputs, which exist under NumPy shape semantics only, get a graph of their own, made for them.
"""

from __future__ import annotations

import contextlib
import functools
import json
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any

from gluonlstm.mxnet_compat import mx

# What makes up the graph that a HybridBlock keeps, with its values when there is none.
NO_GRAPH: dict[str, Any] = {
    "_cached_graph": (),
    "_cached_op": None,
    "_cached_op_args": (),
    "_in_format": None,
    "_out_format": None,
}
LOOPS = frozenset({"_foreach", "_while_loop", "_cond"})

# Whether graphs that are being made must work for empty inputs.
empty_inputs: ContextVar[bool] = ContextVar("empty_inputs", default=False)


@contextlib.contextmanager
def setting(variable: ContextVar[Any], value: Any) -> Iterator[None]:
    """Give ``variable`` a value for the length of the block."""
    token = variable.set(value)
    try:
        yield
    finally:
        variable.reset(token)


@contextlib.contextmanager
def graph_of_its_own(block: Any) -> Iterator[None]:
    """Put the block's graph aside, so that a call in the ``with`` body makes a new one."""
    kept = {name: getattr(block, name) for name in NO_GRAPH}
    set_graph(block, NO_GRAPH)
    try:
        yield
    finally:
        set_graph(block, kept)


def set_graph(block: Any, graph: dict[str, Any]) -> None:
    """Make ``graph`` (keys as in NO_GRAPH) the one that the block uses."""
    # Not by setattr: Block.__setattr__ looks for parameters and children in every value.
    block.__dict__.update(graph)


def has_empty(arguments: Any) -> bool:
    """Whether some array in nested lists has no elements."""
    if isinstance(arguments, (list, tuple)):
        return any(has_empty(argument) for argument in arguments)
    return isinstance(arguments, mx.nd.NDArray) and 0 in arguments.shape


def fails_with_static_shape(symbol: Any) -> bool:
    """Whether the graph holds a loop or condition, or Dropout and several RNN operators."""
    operators = [node["op"] for node in json.loads(symbol.tojson())["nodes"]]
    dropped_layers = "Dropout" in operators and operators.count("RNN") > 1
    return dropped_layers or not LOOPS.isdisjoint(operators)


def contains(block: Any, kind: type) -> bool:
    """Whether ``block`` is, or has below it, a block of the class ``kind``."""
    children = block._children.values()
    return isinstance(block, kind) or any(contains(child, kind) for child in children)


def install(kind: type) -> None:
    """Mend ``HybridBlock``; empty inputs are looked for in blocks that contain a ``kind``."""
    block_type: Any = mx.gluon.HybridBlock
    if hasattr(block_type, "_gluonlstm_fixes"):
        return
    block_type._gluonlstm_fixes = True
    build_cache, call_cached_op = block_type._build_cache, block_type._call_cached_op

    @functools.wraps(build_cache)
    def build_cache_fixed(self: Any, *args: Any) -> None:
        flags = self._flags
        static_shape = dict(flags).get("static_shape")
        if static_shape and fails_with_static_shape(self._get_graph(*args)[1]):
            self._flags = [flag for flag in flags if flag[0] != "static_shape"]
        try:
            build_cache(self, *args)
        finally:
            self._flags = flags

    @functools.wraps(call_cached_op)
    def call_cached_op_fixed(self: Any, *args: Any) -> Any:
        if mx.util.is_np_shape() and has_empty(args) and contains(self, kind):
            with setting(empty_inputs, True), graph_of_its_own(self):
                return call_cached_op(self, *args)
        return call_cached_op(self, *args)

    block_type._build_cache = build_cache_fixed
    block_type._call_cached_op = call_cached_op_fixed
