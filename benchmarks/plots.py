"""Plots of results as PNG files: ratios to the peers, and shares of the roofline."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.peers import OURS
from benchmarks.report import Row, rows
from benchmarks.results import Results

INCHES_A_CASE = 0.42
COLOURS = {
    OURS: "#c1272d",
    "mxnet": "#f0a202",
    "torch": "#7a5195",
    "torch-compile": "#b79bd1",
    "onnxruntime": "#0b6e99",
    "openvino": "#3f9b5c",
}


def write(results: Results, folder: Path) -> list[Path]:
    """Write two plots for each number of threads; return their paths."""
    # Not pyplot, which keeps figures in a global and looks for a display.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    written = []
    found = rows(results)
    for threads in results.thread_counts:
        chosen = [row for row in found if row.threads == threads]
        peers = [peer for peer, about in results.peers.items() if "version" in about]
        for name, draw in (("ratios", _ratios), ("roofline", _roofline)):
            if name == "roofline" and results.limits_for(threads) is None:
                continue
            figure = Figure(figsize=(9, 2 + INCHES_A_CASE * len(chosen)), layout="constrained")
            FigureCanvasAgg(figure)
            draw(figure.add_subplot(), chosen, peers)
            figure.legend(loc="outside right upper", fontsize="small")
            figure.suptitle(f"{results.machine['cpu']}, {threads} thread{'s'[: threads - 1]}")
            path = folder / f"{name}-{threads}.png"
            figure.savefig(path, dpi=120)
            written.append(path)
    return written


def _ratios(axes: Any, found: list[Row], peers: list[str]) -> None:
    """Draw a bar for each peer and case: its time over ours, on a logarithmic axis."""
    others = [peer for peer in peers if peer != OURS]
    height = 0.8 / max(1, len(others))
    for index, peer in enumerate(others):
        places = [(y, row.ratio(peer)) for y, row in enumerate(found)]
        shown = [(y + (index + 0.5) * height - 0.4, ratio) for y, ratio in places if ratio]
        axes.barh(
            [y for y, _ in shown],
            [ratio - 1 for _, ratio in shown],  # from the line at 1
            height=height,
            left=1,
            label=peer,
            color=COLOURS.get(peer),
        )
    axes.axvline(1, color=COLOURS[OURS], linewidth=1.5)
    axes.set_xscale("log")
    axes.set_xlabel("time / gluonlstm's time (right of the line: gluonlstm is faster)")
    _label_cases(axes, found)


def _roofline(axes: Any, found: list[Row], peers: list[str]) -> None:
    """Draw a dot for each peer and case: the least possible time over its time."""
    for peer in peers:
        shown = [(share, y) for y, row in enumerate(found) if (share := row.share(peer))]
        axes.plot(
            [100 * share for share, _ in shown],
            [y for _, y in shown],
            "D" if peer == OURS else "o",
            label=peer,
            color=COLOURS.get(peer),
            zorder=3 if peer == OURS else 2,
        )
    axes.axvline(100, color="black", linewidth=1)
    axes.set_xlim(left=0)
    axes.set_xlabel("share of the roofline, % (least possible time / time)")
    axes.grid(axis="y", linewidth=0.3)
    _label_cases(axes, found)


def _label_cases(axes: Any, found: list[Row]) -> None:
    labels = [
        f"{row.case.name}\n{row.case.shape}" + (f" ({row.bound.limit})" if row.bound else "")
        for row in found
    ]
    axes.set_yticks(range(len(found)), labels, fontsize="x-small")
    axes.set_ylim(len(found) - 0.4, -0.6)  # the first case on top
