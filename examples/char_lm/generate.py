"""The deployed program: writes text with the compiled LSTM and NumPy, and nothing else.

It needs lstm.so and model.npz (embedding, decoder, vocabulary) in a folder:

    python examples/char_lm/generate.py demo-output --prompt "The "
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

import gluonlstm

TEMPERATURE = 0.5  # below 1: more of what is likely, less of what is not


class CharModel:
    """Embedding and decoder in NumPy around the compiled LSTM."""

    def __init__(self, folder: Path) -> None:
        self.lstm = gluonlstm.load(folder / "lstm.so")
        with np.load(folder / "model.npz") as arrays:
            self.embedding, self.weight = arrays["embedding"], arrays["decoder_weight"]
            self.bias, self.vocabulary = arrays["decoder_bias"], str(arrays["vocabulary"])

    def begin_state(self, batch_size: int) -> list[np.ndarray]:
        """Return zero states (1, N, H)."""
        return [np.zeros((1, batch_size, self.weight.shape[1]), np.float32) for _ in "hc"]

    def __call__(self, tokens: np.ndarray, states: list[np.ndarray]) -> tuple[np.ndarray, Any]:
        """Map characters (T, N) and states to logits (T, N, V) and the states after them."""
        y, *states = self.lstm(self.embedding[tokens], *states)
        return y @ self.weight.T + self.bias, states

    def generate(self, prompt: str, seed: int) -> Iterator[str]:
        """Yield the characters that follow the prompt, without end."""
        random = np.random.default_rng(seed)
        tokens = np.array([[self.vocabulary.index(character)] for character in prompt])
        states = self.begin_state(1)
        while True:
            logits, states = self(tokens, states)
            scores = logits[-1, 0].astype(np.float64) / TEMPERATURE
            chances = np.exp(scores - scores.max())
            tokens = random.choice(len(chances), size=(1, 1), p=chances / chances.sum())
            yield self.vocabulary[tokens[0, 0]]


def main() -> None:
    """Print a prompt and what the model makes of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--prompt", default="The ")
    parser.add_argument("--characters", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    model = CharModel(options.folder)
    print(options.prompt, end="")
    for character in islice(model.generate(options.prompt, options.seed), options.characters):
        print(character, end="", flush=True)
    print()
    assert not {"mxnet", "tvm"} & sys.modules.keys(), "this program should need neither"


if __name__ == "__main__":
    main()
