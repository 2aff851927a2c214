"""Measure one of three programs that run the same model, in a process of its own.

    python -m examples.char_lm.measure stock|block|compiled FOLDER

prints JSON: seconds from the first import until the model is ready, milliseconds a step (one
character, its state carried on) and a pass (64 characters in 32 rows), bytes of the process's
memory at its peak and of the shared libraries in it. The logits of FOLDER/test.npz go to FOLDER.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

STEPS, PASSES = 400, 15  # calls of which the median is taken

Model = tuple[Callable[..., Any], Callable[[int], Any]]  # run, begin_state


def gluon_model(kind: str, folder: Path) -> Model:
    """Load the Gluon model with stock MXNet's LSTM, or with gluonlstm's."""
    import gluonlstm
    from examples.char_lm.model import CharModel
    from gluonlstm.mxnet_compat import mx

    lstm = mx.gluon.rnn.LSTM if kind == "stock" else gluonlstm.LSTM
    model = CharModel(lstm, **json.loads((folder / "model.json").read_text()))
    model.load_parameters(str(folder / "model.params"))
    model.hybridize(static_alloc=True, static_shape=True)

    def run(tokens: Any, states: Any) -> tuple[Any, Any]:
        logits, *states = model(mx.nd.array(tokens), *states)
        return logits.asnumpy(), states

    return run, model.lstm.begin_state


def compiled_model(folder: Path) -> Model:
    """Load the deployed program's model."""
    from examples.char_lm.generate import CharModel

    model = CharModel(folder)
    return model, model.begin_state


def median_ms(run: Callable[..., Any], tokens: Any, states: Any, calls: int) -> float:
    """Return the median milliseconds of a call that gets the states of the one before."""
    times = []
    for _ in range(calls // 5 + calls):
        started = time.perf_counter()
        _, states = run(tokens, states)
        times.append(time.perf_counter() - started)
    return statistics.median(times[-calls:]) * 1e3


def peak_memory_bytes() -> int:
    """Return the most memory that this process had (Linux)."""
    # Not getrusage: its figure survives exec, and is then that of the process that started us.
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in x)
    return int(line.split()[1]) * 1024


def library_bytes() -> int:
    """Return the total size of the shared libraries that this process has mapped (Linux)."""
    with Path("/proc/self/maps").open() as maps:
        paths = {line.split(maxsplit=5)[5].strip() for line in maps if ".so" in line}
    return sum(Path(path).stat().st_size for path in paths if Path(path).is_file())


def main() -> None:
    """Load one of the three, measure it, and print the results."""
    kind, folder = sys.argv[1], Path(sys.argv[2])
    started = time.perf_counter()
    run, begin = compiled_model(folder) if kind == "compiled" else gluon_model(kind, folder)
    ready = time.perf_counter() - started

    import numpy as np

    with np.load(folder / "test.npz") as arrays:
        tokens, batch = arrays["tokens"], arrays["batch"]
    logits, _ = run(tokens, begin(tokens.shape[1]))
    np.save(folder / f"{kind}-logits.npy", logits)
    results = {
        "ready_s": ready,
        "step_ms": median_ms(run, tokens[:1, :1], begin(1), STEPS),
        "pass_ms": median_ms(run, batch, begin(batch.shape[1]), PASSES),
        "memory_bytes": peak_memory_bytes(),
        "library_bytes": library_bytes(),
        "loaded": " ".join(sorted({"mxnet", "tvm"} & sys.modules.keys())),
    }
    print(json.dumps(results))


if __name__ == "__main__":
    main()
