"""The text: Python's own help topics, which come with every Python, as characters and batches."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pydoc_data.topics import topics

import numpy as np

RAREST = 20  # characters seen less often become a space
HELD_OUT = 0.05  # share of the text that training does not see


def read() -> str:
    """Return all topics in one string."""
    text = "\n\n\n".join(topics[name].strip() for name in sorted(topics))
    text = re.sub(r"([^\w\s])\1{3,}", r"\1\1\1", text)  # the lines under headings
    rare = {ord(c): " " for c, count in Counter(text).items() if count < RAREST}
    return text.translate(rare)


def split(text: str) -> tuple[str, str]:
    """Return the text to train on and the text held out."""
    border = int(len(text) * (1 - HELD_OUT))
    return text[:border], text[border:]


def encode(text: str, vocabulary: str) -> np.ndarray:
    """Return the characters' numbers in the vocabulary, int32 (length,)."""
    number = {character: index for index, character in enumerate(vocabulary)}
    return np.array([number[character] for character in text], dtype=np.int32)


def batches(
    tokens: np.ndarray, steps: int, batch_size: int, seed: int
) -> Iterator[tuple[bool, np.ndarray, np.ndarray]]:
    """Yield (whether the rows start anew, inputs (T, N), targets (T, N)) without end.

    The text is cut into ``batch_size`` rows that are read side by side, so that the state after
    one batch is the state before the next. After every pass it is cut elsewhere.
    """
    random = np.random.default_rng(seed)
    length = (len(tokens) - steps) // batch_size
    while True:
        start = random.integers(len(tokens) - length * batch_size)
        rows = tokens[start : start + length * batch_size].reshape(batch_size, length).T
        for first in range(0, length - steps, steps):
            piece = rows[first : first + steps + 1]
            yield first == 0, piece[:-1], piece[1:]
