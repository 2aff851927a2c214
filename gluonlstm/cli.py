"""The command line: parse, call, print. Nothing imports this module.

Results go to standard output, progress and errors to standard error. The exit code is 1 when a
file or a request is refused, 2 when the command line itself is wrong.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

try:
    import typer
    from rich.console import Console
    from rich.text import Text
except ImportError as error:
    sys.exit(f"The gluonlstm command needs typer and rich ({error}): pip install 'gluonlstm[cli]'")

from gluonlstm.cli_bench import bench
from gluonlstm.errors import GluonLSTMError

if TYPE_CHECKING:
    from gluonlstm.spec import LSTMSpec

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Gluon LSTMs: look into files, convert checkpoints, compile models and run them.",
)
SPEC: Any = {
    "metavar": "JSON",
    "help": 'What a flat vector of weights holds, as {"hidden_size": 256, "num_layers": 2}.',
}
FOR_CHECKPOINTS = "Options when MODEL is a checkpoint"
output = Console()
messages = Console(stderr=True, highlight=False)


class Form(str, Enum):
    """The forms that `convert` writes."""

    gluon = "gluon"
    torch = "torch"
    npz = "npz"
    safetensors = "safetensors"


class Layout(str, Enum):
    """The order of the data's axes."""

    tnc = "TNC"
    ntc = "NTC"


