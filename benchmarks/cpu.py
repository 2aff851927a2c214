"""Measure LSTMs on this CPU: gluonlstm beside MXNet, torch, ONNX Runtime and OpenVINO.

    python -m benchmarks.cpu [--threads 1,all] [--shapes ten|standard|all] [--peers NAME,...]

See README.md in this folder for what is measured and how.
"""

from __future__ import annotations

import argparse
import datetime
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from benchmarks import cases, driver, host, limits, oracle, report, results
from benchmarks.peers import MODULES, OURS
from gluonlstm.bench import is_busy

RESULTS = Path(__file__).with_name("results")
ROUNDS, BLOCK_S = 7, 0.2

WIDTH = 140  # of the tables, where the output is no terminal

output = Console(width=None if sys.stdout.isatty() else WIDTH)
messages = Console(stderr=True, highlight=False)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark, print its tables and write its files.

    Exits with 1 if gluonlstm failed or computed something wrong.
    """
    options = _parse(arguments)
    if options.report:
        found = results.read(options.report)
        folder = options.out or options.report.parent
    else:
        found = run(options)
        folder = options.out or _folder()
    folder.mkdir(parents=True, exist_ok=True)
    if not options.report:
        path = folder / "results.json"
        path.write_text(found.dumps())
        messages.print(f"Wrote {path}", soft_wrap=True)
    _plot(found, folder)
    output.print(report.report(found))
    if any(m.peer == OURS and m.reason for m in found.measurements):
        sys.exit(1)


def _plot(found: results.Results, folder: Path) -> None:
    try:
        from benchmarks import plots

        written = plots.write(found, folder)
    except ImportError as error:
        messages.print(f"No plots: {error}; pip install 'gluonlstm\\[bench]'")
        return
    for path in written:
        messages.print(f"Wrote {path}", soft_wrap=True)


def run(options: argparse.Namespace) -> results.Results:
    """Measure everything that the options ask for."""
    about: dict[str, Any] = {
        "started": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        "rounds": options.rounds,
        "block_s": options.block,
        "load_average_at_start": host.load_average(),
    }
    about["busy_at_start"] = is_busy(about["load_average_at_start"])
    found = results.Results(about, host.describe(), {}, [], [])
    for warning in report.warnings(found):
        messages.print(warning)
    before = host.usage()
    with messages.status("Looking for peers"):
        found.peers = driver.versions(options.peers)
    if "unavailable" in found.peers.get(OURS, {}):
        sys.exit(f"{OURS} cannot be measured: {found.peers[OURS]['unavailable']}")
    with messages.status("Measuring the machine's limits"):
        _measure_limits(found, options.threads)
    for line in str(report.machine(found)).splitlines():
        messages.print(line, markup=False, soft_wrap=True)
    _measure_cases(found, options)
    about["load_average_at_end"] = host.load_average()
    about["others_share"] = host.others_share(before, host.usage())
    return found


def _measure_limits(found: results.Results, counts: Sequence[int]) -> None:
    cpus = [limits.spread(host.cores(), count) for count in counts]
    try:
        found.limits.extend(limits.measure(cpus))
    except RuntimeError as error:
        found.run["limits_unavailable"] = str(error)


def _measure_cases(found: results.Results, options: argparse.Namespace) -> None:
    """Run every case with every number of threads; an interruption ends it with what there is."""
    present = [peer for peer, about in found.peers.items() if "version" in about]
    wanted: dict[cases.Case, oracle.Expected] = {}
    blocks = (options.rounds + 1) * len(present) * len(options.cases) * len(options.threads)
    with _progress() as bar:
        task = bar.add_task("", total=blocks)
        try:
            for threads in options.threads:
                with driver.peer_processes(present, threads) as processes:
                    for case in options.cases:
                        bar.update(task, description=f"{case.name}: expected outputs")
                        expected = wanted.get(case) or oracle.expected(case)
                        if len(options.threads) > 1 and case.T * case.N * case.H < _KEPT_ELEMENTS:
                            wanted[case] = expected
                        found.measurements += driver.run_case(
                            case,
                            threads,
                            processes,
                            expected,
                            rounds=options.rounds,
                            block_s=options.block,
                            progress=_stepper(bar, task, case, threads),
                        )
        except KeyboardInterrupt:
            found.run["interrupted"] = True


_KEPT_ELEMENTS = 1 << 22  # outputs that are not larger are kept for the next number of threads


def _stepper(bar: Progress, task: Any, case: cases.Case, threads: int) -> Callable[[str], None]:
    def step(peer: str) -> None:
        bar.update(task, advance=1, description=f"{threads} thr. {case.name}: {peer}")

    return step


def _progress() -> Progress:
    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    return Progress(*columns, TextColumn("{task.description}"), console=messages)


def _folder() -> Path:
    return RESULTS / f"{host.label()}-{datetime.date.today().isoformat()}"


# --- options -----------------------------------------------------------------------------------


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.cpu",
        description="Measure LSTMs on this CPU, in gluonlstm and in other libraries.",
    )
    add = parser.add_argument
    add("--threads", type=_threads, default=_threads("1,all"), metavar="1,all",
        help="numbers of threads, one after the other; all: one for each core")  # fmt: skip
    add("--shapes", choices=cases.GRIDS, default="ten", help="which cases (default: ten)")
    add("--only", metavar="NAME,...", help="of those, the ones whose names begin so")
    add("--case", type=_case, action="append", metavar="T=50,N=1,C=64,H=128",
        help="measure this case instead, with L, D, P, clip if wanted; may be repeated",
    )  # fmt: skip
    add("--peers", type=_peers, default=list(MODULES), metavar="NAME,...",
        help=f"of {', '.join(MODULES)}; gluonlstm is always measured")  # fmt: skip
    add("--rounds", type=int, default=ROUNDS, metavar="N",
        help=f"how many times every peer has its turn (default: {ROUNDS})")  # fmt: skip
    add("--block", type=float, default=BLOCK_S, metavar="SECONDS",
        help=f"how long a turn is, at least three calls (default: {BLOCK_S})")  # fmt: skip
    add("--out", type=Path, metavar="DIR",
        help="where to write (default: benchmarks/results/MACHINE-DATE)")  # fmt: skip
    add("--report", type=Path, metavar="results.json",
        help="measure nothing; print and plot these results")  # fmt: skip
    options = parser.parse_args(arguments)
    if options.rounds < 1 or options.block <= 0:
        parser.error("--rounds must be at least 1, --block more than 0")
    options.cases = options.case or _chosen(cases.grid(options.shapes), options.only)
    if not options.cases:
        parser.error(f"no case of {options.shapes} has a name like {options.only}")
    return options


def _chosen(grid: Sequence[cases.Case], names: str | None) -> list[cases.Case]:
    starts = tuple(names.split(",")) if names else ("",)
    return [case for case in grid if case.name.startswith(starts)]


def _case(text: str) -> cases.Case:
    values: dict[str, Any] = {}
    try:
        for word in text.split(","):
            key, _, number = word.partition("=")
            values[key] = float(number) if key == "clip" else int(number)
        return cases.Case(
            text.replace("=", "").replace(",", "-"), source="the command line", **values
        )
    except (TypeError, ValueError) as error:
        raise argparse.ArgumentTypeError(
            f"{text!r} must look like T=50,N=1,C=64,H=128, with L, D, P or clip ({error})"
        ) from None


def _threads(text: str) -> list[int]:
    cores = len(host.cores())
    try:
        counts = [cores if word == "all" else int(word) for word in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} must look like 1,all") from None
    if min(counts) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} holds a number less than 1")
    return list(dict.fromkeys(counts))


def _peers(text: str) -> list[str]:
    names = text.split(",")
    unknown = sorted(set(names) - set(MODULES))
    if unknown:
        known = ", ".join(MODULES)
        raise argparse.ArgumentTypeError(f"{', '.join(unknown)}: no such peer; choose from {known}")
    return [name for name in MODULES if name in names or name == OURS]


if __name__ == "__main__":
    main()
