"""Tables of results for a terminal: times, ratios to the best peer, shares of the roofline."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable
from dataclasses import dataclass

from rich import box
from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from benchmarks import host
from benchmarks.cases import Case
from benchmarks.limits import Bound, bound
from benchmarks.peers import OURS
from benchmarks.results import Measurement, Results
from gluonlstm.timer import geometric_mean

STOCK = "mxnet"
NOISY = 0.15  # of the median: a wider spread of the rounds' ratios is marked


@dataclass(frozen=True)
class Row:
    """One case with a number of threads: every peer's measurement and what follows from them.

    Ratios are a peer's median time over ours, so larger than 1 where we are faster; None where one
    of the two has no time. ``low`` and ``high`` are the least and greatest ratio to the best peer
    in a single round.
    """

    case: Case
    threads: int
    measurements: dict[str, Measurement]
    bound: Bound | None

    def median_s(self, peer: str) -> float | None:
        """Return a peer's median seconds."""
        measurement = self.measurements.get(peer)
        summary = measurement.summary if measurement else None
        return summary.median_s if summary else None

    @property
    def best_peer(self) -> str | None:
        """The fastest of the others."""
        times = {peer: self.median_s(peer) for peer in self.measurements if peer != OURS}
        timed = {peer: seconds for peer, seconds in times.items() if seconds is not None}
        return min(timed, key=timed.__getitem__) if timed else None

    def ratio(self, peer: str | None) -> float | None:
        """Return a peer's time over ours."""
        ours, theirs = self.median_s(OURS), self.median_s(peer) if peer else None
        return theirs / ours if ours and theirs else None

    @property
    def range(self) -> tuple[float, float] | None:
        """The least and the greatest ratio to the best peer, round by round."""
        peer = self.best_peer
        if peer is None or self.ratio(peer) is None:
            return None
        pairs = zip(self._rounds(peer), self._rounds(OURS), strict=False)
        ratios = [theirs / ours for theirs, ours in pairs]
        return min(ratios), max(ratios)

    def _rounds(self, peer: str) -> list[float]:
        return [statistics.median(block) for block in self.measurements[peer].blocks_s]

    @property
    def others(self) -> float | None:
        """The largest share of the CPU time that others took during one of its blocks."""
        blocks = [share for m in self.measurements.values() for share in m.others_shares]
        return max((share for share in blocks if share is not None), default=None)

    def share(self, peer: str) -> float | None:
        """Return which share of the roofline a peer reaches: the bound over its time."""
        seconds = self.median_s(peer)
        return self.bound.total_s / seconds if self.bound and seconds else None


def rows(results: Results) -> list[Row]:
    """Return a row for each number of threads and case, in the order in which they ran."""
    found = []
    for threads in results.thread_counts:
        limits = results.limits_for(threads)
        for case in results.cases:
            measurements = results.of(case, threads)
            if measurements:
                least = bound(case, limits) if limits else None
                found.append(Row(case, threads, measurements, least))
    return found


def geometric_means(found: Iterable[Row]) -> dict[str, tuple[float, int]]:
    """Return the geometric mean of the ratios, and of how many: to the best, and to each peer."""
    ratios: dict[str, list[float]] = {}
    for row in found:
        for name, peer in [("best", row.best_peer), *((peer, peer) for peer in row.measurements)]:
            ratio = row.ratio(peer)
            if ratio is not None and peer != OURS:
                ratios.setdefault(name, []).append(ratio)
    return {name: (geometric_mean(values), len(values)) for name, values in ratios.items()}


# --- tables ------------------------------------------------------------------------------------


def report(results: Results) -> RenderableType:
    """Return everything that is printed at the end."""
    found = rows(results)
    parts: list[RenderableType] = [*warnings(results), machine(results)]
    for threads in results.thread_counts:
        chosen = [row for row in found if row.threads == threads]
        parts += [_times(results, threads, chosen), _means(chosen)]
    return Group(*parts, *_problems(results))


def warnings(results: Results) -> list[RenderableType]:
    """Say loudly if the machine was not quiet; nothing if it was."""
    run = results.run
    said = []
    if run.get("busy_at_start"):
        said.append(f"The load average was {run['load_average_at_start']:.2f} before the start.")
    others = run.get("others_share")
    if others is not None and others > host.BUSY_SHARE:
        said.append(f"Other processes took {others:.0%} of the CPU time while this ran.")
    if not said:
        return []
    text = "\n".join([*said, "Do not quote these figures: measure again on a quiet machine."])
    return [Panel(Text(text), title="THE MACHINE IS BUSY", style="bold red", box=box.HEAVY)]