@app.command()
def inspect(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="A checkpoint, symbol file or compiled model.")
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Show what is in a checkpoint, a symbol file or a compiled model."""
    from gluonlstm.describe import describe

    description = describe(file)
    if as_json:
        print(json.dumps(description, indent=2))
        return
    from gluonlstm.tables import tables

    output.print(*tables(description))


@app.command()
def convert(
    source: Annotated[Path, typer.Argument(metavar="IN", help="A checkpoint in any form.")],
    destination: Annotated[Path, typer.Argument(metavar="OUT", help="The file to write.")],
    form: Annotated[Form, typer.Option("--to", help="The form to write.")],
    spec: Annotated[str | None, typer.Option(**SPEC)] = None,
) -> None:
    """Write a checkpoint in another form.

    Every LSTM in it is renamed, other tensors are kept.

    gluon: a .params file for load_parameters. torch: the names of a torch.nn.LSTM's state_dict, as
    .safetensors or .npz. npz, safetensors: the names l0_i2h_weight, l0_h2h_weight, ...
    """
    from gluonlstm import checkpoint

    specs = _parse_spec(spec)
    with messages.status(f"Converting {source.name}"):
        conversion = checkpoint.convert(source, destination, form.value, specs)
    for lstm in conversion.lstms:
        tensors = f"{len(lstm.renamed)} tensors of the LSTM {lstm.name}".rstrip()
        _say(f"Renamed {tensors}, from {lstm.form} names")
    for note in conversion.notes:
        _say(f"Note: {note}")
    _wrote(destination)


@app.command()
def compile(
    model: Annotated[
        Path,
        typer.Argument(
            metavar="MODEL", help="NAME-symbol.json, or a checkpoint that holds an LSTM."
        ),
    ],
    params: Annotated[
        Path | None,
        typer.Argument(
            metavar="PARAMS",
            help="The parameters of a symbol file; by default NAME-0000.params beside it.",
            show_default=False,
        ),
    ] = None,
    destination: Annotated[
        Path, typer.Option("--output", "-o", metavar="FILE", help="The file to write.")
    ] = Path("model.so"),
    target: Annotated[
        str,
        typer.Option(metavar="TARGET", help="What to compile for: a TVM target, a name or JSON."),
    ] = "llvm",
    shape: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=SIZES",
            help="Fix sizes of an input, as in data=?,1,80, where ? stays free. May be repeated.",
        ),
    ] = None,
    lstm: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Which LSTM, if it holds several.",
            rich_help_panel=FOR_CHECKPOINTS,
        ),
    ] = None,
    spec: Annotated[str | None, typer.Option(**SPEC, rich_help_panel=FOR_CHECKPOINTS)] = None,
    layout: Annotated[
        Layout | None,
        typer.Option(
            metavar="TNC|NTC",
            help="Order of the data's axes; TNC unless given.",
            rich_help_panel=FOR_CHECKPOINTS,
        ),
    ] = None,
    clip: Annotated[
        tuple[float, float] | None,
        typer.Option(
            metavar="MIN MAX",
            help="Bounds of the cell state.",
            rich_help_panel=FOR_CHECKPOINTS,
        ),
    ] = None,
    clip_nan: Annotated[
        bool,
        typer.Option(
            "--clip-nan",
            help="Clipping turns a NaN into MIN.",
            rich_help_panel=FOR_CHECKPOINTS,
        ),
    ] = False,
    lengths: Annotated[
        bool,
        typer.Option(
            "--lengths",
            help="Take a length for every sequence.",
            rich_help_panel=FOR_CHECKPOINTS,
        ),
    ] = False,
) -> None:
    """Compile a model into one file that runs without MXNet and without a compiler."""
    from gluonlstm.cli_source import source_of
    from gluonlstm.compiler import compile as compile_model

    fields = {
        "layout": layout and layout.value,
        "state_clip_min": clip and clip[0],
        "state_clip_max": clip and clip[1],
        "state_clip_nan": clip_nan or None,
        "use_sequence_length": lengths or None,
    }
    fields = {key: value for key, value in fields.items() if value is not None}
    shapes = dict(map(_parse_shape, shape or ())) or None
    build_for = _parse_target(target)
    source, weights = source_of(model, params, lstm, _parse_spec(spec), fields)
    started = time.perf_counter()
    with messages.status(f"Compiling {model.name}"):
        compile_model(source, weights, target=build_for, shapes=shapes, path=destination)
    _wrote(destination, f"in {time.perf_counter() - started:.1f} s")


@app.command()
def run(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="A compiled model.")],
    inputs: Annotated[
        Path, typer.Argument(metavar="IN.npz", help="An array for every input, by name.")
    ],
    destination: Annotated[
        Path, typer.Option("--output", "-o", metavar="FILE", help="The npz file to write.")
    ] = Path("out.npz"),
) -> None:
    """Run a compiled model on arrays from an npz file.

    States may be left out; a compiled layer then returns its output alone.
    """
    from gluonlstm import checkpoint, npz_file
    from gluonlstm.runtime import load

    compiled = load(model)
    given: dict[str, Any] = dict(checkpoint.read(inputs))
    started = time.perf_counter()
    outputs = _flat(compiled(**given))
    elapsed = time.perf_counter() - started
    results = dict(zip(compiled.output_names, outputs, strict=False))
    npz_file.save(destination, results)
    for name, array in results.items():
        print(f"{name} {array.dtype} {array.shape}")
    _wrote(destination, f"ran in {elapsed * 1e3:.2f} ms")


app.command()(bench)


def _flat(results: Any) -> list[Any]:
    if isinstance(results, (tuple, list)):
        return [array for item in results for array in _flat(item)]
    return [results]


def _parse_shape(text: str) -> tuple[str, tuple[int | None, ...]]:
    """Parse ``data=?,1,80``."""
    name, _, sizes = text.partition("=")
    try:
        shape = tuple(None if size.strip() == "?" else int(size) for size in sizes.split(","))
    except ValueError:
        shape = ()
    if not name or not shape:
        raise typer.BadParameter(
            f"{text!r} must look like data=?,1,80: the input's name, then its sizes, ? for a free "
            "one.",
            param_hint="--shape",
        )
    return name, shape


def _parse_target(text: str) -> str | dict[str, Any]:
    """Return a target's name, or its JSON object as a dict."""
    return _parse_json(text, "--target") if text.lstrip().startswith("{") else text


def _parse_spec(text: str | None) -> LSTMSpec | None:
    from gluonlstm.spec import LSTMSpec

    return None if text is None else LSTMSpec.from_dict(_parse_json(text, "--spec"))


def _parse_json(text: str, option: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise typer.BadParameter(f"{text!r} is not JSON: {error}", param_hint=option) from None
    if not isinstance(value, dict):
        raise typer.BadParameter(f"{text!r} is not a JSON object.", param_hint=option)
    return value


def _say(text: str) -> None:
    messages.print(Text(text), soft_wrap=True)


def _wrote(path: Path, remark: str = "") -> None:
    from gluonlstm.tables import size

    _say(f"Wrote {path} ({size(path.stat().st_size)}" + (f", {remark})" if remark else ")"))


def _refuse(text: str) -> None:
    messages.print(Text(f"Error: {text}", style="red"), soft_wrap=True)
    sys.exit(1)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line (that of the process, if None is given) and exit."""
    try:
        app(args=arguments, prog_name="gluonlstm")
    except GluonLSTMError as error:
        _refuse(str(error))
    except OSError as error:
        _refuse(f"{error.filename}: {error.strerror}" if error.filename else str(error))


if __name__ == "__main__":
    main()
