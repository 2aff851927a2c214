"""The model in Gluon. Which LSTM is in it, stock MXNet's or gluonlstm's, is the caller's choice."""

from __future__ import annotations

from gluonlstm.mxnet_compat import mx  # MXNet, on today's NumPy and Python

EMBEDDING = 64


class CharModel(mx.gluon.HybridBlock):
    """Embedding, LSTM and decoder: characters (T, N) and states -> logits (T, N, V) and states.

    ``lstm`` is the class of the recurrent layer: gluonlstm.LSTM or mxnet.gluon.rnn.LSTM.
    """

    def __init__(self, lstm: type[mx.gluon.HybridBlock], vocabulary: int, hidden: int) -> None:
        super().__init__(prefix="char_")
        with self.name_scope():
            self.embedding = mx.gluon.nn.Embedding(vocabulary, EMBEDDING)
            self.lstm = lstm(hidden, input_size=EMBEDDING)
            self.decoder = mx.gluon.nn.Dense(vocabulary, in_units=hidden, flatten=False)

    def hybrid_forward(self, F, tokens, h, c):  # noqa: ANN001, ANN201 - Gluon's signature
        """Return the logits, and the states after the last step."""
        y, (h, c) = self.lstm(self.embedding(tokens), [h, c])
        return self.decoder(y), h, c
