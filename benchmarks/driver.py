"""Measure peers side by side: one process each, taking turns in short blocks."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from benchmarks import host
from benchmarks.cases import Case
from benchmarks.oracle import MOST_ERROR, Expected, largest_error
from benchmarks.results import Measurement

ROOT = Path(__file__).resolve().parents[1]
THREAD_VARIABLES = (
    "GLUONLSTM_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "TVM_NUM_THREADS",
)
LONGEST_ERROR = 300  # characters


class PeerProcess:
    """A peer in a process of its own, stopped (SIGSTOP) while it is not asked for anything.

    Stopped because thread pools spin for a while after a call, and would take the cores from the
    peer whose turn it is.
    """

    def __init__(self, peer: str, threads: int, log: Path) -> None:
        environment = {**os.environ, **dict.fromkeys(THREAD_VARIABLES, str(threads))}
        self.peer, self.log = peer, log
        with log.open("w") as stderr:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "benchmarks.worker", peer, str(threads)],
                cwd=ROOT,
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
            )

    def ask(self, op: str, **request: Any) -> dict[str, Any]:
        """Send one request and wait for its answer, which has "error" if the process died."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._signal(signal.SIGCONT)
        try:
            print(json.dumps({"op": op, **request}), file=self._process.stdin, flush=True)
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            code = self._process.wait()
            return {"error": f"its process ended with {code}: {self._last_words()}"}
        self._signal(signal.SIGSTOP)
        return json.loads(line)

    def close(self) -> None:
        """End the process."""
        self._signal(signal.SIGCONT)
        for stream in (self._process.stdin, self._process.stdout):
            assert stream is not None
            with suppress(BrokenPipeError):
                stream.close()
        try:
            self._process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _signal(self, number: signal.Signals) -> None:
        if self._process.poll() is None:
            self._process.send_signal(number)

    def _last_words(self) -> str:
        lines = self.log.read_text(errors="replace").strip().splitlines()
        return (lines[-1] if lines else "nothing was printed")[-LONGEST_ERROR:]


@contextmanager
def peer_processes(peers: Sequence[str], threads: int) -> Iterator[dict[str, PeerProcess]]:
    """Start the peers' processes and end them afterwards, whatever happens."""
    with TemporaryDirectory(prefix="gluonlstm-") as folder, ExitStack() as stack:
        processes = {}
        for peer in peers:
            processes[peer] = PeerProcess(peer, threads, Path(folder, f"{peer}.log"))
            stack.callback(processes[peer].close)
        yield processes


def versions(peers: Sequence[str]) -> dict[str, dict[str, str]]:
    """Ask each peer for its version: {"version": ...} or {"unavailable": why} by name."""
    with peer_processes(peers, 1) as processes:
        found = {}
        for peer, process in processes.items():
            answer = process.ask("version")
            reason = answer.get("error")
            found[peer] = {"unavailable": reason} if reason else {"version": answer["version"]}
        return found


def run_case(
    case: Case,
    threads: int,
    processes: dict[str, PeerProcess],
    wanted: Expected,
    *,
    rounds: int,
    block_s: float,
    progress: Callable[[str], None],
) -> list[Measurement]:
    """Measure one case: every peer once a round, in an order that is reversed every other round.

    A peer that refuses the case, fails, or computes something else than the oracle is not timed.
    ``progress`` is called with a peer's name after each block, timed or not: so ``rounds + 1``
    times for each.
    """
    measurements = []
    for peer, process in processes.items():
        measurements.append(_load(case, threads, process, wanted))
        progress(peer)
    for turn in range(rounds):
        for measurement in measurements if turn % 2 == 0 else reversed(measurements):
            if not measurement.reason:
                _time(measurement, processes[measurement.peer], block_s)
            progress(measurement.peer)
    return measurements


def _time(measurement: Measurement, process: PeerProcess, block_s: float) -> None:
    """Add a block of samples, and what others took of the machine during it."""
    before = host.usage()
    answer = process.ask("time", budget_s=block_s)
    if "error" in answer:
        measurement.reason = answer["error"]
        measurement.blocks_s, measurement.others_shares = [], []
        return
    others = host.others_share_of_block(before, host.usage(), answer["cpu_s"])
    measurement.blocks_s.append(answer["samples_s"])
    measurement.others_shares.append(others)


def _load(case: Case, threads: int, process: PeerProcess, wanted: Expected) -> Measurement:
    """Have a peer prepare the case, and check what it computes."""
    measurement = Measurement(process.peer, case, threads)
    with TemporaryDirectory(prefix="gluonlstm-") as folder:
        path = Path(folder, "outputs.npz")
        answer = process.ask("load", case=case.to_dict(), outputs=str(path))
        measurement.reason = answer.get("refused") or answer.get("error") or ""
        if measurement.reason:
            return measurement
        with np.load(path) as file:
            measurement.error = largest_error(dict(file), wanted)
    measurement.oracle = wanted.oracle
    if not measurement.right:
        measurement.reason = f"wrong: off by {measurement.error:.1e}, more than {MOST_ERROR:.0e}"
    return measurement
