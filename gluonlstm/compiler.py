"""compile: tell what is given, hand it to the code generator, load the result.

The sources are symbol files, Gluon layers and nets, specifications with weights, and torch LSTMs.
MXNet is needed only for Gluon objects and torch only for torch's, which bring them along.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from os import PathLike, fspath
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Lock
from types import ModuleType
from typing import Any

from gluonlstm import symbol
from gluonlstm.checkpoint import canonical, read
from gluonlstm.checkpoint_files import as_numpy
from gluonlstm.errors import (
    ArgumentTypeError,
    GluonLSTMError,
    InvalidArgumentError,
    MissingDependencyError,
)
from gluonlstm.runtime import CompiledModel, load
from gluonlstm.spec import LSTMSpec
from gluonlstm.symbol import Graph

SOURCES = (
    "a symbol file (its path or its JSON text), a Gluon HybridBlock, an LSTMSpec with weights as "
    "params, a mapping of one LSTM's weights, or a torch.nn.LSTM or its state_dict"
)
_one_at_a_time = Lock()  # TVM keeps the module that is being built in a global

FORWARD_METHODS = ("__call__", "forward", "hybrid_forward", "_forward_kernel")


@dataclass(frozen=True)
class _GraphSource:
    """A symbol graph and its checkpoint."""

    graph: Graph
    params: Mapping[str, Any]


@dataclass(frozen=True)
class _LayerSource:
    """One LSTM; ``returns`` says like what the compiled model is called (see ModelInfo)."""

    spec: LSTMSpec
    params: Mapping[str, Any]  # canonical names
    returns: str


def compile(
    source: Any,
    params: Any = None,
    *,
    target: str | Mapping[str, Any] = "llvm",
    spec: LSTMSpec | None = None,
    shapes: Mapping[str, Sequence[int | str | None]] | None = None,
    outputs: Sequence[str] | None = None,
    path: str | PathLike[str] | None = None,
) -> CompiledModel:
    """Compile a model, and load it.

    ``source`` is one of:

    - The path or the JSON text of a symbol file, of any MXNet version; ``params`` is its
      checkpoint. The model's inputs are the graph's free inputs under their own names (states that
      feed an LSTM directly may be left out of a call), its outputs the graph's heads.
    - A Gluon layer, ``gluonlstm.LSTM`` or ``mxnet.gluon.rnn.LSTM``, with its parameters
      initialised. The inputs are ``data``, ``h0``, ``c0``, and ``sequence_length`` if the layer
      uses it; the model is called like the layer.
    - A net, any other HybridBlock: compiled as :func:`gluonlstm.export` writes it.
    - An :class:`LSTMSpec`, with ``params`` its weights in any naming; or a mapping of weights
      alone, from which the specification is inferred (or given as ``spec``). Called like a layer.
      The model has the specification's dtype.
    - A ``torch.nn.LSTM``, or its ``state_dict()``, with ``spec`` for what weights do not tell, such
      as the layout. Called like torch's module; the inputs are those of a layer, of which
      ``sequence_length`` may be left out.

    ``params`` is a mapping of names to arrays, the path of a checkpoint, or several paths.
    ``target`` is what to compile for: "llvm" is this machine's CPU, "cuda" NVIDIA GPUs from sm_80
    on; a dict names others: ``{"kind": "llvm", "mcpu": "x86-64-v3"}``, ``{"kind": "cuda", "arch":
    ["sm_75", "sm_90"], "math": "tf32"}``. Neither a GPU nor a driver is needed to compile for GPUs,
    only to call the model.
    ``shapes`` maps input names to sizes: numbers fix a dimension, None leaves it free; by default T
    and N are free. ``outputs`` names nodes or outputs of a graph to compute instead of its heads.
    ``path`` is where to keep the compiled file; by default it is temporary, and ``model.save``
    writes one.

    Raises ArgumentTypeError or InvalidArgumentError for a source that is none of these, or that
    the other arguments do not fit; SymbolFormatError or ParamsFormatError for damaged files;
    UnsupportedOperatorError for a graph that cannot be compiled, with all reasons;
    MissingParameterError or ShapeMismatchError for parameters that do not fit;
    MissingDependencyError if the TVM compiler, or for "cuda" a CUDA compiler, is not installed.
    """
    _check_options(target, shapes, outputs)
    request = _read_source(source, params, spec)
    if isinstance(request, _LayerSource) and outputs is not None:
        raise InvalidArgumentError("outputs is only for symbol files and nets.")
    api = _code_generator()
    with _one_at_a_time, TemporaryDirectory(prefix="gluonlstm-") as folder:
        file = Path(folder, "model.so") if path is None else Path(path)
        if isinstance(request, _GraphSource):
            api.compile_graph(
                request.graph,
                request.params,
                target=target,
                shapes=shapes,
                outputs=outputs,
                path=file,
            )
        else:
            api.compile_lstm(
                request.spec,
                request.params,
                target=target,
                shapes=shapes,
                returns=request.returns,
                optional_lengths=request.returns == "torch",  # a PackedSequence has some
                path=file,
            )
        # A model for GPUs is often compiled where there is none.
        return load(file, temporary=path is None, deferred=True)


def _check_options(target: Any, shapes: Any, outputs: Any) -> None:
    """Refuse options of a wrong type by name, before anything is read."""
    if not isinstance(target, (str, Mapping)):
        raise ArgumentTypeError(f"target must be a name or a dict, got {type(target).__name__}.")
    if shapes is not None and not isinstance(shapes, Mapping):
        raise ArgumentTypeError(
            "shapes must be a dict of input names and sizes, such as "
            f"{{'data': (None, 1, 80)}}, got {type(shapes).__name__}."
        )
    for name, sizes in (shapes or {}).items():
        if isinstance(sizes, str) or not isinstance(sizes, Iterable):
            raise ArgumentTypeError(
                f"shapes[{name!r}] must be a tuple of sizes, such as (None, 1, 80), got {sizes!r}."
            )
    if isinstance(outputs, str):
        raise ArgumentTypeError(f"outputs must be a list of names, such as [{outputs!r}].")


def _code_generator() -> ModuleType:
    try:
        return import_module("gluonlstm.codegen.api")
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] not in ("tvm", "tvm_ffi"):
            raise
        raise MissingDependencyError(
            f"compiling needs the TVM compiler, and {error.name} is not installed; "
            "run: pip install gluonlstm[compile]"
        ) from error


# --- telling sources apart -----------------------------------------------------------------


def _read_source(source: Any, params: Any, spec: LSTMSpec | None) -> _GraphSource | _LayerSource:
    if spec is not None and not isinstance(spec, LSTMSpec):
        raise ArgumentTypeError(f"spec must be an LSTMSpec, got {type(spec).__name__}.")
    if isinstance(source, (str, PathLike, Graph)):
        _only(source, spec=spec)
        return _GraphSource(_read_graph(source), _read_params(params))
    if isinstance(source, LSTMSpec):
        _only("an LSTMSpec", spec=spec)
        if params is None:
            raise InvalidArgumentError(
                "an LSTMSpec needs weights: give a mapping of arrays or the path of a checkpoint "
                "as params."
            )
        return _layer(_read_params(params), source, "layer")
    if _comes_from("mxnet", source):
        _only(f"a {type(source).__name__}", spec=spec)
        return _read_mxnet(source, params)
    if isinstance(source, Mapping) and source:
        _only("a mapping of weights", params=params)
        from_torch = all(_comes_from("torch", value) for value in source.values())
        return _layer(source, spec, "torch" if from_torch else "layer")
    if _comes_from("torch", source):
        _only(f"a {type(source).__name__}", params=params, spec=spec)
        return _read_torch(source)
    raise ArgumentTypeError(f"cannot compile {_described(source)}; source must be {SOURCES}.")


def _only(source: object, **unwanted: Any) -> None:
    """Refuse arguments that a source makes meaningless."""
    for name, value in unwanted.items():
        if value is not None:
            raise InvalidArgumentError(f"{name} cannot be given with {source}, which has its own.")


def _described(source: object) -> str:
    if isinstance(source, Mapping):
        return "an empty mapping"
    return f"an object of type {type(source).__module__}.{type(source).__qualname__}"


def _comes_from(package: str, value: object) -> bool:
    """Whether an object's class, or one that it is derived from, is defined in ``package``."""
    modules = (getattr(cls, "__module__", "") for cls in type(value).__mro__)
    return any(module == package or module.startswith(f"{package}.") for module in modules)


