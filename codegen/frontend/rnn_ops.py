"""The fused RNN operator: its attributes, packed parameters and states -> one LSTM."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray
from tvm import relax

from gluonlstm.checkpoint import unpack
from gluonlstm.errors import ArgumentTypeError, GluonLSTMError, ShapeMismatchError
from gluonlstm.spec import DTYPES, LSTMSpec

from .attributes import Attributes, Unsupported
from .builder import sizes_of
from .operator import Constant, Context, Known, Need, Operator, Value, Zeros, constant
from .sizes import Size, SizeLike, unify

MODES = ("lstm", "gru", "rnn_tanh", "rnn_relu")
DATA, PARAMETERS, HIDDEN, CELL, LENGTHS = range(5)  # inputs of the operator


@dataclass(frozen=True)
class RNNConfig:
    """Attributes of an RNN node; ``spec`` lacks what the parameters tell: input size and dtype."""

    spec: LSTMSpec
    state_outputs: bool

    def bind(self, packed: Constant) -> tuple[LSTMSpec, dict[str, NDArray[Any]]]:
        """Complete the spec from the packed parameter vector; return it and the parameters."""
        what, dtype = f"the packed LSTM parameters {packed.name!r}", str(packed.array.dtype)
        if dtype not in DTYPES:
            raise ArgumentTypeError(f"{what} are {dtype}; expected one of {', '.join(DTYPES)}.")
        if self.spec.num_layers > packed.array.size:  # not worth adding up the sizes of all
            raise ShapeMismatchError(what, f"of {self.spec.num_layers} layers", packed.array.shape)
        spec = self.spec.replace(dtype=dtype)
        params = unpack(spec, packed.array, what)
        return spec.replace(input_size=params["l0_i2h_weight"].shape[1]), params


def _read(attrs: Attributes) -> RNNConfig:
    mode = attrs.word("mode", MODES)
    if mode != "lstm":
        raise Unsupported(f"mode {mode!r} is not supported yet, only 'lstm'")
    dropout = attrs.number("p", 0.0)
    try:
        spec = LSTMSpec(
            hidden_size=attrs.integer("state_size", least=1),
            num_layers=attrs.integer("num_layers", least=1),
            bidirectional=attrs.boolean("bidirectional", False),
            # MXNet accepts 1 too, which LSTMSpec does not; nothing is dropped at inference.
            dropout=dropout if dropout < 1 else 0.0,
            projection_size=attrs.integer("projection_size", None, least=1),
            state_clip_min=attrs.number("lstm_state_clip_min", None),
            state_clip_max=attrs.number("lstm_state_clip_max", None),
            state_clip_nan=attrs.boolean("lstm_state_clip_nan", False),
            use_sequence_length=attrs.boolean("use_sequence_length", False),
        )
    except GluonLSTMError as error:
        raise Unsupported(str(error).removesuffix(".")) from None
    return RNNConfig(spec, attrs.boolean("state_outputs", False))


def _inputs(config: RNNConfig) -> int:
    return 5 if config.spec.use_sequence_length else 4


def _outputs(config: RNNConfig) -> tuple[str, ...]:
    states = ("state_output", "statecell_output") if config.state_outputs else ()
    return ("output", *states)


def _infer(
    config: RNNConfig, known: Sequence[Known | None], needs: Sequence[Need | None]
) -> list[Need | None]:
    packed = known[PARAMETERS]
    if packed is None:
        return [None] * len(known)
    spec, _ = config.bind(constant(packed))
    steps, batch = _steps_and_batch(needs)
    _join_batches(batch, needs[1:])
    h_shape, c_shape = spec.state_shapes(batch)
    result = [
        Need((steps, batch, spec.input_size), spec.dtype),
        None,
        Need(h_shape, spec.dtype, "hidden"),
        Need(c_shape, spec.dtype, "cell"),
        Need((batch,), "int32", "lengths"),
    ]
    return result[: len(known)]


def _steps_and_batch(needs: Sequence[Need | None]) -> tuple[SizeLike, SizeLike]:
    """Return T and N: what the users of the output need, else new free sizes."""
    output = needs[0]
    if output is not None and len(output.shape) == 3:
        return output.shape[0], output.shape[1]
    return Size("T"), Size("N")


def _join_batches(batch: SizeLike, needs: Sequence[Need | None]) -> None:
    """Make the batch that users of the state outputs need the same N."""
    for need in needs:
        if need is not None and not (len(need.shape) == 3 and unify(batch, need.shape[1])):
            raise ShapeMismatchError("a state output", ("L*D", batch, "R or H"), need.shape)


def _convert(config: RNNConfig, context: Context, inputs: Sequence[Value]) -> list[relax.Var]:
    spec, params = config.bind(constant(inputs[PARAMETERS]))
    x = context.tensor(inputs[DATA])
    sizes = sizes_of(x)
    if len(sizes) != 3 or not _is(sizes[2], spec.input_size):
        got = tuple(map(str, sizes))
        raise ShapeMismatchError(
            f"data of {context.name!r}", ("T", "N", spec.input_size), got, "The weights say so."
        )
    h_shape, c_shape = spec.state_shapes(sizes[1])
    h0 = _state(context, inputs[HIDDEN], h_shape, spec.dtype)
    c0 = _state(context, inputs[CELL], c_shape, spec.dtype)
    lengths = context.tensor(inputs[LENGTHS]) if spec.use_sequence_length else None
    context.lstms.append(spec)
    outputs = context.emitter.emit(context.builder, context.name, spec, params, x, h0, c0, lengths)
    return list(outputs[: len(_outputs(config))])


def _state(context: Context, value: Value, shape: tuple[Any, ...], dtype: str) -> relax.Var:
    if isinstance(value, Zeros):
        return context.builder.zeros(shape, dtype)
    return context.tensor(value)


def _is(size: Any, number: int) -> bool:
    """Whether a size in a Relax type is this number."""
    return getattr(size, "value", None) == number


RNN = Operator(
    read=_read,
    inputs=_inputs,
    outputs=_outputs,
    constants=lambda config: (PARAMETERS,),
    infer=_infer,
    convert=_convert,
)
