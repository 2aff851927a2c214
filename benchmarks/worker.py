"""Run one peer in this process, as the driver says.

    python -m benchmarks.worker PEER THREADS

reads one JSON request from each line of standard input and answers each with a line on standard
output: {"op": "version"}, {"op": "load", "case": {...}, "outputs": FILE.npz} and {"op": "time",
"budget_s": 0.2}. An answer has "error" if the request failed, "refused" if the peer cannot compute
the case. Whatever libraries print goes to standard error.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import peers
from benchmarks.cases import Case
from gluonlstm import timer


class Worker:
    """One peer, and the case that is loaded."""

    def __init__(self, peer: str, threads: int) -> None:
        self._peer, self._threads = peers.load(peer), threads
        self._prepared: peers.Prepared | None = None
        self._estimate_s = 0.0

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """Carry out one request."""
        operations = {"version": self._version, "load": self._load, "time": self._time}
        try:
            return operations[request.pop("op")](**request)
        except Exception as error:  # a library's; the others go on
            traceback.print_exc()
            return {"error": f"{type(error).__name__}: {error}"[:500]}

    def _version(self) -> dict[str, Any]:
        return {"version": self._peer.version()}

    def _load(self, case: dict[str, Any], outputs: str) -> dict[str, Any]:
        """Prepare a case and save what the peer computes."""
        self._prepared = None  # frees the last case's memory before the next one takes its own
        wanted = Case(**case)
        reason = self._peer.refuses(wanted)
        if reason:
            return {"refused": reason}
        prepared = self._peer.prepare(wanted, wanted.weights(), wanted.data(), self._threads)
        np.savez(Path(outputs), **prepared.outputs())
        self._estimate_s = timer.estimate(prepared.call)
        self._prepared = prepared
        return {"estimate_s": self._estimate_s}

    def _time(self, budget_s: float) -> dict[str, Any]:
        if self._prepared is None:
            raise RuntimeError("no case is loaded.")
        started = time.process_time()  # of all threads
        samples = timer.measure(self._prepared.call, budget_s, self._estimate_s)
        return {"samples_s": samples, "cpu_s": time.process_time() - started}


def end_with_parent() -> None:
    """Have the kernel kill this process when the driver dies (Linux): it may be stopped then."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


_PR_SET_PDEATHSIG = 1  # of <sys/prctl.h>


def main() -> None:
    """Answer requests until standard input ends."""
    end_with_parent()
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    worker = Worker(sys.argv[1], int(sys.argv[2]))
    for line in sys.stdin:
        print(json.dumps(worker.answer(json.loads(line))), file=answers, flush=True)


if __name__ == "__main__":
    main()
