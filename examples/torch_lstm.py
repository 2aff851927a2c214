"""A torch.nn.LSTM as the source: compiled to a file that runs without torch.
torch tensors go in and come out without being copied; a PackedSequence works too.
Needs gluonlstm[compile] and torch.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
from torch.nn.utils.rnn import pack_sequence

import gluonlstm


def main() -> None:
    """Compile a two-layer bidirectional LSTM and compare it with torch."""
    torch.manual_seed(0)
    source = torch.nn.LSTM(40, 64, num_layers=2, bidirectional=True, batch_first=True).eval()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "lstm.so"
        gluonlstm.compile(source).save(path)
        compiled = gluonlstm.load(path)

    x = torch.randn(8, 50, 40)  # (N, T, C)
    with torch.no_grad():
        expected, (h, c) = source(x)
    y, (h_compiled, c_compiled) = compiled(x)
    pairs = [(y, expected), (h_compiled, h), (c_compiled, c)]
    difference = max((a - b).abs().max().item() for a, b in pairs)
    print(f"output, h and c differ by {difference:.1e} at most")

    packed = pack_sequence(
        [x[row, :length] for row, length in enumerate((7, 50, 1))], enforce_sorted=False
    )
    with torch.no_grad():
        expected, _ = source(packed)
    y, _ = compiled(packed)
    packed_difference = (y.data - expected.data).abs().max().item()
    print(f"sequences of 7, 50 and 1 steps in one batch: {packed_difference:.1e} at most")
    assert max(difference, packed_difference) < 1e-5


if __name__ == "__main__":
    main()
