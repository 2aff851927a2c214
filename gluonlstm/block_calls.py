"""Calls of the block: what is checked, which path is taken, which cached graph runs.

:class:`LSTMCalls` is ``mxnet.gluon.rnn.LSTM`` with calls that work for every feature;
:class:`gluonlstm.block.LSTM` is what users see.
"""

from __future__ import annotations

import contextlib
import warnings
from typing import Any

from gluonlstm import block_checks as checks
from gluonlstm import block_paths
from gluonlstm.block_compute import compute, legacy, like
from gluonlstm.block_empty import zero_states
from gluonlstm.block_export import canonical_graph
from gluonlstm.block_paths import Path
from gluonlstm.errors import ArgumentTypeError
from gluonlstm.hybrid_fixes import NO_GRAPH, empty_inputs, set_graph, setting
from gluonlstm.mxnet_compat import mx
from gluonlstm.spec import LSTMSpec

STOCK: Any = mx.gluon.rnn.LSTM


class LSTMCalls(mx.gluon.rnn.LSTM):
    """The call side of the block: ``mxnet.gluon.rnn.LSTM`` with the specification before."""

    def __init__(self, spec: LSTMSpec, *args: Any, **kwargs: Any) -> None:
        self._spec = spec
        super().__init__(*args, **kwargs)
        self._path: Path | None = None  # of the call that is being computed
        self._clear_cached_op()

    @property
    def spec(self) -> LSTMSpec:
        """The layer's hyper-parameters; ``input_size`` is 0 until the first call settles it."""
        weight = self.l0_i2h_weight
        width, dtype = max(weight.shape[1], 0), checks.dtype_name(weight.dtype)
        if (width, dtype) != (self._spec.input_size, self._spec.dtype):
            self._spec = self._spec.replace(input_size=width, dtype=dtype)
        return self._spec

    def __call__(self, inputs: Any, states: Any = None, sequence_length: Any = None) -> Any:
        """Compute the LSTM over a batch of sequences, given as arrays or as symbols.

        ``inputs`` is (T, N, C), or (N, T, C) in layout 'NTC', of the layer's dtype. ``states`` is
        [h, c], the initial h (L*D, N, R) and c (L*D, N, H); None is zeros. ``sequence_length``
        (N,), whole numbers from 0 to T of any dtype, is needed with ``use_sequence_length`` and
        else ignored with a UserWarning. Outputs past a row's length are 0, the final states are
        those at its last step, and its backward direction starts there.

        Returns the output (T, N, D*R), or (N, T, D*R); with ``states`` given: output, [h, c].
        Raises ShapeMismatchError or InvalidArgumentError (ValueErrors) or ArgumentTypeError (a
        TypeError) for arguments that do not fit.
        """
        if sequence_length is not None and not self._use_sequence_length:
            warnings.warn(
                "sequence_length is ignored: the layer was made without use_sequence_length=True.",
                stacklevel=2,
            )
            sequence_length = None
        self.skip_states = states is None
        if isinstance(inputs, mx.sym.Symbol):
            return self._call_symbol(inputs, states, sequence_length)
        if isinstance(inputs, mx.nd.NDArray):
            return self._call_array(inputs, states, sequence_length)
        raise ArgumentTypeError(
            f"inputs must be an MXNet array or symbol, got {type(inputs).__name__}. "
            "mx.nd.array makes one from a NumPy array."
        )

    def _call_array(self, inputs: Any, states: Any, lengths: Any) -> Any:
        context = inputs.ctx
        error: Exception | None = None
        if self._is_plain(inputs, context):
            # For a small layer, checks take as long as its arithmetic. The stock operator checks
            # the same at the call; only when it complains is it worth saying it better.
            try:
                return self._run_plain(inputs, states, context)
            except Exception as caught:
                error = caught
        arguments, empty = self._prepare(inputs, states, lengths, context)
        if error and not isinstance(error, mx.gluon.parameter.DeferredInitializationError):
            raise error
        with setting(empty_inputs, True) if empty else contextlib.nullcontext():
            return self._run(arguments)

    def _is_plain(self, inputs: Any, context: Any) -> bool:
        """Whether a call goes to the stock operator, with nothing to be prepared or watched."""
        spec, cls = self.spec, type(self)
        if not spec.input_size or spec.use_sequence_length or spec.projection_size:
            return False
        if cls.hybrid_forward is not STOCK.hybrid_forward or cls.forward is not STOCK.forward:
            return False  # a subclass has its own
        if self._forward_pre_hooks or self._forward_hooks or self._callback:
            return False
        if mx.util.is_np_shape() and 0 in inputs.shape:
            return False
        return self._choose(context.device_type) is Path.STOCK

    def _run_plain(self, inputs: Any, states: Any, context: Any) -> Any:
        """Do what HybridBlock would, less its checks."""
        if states is None:
            states = self._zero_states(inputs, inputs.shape[self._layout.index("N")], context)
        else:
            states = checks.listed_states(states)
        self._use_path(Path.STOCK)
        if not self._active:
            with context:
                params = {name: p.data(context) for name, p in self._reg_params.items()}
                result = self._forward_kernel(mx.nd, inputs, states, None, **params)
            return result[0] if self.skip_states else result
        if self._cached_op is None:
            return self._run((inputs, states))
        flat = (inputs, *states)
        outputs = self._cached_op(
            *(flat[i] if is_input else i.data(context) for is_input, i in self._cached_op_args)
        )
        return outputs if self.skip_states else [outputs[0], outputs[1:]]

    def _prepare(
        self, inputs: Any, states: Any, lengths: Any, context: Any
    ) -> tuple[tuple[Any, ...], bool]:
        """Check the arguments of a call and choose how to compute it.

        Returns all arguments, and whether there is nothing to compute.
        """
        spec = self.spec
        shape = checks.check_data(spec, inputs)
        batch, steps = shape[:2] if spec.layout == "NTC" else shape[1::-1]
        empty_rows = spec.use_sequence_length and checks.check_lengths(
            lengths, steps, batch, context
        )
        if states is None:
            states = self._zero_states(inputs, batch, context)
        else:
            states = checks.check_states(spec, inputs, context, states, batch)
        if not spec.input_size:
            self._set_input_size(shape[2])
        empty = not batch or not steps
        if empty:
            self._use_path(Path.STEPPED)
        else:
            gradients = mx.autograd.is_recording() or mx.autograd.is_training()
            self._use_path(self._choose(context.device_type, gradients, empty_rows))
        arguments = (inputs, states, lengths) if spec.use_sequence_length else (inputs, states)
        return arguments, empty

    def _zero_states(self, inputs: Any, batch: int, context: Any) -> list[Any]:
        options = {"ctx": context, "dtype": inputs.dtype}
        if type(self).begin_state is not STOCK.begin_state:
            return self.begin_state(batch, **options)
        # For a small layer, making two arrays takes as long as its arithmetic: share if they fit.
        shapes = self._spec.state_shapes(batch)
        zeros = {shape: mx.nd.zeros(shape, **options) for shape in set(shapes)}
        return [like(inputs, zeros[shape]) for shape in shapes]

    def _call_symbol(self, inputs: Any, states: Any, lengths: Any) -> Any:
        spec = self.spec
        if spec.use_sequence_length and lengths is None:
            raise checks.missing_lengths()
        self._path = self._choose(self._device_type())
        if states is not None:
            states = checks.listed_states(states)
        elif self._path is Path.STOCK and not mx.util.is_np_shape():
            states = self.begin_state(0, func=mx.sym.zeros)  # 0: N is inferred
        else:
            data = legacy(inputs)
            states = [like(inputs, state) for state in zero_states(mx.sym, spec, data)]
        return self._run((inputs, states, lengths)[: 2 + spec.use_sequence_length])

    def _run(self, arguments: tuple[Any, ...]) -> Any:
        """Go through HybridBlock, which calls hybrid_forward or the cached graph."""
        if self._active or self._path is not Path.STEPPED:
            return mx.gluon.HybridBlock.__call__(self, *arguments)
        # Run operator by operator, a loop takes twice the time. As a graph it is the same loop.
        self._active = True
        try:
            return mx.gluon.HybridBlock.__call__(self, *arguments)
        finally:
            self._active = False

    def _forward_kernel(
        self, F: Any, inputs: Any, states: Any, sequence_length: Any, **params: Any
    ) -> tuple[Any, list[Any]]:
        """Compute on arrays or symbols (F is mx.nd or mx.sym); hybrid_forward calls it."""
        path = self._path
        if path is None or canonical_graph.get():
            path = self._choose(self._device_type())
        if path is Path.STOCK:
            params = self._with_biases(F, params)
            return super()._forward_kernel(F, inputs, states, sequence_length, **params)
        y, h, c = compute(
            F, path, self.spec, inputs, states, sequence_length, params,
            may_be_empty=empty_inputs.get(),
        )  # fmt: skip
        return y, [h, c]

    def _with_biases(self, F: Any, params: dict[str, Any]) -> dict[str, Any]:
        """Return the parameters, with zeros for biases that the stock operator wants."""
        spec, graph = self.spec, canonical_graph.get()
        if spec.bias:
            return params
        params = dict(params)
        for bias in spec.replace(bias=True).parameters():
            if bias.name in params:
                continue
            if graph:
                params[bias.name] = graph.variable(self.prefix + bias.name, bias.shape, spec.dtype)
            else:
                zeros = F.zeros(bias.shape, dtype=spec.dtype)
                params[bias.name] = zeros.as_np_ndarray() if mx.util.is_np_array() else zeros
        return params

    # --- choices ---------------------------------------------------------------------------

    def _choose(
        self, device_type: str, gradients: bool | None = None, empty_rows: bool = False
    ) -> Path:
        if canonical_graph.get():
            return Path.STOCK
        if empty_inputs.get():
            return Path.STEPPED
        return block_paths.choose_path(
            self.spec,
            device_type,
            gradients=gradients,
            onednn=block_paths.has_onednn(),
            static_shape=bool(dict(self._flags).get("static_shape")),
            empty_rows=empty_rows,
        )

    def _device_type(self) -> str:
        """Return where a graph will run: "gpu" if all parameters are, or will be, on GPUs."""
        try:
            contexts = self.l0_i2h_weight.list_ctx()
        except RuntimeError:  # not initialized
            contexts = [mx.current_context()]
        return "gpu" if all(context.device_type == "gpu" for context in contexts) else "cpu"

    def _set_input_size(self, width: int) -> None:
        for direction in "lr"[: self._dir]:
            weight = self._reg_params[f"{direction}0_i2h_weight"]
            if weight._deferred_init:  # else the call is about to fail: not initialized
                weight.shape = (4 * self._hidden_size, width)

    # --- graphs ----------------------------------------------------------------------------

    def _use_path(self, path: Path) -> None:
        """Compute by ``path``, with the graph that was made for calls like this one.

        MXNet keeps one graph a block. But a graph with states returns states, and the path is part
        of the graph.
        """
        self._path = path
        key = (self.skip_states, path, mx.util.is_np_array())
        if key == self._graph_key:
            return
        if self._graph_key is not None:
            self._graphs[self._graph_key] = {name: getattr(self, name) for name in NO_GRAPH}
        set_graph(self, self._graphs.get(key, NO_GRAPH))
        self._graph_key = key

    def _clear_cached_op(self) -> None:
        super()._clear_cached_op()
        # The key of the graph in use, and the graphs of other calls.
        self._graph_key: tuple[Any, ...] | None = None
        self._graphs: dict[tuple[Any, ...], dict[str, Any]] = {}

    def optimize_for(
        self, x: Any, states: Any = None, sequence_length: Any = None, **options: Any
    ) -> None:
        """Hybridize and partition for a backend; takes a call's arguments and MXNet's options."""
        self.skip_states = states is None
        arguments, _ = self._prepare(x, states, sequence_length, x.ctx)
        super().optimize_for(*arguments, **options)
