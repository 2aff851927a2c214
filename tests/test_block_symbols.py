"""The block as part of symbols: variables, Module, SymbolBlock, imports in other processes."""

from __future__ import annotations

import numpy as np
import pytest

from tests.mxnet_cases import KINDS, arguments, layer, listed

pytestmark = pytest.mark.mxnet


@pytest.mark.parametrize("spec", KINDS.values(), ids=list(KINDS))
@pytest.mark.parametrize("given", [False, True])
def test_symbols(spec, given):
    from gluonlstm.mxnet_compat import mx

    net = layer(spec)
    x, states, *lengths = arguments(spec)
    names = ["x", "h", "c", "n"]
    variables = [mx.sym.var(name) for name in names]
    symbols = variables[3:] if spec.use_sequence_length else []
    result = net(variables[0], variables[1:3] if given else None, *symbols)
    outputs = mx.sym.Group(listed(result))
    for steps, batch in ((5, 2), (3, 4)):  # T and N are free
        x, states, *lengths = arguments(spec, steps, batch)
        tensors = {"x": x, **({"h": states[0], "c": states[1]} if given else {})}
        tensors |= {"n": lengths[0]} if lengths else {}
        values = {p.name: p.data() for p in net._reg_params.values()}
        executor = outputs.bind(mx.cpu(), {**tensors, **values})
        expected = listed(net(x, states if given else None, *lengths))
        for a, b in zip(executor.forward(), expected, strict=True):
            np.testing.assert_allclose(a.asnumpy(), b.asnumpy(), atol=1e-6)
