"""A character language model from training to a program without MXNet.

Trains on Python's own help text with gluonlstm.LSTM, loads the checkpoint into stock MXNet, exports
and compiles the LSTM, lets a fresh process without MXNet write text, and compares all three.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn, track
from rich.table import Table

import gluonlstm
from examples.char_lm import generate, text
from examples.char_lm.model import EMBEDDING, CharModel
from examples.char_lm.train import train
from gluonlstm.mxnet_compat import mx
from gluonlstm.tables import size

KINDS = {  # how measure.py calls them -> heading
    "stock": "stock MXNet",
    "block": "gluonlstm.LSTM",
    "compiled": "compiled",
}
TEST_STEPS, TEST_ROWS = 256, 8  # of held-out text, on which logits are compared
BATCH_STEPS, BATCH_ROWS = 64, 32  # of a pass that is timed
ROUNDS = 3  # of measurements, of which the median is shown

console = Console()


def main() -> None:
    """Run the whole demonstration."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=75, help="how long to train")
    parser.add_argument("--hidden", type=int, default=256, help="width of the LSTM")
    parser.add_argument("--characters", type=int, default=600, help="how much text to write")
    parser.add_argument("--folder", type=Path, default=Path("demo-output"))
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)

    corpus = text.read()
    vocabulary = "".join(sorted(set(corpus)))
    seen, held_out = (text.encode(part, vocabulary) for part in text.split(corpus))
    train_and_save(seen, len(vocabulary), options.hidden, options.seconds, options.folder)
    export_and_compile(vocabulary, options.folder)
    targets = save_test(held_out, options.folder)
    console.rule("A fresh process without MXNet writes")
    deployed = [generate.__file__, str(options.folder), "--characters", str(options.characters)]
    subprocess.run([sys.executable, *deployed], check=True)
    report(measure_all(options.folder), targets, options.folder)


def train_and_save(
    tokens: np.ndarray, vocabulary: int, hidden: int, seconds: float, folder: Path
) -> None:
    """Train with gluonlstm.LSTM; write model.params and the sizes in model.json."""
    mx.random.seed(0)
    sizes = {"vocabulary": vocabulary, "hidden": hidden}
    model = CharModel(gluonlstm.LSTM, **sizes)
    columns = ["{task.description}", BarColumn(), TimeRemainingColumn(), "{task.fields[status]}"]
    with Progress(
        *(TextColumn(item) if isinstance(item, str) else item for item in columns),
        console=console,
    ) as progress:
        count = train(model, tokens, seconds, progress)
    console.print(f"Trained on {count:,} characters of Python's help text.")
    model.save_parameters(str(folder / "model.params"))
    (folder / "model.json").write_text(json.dumps(sizes))


def export_and_compile(vocabulary: str, folder: Path) -> None:
    """Write lstm.so, and what the deployed program needs around it in model.npz."""
    sizes = json.loads((folder / "model.json").read_text())
    model = CharModel(gluonlstm.LSTM, **sizes)
    model.load_parameters(str(folder / "model.params"))
    # The last call decides what the exported graph takes and returns: here the states, too.
    model.lstm.hybridize()
    model.lstm(mx.nd.zeros((1, 1, EMBEDDING)), model.lstm.begin_state(1))
    gluonlstm.export(model.lstm, folder / "lstm")
    started = time.perf_counter()
    with console.status("Compiling lstm-symbol.json"):
        compiled = gluonlstm.compile(folder / "lstm-symbol.json", folder / "lstm-0000.params")
        compiled.save(folder / "lstm.so")
    console.print(f"Compiled the exported LSTM in {time.perf_counter() - started:.1f} s.")
    np.savez(
        folder / "model.npz",
        embedding=model.embedding.weight.data().asnumpy(),
        decoder_weight=model.decoder.weight.data().asnumpy(),
        decoder_bias=model.decoder.bias.data().asnumpy(),
        vocabulary=vocabulary,
    )


def save_test(held_out: np.ndarray, folder: Path) -> np.ndarray:
    """Write test.npz for measure.py; return the characters that follow its tokens (T, N)."""
    count = TEST_STEPS * TEST_ROWS
    inputs, targets = (
        held_out[start : start + count].reshape(TEST_ROWS, TEST_STEPS).T for start in (0, 1)
    )
    batch = np.resize(held_out, (BATCH_STEPS, BATCH_ROWS))
    np.savez(folder / "test.npz", tokens=inputs, batch=batch)
    return targets


def measure_all(folder: Path) -> dict[str, dict[str, Any]]:
    """Measure the three in turn, several times over; return the median of each figure."""
    runs: dict[str, list[dict[str, Any]]] = {kind: [] for kind in KINDS}
    rounds = list(KINDS) * ROUNDS
    for kind in track(rounds, "Measuring, each in a process of its own", console=console):
        runs[kind].append(measure(kind, folder))
    return {
        kind: {
            key: value if isinstance(value, str) else median(result[key] for result in results)
            for key, value in results[0].items()
        }
        for kind, results in runs.items()
    }


def measure(kind: str, folder: Path) -> dict[str, Any]:
    """Run measure.py in a fresh process and return its results."""
    command = [sys.executable, "-m", "examples.char_lm.measure", kind, str(folder)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def bits_per_character(logits: np.ndarray, targets: np.ndarray) -> float:
    """Return the mean cross entropy of ``targets`` (T, N) under logits (T, N, V), in bits."""
    scores = logits - logits.max(axis=-1, keepdims=True).astype(np.float64)
    chosen = np.take_along_axis(scores, targets[..., None], axis=-1)[..., 0]
    return float(np.mean(np.log(np.exp(scores).sum(axis=-1)) - chosen) / np.log(2))


def report(results: Mapping[str, Mapping[str, Any]], targets: np.ndarray, folder: Path) -> None:
    """Print the table."""
    logits = {kind: np.load(folder / f"{kind}-logits.npy") for kind in KINDS}
    files = {
        "stock": ["model.params"],
        "block": ["model.params"],
        "compiled": ["lstm.so", "model.npz"],
    }
    rows = {
        "difference from stock's logits": lambda kind: (
            f"{np.abs(logits[kind] - logits['stock']).max():.1e}" if kind != "stock" else ""
        ),
        "bits a character, held-out text": lambda kind: (
            f"{bits_per_character(logits[kind], targets):.3f}"
        ),
        "one step (T=1, N=1)": lambda kind: f"{results[kind]['step_ms']:.3f} ms",
        f"one pass (T={BATCH_STEPS}, N={BATCH_ROWS})": lambda kind: (
            f"{results[kind]['pass_ms']:.2f} ms"
        ),
        "import and load": lambda kind: f"{results[kind]['ready_s']:.2f} s",
        "memory at its peak": lambda kind: size(results[kind]["memory_bytes"]),
        "shared libraries loaded": lambda kind: size(results[kind]["library_bytes"]),
        "model files": lambda kind: size(
            sum((folder / name).stat().st_size for name in files[kind])
        ),
        "imports MXNet or the compiler": lambda kind: results[kind]["loaded"] or "no",
    }
    table = Table(title="The same model, each in a process of its own")
    table.add_column("")
    for heading in KINDS.values():
        table.add_column(heading, justify="right")
    for title, cell in rows.items():
        table.add_row(title, *map(cell, KINDS))
    console.print(table)
    console.print(f"Everything is in {folder}/; write more with:")
    console.print(f"  {sys.executable} {Path(generate.__file__)} {folder} --seed 1", soft_wrap=True)


if __name__ == "__main__":
    main()
