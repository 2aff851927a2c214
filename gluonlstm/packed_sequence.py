"""torch's other forms of a batch, as ``torch.nn.LSTM`` takes and returns them.

A PackedSequence holds the steps of sequences of different lengths one after another, longest
sequence first, and how to get from the caller's order to that one and back; states are always in
the caller's order. A single sequence may come without the axis N.

Everything here works on torch objects that the caller made, through the torch module that is
loaded already.
"""

from __future__ import annotations

import sys
from typing import Any


class PackedBatch:
    """A PackedSequence as a padded batch, its rows sorted by length, longest first."""

    def __init__(self, packed: Any, batch_first: bool) -> None:
        """Pad with zeros: ``data`` is (T, N, C), or (N, T, C) if ``batch_first``."""
        self._rnn = sys.modules["torch"].nn.utils.rnn
        self._packed, self._batch_first = packed, batch_first
        in_order = self._rnn.PackedSequence(packed.data.detach(), packed.batch_sizes)
        self.data, self.lengths = self._rnn.pad_packed_sequence(in_order, batch_first)
        self.even = bool((self.lengths == len(packed.batch_sizes)).all())

    def state_in(self, state: Any) -> Any:
        """Bring a state (L*D, N, ...) from the caller's order into the batch's."""
        return self._reorder(state, self._packed.sorted_indices)

    def state_out(self, state: Any) -> Any:
        """Bring a state (L*D, N, ...) from the batch's order into the caller's."""
        return self._reorder(state, self._packed.unsorted_indices)

    def output(self, y: Any) -> Any:
        """Pack an output, laid out like ``data``, as the input was packed."""
        packed = self._rnn.pack_padded_sequence(y, self.lengths, self._batch_first)
        return self._packed._replace(data=packed.data)

    @staticmethod
    def _reorder(state: Any, order: Any) -> Any:
        return state if state is None or order is None else state.detach().index_select(1, order)


class SingleSequence:
    """A sequence (T, C) as a batch of one; its states are (L*D, ...)."""

    lengths = None
    even = True

    def __init__(self, data: Any, batch_first: bool) -> None:
        self._axis = 0 if batch_first else 1
        self.data = data.detach().unsqueeze(self._axis)

    def state_in(self, state: Any) -> Any:
        """Add the axis N, unless there is one."""
        return state if state is None or state.dim() != 2 else state.detach().unsqueeze(1)

    def state_out(self, state: Any) -> Any:
        """Take the axis N away."""
        return state.squeeze(1)

    def output(self, y: Any) -> Any:
        """Take the axis N away."""
        return y.squeeze(self._axis)
