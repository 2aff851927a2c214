"""Checkpoints: one LSTM's weights as Gluon, torch, npz and safetensors files, and back.
The LSTM's sizes are found from names and shapes; nothing is lost on the way, bit for bit.
Needs gluonlstm and safetensors; neither MXNet nor torch.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

from gluonlstm import LSTMSpec, checkpoint, params_file


def main() -> None:
    """Make a checkpoint as Gluon saves it, convert it round, compare."""
    spec = LSTMSpec(64, num_layers=2, bidirectional=True, input_size=40, projection_size=32)
    random = np.random.default_rng(0)
    weights = {
        parameter.name: random.standard_normal(parameter.shape).astype(np.float32)
        for parameter in spec.parameters()
    }
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        # What collect_params().save() writes for an LSTM with the prefix encoder_.
        params_file.save(
            folder / "encoder.params", {f"encoder_{key}": array for key, array in weights.items()}
        )
        source = folder / "encoder.params"
        for form, file in (
            ("torch", "torch.safetensors"),
            ("safetensors", "encoder.safetensors"),
            ("npz", "encoder.npz"),
            ("gluon", "again.params"),
        ):
            checkpoint.convert(source, folder / file, form)
            print(f"gluonlstm convert {source.name} {file} --to {form}")
            print(
                f"    {len(checkpoint.read(folder / file))} tensors, for example "
                f"{next(iter(checkpoint.read(folder / file)))}"
            )
            source = folder / file
        found, arrays = checkpoint.canonical(checkpoint.read(source))
    assert found == spec, (found, spec)
    assert all(np.array_equal(arrays[key], array) for key, array in weights.items())
    print(f"after four conversions: the same {sum(a.size for a in weights.values()):,} weights")


if __name__ == "__main__":
    main()