def machine(results: Results) -> RenderableType:
    """Describe the machine, its limits and the peers."""
    caches = ", ".join(
        f"L{cache['level']} {cache['size']}"
        for cache in results.machine.get("caches", ())
        if cache["kind"] != "Instruction"
    )
    lines = [f"{results.machine['cpu']}, {results.machine['cores_used']} cores; {caches}"]
    for limits in results.limits:
        kib, mib = 1 << 10, 1 << 20
        rates = ", ".join(
            f"{name} {limits.read_gb_per_s(size):.0f}"
            for name, size in (
                ("16 KB", 16 * kib),
                ("512 KB", 512 * kib),
                ("4 MB", 4 * mib),
                ("128 MB", 128 * mib),
            )
        )
        lines.append(
            f"{_threads(limits.threads)}: {limits.fma_gflops:.0f} GFLOP/s; reads of "
            f"a thread's {rates} GB/s"
        )
    if not results.limits:
        lines.append(f"Limits were not measured: {results.run.get('limits_unavailable', '')}")
    for peer, about in results.peers.items():
        lines.append(f"{peer} {about.get('version') or 'absent: ' + about['unavailable']}")
    return Text("\n".join(lines))


def _times(results: Results, threads: int, found: list[Row]) -> Table:
    """Return the table of one number of threads."""
    peers = [peer for peer, about in results.peers.items() if "version" in about]
    table = Table(
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
        title=f"Median times, {_threads(threads)}",
    )
    table.add_column("case", no_wrap=True)
    for peer in peers:
        table.add_column(peer, justify="right")
    for heading in ("best peer", "ratio", "rounds", "roofline", "limit", "others"):
        table.add_column(heading, justify="left" if heading in ("best peer", "limit") else "right")
    for row in found:
        times = [_cell(row.measurements.get(peer)) for peer in peers]
        label = Text(row.case.name).append(f"\n{row.case.shape}", style="dim")
        table.add_row(label, *times, *_verdict(row))
    return table


def _verdict(row: Row) -> list[str | Text]:
    ratio, spread, share = row.ratio(row.best_peer), row.range, row.share(OURS)
    style = "" if ratio is None else "green" if ratio >= 1 else "red"
    noise = "" if spread is None or ratio is None else f"{spread[0]:.2f}-{spread[1]:.2f}"
    if spread and ratio and spread[1] - spread[0] > NOISY * ratio:
        noise += " !"
    return [
        row.best_peer or "",
        Text("" if ratio is None else f"{ratio:.2f}", style=style),
        noise,
        "" if share is None else f"{share:.0%}",
        row.bound.limit if row.bound else "",
        Text(
            "" if row.others is None else f"{row.others:.0%}",
            style="bold red" if (row.others or 0) > host.BUSY_SHARE else "",
        ),
    ]


def _cell(measurement: Measurement | None) -> str | Text:
    if measurement is None or measurement.reason:
        wrong = measurement is not None and measurement.error is not None
        return Text("wrong" if wrong else "-", style="bold red" if wrong else "dim")
    summary = measurement.summary
    return "-" if summary is None else duration(summary.median_s)


def _means(found: list[Row]) -> RenderableType:
    means = geometric_means(found)
    if not means:
        return Text("No ratios: nothing was measured beside gluonlstm.")
    text = ", ".join(f"{name} {mean:.2f} ({count})" for name, (mean, count) in means.items())
    return Text(f"Geometric means of peer's time / ours (cases): {text}\n")


def _problems(results: Results) -> list[RenderableType]:
    """List every reason for a missing time once, and the largest error."""
    found: dict[str, list[str]] = {}
    for m in results.measurements:
        if m.reason:
            place = f"{m.case.name} ({_threads(m.threads)})"
            found.setdefault(f"{m.peer}: {m.reason}", []).append(place)
    lines = [f"Not timed: {reason}: {', '.join(places)}" for reason, places in found.items()]
    errors = [m.error for m in results.measurements if m.right and m.error is not None]
    if errors:
        oracles = ", ".join(sorted({m.oracle for m in results.measurements if m.oracle}))
        lines.append(
            f"{len(errors)} outputs checked against {oracles}: "
            f"the largest difference is {max(errors):.1e}."
        )
    return [Text("\n".join(lines))] if lines else []


def duration(seconds: float) -> str:
    """Write a time with three digits: ``12.3 us``."""
    units = (("s", 1.0), ("ms", 1e-3), ("us", 1e-6))
    unit, scale = next((pair for pair in units if seconds >= pair[1]), units[-1])
    value = seconds / scale
    digits = max(0, 2 - math.floor(math.log10(value))) if value > 0 else 0
    return f"{value:.{min(digits, 2)}f} {unit}"


def _threads(count: int) -> str:
    return f"{count} thread{'s'[: count - 1]}"
