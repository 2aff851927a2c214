"""Export a net in canonical form: each LSTM as the one stock ``RNN`` operator.

``net.export`` writes the graph that was run, which for some configurations holds loops. The
canonical graph is, node for node, what MXNet 1.9.1 writes for the same net with
``mxnet.gluon.rnn.LSTM`` in it, and holds every attribute (projection, clipping, lengths), so that
MXNet on a GPU, older tools and :func:`gluonlstm.compile` can take it.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from contextvars import ContextVar
from os import PathLike
from typing import Any

from gluonlstm import params_file
from gluonlstm.atomic import replacing
from gluonlstm.errors import ArgumentTypeError, InvalidArgumentError
from gluonlstm.hybrid_fixes import graph_of_its_own, setting
from gluonlstm.mxnet_compat import mx


class CanonicalGraph:
    """A canonical graph in the making, and the parameters that exist for it alone."""

    def __init__(self) -> None:
        self.extra: dict[str, Any] = {}

    def variable(self, name: str, shape: tuple[int, ...], dtype: str) -> Any:
        """Return the variable of a bias of zeros, for an LSTM that has none."""
        if name not in self.extra:
            parameter = mx.gluon.Parameter(name, shape=shape, dtype=dtype, init="zeros")
            parameter.initialize()
            self.extra[name] = parameter
        return self.extra[name].var()


# The graph that is being made, if it is to be canonical.
canonical_graph: ContextVar[CanonicalGraph | None] = ContextVar("canonical_graph", default=None)


def export(net: Any, path: str | PathLike[str], epoch: int = 0) -> tuple[str, str]:
    """Write ``{path}-symbol.json`` and ``{path}-{epoch:04d}.params`` in canonical form.

    ``net`` is a HybridBlock whose parameters are initialised. The graph's inputs are those of its
    last hybridized call. A net that was never called hybridized is taken to have the single input
    ``data``; an LSTM on its own, to have ``data0``, its states ``data1`` and ``data2``, and with
    ``use_sequence_length`` its lengths ``data3``.

    Returns the two paths. Both files are written whole or not at all. Raises ArgumentTypeError for
    something else than a HybridBlock, InvalidArgumentError for parameters that are not initialised.
    """
    if not isinstance(net, mx.gluon.HybridBlock):
        raise ArgumentTypeError(f"net must be a HybridBlock, got {type(net).__name__}.")
    graph = CanonicalGraph()
    with setting(canonical_graph, graph):
        symbol = _trace(net)
    arrays = _parameters(net, graph, symbol)
    base = os.fspath(path)
    symbol_path, params_path = f"{base}-symbol.json", f"{base}-{epoch:04d}.params"
    version = 3 if mx.util.is_np_shape() else 2  # as mx.npx.save and mx.nd.save write
    with replacing(symbol_path) as symbol_file, replacing(params_path) as file:
        symbol_file.write(symbol.tojson(remove_amp_cast=True).encode())
        file.write(params_file.dumps(arrays, version=version))
    return symbol_path, params_path


def _trace(net: Any) -> Any:
    """Return the net's graph, made anew for inputs nested as in its last call."""
    if isinstance(net, mx.gluon.SymbolBlock):
        return net._cached_graph[1]
    is_lstm, called = isinstance(net, mx.gluon.rnn.LSTM), bool(net._cached_graph)
    if called:
        in_format = net._in_format
    elif is_lstm:
        in_format = [0, [0, 0], 0] if net._use_sequence_length else [0, [0, 0]]
    else:
        in_format = [0]
    with graph_of_its_own(net), _fresh_variables(net):
        if is_lstm and not called:
            net.skip_states = True
        return net._get_graph(*_placeholders(in_format))[1]


@contextlib.contextmanager
def _fresh_variables(net: Any) -> Iterator[None]:
    """Let parameters make new variables: the old ones count the graphs that update them."""
    parameters = list(net.collect_params().values())
    kept = [parameter._var for parameter in parameters]
    try:
        for parameter in parameters:
            parameter._var = None
        yield
    finally:
        for parameter, variable in zip(parameters, kept, strict=True):
            parameter._var = variable


def _placeholders(in_format: Any) -> Any:
    """Return arrays nested as Gluon's format says: 0 is an array, -1 is None."""
    if isinstance(in_format, list):
        return [_placeholders(part) for part in in_format]
    # _get_graph looks at nothing but the class.
    make = mx.np.zeros if mx.util.is_np_array() else mx.nd.zeros
    return None if in_format == -1 else make((1,))


def _parameters(net: Any, graph: CanonicalGraph, symbol: Any) -> dict[str, Any]:
    """Return the values of the graph's parameters, named and ordered as MXNet exports them."""
    parameters = {**net.collect_params(), **graph.extra}
    auxiliary = set(symbol.list_auxiliary_states())
    arrays = {}
    for name in symbol.list_inputs():
        if name not in parameters:
            continue  # an input
        try:
            value = parameters[name]._reduce()
        except (RuntimeError, mx.gluon.parameter.DeferredInitializationError) as error:
            raise InvalidArgumentError(
                f"{name} has no value yet: call net.initialize() and, for sizes that follow from "
                "the input, run one batch through the net."
            ) from error
        arrays[f"{'aux' if name in auxiliary else 'arg'}:{name}"] = value.asnumpy()
    return arrays
