"""Train the character model for a given time."""

from __future__ import annotations

import time
from math import cos, log, pi

import numpy as np
from rich.progress import Progress

from examples.char_lm import text
from examples.char_lm.model import CharModel
from gluonlstm.mxnet_compat import mx

STEPS = 64  # of backpropagation through time
BATCH = 32
LEARNING_RATE = 4e-3  # at the start; it falls to 2 % of that along a cosine
CLIP_NORM = 1.0


def train(model: CharModel, tokens: np.ndarray, seconds: float, progress: Progress) -> int:
    """Train the model on the text and return the number of characters seen."""
    model.initialize(mx.init.Xavier())
    model.hybridize(static_alloc=True, static_shape=True)
    parameters = list(model.collect_params().values())
    trainer = mx.gluon.Trainer(model.collect_params(), "adam", {"learning_rate": LEARNING_RATE})
    criterion = mx.gluon.loss.SoftmaxCrossEntropyLoss()
    bar = progress.add_task("Training", total=seconds, status="")
    losses: list[float] = []
    elapsed, started = 0.0, time.perf_counter()
    for begins, inputs, targets in text.batches(tokens, STEPS, BATCH, seed=0):
        if begins:
            states = model.lstm.begin_state(BATCH)
        with mx.autograd.record():
            logits, *states = model(mx.nd.array(inputs), *states)
            loss = criterion(logits, mx.nd.array(targets)).mean()
        loss.backward()
        mx.gluon.utils.clip_global_norm([p.grad() for p in parameters], CLIP_NORM)
        trainer.set_learning_rate(LEARNING_RATE * (0.51 + 0.49 * cos(pi * elapsed / seconds)))
        trainer.step(1)
        states = [state.detach() for state in states]
        losses.append(float(loss.asscalar()) / log(2))
        elapsed = min(time.perf_counter() - started, seconds)
        status = f"{np.mean(losses[-50:]):.2f} bits a character"
        progress.update(bar, completed=elapsed, status=status)
        if elapsed == seconds:
            break
    return len(losses) * STEPS * BATCH
