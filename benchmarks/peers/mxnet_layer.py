"""Stock MXNet: mxnet.gluon.rnn.LSTM, hybridized with static memory and shapes."""

from __future__ import annotations

from collections.abc import Mapping

from benchmarks.cases import Case, Floats
from benchmarks.peers import Prepared, float32


def version() -> str:
    """Return MXNet's version."""
    from gluonlstm.mxnet_compat import mx

    return mx.__version__


def refuses(case: Case) -> str:
    """Clipping is ignored (or an error) on the CPU."""
    return "MXNet does not clip states on a CPU" if case.clip else ""


def prepare(case: Case, weights: Mapping[str, Floats], data: Floats, threads: int) -> Prepared:
    """Build the layer; threads come from OMP_NUM_THREADS."""
    from gluonlstm.mxnet_compat import mx

    layer = mx.gluon.rnn.LSTM(
        case.H,
        num_layers=case.L,
        bidirectional=case.D == 2,
        input_size=case.C,
        projection_size=case.P or None,
    )
    layer.initialize()
    for name, array in weights.items():
        getattr(layer, name).set_data(mx.nd.array(array))
    layer.hybridize(static_alloc=True, static_shape=True)
    x = mx.nd.array(data)

    def call() -> None:
        layer(x).wait_to_read()  # the engine is asynchronous

    return Prepared(call, lambda: {"y": float32(layer(x).asnumpy())})
