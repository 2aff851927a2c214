"""The Gluon block: a drop-in for ``mxnet.gluon.rnn.LSTM`` in which every feature works.

:class:`LSTM` has the parameters, names, checkpoints and exported graphs of MXNet's class. What
differs is the way it computes: :mod:`gluonlstm.block_calls` takes its calls, and for each chooses
the fastest of the ways in :mod:`gluonlstm.block_paths` that gives the right values and gradients.
"""

from __future__ import annotations

import re
from os import PathLike
from typing import Any

from gluonlstm import block_loading
from gluonlstm.block_calls import LSTMCalls
from gluonlstm.block_checks import dtype_name
from gluonlstm.block_export import export
from gluonlstm.errors import InvalidArgumentError
from gluonlstm.hybrid_fixes import install
from gluonlstm.spec import LSTMSpec

__all__ = ["LSTM", "export"]

_PARAMETER = re.compile(r"(l|r)(\d+)_((?:i2h|h2h|h2r)_(?:weight|bias))")


class LSTM(LSTMCalls):
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
        'float32', 'float64' or 'float16' (which CPUs compute in float32).
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
        spec = LSTMSpec(
            hidden_size, num_layers, layout, dropout, bidirectional, input_size, projection_size,
            state_clip_min, state_clip_max, state_clip_nan, dtype_name(dtype),
            use_sequence_length, bias,
        )  # fmt: skip
        super().__init__(
            spec, spec.hidden_size, spec.num_layers, layout, dropout, spec.bidirectional,
            spec.input_size, i2h_weight_initializer, h2h_weight_initializer, i2h_bias_initializer,
            h2h_bias_initializer, spec.projection_size, h2r_weight_initializer, state_clip_min,
            state_clip_max, state_clip_nan, dtype,
            use_sequence_length=spec.use_sequence_length, prefix=prefix, params=params,
        )  # fmt: skip

    def _register_param(self, name: str, *args: Any, **kwargs: Any) -> Any:
        if name.endswith("bias") and not self._spec.bias:
            return None
        return super()._register_param(name, *args, **kwargs)

    def cast(self, dtype: Any) -> None:
        """Change the dtype of parameters and states."""
        self.spec.replace(dtype=dtype_name(dtype))  # raises for a dtype that cannot be
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


install(LSTM)