# --- files ---------------------------------------------------------------------------------


def _read_graph(source: str | PathLike[str] | Graph) -> Graph:
    if isinstance(source, Graph):
        return source
    if isinstance(source, str) and source.lstrip().startswith("{"):
        return symbol.loads(source)
    return symbol.load(source)


def _read_params(params: Any) -> dict[str, Any]:
    """Read a mapping, a checkpoint or several as one mapping of NumPy arrays."""
    if params is None:
        return {}
    if isinstance(params, Mapping):
        return as_numpy(params)
    if isinstance(params, (str, PathLike)):
        return read(params)
    if not isinstance(params, (list, tuple)):
        raise ArgumentTypeError(
            f"params must be a mapping of arrays, a path or several, got {type(params).__name__}."
        )
    merged: dict[str, Any] = {}
    for part in params:
        arrays = _read_params(part)
        twice = sorted(merged.keys() & arrays.keys())
        if twice:
            place = fspath(part) if isinstance(part, (str, PathLike)) else "params"
            raise InvalidArgumentError(f"{place} holds {', '.join(twice[:8])} once more.")
        merged |= arrays
    return merged


def _layer(arrays: Mapping[str, Any], spec: LSTMSpec | None, returns: str) -> _LayerSource:
    """Bring the weights of one LSTM under canonical names; the spec decides on the dtype."""
    found, params = canonical(arrays, spec)
    return _LayerSource(found if spec is None else found.replace(dtype=spec.dtype), params, returns)


