"""The Gluon block: a drop-in for ``mxnet.gluon.rnn.LSTM`` in which every feature works.

:class:`LSTM` has the parameters, names, checkpoints and exported graphs of MXNet's class. What
differs is the way it computes: for each call, or graph, :mod:`gluonlstm.block_paths` chooses the
fastest that gives the right values and gradients.
"""

from __future__ import annotations

import contextlib
import functools
import re
import warnings
from collections.abc import Mapping
from os import PathLike
from typing import Any

import numpy as np

from gluonlstm import block_checks as checks
from gluonlstm import block_loading, block_paths
from gluonlstm.block_empty import fill, zero_states
from gluonlstm.block_export import canonical_graph, export
from gluonlstm.block_paths import Path
from gluonlstm.errors import ArgumentTypeError, InvalidArgumentError
from gluonlstm.hybrid_fixes import NO_GRAPH, empty_inputs, install, set_graph, setting
from gluonlstm.mxnet_compat import mx
from gluonlstm.spec import LSTMSpec

__all__ = ["LSTM", "export"]

_PARAMETER = re.compile(r"(l|r)(\d+)_((?:i2h|h2h|h2r)_(?:weight|bias))")


class LSTM(mx.gluon.rnn.LSTM):
    """A multi-layer long short-term memory network: ``mxnet.gluon.rnn.LSTM`` made whole.

    Letters: T time steps, N batch, C input features, H hidden_size, P projection_size, R = P or H,
    L num_layers, D directions (1 or 2). ``gluonlstm.spec`` has parameter names and shapes, and
    ``gluonlstm.reference`` what exactly is computed.

    Arguments, all as in MXNet but for the last:

    hidden_size : int
        H, width of the cells.
    num_layers : int, default 1
        L. More than 10 can be saved and loaded too.
    layout : {'TNC', 'NTC'}, default 'TNC'
        Order of the axes of input and output.
    dropout : float, default 0
        Probability, below 1, with which elements of the outputs of every layer but the last are
        set to 0 in training.
    bidirectional : bool, default False
        Whether each layer also runs backward in time; outputs are concatenated.
    input_size : int, default 0
        C. 0 takes it from the first input.
    i2h_weight_initializer, h2h_weight_initializer, h2r_weight_initializer : str or Initializer
        For the input, recurrent and projection weights; None is the one of ``initialize``.
    i2h_bias_initializer, h2h_bias_initializer : str or Initializer, default 'zeros'
        For the two biases. 'lstmbias' sets the forget gate's part to 1.
    projection_size : int, default None
        P. Projects each cell's output; the projection is fed back, and is the output. None or 0 is
        no projection.
    h2r_weight_initializer
        See above.
    state_clip_min, state_clip_max : float, default None
        Bounds for the cell states after every step; both or neither.
    state_clip_nan : bool, default False
        Whether NaN in a cell state becomes ``state_clip_min`` rather than spread.
    dtype : str or numpy.dtype, default 'float32'
        'float32', 'float64', or 'float16' (on GPUs only).
    prefix, params
        As for every Gluon block: of the parameters' names, and to share parameters.
    use_sequence_length : bool, default False
        Whether calls take ``sequence_length``.
    bias : bool, default True
        Whether there are biases. False is beyond MXNet; exported graphs then have biases of 0.

    InvalidArgumentError (a ValueError) or ArgumentTypeError (a TypeError) say which argument has no
    meaning.

    >>> layer = gluonlstm.LSTM(100, num_layers=2)
    >>> layer.initialize()
    >>> y = layer(mx.nd.random.uniform(shape=(5, 3, 10)))  # (5, 3, 100)
    """

    def __init__(
        self,
        hidden_size: int,
        num_layers: int = 1,
        layout: str = "TNC",
        dropout: float = 0,
        bidirectional: bool = False,
        input_size: int = 0,
        i2h_weight_initializer: Any = None,
        h2h_weight_initializer: Any = None,
        i2h_bias_initializer: Any = "zeros",
        h2h_bias_initializer: Any = "zeros",
        projection_size: int | None = None,
        h2r_weight_initializer: Any = None,
        state_clip_min: float | None = None,
        state_clip_max: float | None = None,
        state_clip_nan: bool = False,
        dtype: Any = "float32",
        *,
        prefix: str | None = None,
        params: Any = None,
        use_sequence_length: bool = False,
        bias: bool = True,
    ) -> None:
        self._spec = spec = LSTMSpec(
            hidden_size, num_layers, layout, dropout, bidirectional, input_size, projection_size,
            state_clip_min, state_clip_max, state_clip_nan, _dtype_name(dtype),
            use_sequence_length, bias,
        )  # fmt: skip
        super().__init__(
            spec.hidden_size, spec.num_layers, layout, dropout, spec.bidirectional,
            spec.input_size, i2h_weight_initializer, h2h_weight_initializer, i2h_bias_initializer,
            h2h_bias_initializer, spec.projection_size, h2r_weight_initializer, state_clip_min,
            state_clip_max, state_clip_nan, dtype,
            use_sequence_length=spec.use_sequence_length, prefix=prefix, params=params,
        )  # fmt: skip
        self._path: Path | None = None  # of the call that is being computed
        self._forget_graphs()

    def _register_param(self, name: str, *args: Any, **kwargs: Any) -> Any:
        if name.endswith("bias") and not self._spec.bias:
            return None
        return super()._register_param(name, *args, **kwargs)

    @property
    def spec(self) -> LSTMSpec:
        """The layer's hyper-parameters; ``input_size`` is 0 until the first call settles it."""
        weight = self.l0_i2h_weight
        width, dtype = max(weight.shape[1], 0), _dtype_name(weight.dtype)
        if (width, dtype) != (self._spec.input_size, self._spec.dtype):
            self._spec = self._spec.replace(input_size=width, dtype=dtype)
        return self._spec

    # --- calls -----------------------------------------------------------------------------

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
        arguments = self._prepare(inputs, states, lengths)
        with setting(empty_inputs, True) if _is_empty(inputs) else contextlib.nullcontext():
            return self._run(arguments)

    def _prepare(self, inputs: Any, states: Any, lengths: Any) -> tuple[Any, ...]:
        """Check the arguments of a call, choose how to compute it; return all arguments."""
        spec = self.spec
        checks.check_data(spec, inputs)
        batch, steps = (inputs.shape[spec.layout.index(axis)] for axis in "NT")
        context = inputs.ctx
        empty_rows = spec.use_sequence_length and checks.check_lengths(
            lengths, steps, batch, context
        )
        if states is None:
            states = self.begin_state(batch, ctx=context, dtype=inputs.dtype)
        else:
            states = checks.check_states(spec, states, batch, context)
        if not spec.input_size:
            self._set_input_size(inputs.shape[2])
        if _is_empty(inputs):
            self._path = Path.STEPPED
        else:
            gradients = mx.autograd.is_recording() or mx.autograd.is_training()
            self._path = self._choose(context.device_type, gradients, empty_rows)
        self._use_graph((self.skip_states, self._path, mx.util.is_np_array()))
        return (inputs, states, lengths) if spec.use_sequence_length else (inputs, states)

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
            data = _legacy(inputs)
            states = [_like(inputs, state) for state in zero_states(mx.sym, spec, data)]
        return self._run((inputs, states, lengths)[: 2 + spec.use_sequence_length])

    def _run(self, arguments: tuple[Any, ...]) -> Any:
        """Go through HybridBlock, which calls hybrid_forward or the cached graph."""
        # Run operator by operator, a loop costs twice the time. As a graph it is the same loop.
        active = self._active
        self._active = active or self._path is Path.STEPPED
        try:
            return mx.gluon.HybridBlock.__call__(self, *arguments)
        finally:
            self._active = active

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
        # Everything but the stock operator is written with legacy operators.
        x, h0, c0 = (_legacy(tensor) for tensor in (inputs, *states))
        lengths = None if sequence_length is None else _legacy(sequence_length)
        weights = {name: _legacy(value) for name, value in params.items()}
        x = self._swap_layout(F, x)
        kernel = functools.partial(block_paths.KERNELS[path], F, self.spec, params=weights)
        if empty_inputs.get():
            filled = fill(F, self.spec, x, h0, c0, lengths)
            y, h, c = kernel(filled.x, filled.h0, filled.c0, filled.lengths)
            y, h, c = filled.restore(y, h, c)
        else:
            y, h, c = kernel(x, h0, c0, lengths)
        y, h, c = (_like(inputs, tensor) for tensor in (self._swap_layout(F, y), h, c))
        return y, [h, c]

    def _swap_layout(self, F: Any, x: Any) -> Any:
        return F.swapaxes(x, 0, 1) if self._layout == "NTC" else x

    def _with_biases(self, F: Any, params: Mapping[str, Any]) -> dict[str, Any]:
        """Return the parameters, with zeros for biases that the stock operator wants."""
        spec, graph = self.spec, canonical_graph.get()
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
            weight.shape = (4 * self._hidden_size, width)

    # --- graphs ----------------------------------------------------------------------------

    def _use_graph(self, key: tuple[Any, ...]) -> None:
        """Change to the graph that was made for calls like this one.

        MXNet keeps one graph a block. But a graph with states returns states, and the path is part
        of the graph.
        """
        if key == self._graph_key:
            return
        if self._graph_key is not None:
            self._graphs[self._graph_key] = {name: getattr(self, name) for name in NO_GRAPH}
        set_graph(self, self._graphs.get(key, NO_GRAPH))
        self._graph_key = key

    def _forget_graphs(self) -> None:
        self._graphs: dict[tuple[Any, ...], dict[str, Any]] = {}
        self._graph_key: tuple[Any, ...] | None = None

    def _clear_cached_op(self) -> None:
        super()._clear_cached_op()
        self._forget_graphs()

    def optimize_for(
        self, x: Any, states: Any = None, sequence_length: Any = None, **options: Any
    ) -> None:
        """Hybridize and partition for a backend; takes a call's arguments and MXNet's options."""
        self.skip_states = states is None
        super().optimize_for(*self._prepare(x, states, sequence_length), **options)

    # --- parameters ------------------------------------------------------------------------

    def cast(self, dtype: Any) -> None:
        """Change the dtype of parameters and states."""
        self.spec.replace(dtype=_dtype_name(dtype))  # raises for a dtype that cannot be
        super().cast(dtype)

    def _unfuse(self) -> Any:
        """Return a stack of LSTMCells that shares the parameters, as MXNet's class does."""
        if not self._spec.bias:
            raise InvalidArgumentError("LSTMCell has biases, so bias=False cannot be unfused.")
        return super()._unfuse()

    def _collect_params_with_prefix(self, prefix: str = "") -> dict[str, Any]:
        # As in MXNet, whose pattern takes a single digit for the layer.
        dot = f"{prefix}." if prefix else ""
        params = {}
        for name, parameter in self._reg_params.items():
            letter, layer, kind = _PARAMETER.fullmatch(name).groups()  # type: ignore[union-attr]
            cell = f"{letter}_cell." if self._dir == 2 else ""
            params[f"{dot}_unfused.{layer}.{cell}{kind}"] = parameter
        for name, child in self._children.items():
            params.update(child._collect_params_with_prefix(dot + name))
        return params

    def load_parameters(
        self,
        filename: str | PathLike[str],
        ctx: Any = None,
        allow_missing: bool = False,
        ignore_extra: bool = False,
        cast_dtype: bool = False,
        dtype_source: str = "current",
    ) -> None:
        """Load the parameters from a checkpoint with any naming of an LSTM.

        Besides what ``save_parameters`` writes, that is every file format and naming of
        :mod:`gluonlstm.checkpoint`: names with the full prefix or without it, exported
        (``arg:``), of unfused cells, packed into one vector, of torch.nn.LSTM. Arguments as in
        MXNet. Raises MissingParameterError, ShapeMismatchError, InvalidArgumentError (tensors of no
        parameter; ValueErrors) and ArgumentTypeError (another dtype without ``cast_dtype``).
        """
        arrays = block_loading.read(
            filename, self.spec, self.prefix, allow_missing=allow_missing, ignore_extra=ignore_extra
        )
        block_loading.assign(self._reg_params, arrays, ctx, cast_dtype, dtype_source)


def _dtype_name(dtype: Any) -> str:
    try:
        name = np.dtype(dtype).name
    except TypeError:
        name = str(dtype)
    if name == "bfloat16":
        raise ArgumentTypeError(
            "MXNet cannot make bfloat16 arrays. Train in float32; gluonlstm.compile can store "
            "weights in bfloat16."
        )
    return name


def _is_empty(array: Any) -> bool:
    return 0 in array.shape


def _legacy(tensor: Any) -> Any:
    """Return an mx.np array or symbol as the mx.nd or mx.sym one of the same data."""
    return tensor.as_nd_ndarray() if hasattr(tensor, "as_nd_ndarray") else tensor


def _like(model: Any, tensor: Any) -> Any:
    """Return a legacy tensor as the kind that ``model`` is."""
    numpy_kind = isinstance(model, (mx.np.ndarray, mx.sym.np._Symbol))
    return tensor.as_np_ndarray() if numpy_kind else tensor


install(LSTM)
