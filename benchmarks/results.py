"""What a run of the benchmark found, as it is written to JSON and read back."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.cases import Case
from benchmarks.limits import Limits
from benchmarks.oracle import MOST_ERROR
from gluonlstm.timer import Summary, summarise

FORMAT = 1


@dataclass
class Measurement:
    """One peer on one case with a number of threads.

    ``blocks_s`` holds the seconds of every call, a list for each round, and ``others_shares`` which
    share of the machine's CPU time others took meanwhile (None: not known). ``error`` is the
    largest absolute difference from the oracle, None if nothing was computed; ``reason`` says why
    not, or why there are no times.
    """

    peer: str
    case: Case
    threads: int
    blocks_s: list[list[float]] = field(default_factory=list)
    others_shares: list[float | None] = field(default_factory=list)
    error: float | None = None
    oracle: str = ""
    reason: str = ""

    @property
    def right(self) -> bool:
        """Whether the outputs are the oracle's, up to rounding."""
        return self.error is not None and self.error <= MOST_ERROR

    @property
    def summary(self) -> Summary | None:
        """The times in short, None without any or if the outputs are wrong."""
        return summarise(self.blocks_s) if self.right and self.blocks_s else None


@dataclass
class Results:
    """One run.

    ``peers`` maps each name to {"version": ...} or {"unavailable": why}. ``run`` holds when it
    started, how it was called, and the load; see benchmarks.cpu. ``limits`` is empty if they could
    not be measured, and ``run["limits_unavailable"]`` then says why.
    """

    run: dict[str, Any]
    machine: dict[str, Any]
    peers: dict[str, dict[str, str]]
    limits: list[Limits]
    measurements: list[Measurement]

    def of(self, case: Case, threads: int) -> dict[str, Measurement]:
        """Return the measurements of one case by peer."""
        return {
            measurement.peer: measurement
            for measurement in self.measurements
            if measurement.case == case and measurement.threads == threads
        }

    def limits_for(self, threads: int) -> Limits | None:
        """Return the limits for a number of threads."""
        return next((limits for limits in self.limits if limits.threads == threads), None)

    @property
    def cases(self) -> list[Case]:
        """All cases, in the order in which they ran."""
        return list(dict.fromkeys(measurement.case for measurement in self.measurements))

    @property
    def thread_counts(self) -> list[int]:
        """All numbers of threads, in the order in which they ran."""
        return list(dict.fromkeys(measurement.threads for measurement in self.measurements))

    # --- JSON ------------------------------------------------------------------------------

    def dumps(self) -> str:
        """Return the results as JSON, one measurement a line."""
        rows = []
        for measurement in self.measurements:
            row = asdict(measurement)
            row["blocks_s"] = [[round(s, 9) for s in block] for block in measurement.blocks_s]
            if row["error"] is not None and not math.isfinite(row["error"]):
                row["error"] = "inf"  # JSON has no infinity
            rows.append(row)
        parts = {
            "format": FORMAT,
            "run": self.run,
            "machine": self.machine,
            "peers": self.peers,
            "limits": [asdict(limits) for limits in self.limits],
        }
        heads = [f'"{key}": {json.dumps(value, indent=1)}' for key, value in parts.items()]
        lines = ",\n".join(json.dumps(row) for row in rows)
        return "{\n" + ",\n".join(heads) + f',\n"measurements": [\n{lines}\n]\n}}\n'

    @classmethod
    def loads(cls, text: str) -> Results:
        """Read what :meth:`dumps` wrote; ValueError for another format."""
        values = json.loads(text)
        if values.get("format") != FORMAT:
            raise ValueError(f"the results have format {values.get('format')}, expected {FORMAT}.")
        return cls(
            run=values["run"],
            machine=values["machine"],
            peers=values["peers"],
            limits=[_limits(row) for row in values["limits"]],
            measurements=[_measurement(row) for row in values["measurements"]],
        )


def read(path: Path) -> Results:
    """Read the results of an earlier run."""
    return Results.loads(path.read_text())


def _limits(row: dict[str, Any]) -> Limits:
    pairs: Sequence[Sequence[Any]] = row["read"]
    return Limits(row["threads"], row["fma_gflops"], tuple((size, rate) for size, rate in pairs))


def _measurement(row: dict[str, Any]) -> Measurement:
    error = math.inf if row["error"] == "inf" else row["error"]
    return Measurement(**{**row, "case": Case(**row["case"]), "error": error})
