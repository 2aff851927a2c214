"""The whole way in one file: train a Gluon model, compile its LSTM, run it without MXNet.
The only change to the Gluon code is gluonlstm.LSTM where gluon.rnn.LSTM stood.
Needs gluonlstm[mxnet,compile]; the program that loads lstm.so needs gluonlstm[runtime] only.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

import gluonlstm
from gluonlstm.mxnet_compat import mx

STEPS, BATCH, HIDDEN = 32, 16, 32


def waves(random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return sine waves (T, N, 1) of random frequency and phase, and their next values."""
    time = np.arange(STEPS + 1)[:, None]
    frequency, phase = random.uniform(0.1, 0.5, BATCH), random.uniform(0, 2 * np.pi, BATCH)
    wave = np.sin(time * frequency + phase)[..., None].astype(np.float32)
    return wave[:-1], wave[1:]


def train(layer: mx.gluon.Block, decoder: mx.gluon.Block) -> None:
    """Teach the model to say the next value of a wave."""
    parameters = layer.collect_params()
    parameters.update(decoder.collect_params())
    trainer = mx.gluon.Trainer(parameters, "adam", {"learning_rate": 0.01})
    criterion = mx.gluon.loss.L2Loss()
    random = np.random.default_rng(0)
    for iteration in range(201):
        inputs, targets = (mx.nd.array(array) for array in waves(random))
        with mx.autograd.record():
            loss = criterion(decoder(layer(inputs)), targets).mean()
        loss.backward()
        trainer.step(1)
        if iteration % 50 == 0:
            print(f"iteration {iteration:3}: loss {loss.asscalar():.5f}")


def main() -> None:
    """Train, compile, save, load, compare."""
    layer = gluonlstm.LSTM(HIDDEN, input_size=1)
    decoder = mx.gluon.nn.Dense(1, in_units=HIDDEN, flatten=False)
    for block in (layer, decoder):
        block.initialize(mx.init.Xavier())
        block.hybridize()
    train(layer, decoder)

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "lstm.so"
        gluonlstm.compile(layer).save(path)
        compiled = gluonlstm.load(path)

    inputs, targets = waves(np.random.default_rng(1))
    weight, bias = (p.data().asnumpy() for p in (decoder.weight, decoder.bias))
    forecast = compiled(inputs) @ weight.T + bias
    difference = np.abs(compiled(inputs) - layer(mx.nd.array(inputs)).asnumpy()).max()
    error = np.sqrt(np.mean((forecast - targets)[STEPS // 2 :] ** 2))
    print(f"compiled and MXNet's outputs differ by {difference:.1e} at most")
    print(f"error of the forecast: {error:.3f} (the waves' own size is 0.707)")
    assert difference < 1e-5


if __name__ == "__main__":
    main()
