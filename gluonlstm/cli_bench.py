"""The command that times a compiled model."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from gluonlstm.timer import Summary

messages = Console(stderr=True, highlight=False)
BESIDE = "Beside stock MXNet"


def bench(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="A compiled model.")],
    steps: Annotated[
        int | None, typer.Option(metavar="T", help="The size T of its inputs, if it is free.")
    ] = None,
    batch: Annotated[
        int | None, typer.Option(metavar="N", help="The size N of its inputs, if it is free.")
    ] = None,
    size: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=SIZE", help="Another free size. May be repeated."),
    ] = None,
    threads: Annotated[
        int | None,
        typer.Option(min=1, help="How many threads; by default one for each core."),
    ] = None,
    seconds: Annotated[float, typer.Option(min=0.01, help="About how long it takes.")] = 3.0,
    symbol: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="The NAME-symbol.json that it was compiled from.",
            rich_help_panel=BESIDE,
        ),
    ] = None,
    params: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="The parameters of the symbol file.", rich_help_panel=BESIDE
        ),
    ] = None,
) -> None:
    """Time a compiled model on random inputs, from Python."""
    from gluonlstm import bench as benchmark
    from gluonlstm.runtime import load

    if (symbol is None) != (params is None):
        raise typer.BadParameter("--symbol and --params must be given together.")
    load_average = os.getloadavg()[0]
    if benchmark.is_busy(load_average):
        text = f"The machine is busy: its load average is {load_average:.2f}. Times will be long."
        messages.print(Text(text, style="bold red"))
    compiled = load(model, num_threads=threads)
    sizes = {"T": steps, "N": batch, **dict(map(_parse_size, size or ()))}
    chosen = {name: count for name, count in sizes.items() if count is not None}
    inputs = benchmark.random_inputs(compiled, chosen)
    with messages.status(f"Timing {model.name} with {compiled.num_threads} threads"):
        beside = None
        if symbol is not None and params is not None:
            beside = benchmark.mxnet_program(symbol, params, inputs, compiled.num_threads)
        times = benchmark.bench(compiled, inputs, seconds, beside)
    rows = {"compiled": times.ours} | ({"MXNet": times.mxnet} if times.mxnet else {})
    Console().print(_table(rows))
    if times.mxnet is not None and times.difference is not None:
        ratio = times.mxnet.median_s / times.ours.median_s
        print(f"MXNet / compiled: {ratio:.2f}; largest difference {times.difference:.1e}")


def _table(rows: dict[str, Summary]) -> Table:
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("microseconds a call")
    for heading in ("median", "10 %", "90 %", "fastest", "calls"):
        table.add_column(heading, justify="right")
    for name, summary in rows.items():
        times = (summary.median_s, summary.low_s, summary.high_s, summary.fastest_s)
        table.add_row(name, *(f"{time * 1e6:.1f}" for time in times), str(summary.samples))
    return table


def _parse_size(text: str) -> tuple[str, int]:
    """Parse ``S=4``."""
    name, _, count = text.partition("=")
    if not name or not count.isdigit():
        raise typer.BadParameter(f"{text!r} must look like S=4.", param_hint="--size")
    return name, int(count)
