"""From the arguments of a call to one value for each input of a model.

Positional arguments stand for the inputs in order, nested tuples and lists flattened; keywords are
input names, or what Gluon calls them: ``states=(h0, c0)`` and ``sequence_length=lengths``. None is
the same as leaving an argument out.
"""

from __future__ import annotations

import difflib
import sys
from collections.abc import Mapping, Sequence
from numbers import Number
from typing import Any

from gluonlstm.errors import ArgumentTypeError, InvalidArgumentError
from gluonlstm.model_info import InputInfo

STATES = "states"
SEQUENCE_LENGTH = "sequence_length"


class Signature:
    """The inputs of one model."""

    def __init__(self, inputs: Sequence[InputInfo]) -> None:
        self._inputs = tuple(inputs)
        self._index = {info.name: index for index, info in enumerate(inputs)}
        self._required = [index for index, info in enumerate(inputs) if not info.optional]
        self._most_axes = max(len(info.shape) for info in inputs)
        hidden, cell, lengths = (self._of_role(role) for role in ("hidden", "cell", "lengths"))
        # Inputs that belong together, as far as that is clear from their number and order.
        self.state_pairs = self._pairs(hidden, cell)
        self._aliases: dict[str, tuple[int, ...]] = {}
        if len(self.state_pairs) == 1:
            self._aliases[STATES] = self.state_pairs[0]
        if len(lengths) == 1:
            self._aliases[SEQUENCE_LENGTH] = (lengths[0],)
        for name in self._index:  # an input of that name comes first
            self._aliases.pop(name, None)

    def bind(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[Any]:
        """Return one value for each input, None for those left out.

        Raises ArgumentTypeError for a call that does not fit: too many arguments, an unknown name,
        an input given twice or missing; InvalidArgumentError for half of a pair of states.
        """
        if len(args) == 1 and not isinstance(args[0], (list, tuple)):
            values = [args[0]] + [None] * (len(self._inputs) - 1)
        else:
            values = self._positional(args)
        for name, value in kwargs.items():
            if name in self._index:
                self._set(values, self._index[name], value)
            elif name in self._aliases:
                self._set_alias(values, name, value)
            else:
                raise ArgumentTypeError(self._unknown(name))
        self._check_complete(values)
        return values

    @staticmethod
    def _pairs(hidden: list[int], cell: list[int]) -> tuple[tuple[int, int], ...]:
        return tuple(zip(hidden, cell, strict=True)) if len(hidden) == len(cell) else ()

    def _of_role(self, role: str) -> list[int]:
        return [index for index, info in enumerate(self._inputs) if info.role == role]

    def _positional(self, args: tuple[Any, ...]) -> list[Any]:
        values: list[Any] = []
        for arg in args:
            self._flatten(arg, values)
        if len(values) < len(self._inputs) and any(arg is None for arg in args):
            values = self._expand_states(args)
        if len(values) > len(self._inputs):
            raise ArgumentTypeError(
                f"{len(values)} arguments were given; the model takes {self._listing()}."
            )
        return values + [None] * (len(self._inputs) - len(values))

    def _expand_states(self, args: tuple[Any, ...]) -> list[Any]:
        """Take None in the place of the states, as in ``model(x, None, lengths)``, for both."""
        values: list[Any] = []
        for arg in args:
            index = len(values)
            self._flatten(arg, values)
            if arg is None and (index, index + 1) in self.state_pairs:
                values.append(None)
        return values

    def _flatten(self, value: Any, values: list[Any]) -> None:
        if isinstance(value, (list, tuple)) and not is_packed(value) and not self._is_data(value):
            for item in value:
                self._flatten(item, values)
        else:
            values.append(value)

    def _is_data(self, value: Sequence[Any]) -> bool:
        """Tell whether nested lists are the numbers of one array, rather than several arrays."""
        depth, inner = 0, value
        while isinstance(inner, (list, tuple)) and inner:
            depth, inner = depth + 1, inner[0]
        return isinstance(inner, Number) and depth <= self._most_axes

    def _set(self, values: list[Any], index: int, value: Any) -> None:
        if value is None:
            return
        if values[index] is not None:
            raise ArgumentTypeError(f"{self._inputs[index].name} was given twice.")
        values[index] = value

    def _set_alias(self, values: list[Any], name: str, value: Any) -> None:
        if value is None:
            return
        places = self._aliases[name]
        given = [value]
        if len(places) > 1:
            self._flatten(value, given := [])
        if len(given) != len(places):
            wanted = ", ".join(self._inputs[place].name for place in places)
            raise ArgumentTypeError(f"{name} must be ({wanted}), got {len(given)} array(s).")
        for place, item in zip(places, given, strict=True):
            self._set(values, place, item)

    def _check_complete(self, values: Sequence[Any]) -> None:
        missing = [self._inputs[index].name for index in self._required if values[index] is None]
        if missing:
            raise ArgumentTypeError(
                f"input(s) {', '.join(missing)} missing; the model takes {self._listing()}."
            )
        for hidden, cell in self.state_pairs:
            if (values[hidden] is None) != (values[cell] is None):
                given, other = (hidden, cell) if values[cell] is None else (cell, hidden)
                raise InvalidArgumentError(
                    f"{self._inputs[given].name} was given without {self._inputs[other].name}; "
                    "give both states or neither."
                )

    def _unknown(self, name: str) -> str:
        known = [*self._index, *self._aliases]
        close = difflib.get_close_matches(name, known)
        hint = f" Did you mean {' or '.join(close)}?" if close else ""
        return f"the model has no input {name!r}; it takes {self._listing()}.{hint}"

    def _listing(self) -> str:
        names = [f"[{info.name}]" if info.optional else info.name for info in self._inputs]
        aliases = f" (also as {', '.join(self._aliases)})" if self._aliases else ""
        return ", ".join(names) + aliases


def is_packed(value: Any) -> bool:
    """Tell whether a value is a torch PackedSequence (which is a tuple, too)."""
    # The module may be there and still empty while another thread imports it.
    kind = getattr(sys.modules.get("torch.nn.utils.rnn"), "PackedSequence", None)
    return kind is not None and isinstance(value, kind)