# --- Gluon ---------------------------------------------------------------------------------


def _read_mxnet(source: Any, params: Any) -> _GraphSource | _LayerSource:
    import gluonlstm.block as block
    from gluonlstm.mxnet_compat import mx

    if isinstance(source, mx.sym.Symbol):
        return _GraphSource(symbol.loads(source.tojson()), _read_params(params))
    if not isinstance(source, mx.gluon.HybridBlock):
        remedy = "make it a HybridBlock, or compile the HybridBlocks in it"
        raise ArgumentTypeError(
            f"cannot compile {_described(source)}"
            + (f": {remedy}." if isinstance(source, mx.gluon.Block) else f"; give {SOURCES}.")
        )
    _only(f"the initialised {type(source).__name__}", params=params)
    if _is_plain_layer(source, (block.LSTM, mx.gluon.rnn.LSTM)):
        layer = source.spec if isinstance(source, block.LSTM) else _stock_spec(source)
        return _LayerSource(layer, _layer_parameters(source, layer), "layer")
    if isinstance(source, mx.gluon.rnn.rnn_layer._RNNLayer):
        raise ArgumentTypeError(f"cannot compile {source} yet; of recurrent layers only LSTM.")
    return _trace(source, block.export)


def _trace(net: Any, export: Callable[[Any, Path], tuple[str, str]]) -> _GraphSource:
    with TemporaryDirectory(prefix="gluonlstm-") as folder:
        try:
            symbol_file, params_file = export(net, Path(folder, "net"))
        except GluonLSTMError:
            raise
        except Exception as error:  # whatever the net's own code or MXNet raises
            raise InvalidArgumentError(
                f"{type(net).__name__} could not be traced: {error} A net that takes several "
                "inputs must have been called with them once, hybridized."
            ) from error
        return _GraphSource(symbol.load(symbol_file), dict(read(params_file)))


def _is_plain_layer(source: Any, layers: tuple[type, ...]) -> bool:
    """Whether a block computes just what one of these layers does, as far as its class tells."""
    for cls in type(source).__mro__:
        if cls in layers:
            return True
        if any(name in vars(cls) for name in FORWARD_METHODS):
            return False
    return False


def _stock_spec(layer: Any) -> LSTMSpec:
    """Return the hyper-parameters of a mxnet.gluon.rnn.LSTM."""
    weight = layer.l0_i2h_weight
    return LSTMSpec(
        hidden_size=layer._hidden_size,
        num_layers=layer._num_layers,
        layout=layer._layout,
        dropout=layer._dropout if layer._dropout < 1 else 0.0,  # nothing is dropped at inference
        bidirectional=layer._dir == 2,
        input_size=max(weight.shape[1], 0),
        projection_size=layer._projection_size,
        state_clip_min=layer._lstm_state_clip_min,
        state_clip_max=layer._lstm_state_clip_max,
        state_clip_nan=layer._lstm_state_clip_nan,
        dtype=_dtype_name(weight.dtype),
        use_sequence_length=layer._use_sequence_length,
    )


def _layer_parameters(layer: Any, spec: LSTMSpec) -> dict[str, Any]:
    try:
        return {
            parameter.name: getattr(layer, parameter.name).list_data()[0].asnumpy()
            for parameter in spec.parameters()
        }
    except RuntimeError as error:  # DeferredInitializationError among them
        raise InvalidArgumentError(
            f"the parameters of {layer} have no values yet; call initialize() or "
            "load_parameters(), and give the layer its input_size or call it once."
        ) from error


# --- torch ---------------------------------------------------------------------------------


def _read_torch(source: Any) -> _LayerSource:
    torch = sys.modules["torch"]  # the source's class comes from there
    if not isinstance(source, torch.nn.LSTM):
        hint = ""
        if isinstance(source, torch.nn.Module):
            names = [name for name, m in source.named_modules() if isinstance(m, torch.nn.LSTM)]
            held = ", ".join(repr(name) for name in names) or "none"
            hint = f" Of torch's modules only nn.LSTM is supported; in this one: {held}."
        raise ArgumentTypeError(
            f"cannot compile {_described(source)}; source must be {SOURCES}.{hint}"
        )
    weights = source.state_dict()
    if any(tensor.is_meta for tensor in weights.values()):
        raise InvalidArgumentError(f"the parameters of {source} are on the meta device.")
    spec = LSTMSpec(
        hidden_size=source.hidden_size,
        num_layers=source.num_layers,
        layout="NTC" if source.batch_first else "TNC",
        dropout=source.dropout if source.dropout < 1 else 0.0,  # nothing is dropped at inference
        bidirectional=source.bidirectional,
        input_size=source.input_size,
        projection_size=source.proj_size,
        dtype=_dtype_name(source.weight_ih_l0.dtype),
        bias=source.bias,
    )
    return _layer(weights, spec, "torch")


def _dtype_name(dtype: Any) -> str:
    """Name a dtype of NumPy, MXNet or torch."""
    return getattr(dtype, "__name__", str(dtype)).removeprefix("torch.")
